"""Learning without forgetting: on the new task's inputs, outputs of old heads are held."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.dynamics import Step
from ntkcl.dynamics.steps import task_step
from ntkcl.methods.custom import custom
from ntkcl.methods.memory import DISTANCE
from ntkcl.types import Method


@once
def lwf(weight: float | int = 1.0) -> Method:
    """Minimises the task's mean loss + weight x the mean of 1/(2 |old|) |f - f_before|^2.

    The mean is over the same samples, the distance over the old outputs.
    Old outputs are those of any head so far; f_before is the network before this task, which is
    kept. With squared error in place of the paper's softened cross-entropy.

    Arguments:
      weight: mu.
    Kernel space: on the task's rows, an output a weighs m_a + mu |head| / |old| o_a and is drawn to
    the mean, so weighted, of its target and of itself. With one shared head: the rate times 1 + mu,
    the residual over 1 + mu. Exact for any rule, full batch.
    Source: Li, Hoiem 2016.
    """
    validation.finite("method.weight", weight, above=0.0)

    def begin(memory, network, theta, task):
        # The mask of the old outputs, once there are any, beside the parameters before the task.
        return (theta, memory) if len(memory) else memory

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        if not memory:
            return task_loss
        before, old = memory

        def moved(x):
            return DISTANCE.value(apply(theta, x), apply(before, x), old)

        return task_loss + weight * jnp.mean(jax.vmap(moved)(batch.x))

    def consolidate(memory, network, loss, theta, task):
        return task.head if not len(memory) else jnp.maximum(memory[1], task.head)

    def step(tangent, tasks, t, fs):
        task, head = tasks[t], np.asarray(tasks[t].head, float)
        if t == 0:
            return task_step(tasks[t])
        old = np.max([np.asarray(earlier.head, float) for earlier in tasks[:t]], axis=0)
        held = weight * np.sum(head) / np.sum(old) * old
        total = head + held
        before = fs[-1][np.asarray(task.inputs)]
        weighted = head[None] * task.targets + held[None] * before
        targets = weighted / np.where(total > 0, total, 1.0)[None]
        return Step(np.asarray(task.inputs), targets, np.broadcast_to(total, targets.shape))

    return custom(begin=begin, objective=objective, consolidate=consolidate, step=step)
