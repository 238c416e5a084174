"""How each task is trained: steps, batches, learning rate, devices."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ntkcl import resources
from ntkcl.types import Stream
from ntkcl.validation import MOST_STEPS, SettingError, finite, flag, one_of, whole


class Training(NamedTuple):
    """How each task is trained: S = `steps` updates, on the whole task or on minibatches, and how
    the learning rate is found.

    Either `learning_rate` is given, or it is `learning_rate_fraction` of the stability limit: the
    smallest over the tasks of the rule's limit at the kernel of the untrained network. For full
    batches that kernel is K_tt; for minibatches the limit is one that no batch exceeds, that of the
    task's worst single sample. `schedule`, a function of the step such as any of Optax, multiplies
    the learning rate, and the limit is then that of its largest rate; the step is counted from each
    task's start, or with `carry` from the first's. `epochs` passes over each task take the place of
    `steps`, which may then be None, where given. The optimizer begins each task at rest (`reset`),
    or with the state that the task before has left (`carry`). `evaluate_every` steps the outputs
    are looked at, which changes nothing.
    `compute`: the floating type of the passes through the network in training; parameters,
    optimizer and loss keep theirs. Kernels, forecasts, what methods consolidate and measured
    outputs are of the network in its own type, at the parameters as trained.
    `devices`: how many, or "all", share each batch, which differs by rounding alone.
    """

    steps: int | None = 500
    epochs: float | None = None
    batch_size: int | None = None
    optimizer_state: str = "reset"
    evaluate_every: int | None = None
    learning_rate: float | None = None
    learning_rate_fraction: float | None = 0.5
    schedule: Callable[[Any], Any] | None = None
    compute: str | None = None
    devices: int | str = 1
    allow_unstable: bool = False


def check_training(training: Training) -> None:
    """ValueError for settings out of range, as far as that is known without data."""
    if training.steps is None and training.epochs is None:
        raise SettingError("training.steps=null and training.epochs=null: expected one of them")
    if training.steps is not None and whole("training.steps", training.steps) > MOST_STEPS:
        raise SettingError(
            f"training.steps={training.steps}: expected at most {MOST_STEPS}, which is as far as "
            "Optax counts"
        )
    one_of("training.optimizer_state", training.optimizer_state, ("reset", "carry"))
    if training.evaluate_every is not None:
        whole("training.evaluate_every", training.evaluate_every)
    rates = {name: getattr(training, name) for name in ("learning_rate", "learning_rate_fraction")}
    for name, rate in rates.items():
        if rate is not None:
            finite(f"training.{name}", rate, above=0.0)
    if all(rate is None for rate in rates.values()):
        raise SettingError(
            "training.learning_rate=null and training.learning_rate_fraction=null: expected one of "
            "them"
        )
    flag("training.allow_unstable", training.allow_unstable)
    if training.compute not in (None, "bfloat16"):
        raise SettingError(f"training.compute={training.compute}: expected null or bfloat16")


def steps_of(training: Training, stream: Stream) -> tuple[int, ...]:
    """Steps of each task: as given, or the fewest that see every sample `epochs` times."""
    sizes, batch, epochs = (
        [len(task.train.x) for task in stream],
        training.batch_size,
        training.epochs,
    )
    if epochs is None:
        assert training.steps is not None  # `check_training` has seen that one is given
        return _bearable("steps", training.steps, (training.steps,) * len(sizes), batch)
    passes = finite("training.epochs", epochs, above=0.0)
    each = [
        passes * size / (batch or size) for size in sizes
    ]  # infinite where it is too large for a float
    return _bearable(
        "epochs", epochs, tuple(math.ceil(min(one, MOST_STEPS + 1)) for one in each), batch
    )


def _bearable(name, value, steps, batch_size) -> tuple[int, ...]:
    """The steps of each task; ValueError for more than can be counted, or be kept in memory: each
    has a loss, and the places of its batch [batch_size], all of which are drawn at once."""
    if max(steps) > MOST_STEPS:
        raise SettingError(
            f"training.{name}={value}: more than {MOST_STEPS} steps a task, which is as far as "
            "Optax counts; use fewer"
        )
    need, there = max(steps) * (8 + 4 * (batch_size or 0)) / 2**30, resources.memory_gib()
    if need > there:
        raise SettingError(
            f"training.{name}={value}: the losses and batches of {max(steps)} steps take "
            f"{need:.3g} GiB, and there are {there:.3g}; "
            "use fewer"
        )
    return steps


def devices_of(training: Training, stream: Stream) -> int:
    """How many devices share each batch; ValueError for more than there are, and for batches that
    they cannot share evenly."""
    there = len(jax.local_devices())
    count = there if training.devices == "all" else whole("training.devices", training.devices)
    if count > there:
        raise SettingError(
            f"training.devices={count}: expected at most {there}, the devices that there are, or "
            "all"
        )
    for size in (
        {training.batch_size} if training.batch_size else {len(task.train.x) for task in stream}
    ):
        if size % count:
            raise SettingError(
                f"training.devices={training.devices}: {count} devices cannot share a batch of "
                f"{size} samples evenly"
            )
    return count


def full_batches(stream: Stream, batch_size: int | None) -> bool:
    """Whether every step sees all of its task."""
    return batch_size is None or all(batch_size == len(task.train.x) for task in stream)


def rate(training: Training, limit: float, scale: float = 1.0) -> float:
    """The learning rate at this stability limit; ValueError where there is none to take a fraction
    of, or it is over the limit.

    A given rate is multiplied by `scale`, the network's `rate_scale`. A fraction is not: the limit
    has that factor in it already.
    """
    given, fraction = training.learning_rate, training.learning_rate_fraction
    if given is None and not np.isfinite(limit):
        raise SettingError(
            "training.learning_rate=null: this optimizer has no stability limit to take a fraction "
            "of; give a learning rate"
        )
    if given is not None and scale != 1 and not np.isfinite(limit):
        raise SettingError(
            "network.parametrization=mup: how the learning rate scales is known for optimizer=sgd; "
            "expected that, or ntk"
        )
    rate = limit * fraction if given is None else given * scale  # type: ignore[operator]
    if rate > limit and not training.allow_unstable:
        name, value = (
            ("learning_rate", given) if given is not None else ("learning_rate_fraction", fraction)
        )
        raise SettingError(
            f"training.{name}={value:g}: the learning rate {rate:.6g} exceeds the stability limit "
            f"{limit:.6g} of the kernel at "
            f"initialisation; use at most {limit / scale if given is not None else 1}, or "
            "training.allow_unstable=true"
        )
    return float(rate)
