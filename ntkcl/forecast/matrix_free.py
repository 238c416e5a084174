"""The solve of a training rule by Lanczos on kernel-vector products, for tasks whose kernels no memory holds; no method."""

import jax.numpy as jnp

from ntkcl import kernels
from ntkcl.forecast.outcome import Outcome, rule
from ntkcl.training.problem import Anchor, Setting


def matrix_free(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks by the training rule, alpha = g(K_tt) r from `krylov_order` products with K_tt and no block of it."""
    product = kernels.operator(setting.network).product
    f, outcomes = anchor.history[-1], []
    for t in anchor.ahead(count):
        task = setting.tasks[t]
        x_t, g = setting.x[task.inputs], rule(setting, t)
        head = jnp.asarray(task.head, setting.x.dtype)[None]

        def matvec(v, x_t=x_t, head=head):
            return head * product(anchor.theta, x_t, None, head * v)

        residual = (task.targets - f[task.inputs]).astype(setting.x.dtype)
        alpha = kernels.krylov.filtered(matvec, g, order=setting.effort.krylov_order)(
            head * residual
        )
        change = product(anchor.theta, setting.x, x_t, alpha).astype(f.dtype)
        outcomes.append(Outcome(change, float("nan"), float("nan"), pull=(task.inputs, alpha)))
        f = f + change
    return outcomes
