"""Elastic weight consolidation: a quadratic penalty on the parameters, weighted by how much old
outputs depend on them."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.dynamics.steps import own, stacked
from ntkcl.methods.custom import custom
from ntkcl.methods.fisher import is_softmax
from ntkcl.types import Method


@once
def ewc(penalty: float | int = 1.0, *, online: bool = False) -> Method:
    """Minimises the task's mean loss + penalty/2 sum_j (theta - theta_j)^T F_j (theta - theta_j).

    The sum is over old tasks j; F_j is the full Fisher information (`ntkcl.methods.fisher`) at
    theta_j: for squared error the mean over the samples of task j of J^T J over its active outputs,
    which is the generalised Gauss-Newton matrix; for cross-entropy of J^T (diag p - p p^T) J, p the
    softmax at theta_j. It is applied, never stored; the memory holds theta_j and the inputs.

    Arguments:
      penalty: lambda.
      online: every penalty is centred where the parameters were before this task, in place of
        theta_j.
    Kernel space: replay of the model's own outputs, those after task j (online: those before task
    t), an output weighing lambda scale_t / n_j. Exact for any rule, finite steps included, full
    batch.
    Source: Kirkpatrick et al. 2017 (centres theta_j); online: Schwarz et al. 2018.
    """
    validation.finite("method.penalty", penalty, above=0.0)
    validation.flag("method.online", online)

    def begin(memory, network, theta, task):
        if not online:
            return memory
        return tuple((there, theta, x, head) for there, _, x, head in memory)

    def consolidate(memory, network, loss, theta, task):
        return (*memory, (theta, theta, task.train.x, task.head))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        is_softmax(loss)  # refuses a loss whose Fisher information is not known
        terms = (_quadratic(apply, loss, theta, kept) for kept in memory)
        return task_loss + penalty / 2 * sum(terms)

    def step(tangent, tasks, t, fs):
        parts = [own(tasks[t])]
        for j, task in enumerate(tasks[:t]):
            outputs = fs[-1 if online else j + 1][np.asarray(task.inputs)]
            weight = penalty * tasks[t].scale / len(task.inputs)
            parts.append(own(task._replace(targets=outputs), weight))
        return stacked(*parts)

    return custom(begin=begin, objective=objective, consolidate=consolidate, step=step)


def _quadratic(apply, loss, theta, kept):
    """(theta - centre)^T F (theta - centre), by products with J alone."""
    there, centre, x, head = kept
    away = jax.tree.map(jnp.subtract, theta, centre)
    f, change = jax.vmap(lambda x: jax.jvp(lambda p: apply(p, x), (there,), (away,)))(x)
    if loss.quadratic:
        return jnp.sum(head[None] * change**2) / len(x)
    p = jax.nn.softmax(f, where=head[None] > 0, axis=-1)
    mean = jnp.sum(p * change, -1, keepdims=True)
    return jnp.sum(p * (change - mean) ** 2) / len(x)
