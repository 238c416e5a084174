"""Experience replay: a few samples of every old task are trained on beside the new one."""

import numpy as np

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.dynamics.steps import buffered, own, stacked
from ntkcl.methods.custom import custom
from ntkcl.methods.memory import draw_memory, mean_loss
from ntkcl.types import Method


@once
def replay(
    per_task: int | None = 20,
    weight: float | int = 1.0,
    *,
    seed: int = 0,
    picks: tuple[tuple[int, ...], ...] | None = None,
) -> Method:
    """Minimises the task's mean loss + weight x the mean loss over the whole buffer.

    Arguments:
      per_task: samples kept of each task, drawn without replacement; None keeps all.
      weight: of the buffer's mean loss against the task's.
      seed: of the draw.
      picks: which samples to keep of each task in place of a draw.
    Kernel space: rows of the task and of the buffer, a buffered output of task j weighing weight
    scale_t / (n_buffer |head_j|), where scale_t turns the task's mean loss into the (1/2) sum.
    Exact for any rule, full batch.
    Raises ValueError for a buffer larger than a task.
    """
    if per_task is not None:
        validation.whole("method.per_task", per_task)
    validation.finite("method.weight", weight, above=0.0)
    validation.seed("method.seed", seed)

    def kept(t, n):
        return draw_memory(seed, t, n, per_task) if picks is None else np.asarray(picks[t])

    def begin(memory, network, theta, task):
        # A task that has too few samples is refused before it is trained.
        kept(len(memory), len(task.train.x))
        return memory

    def consolidate(memory, network, loss, theta, task):
        pick = kept(len(memory), len(task.train.x))
        return (*memory, (task.train.x[pick], task.train.y[pick], task.head))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        return task_loss + weight * mean_loss(loss, apply, theta, memory) if memory else task_loss

    def step(tangent, tasks, t, fs):
        old = [kept(j, len(tasks[j].inputs)) for j in range(t)]
        return stacked(own(tasks[t]), *buffered(tasks[:t], tasks[t], old, weight))

    return custom(begin=begin, objective=objective, consolidate=consolidate, step=step)
