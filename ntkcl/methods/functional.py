"""Functional regularisation: outputs on old inputs are held to what they were after their task."""

import numpy as np

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.dynamics.steps import buffered, own, stacked
from ntkcl.methods.custom import custom
from ntkcl.methods.memory import DISTANCE, draw_memory, mean_loss, outputs
from ntkcl.types import Method


@once
def functional(weight: float | int = 1.0, per_task: int | None = None, *, seed: int = 0) -> Method:
    """Minimises the task's mean loss + weight x the mean of 1/(2 |head_j|) |f - f_j|^2.

    The mean is over kept old inputs.
    f_j are the outputs just after task j. In the lazy regime this is EWC with the full Fisher
    information, up to how weights are counted.

    Arguments:
      weight: mu.  per_task, seed: which inputs are kept of each task, None for all.
    Kernel space: replay of the model's own old outputs. Exact for any rule, full batch.
    Raises ValueError for a memory larger than a task.
    """
    validation.finite("method.weight", weight, above=0.0)
    if per_task is not None:
        validation.whole("method.per_task", per_task)
    validation.seed("method.seed", seed)

    def begin(memory, network, theta, task):
        # A task that has too few samples is refused before it is trained.
        draw_memory(seed, len(memory), len(task.train.x), per_task)
        return memory

    def consolidate(memory, network, loss, theta, task):
        x = task.train.x[draw_memory(seed, len(memory), len(task.train.x), per_task)]
        return (*memory, (x, outputs(network.apply, theta, x), task.head))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        if not memory:
            return task_loss
        return task_loss + weight * mean_loss(DISTANCE, apply, theta, memory)

    def step(tangent, tasks, t, fs):
        picks = [draw_memory(seed, j, len(tasks[j].inputs), per_task) for j in range(t)]
        held = [
            task._replace(targets=fs[j + 1][np.asarray(task.inputs)])
            for j, task in enumerate(tasks[:t])
        ]
        return stacked(own(tasks[t]), *buffered(held, tasks[t], picks, weight))

    return custom(begin=begin, objective=objective, consolidate=consolidate, step=step)
