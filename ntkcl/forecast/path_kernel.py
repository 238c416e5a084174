"""What training did, as the sum of its steps' tangents.

A diagnostic and no forecast, for it needs the path that training has taken.

Between two steps a network follows its tangents exactly, f(theta_{s+1}) - f(theta_s) = Jbar_s
(theta_{s+1} - theta_s) with Jbar_s the mean of the Jacobian on the line between them. For gradient
descent the change of all outputs by a task is hence what the kernels Kbar_s(x, X_t) = Jbar_s(x)
J(X_t; theta_s)^T say, each applied to the true residuals of its step. What separates a forecast
from it is that its kernel stood still.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ntkcl.training.problem import Problem, train


class _Walked(NamedTuple):
    """The optimizer's state, and the outputs' change so far."""

    inner: Any
    change: Float[Array, "N c"]


def path(problem: Problem) -> Callable[..., np.ndarray]:
    """`(t, here) -> sum_s Jbar_s (theta_{s+1} - theta_s)` [N, c], of task t trained from `here`.

    For any loss, rule and method; `here` is an anchor.
    Jbar_s is taken as the Jacobian in the middle of a step, which is wrong by its square. Costs the
    training again, and a forward and a tangent pass over all inputs a step.
    Source: theorem of the mean; Jacot et al. 2018 for the limit of small steps.
    """

    def outputs(theta):
        return jax.vmap(problem.network.apply, (None, 0))(theta, problem.x)

    def init(theta):
        shape = jax.eval_shape(outputs, theta).shape
        return _Walked(problem.transform.init(theta), jnp.zeros(shape, jnp.float64))

    def update(gradient, walked, theta):
        updates, inner = problem.transform.update(gradient, walked.inner, theta)
        middle = jax.tree.map(lambda leaf, update: leaf + update / 2, theta, updates)
        return updates, _Walked(inner, walked.change + jax.jvp(outputs, (middle,), (updates,))[1])

    followed = problem._replace(transform=optax.GradientTransformation(init, update))

    def change(t, here):
        start = None
        if here.optimizer_state is not None:
            start = _Walked(here.optimizer_state, init(here.theta).change)
        fitted = train(followed, t, problem.trained, here.theta, here.memory, start)
        return np.asarray(fitted.state.optimizer.change)

    return change
