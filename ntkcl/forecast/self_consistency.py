"""The network itself, its parameters moved to where a forecast says training takes them: in one stride a task, or in two."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import kernels
from ntkcl.forecast.outcome import Outcome, rule
from ntkcl.training.problem import Anchor, Problem


def trial(
    problem: Problem, here: Anchor, outcomes: Sequence[Outcome], outputs: Callable[..., np.ndarray]
) -> np.ndarray:
    """f(theta + sum_{j<=t} J_j^T alpha_j) - f(theta + sum_{j<t} J_j^T alpha_j) at all inputs, [T', N, c]; NaN without a `pull`."""

    def stride(outcome):
        return lambda theta, f: (here.theta, *outcome.pull)

    told = all(outcome.pull is not None for outcome in outcomes)
    return _walked(
        problem,
        here,
        outcomes,
        outputs,
        [[stride(outcome)] for outcome in outcomes] if told else None,
    )


def halved(
    problem: Problem, here: Anchor, outcomes: Sequence[Outcome], outputs: Callable[..., np.ndarray]
) -> np.ndarray:
    """`trial` in two strides a task, each of half the steps: by the anchor's kernel, but from the residual and along the tangents of
    the network where it then is, [T', N, c]; NaN without `coefficients`."""

    def stride(t, outcome, first, last):
        task, g = problem.tasks[t], rule(problem, t, first, last)
        return lambda theta, f: (
            theta,
            task.inputs,
            outcome.coefficients(g, task.targets - jnp.asarray(f[task.inputs])),
        )

    def halves(t):
        return pairwise((0, problem.steps[t] - problem.steps[t] // 2, problem.steps[t]))

    ahead = here.ahead(len(outcomes))
    told = all(
        outcome.coefficients is not None and problem.steps[t] > 1
        for t, outcome in zip(ahead, outcomes, strict=True)
    )
    each = zip(ahead, outcomes, strict=True)
    walk = (
        [[stride(t, outcome, *half) for half in halves(t)] for t, outcome in each] if told else None
    )
    return _walked(problem, here, outcomes, outputs, walk)


def _walked(problem, here, outcomes, outputs, walk) -> np.ndarray:
    """Changes [T', N, c] by the strides of each task, `(theta, f) -> (theta', inputs, alpha)`, J_{theta'}(x[inputs])^T alpha each; NaN
    for no walk, infinite for one that blows up."""
    shape = (len(outcomes), *outcomes[0].change.shape)
    if walk is None:
        return np.full(shape, np.nan)
    pull_back, theta, seen = (
        kernels.operator(problem.network).vjp,
        here.theta,
        [np.asarray(here.history[-1])],
    )
    for strides in walk:
        f = seen[-1]
        for stride in strides:
            along, inputs, alpha = stride(theta, f)
            theta = jax.tree.map(
                jnp.add,
                theta,
                pull_back(along, problem.x[inputs], jnp.asarray(alpha, problem.x.dtype)),
            )
            f = outputs(theta)
            if not np.isfinite(f).all():
                return np.full(shape, np.inf)
        seen.append(f)
    return np.diff(np.stack(seen), axis=0)
