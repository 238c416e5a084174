"""Settings and data of an experiment, checked before anything is computed."""

import math
from collections.abc import Sequence

import jax
import numpy as np

from ntkcl import forecast, losses
from ntkcl.compilation import convolves
from ntkcl.experiment.events import ANCHORS
from ntkcl.forecast import Effort
from ntkcl.training.settings import Training, check_training, devices_of, full_batches, steps_of
from ntkcl.types import Loss, Method, Network, Optimizer, Stream
from ntkcl.validation import SettingError, one_of, whole


def check(stream: Stream, loss: Loss, training: Training, anchors: Sequence[str]) -> None:
    """ValueError for settings out of range, data that are not finite or no targets for this loss, a
    head without active outputs."""
    check_training(training)
    smallest = min(len(task.train.x) for task in stream)
    if (
        training.batch_size is not None
        and whole("training.batch_size", training.batch_size) > smallest
    ):
        raise SettingError(
            f"training.batch_size={training.batch_size}: expected at most {smallest}, the smallest "
            "task, or null"
        )
    steps_of(training, stream)
    devices_of(training, stream)
    for anchor in anchors:
        one_of("forecast.anchors", anchor, ANCHORS)
    for t, task in enumerate(stream):
        for part, dataset in (("train", task.train), ("test", task.test)):
            for name, values in zip(dataset._fields, dataset, strict=True):
                bad = int(np.sum(~np.isfinite(values)))
                if bad:
                    raise SettingError(
                        f"stream: task {t}, {part}.{name} holds {bad} NaN or infinite values; "
                        "expected finite ones"
                    )
        if not np.any(np.asarray(task.head)):
            raise SettingError(f"stream: task {t} has a head without active outputs")
        if not losses.takes(loss, task.train.y, task.head):
            raise SettingError(
                f"loss: the targets of task {t} are no distribution over its outputs; use one_hot "
                "targets"
            )


def form_of(
    stream: Stream,
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    training: Training,
    method: Method,
    form: str,
    segments: int | str = 1,
) -> str:
    """Which of `forecast.FORMS` predicts this training; SettingError for one that cannot."""
    if form == "auto" and segments != 1:
        return "linearised"
    if training.optimizer_state == "carry":
        if form not in ("auto", "linearised"):
            raise SettingError(
                f"forecast.form={form}: begins each task at rest, and "
                "training.optimizer_state=carry; use linearised or auto"
            )
        return "linearised"
    full = full_batches(stream, training.batch_size)
    # Those of all tasks are held until the trial is done.
    rows = round(sum(task.train.y.size**2 for task in stream) ** 0.5)

    def by_products():
        one = stream[0].train.x[0]
        return not convolves(
            network.apply, jax.eval_shape(network.init, jax.random.key(0), one), one
        )

    return forecast.form_of(form, loss, optimizer, method, full, rows, by_products)


def check_coarsen(stream: Stream, training: Training, form: str, coarsen: int) -> None:
    """SettingError where steps cannot be taken k at a time, or 2 k to see what that changes."""
    if coarsen == 1:
        return
    name, steps = f"forecast.coarsen={coarsen}", steps_of(training, stream)
    if form != "linearised":
        raise SettingError(f"{name}: form={form} takes no steps; expected 1, or form=linearised")
    if training.schedule is not None and training.optimizer_state == "carry":
        raise SettingError(
            f"{name}: a schedule that goes on over tasks is counted in steps of training; expected "
            "1, or training.optimizer_state=reset"
        )
    if any(count % (2 * coarsen) for count in steps):
        raise SettingError(
            f"{name}: expected 2 x {coarsen} to divide the steps of each task, {steps[0]}"
        )
    batch = training.batch_size or math.inf
    for task, count in zip(stream, steps, strict=True):
        n = len(task.train.x)
        if count // (2 * coarsen) * batch < n:
            most = int(count * batch // (2 * n))
            raise SettingError(
                f"{name}: so few batches do not see all of a task; expected at most {max(most, 1)}"
            )


def check_segments(stream: Stream, training: Training, form: str, effort: Effort) -> None:
    """SettingError where a task cannot be forecast in so many segments."""
    segments, name = effort.segments, f"forecast.segments={effort.segments}"
    if segments == 1:
        return
    if form != "linearised":
        raise SettingError(
            f"{name}: form={form} linearises once; expected 1, or form=linearised or auto"
        )
    most = min(steps_of(training, stream)) // effort.coarsen
    if not isinstance(segments, str) and segments > most:
        raise SettingError(f"{name}: expected at most {most}, the steps of a task, or auto")


def check_infinite(network: Network, form: str) -> None:
    """SettingError where the anchor "infinite" cannot be."""
    if network.infinite is None:
        raise SettingError(
            "forecast.anchors: infinite is for networks whose kernel of infinite width is known; "
            "expected network=mlp or network=cnn with network.parametrization=ntk"
        )
    if form not in ("closed", "simulated"):
        raise SettingError(
            f"forecast.anchors: infinite has no parameters for form={form} to follow; expected "
            "closed or simulated"
        )


def check_side_by_side(training: Training) -> None:
    """SettingError for what cannot be done where seeds are trained as one."""
    for name, expected in (("evaluate_every", None), ("devices", 1)):
        value = getattr(training, name)
        if value != expected:
            raise SettingError(
                f"training.{name}={value}: expected {'null' if expected is None else expected} "
                "where seeds are trained as one, or seeds_by=loop"
            )
