"""Synaptic intelligence: a quadratic penalty, weighted by how much each parameter's way has lowered
the losses of old tasks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.methods.custom import custom
from ntkcl.types import Method


class Memory(NamedTuple):
    """theta before this task, what each parameter has taken off its loss so far, and the importance
    from the tasks before."""

    before: Any
    path: Any
    importance: Any


@once
def si(strength: float | int = 0.1, *, damping: float | int = 0.1) -> Method:
    """Minimises the task's mean loss + c sum_k Omega_k (theta - theta_before)_k^2.

    theta_before are the parameters before the task.
    Omega_k = sum over old tasks of omega_k / (Delta_k^2 + xi), Delta_k how far the task moved
    theta_k in all, and omega_k = -sum over its steps of g_k dtheta_k, g the gradient of the task's
    own loss on the step's batch (without the penalty) and dtheta the step taken: the path integral,
    which adds up to the fall of the loss where steps are small. It may be negative, and is then
    taken as it is, as in the paper.

    Arguments:
      strength: c, no factor 1/2 beside it; 0 changes nothing.
      damping: xi, in squared units of theta.
    Kernel space: none known before training, omega depends on the path; forecasts train the
    linearised network.
    Source: Zenke, Poole, Ganguli 2017, equations 3 to 5.
    """
    validation.finite("method.strength", strength, least=0.0)
    validation.finite("method.damping", damping, above=0.0)

    def begin(memory, network, theta, task):
        zero = jax.tree.map(jnp.zeros_like, theta)
        return Memory(theta, zero, memory.importance if memory else zero)

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        def term(a, b, omega):
            return jnp.sum(omega * (a - b) ** 2)

        terms = jax.tree.map(term, theta, memory.before, memory.importance)
        return task_loss + strength * sum(jax.tree.leaves(terms))

    def observe(memory, apply, theta, batch, head, gradient, update):
        def longer(path, g, step, a, b, omega):
            # g less the penalty's gradient is the gradient of the task's own loss.
            return path - (g - 2 * strength * omega * (a - b)) * step

        old = memory.before, memory.importance
        path = jax.tree.map(longer, memory.path, gradient, update, theta, *old)
        return memory._replace(path=path)

    def consolidate(memory, network, loss, theta, task):
        def grown(omega, path, a, b):
            return omega + path / ((a - b) ** 2 + damping)

        importance = jax.tree.map(grown, memory.importance, memory.path, theta, memory.before)
        return memory._replace(importance=importance)

    hooks: dict = dict(begin=begin, objective=objective, observe=observe, consolidate=consolidate)
    return custom(**hooks, step=None)
