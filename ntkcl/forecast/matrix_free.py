"""The solve of a training rule by Lanczos on kernel-vector products.

For tasks whose kernels no memory holds, and no method.
"""

import jax.numpy as jnp

from ntkcl import kernels
from ntkcl.forecast.outcome import Effort, Outcome, rule
from ntkcl.training.problem import Anchor, Problem


def matrix_free(kernel_fn, effort: Effort):
    """`(problem, anchor, count) -> outcomes` by the training rule, alpha = g(K_tt) r from
    `effort.krylov_order` products with K_tt and no block of it."""

    def forecast(problem: Problem, anchor: Anchor, count: int) -> list[Outcome]:
        product = kernels.operator(problem.network).product
        f, outcomes = anchor.history[-1], []
        for t in anchor.ahead(count):
            task = problem.tasks[t]
            x_t, g = problem.inputs(task.inputs), rule(problem, t)
            head = jnp.asarray(task.head, problem.dtype)[None]

            def matvec(v, x_t=x_t, head=head):
                return head * product(anchor.theta, x_t, None, head * v)

            residual = head * (task.targets - f[task.inputs]).astype(problem.dtype)
            alpha = kernels.krylov.filtered(matvec, g, order=effort.krylov_order)(residual)
            change = product(anchor.theta, problem.x, x_t, alpha).astype(f.dtype)
            outcomes.append(Outcome(change, float("nan"), float("nan"), pull=(task.inputs, alpha)))
            f = f + change
        return outcomes

    return forecast
