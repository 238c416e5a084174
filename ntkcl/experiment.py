"""The story, once: forecast, train, measure. Yields what happened, in the order in which it happened.

A `Forecast` is yielded before the training it forecasts has begun: the generator stands still at that `yield`, so nothing that is
done to the data or the trainer afterwards can reach it. Two anchors:

* `init`: one kernel at theta_0 for the whole stream, before anything is trained;
* `boundary`: at the start of each task, the kernel and the residuals of the network as it then is, one task ahead.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import forecast, kernels, train
from ntkcl.meter import Cost, Meter
from ntkcl.networks import centred
from ntkcl.settings import finite, one_of, whole
from ntkcl.types import Key, Loss, Network, Optimizer, Stream

ANCHORS = ("init", "boundary")


class Training(NamedTuple):
    """How each task is trained: S = `steps` updates, on the whole task or on minibatches, and how the learning rate is found.

    Either `learning_rate` is given, or it is `learning_rate_fraction` of the stability limit, which is the limit of the rule
    at the stream's largest same-task eigenvalue at theta_0.
    """

    steps: int = 500
    batch_size: int | None = None
    learning_rate: float | None = None
    learning_rate_fraction: float | None = 0.5
    allow_unstable: bool = False


class Forecast(NamedTuple):
    """Predicted changes [T', N, c] of all outputs by tasks `first`, `first` + 1, ..., seen from one anchor.

    `rate_times_eigenvalue` is h lam_max(K_tt) of each of these tasks at this anchor; above the rule's limit times h it is unstable.
    """

    anchor: str
    first: int
    changes: np.ndarray
    rate_times_eigenvalue: tuple[float, ...]
    cost: Cost


class Measurement(NamedTuple):
    """Outputs [N, c] after `task` tasks were trained (0: the untrained network) and the losses [S] on the way."""

    task: int
    outputs: np.ndarray
    losses: np.ndarray
    cost: Cost


class Plan(NamedTuple):
    """What is known before the first forecast: the learning rate and its limit."""

    learning_rate: float
    limit: float
    cost: Cost


class Rows(NamedTuple):
    """Where each task's inputs stand among all N inputs of the stream: first the train sets in turn, then the test sets."""

    train: tuple[slice, ...]
    test: tuple[slice, ...]

    @staticmethod
    def of(stream: Stream) -> "Rows":
        sizes = [len(task.train.x) for task in stream] + [len(task.test.x) for task in stream]
        ends = np.cumsum([0, *sizes]).tolist()
        slices = tuple(slice(a, b) for a, b in pairwise(ends))
        return Rows(slices[: len(stream)], slices[len(stream) :])


def check(stream: Stream, training: Training, anchors: Sequence[str]) -> None:
    """ValueError for settings out of range, values in the data that are not finite, a head without active outputs."""
    whole("training.steps", training.steps)
    smallest = min(len(task.train.x) for task in stream)
    if training.batch_size is not None and whole("training.batch_size", training.batch_size) > smallest:
        raise ValueError(f"training.batch_size={training.batch_size}: expected at most {smallest}, the smallest task, or null")
    rates = {name: getattr(training, name) for name in ("learning_rate", "learning_rate_fraction")}
    for name, rate in rates.items():
        if rate is not None:
            finite(f"training.{name}", rate, above=0.0)
    if all(rate is None for rate in rates.values()):
        raise ValueError("training.learning_rate=null and training.learning_rate_fraction=null: expected one of them")
    for anchor in anchors:
        one_of("forecast.anchors", anchor, ANCHORS)
    for t, task in enumerate(stream):
        for part, dataset in (("train", task.train), ("test", task.test)):
            for name, values in zip(dataset._fields, dataset, strict=True):
                bad = int(np.sum(~np.isfinite(values)))
                if bad:
                    raise ValueError(f"stream: task {t}, {part}.{name} holds {bad} NaN or infinite values; expected finite ones")
        if not np.any(task.head):
            raise ValueError(f"stream: task {t} has a head without active outputs")


def run(
    key: Key,
    stream: Stream,
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    training: Training,
    *,
    anchors: Sequence[str] = ANCHORS,
) -> Iterator[Plan | Forecast | Measurement]:
    """Yields the plan, the untrained measurement, the init forecast, then for each task its boundary forecast and measurement.

    Arguments:
      key: split into the initialisation and one key a task.
      stream: arrays in the floating type that networks and kernels are to work in; forecasts are solved in float64.
      anchors: which of `ANCHORS` to forecast from.
    After a measurement that is not finite the run has diverged: nothing more is trained and the generator ends.
    Raises ValueError at the call for bad settings and data, and before the first event where the learning rate exceeds the
    stability limit and that is not allowed.
    """
    check(stream, training, anchors)
    return _story(key, stream, network, loss, optimizer, training, anchors)


def _story(key, stream, network, loss, optimizer, training, anchors):
    rows = Rows.of(stream)
    x = jnp.concatenate([task.train.x for task in stream] + [task.test.x for task in stream])
    theta = network.init(jax.random.fold_in(key, 0), x[0])
    apply = centred(network.apply, theta) if network.centred else network.apply
    outputs = jax.jit(jax.vmap(apply, (None, 0)))
    kernel = kernels.structured(network) if network.taps else kernels.contraction(network.apply)
    meter = Meter()

    plan = _plan(kernel, theta, stream, optimizer, training, meter)
    yield plan
    filters = [partial(optimizer.filter, rate=plan.learning_rate * _scale(task), steps=training.steps) for task in stream]
    f = np.asarray(outputs(theta, x), np.float64)
    yield Measurement(0, f, np.empty(0), meter.read())

    if "init" in anchors:
        yield _forecast("init", 0, kernel, theta, x, rows, f, stream, filters, plan.learning_rate, meter)

    transform = optimizer.transform(plan.learning_rate)
    for t, task in enumerate(stream):
        if "boundary" in anchors:
            one = slice(t, t + 1)
            near = Rows(rows.train[one], rows.test[one])
            yield _forecast("boundary", t, kernel, theta, x, near, f, stream[one], filters[one], plan.learning_rate, meter)
        fitted = train.fit(
            jax.random.fold_in(key, t + 1),
            theta,
            task.train,
            task.head,
            apply=apply,
            loss=loss,
            transform=transform,
            steps=training.steps,
            batch_size=training.batch_size,
        )
        theta = fitted.theta
        losses, cost = np.asarray(fitted.losses), meter.read()
        f = np.asarray(outputs(theta, x), np.float64)
        yield Measurement(t + 1, f, losses, cost)
        if not np.isfinite(f).all() or not np.isfinite(losses).all():
            return


def _plan(kernel, theta, stream, optimizer, training, meter) -> Plan:
    def own_limit(task):
        k_tt = kernel(theta, task.train.x)
        return optimizer.limit(forecast.largest_eigenvalue(k_tt, np.asarray(task.head))) / _scale(task)

    limit = min(own_limit(task) for task in stream)
    given, fraction = training.learning_rate, training.learning_rate_fraction
    rate = given if given is not None else fraction * limit
    if rate > limit and not training.allow_unstable:
        name, value = ("learning_rate", given) if given is not None else ("learning_rate_fraction", fraction)
        most = f"{limit:.6g}" if given is not None else "1"
        raise ValueError(
            f"training.{name}={value:g}: the learning rate {rate:.6g} exceeds the stability limit {limit:.6g} of the kernel at "
            f"initialisation; use at most {most}, or training.allow_unstable=true"
        )
    return Plan(float(rate), float(limit), meter.read())


def _forecast(anchor, first, kernel, theta, x, rows, f, tasks, filters, learning_rate, meter) -> Forecast:
    columns = (kernel(theta, x, task.train.x) for task in tasks)
    ys = [jnp.asarray(task.train.y, jnp.float64) for task in tasks]
    heads = [np.asarray(task.head) for task in tasks]
    solves = forecast.sequence(columns, rows.train, jnp.asarray(f), ys, heads, filters)
    changes = np.stack([solve.change for solve in solves])
    top = tuple(float(learning_rate * _scale(task) * s.eigenvalues[-1]) for task, s in zip(tasks, solves, strict=True))
    return Forecast(anchor, first, changes, top, meter.read())


def _scale(task) -> float:
    """eta_eff / eta of `losses.squared_error`, a mean over the task's samples and active outputs."""
    return 1.0 / (len(task.train.x) * float(np.sum(task.head)))
