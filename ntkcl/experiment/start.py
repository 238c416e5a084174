"""An experiment before anything is trained: the untrained network on all inputs of the stream."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import kernels, methods
from ntkcl.forecast import Effort
from ntkcl.networks import centred, computed_in, forward
from ntkcl.resources import Cost, Meter
from ntkcl.training.arrays import check_tokens
from ntkcl.training.problem import Problem, task_rows
from ntkcl.training.settings import devices_of, steps_of
from ntkcl.types import Params, Rows
from ntkcl.validation import SettingError

READ = 10_000  # inputs read at a time: of more, fresh memory costs more than the reading

ALL = slice(None)


class Initialised(NamedTuple):
    """Before anything is trained.

    problem: without its learning rate.  theta: theta_0.
    outputs: `outputs(theta, rows=ALL) -> [m, c]` in float64, of the inputs at `rows` among the N,
      those at theta_0 subtracted where the network is centred.
    kernel_fn, effort: what forecasts compute kernels with, and what they may spend.
    cost: of the initialisation.
    """

    problem: Problem
    theta: Params
    outputs: Callable[..., np.ndarray]
    kernel_fn: Callable[..., Any]
    effort: Effort
    cost: Cost


def initialise(
    key, stream, network, loss, optimizer, training, method, effort, kernel
) -> Initialised:
    """The untrained network on all inputs of the stream, the train sets in turn and then the test
    sets; arguments as of `run`."""
    methods.checked(method)
    meter = Meter()
    x = jnp.concatenate([task.train.x for task in stream] + [task.test.x for task in stream])
    theta = network.init(jax.random.fold_in(key, 0), jnp.asarray(np.asarray(x)[0]))

    check_tokens("stream", network, theta, x)

    def read(theta, rows=ALL):
        # Scattered rows are cut by NumPy: XLA would compile each cut for each shape.
        inputs = x[rows] if isinstance(rows, slice) else np.asarray(x)[rows]
        starts = range(0, len(inputs), READ)
        parts = [forward(network.apply, theta, inputs[at : at + READ]) for at in starts]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    theta0 = theta if network.centred else None
    measured = network._replace(apply=centred(network.apply, theta0))
    trained = measured
    if training.compute is not None:
        low_precision = computed_in(network.apply, training.compute)
        trained = network._replace(apply=centred(low_precision, theta0))
    # In float64, and centred by what the same compiled function gave at theta_0, so that f_0 is 0
    # and not rounding.
    origin = read(theta) if network.centred else np.zeros((len(x), 1))
    problem = Problem(
        key=key,
        stream=stream,
        x=x,
        tasks=task_rows(stream, loss, Rows.of(stream).train),
        network=measured,
        trained=trained,
        loss=loss,
        optimizer=optimizer,
        method=method,
        learning_rate=float("nan"),
        transform=None,
        steps=steps_of(training, stream),
        batch_size=training.batch_size,
        carry=training.optimizer_state == "carry",
        schedule=training.schedule,
        devices=devices_of(training, stream),
    )
    _check_schedule(problem)
    return Initialised(
        problem=problem,
        theta=theta,
        outputs=lambda theta, rows=ALL: read(theta, rows) - origin[rows],
        kernel_fn=kernels.remembered(kernel(network), theta),
        effort=effort.checked(),
        cost=meter.read(),
    )


def _check_schedule(problem):
    low, high = problem.extremes
    if not 0 <= low <= high < float("inf") or high == 0:
        raise SettingError(
            f"training.schedule: values from {low:g} to {high:g} over the training; expected "
            "finite ones, none below 0 and not all 0"
        )
