"""The network itself, its parameters moved to where a forecast says training takes them: in one stride a task, or in two."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import kernels
from ntkcl.predict.setting import Anchor, Outcome, Setting, rule


def trial(setting: Setting, here: Anchor, outcomes: Sequence[Outcome], outputs: Callable[..., np.ndarray]) -> np.ndarray:
    """f(theta + sum_{j<=t} J_j^T alpha_j) - f(theta + sum_{j<t} J_j^T alpha_j) at all inputs, [T', N, c]; NaN without a `pull`."""
    if any(outcome.pull is None for outcome in outcomes):
        return np.full((len(outcomes), *outcomes[0].change.shape), np.nan)
    pull_back, theta, seen = kernels.operator(setting.network).vjp, here.theta, [np.asarray(here.history[-1])]
    for inputs, alpha in (outcome.pull for outcome in outcomes):
        step = pull_back(here.theta, setting.x[inputs], jnp.asarray(alpha, setting.x.dtype))
        theta = jax.tree.map(jnp.add, theta, step)
        seen.append(outputs(theta))
    return np.diff(np.stack(seen), axis=0)


def halved(setting: Setting, here: Anchor, outcomes: Sequence[Outcome], outputs: Callable[..., np.ndarray]) -> np.ndarray:
    """`trial` in two strides a task, each of half the steps: by the anchor's kernel, but from the residual and along the tangents of
    the network where it then is, [T', N, c]; NaN without `coefficients`.

    Momentum starts anew with each stride.
    """
    if any(outcome.coefficients is None for outcome in outcomes) or setting.steps < 2:
        return np.full((len(outcomes), *outcomes[0].change.shape), np.nan)
    pull_back, theta, seen = kernels.operator(setting.network).vjp, here.theta, [np.asarray(here.history[-1])]
    for t, outcome in zip(here.ahead(len(outcomes)), outcomes, strict=True):
        task, f = setting.tasks[t], seen[-1]
        for steps in (setting.steps - setting.steps // 2, setting.steps // 2):
            alpha = outcome.coefficients(rule(setting._replace(steps=steps), task), task.targets - jnp.asarray(f[task.inputs]))
            step = pull_back(theta, setting.x[task.inputs], jnp.asarray(alpha, setting.x.dtype))
            theta = jax.tree.map(jnp.add, theta, step)
            f = outputs(theta)
            if not np.isfinite(f).all():
                return np.full((len(outcomes), *f.shape), np.inf)
        seen.append(f)
    return np.diff(np.stack(seen), axis=0)
