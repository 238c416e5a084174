"""Memory aware synapses: a quadratic penalty, weighted by how much old outputs depend on each
parameter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntkcl import validation
from ntkcl.compilation import once, portable
from ntkcl.methods.custom import custom
from ntkcl.methods.memory import mean_over
from ntkcl.types import Method


class Memory(NamedTuple):
    """theta before this task, and the importance from the tasks before."""

    before: Any
    importance: Any


@jax.jit
def _sensitivity(apply, theta, x, head):
    """Mean over x of |d |f|^2 / d theta|, shaped as theta."""

    def size(theta, x):
        return jnp.sum(head * apply(theta, x) ** 2)

    def one(x):
        return jax.tree.map(jnp.abs, jax.grad(size)(theta, x))

    return mean_over(one, theta, x)


@once
def mas(strength: float | int = 1.0) -> Method:
    """Minimises the task's mean loss + lambda sum_k Omega_k (theta - theta_before)_k^2.

    theta_before are the parameters before the task.
    Omega_k = sum over old tasks of the mean over their samples of |d |f|^2 / d theta_k|, |f|^2 the
    sum of squares of the active outputs, each at the parameters just after its task. No labels, and
    the absolute value is taken sample by sample.

    Arguments:
      strength: lambda, no factor 1/2 beside it; 0 changes nothing.
    Kernel space: none; forecasts train the linearised network.
    Source: Aljundi et al. 2018, equations 2 to 5.
    """
    validation.finite("method.strength", strength, least=0.0)

    def begin(memory, network, theta, task):
        return Memory(theta, memory.importance if memory else jax.tree.map(jnp.zeros_like, theta))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        def term(a, b, omega):
            return jnp.sum(omega * (a - b) ** 2)

        terms = jax.tree.map(term, theta, memory.before, memory.importance)
        return task_loss + strength * sum(jax.tree.leaves(terms))

    def consolidate(memory, network, loss, theta, task):
        fresh = _sensitivity(portable(network.apply), theta, task.train.x, task.head)
        return memory._replace(importance=jax.tree.map(jnp.add, memory.importance, fresh))

    return custom(begin=begin, objective=objective, consolidate=consolidate, step=None)
