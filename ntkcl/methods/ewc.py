"""Elastic weight consolidation: a quadratic penalty on the parameters, weighted by how much old outputs depend on them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import settings
from ntkcl.methods.naive import naive, task_step
from ntkcl.methods.stack import own, stacked
from ntkcl.types import Method


def ewc(penalty: float | int = 1.0, *, online: bool = False) -> Method:
    """Minimises the task's mean loss + penalty/2 sum over old tasks j of (theta - theta_j)^T F_j (theta - theta_j).

    F_j = mean over the samples of task j of J^T J over its active outputs, at theta_j: the full Fisher information of squared error,
    which is its generalised Gauss-Newton matrix. It is applied, never stored; the memory holds theta_j and the inputs.

    Arguments:
      penalty: lambda.
      online: every penalty is centred where the parameters were before this task, in place of theta_j.
    Kernel space: replay of the model's own outputs, those after task j (online: those before task t), an output weighing
    lambda scale_t / n_j. Exact for any rule, finite steps included, full batch.
    Source: Kirkpatrick et al. 2017 (centres theta_j); online: Schwarz et al. 2018.
    """
    settings.finite("method.penalty", penalty, above=0.0)
    settings.flag("method.online", online)

    def begin(memory, apply, theta, task):
        return tuple((there, theta if online else centre, x, head) for there, centre, x, head in memory)

    def consolidate(memory, network, loss, theta, task):
        return (*memory, (theta, theta, task.train.x, task.head))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        def moved(there, centre, x, head):
            away = jax.tree.map(jnp.subtract, theta, centre)
            change = jax.vmap(lambda x: jax.jvp(lambda p: apply(p, x), (there,), (away,))[1])(x)
            return jnp.sum(head[None] * change**2) / len(x)

        return task_loss + penalty / 2 * sum(moved(*kept) for kept in memory)

    def step(tangent, tasks, t, fs):
        held = [task._replace(targets=fs[-1 if online else j + 1][np.asarray(task.inputs)]) for j, task in enumerate(tasks[:t])]
        return stacked(own(tasks[t]), *(own(task, penalty * tasks[t].scale / len(task.inputs)) for task in held))

    return naive()._replace(plain=False, begin=begin, objective=objective, consolidate=consolidate, step=step)


@partial(jax.jit, static_argnames="apply")
def _diagonal(apply, theta, x, head):
    """Mean over x of sum_a head_a J_a^2, shaped as theta."""

    def squares(x):
        return jax.tree.map(lambda j: jnp.tensordot(head, j**2, 1), jax.jacrev(apply)(theta, x))

    return jax.tree.map(lambda d: jnp.mean(d, 0), jax.vmap(squares)(x))


def ewc_diagonal(penalty: float | int = 1.0, *, damping: float | int = 1e-3) -> Method:
    """Minimises the task's mean loss + penalty/2 sum_k D_k (theta - theta_before)_k^2, D the diagonal of the Fisher information.

    D = damping + sum over old tasks of the mean over samples of sum_a J_a^2 over active outputs (squared error), each at the parameters
    just after its task; one penalty, centred at the parameters before the task (online EWC). Task 0 has none.

    Arguments:
      penalty: lambda.
      damping: added to D, so that parameters no old output depends on are not free to move without bound.
    Kernel space: the kernel J diag(1/D) J^T with a ridge of lambda scale_t, for training to the end alone: gradient descent on this
    penalty mixes two matrices that do not commute.
    Raises ValueError for a D with zeros.
    Source: Kirkpatrick et al. 2017; online: Schwarz et al. 2018.
    """
    settings.finite("method.penalty", penalty, above=0.0)
    settings.finite("method.damping", damping, least=0.0)

    def begin(memory, apply, theta, task):
        return (theta, memory[1]) if memory else memory

    def consolidate(memory, network, loss, theta, task):
        fisher = _diagonal(network.apply, theta, task.train.x, task.head)
        return (theta, jax.tree.map(jnp.add, memory[1], fisher) if memory else fisher)

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        if not memory:
            return task_loss
        terms = jax.tree.map(lambda a, b, d: jnp.sum((d + damping) * (a - b) ** 2), theta, *memory)
        return task_loss + penalty / 2 * sum(jax.tree.leaves(terms))

    def step(tangent, tasks, t, fs):
        if t == 0:
            return task_step(tasks[t])
        rows = [own(task, 1 / len(task.inputs)) for task in tasks[:t]]
        fisher = tangent.squares(np.concatenate([inputs for inputs, _, _ in rows]), np.concatenate([weights for *_, weights in rows]))
        metric = jax.tree.map(lambda d: d + damping, fisher)
        least = min(float(jnp.min(d)) for d in jax.tree.leaves(metric))
        if least <= 0:
            raise ValueError(f"method.damping={damping}: the Fisher information has zeros on its diagonal; use a damping above 0")
        return task_step(tasks[t])._replace(ridge=penalty * tasks[t].scale, columns=tangent.scaled(metric))

    return naive()._replace(plain=False, begin=begin, objective=objective, consolidate=consolidate, step=step, converged=True)
