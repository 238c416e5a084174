"""The untrained network on all inputs of the stream."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import forecast, methods
from ntkcl.networks import centred, computed_in, forward
from ntkcl.resources import Cost, Meter
from ntkcl.training.problem import Setting
from ntkcl.training.settings import devices_of, steps_of
from ntkcl.types import Params, Rows

READ = 10_000  # inputs whose outputs are read at a time: of more, fresh memory costs more than the reading


class Begun(NamedTuple):
    """Before anything is trained: the setting without its learning rate, theta_0, and `outputs(theta, first=0)` [N - first, c] in
    float64, those at theta_0 subtracted where the network is centred; what the initialisation cost."""

    setting: Setting
    theta: Params
    outputs: Callable[..., np.ndarray]
    cost: Cost


def begin(key, stream, network, loss, optimizer, training, method, effort, kernel) -> Begun:
    """The untrained network on all inputs of the stream, the train sets in turn and then the test sets; arguments as of `run`."""
    meter = Meter()
    methods.checked(method)
    x = jnp.concatenate([task.train.x for task in stream] + [task.test.x for task in stream])
    theta = network.init(jax.random.fold_in(key, 0), x[0])

    def read(theta, first=0):
        parts = [
            forward(network.apply, theta, x[at : at + READ]) for at in range(first, len(x), READ)
        ]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    theta0 = theta if network.centred else None
    full = network._replace(apply=centred(network.apply, theta0))
    trained = (
        network.apply if training.compute is None else computed_in(network.apply, training.compute)
    )
    # In float64, and centred by what the same compiled function gave at theta_0, so that f_0 is 0 and not rounding.
    origin = read(theta) if network.centred else np.zeros((len(x), 1))
    setting = Setting(
        key=key,
        stream=stream,
        x=x,
        tasks=forecast.task_rows(stream, loss, Rows.of(stream).train),
        network=full,
        trained=full
        if training.compute is None
        else network._replace(apply=centred(trained, theta0)),
        kernel_fn=kernel(network),
        loss=loss,
        optimizer=optimizer,
        method=method,
        learning_rate=float("nan"),
        transform=None,
        steps=steps_of(training, stream),
        batch_size=training.batch_size,
        effort=effort.checked(),
        carry=training.optimizer_state == "carry",
        schedule=training.schedule,
        devices=devices_of(training, stream),
    )
    _check_schedule(setting)
    return Begun(
        setting, theta, lambda theta, first=0: read(theta, first) - origin[first:], meter.read()
    )


def _check_schedule(setting):
    low, high = setting.extremes
    if not 0 <= low <= high < float("inf") or high == 0:
        raise ValueError(
            f"training.schedule: values from {low:g} to {high:g} over the training; expected finite ones, none below 0 and not all 0"
        )
