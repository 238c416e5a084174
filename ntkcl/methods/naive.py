"""Training on one task after the other and nothing else: the identity of every part of a method."""

from ntkcl.compilation import once
from ntkcl.dynamics.steps import task_step
from ntkcl.methods.custom import custom
from ntkcl.types import Method


@once
def naive() -> Method:
    """Plain sequential training; what forgetting is measured against."""
    return custom(step=_step)


def is_naive(method: Method) -> bool:
    """Whether nothing is added to training: every part is the very function of `naive`."""
    return method == naive()


def _step(tangent, tasks, t, fs):
    return task_step(tasks[t])
