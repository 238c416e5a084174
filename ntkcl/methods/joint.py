"""Joint training: every task is trained on together with all those before it.

The bound that other methods are compared with.
"""

import numpy as np

from ntkcl.compilation import once
from ntkcl.dynamics.steps import own, stacked
from ntkcl.methods.custom import custom
from ntkcl.methods.memory import mean_loss
from ntkcl.types import Method


@once
def joint() -> Method:
    """Minimises the mean loss over the samples of all tasks so far.

    Training starts from the parameters after the task before.

    Kernel space: the rows of all tasks so far, an output of task j weighing scale_t / (n |head_j|),
    n their samples together, and scale_t what turns the task's mean loss into the (1/2) sum. Exact
    for any rule, full batch.
    """

    def begin(memory, network, theta, task):
        return (*memory, (task.train.x, task.train.y, task.head))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        *old, new = memory
        if not old:
            return task_loss
        share = len(new[0]) / sum(len(x) for x, _, _ in memory)
        return share * task_loss + (1 - share) * mean_loss(loss, apply, theta, old)

    def step(tangent, tasks, t, fs):
        scale, n = tasks[t].scale, sum(len(task.inputs) for task in tasks[: t + 1])
        every = (tasks[t], *tasks[:t])
        return stacked(*(own(task, scale / (n * np.sum(task.head))) for task in every))

    return custom(begin=begin, objective=objective, step=step)
