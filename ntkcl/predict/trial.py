"""The network itself, its parameters moved to where a forecast says training takes them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import kernels
from ntkcl.predict.setting import Anchor, Outcome, Setting


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
