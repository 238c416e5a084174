"""Training on one task after the other and nothing else: the identity of every part of a method."""

from ntkcl.forecast import Step
from ntkcl.methods.stack import own
from ntkcl.reuse import once
from ntkcl.types import Method


@once
def naive() -> Method:
    """Plain sequential training; what forgetting is measured against."""
    return Method(
        begin=lambda memory, network, theta, task: memory,
        objective=lambda memory, apply, loss, theta, batch, head, task_loss: task_loss,
        project=lambda memory, apply, loss, theta, gradient: gradient,
        consolidate=lambda memory, network, loss, theta, task: memory,
        step=lambda tangent, tasks, t, fs: task_step(tasks[t]),
        plain=True,
    )


def task_step(task) -> Step:
    """The task's own rows, its active outputs with weight 1."""
    return Step(*own(task))
