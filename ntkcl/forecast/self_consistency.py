"""The true network at the predicted parameters: moved there in one stride a task, or in two.

Where its outputs differ from the predicted ones, the linearisation fails there, and the forecast
is not to be trusted. The check needs no training.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import kernels
from ntkcl.forecast import spot_check
from ntkcl.forecast.outcome import Outcome, rule
from ntkcl.training.problem import Anchor, Problem

# `(theta, f) -> (theta', inputs, alpha)`, f the outputs at theta of the task's own inputs: theta
# moves by J_{theta'}(x[inputs])^T alpha.
Stride = Callable[..., tuple]


def trial(
    problem: Problem, here: Anchor, outcomes: Sequence[Outcome], outputs: Callable[..., np.ndarray]
) -> np.ndarray:
    """Changes [T', N, c] of the true outputs by each task, its parameters moved in one stride.

        f(theta + sum_{j<=t} J_j^T alpha_j) - f(theta + sum_{j<t} J_j^T alpha_j)

    At some rows, and NaN at others, where outcomes say how parameters move by `theta` alone, or do
    not say: then along the shortest way to the predicted changes. NaN for those that are read off
    the true network as it is. Infinite where outputs are no longer finite.
    """
    if any(outcome.lower_order is not None for outcome in outcomes):
        return _everywhere(np.nan, outcomes)
    if all(outcome.theta is not None for outcome in outcomes):
        return spot_check.at_parameters(problem, here, outcomes, outputs)
    if any(outcome.pull is None for outcome in outcomes):
        return spot_check.shortest_way(problem, here, outcomes, outputs)

    def stride(outcome):
        return lambda theta, f: (here.theta, *outcome.pull)

    return _moved(problem, here, outcomes, outputs, [[stride(outcome)] for outcome in outcomes])


def halved(
    problem: Problem, here: Anchor, outcomes: Sequence[Outcome], outputs: Callable[..., np.ndarray]
) -> np.ndarray:
    """`trial` in two strides a task, each of half the steps [T', N, c].

    Both are by the anchor's kernel, the second from the residual and along the tangents of the
    network where the first has led. NaN for outcomes without `coefficients`.
    """
    ahead = list(zip(here.ahead(len(outcomes)), outcomes, strict=True))
    if any(outcome.coefficients is None or problem.steps[t] < 2 for t, outcome in ahead):
        return _everywhere(np.nan, outcomes)
    strides = [list(_halves(problem, t, outcome)) for t, outcome in ahead]
    return _moved(problem, here, outcomes, outputs, strides)


def _halves(problem: Problem, t: int, outcome: Outcome) -> Iterator[Stride]:
    """The two strides of task t."""
    task, steps = problem.tasks[t], problem.steps[t]

    def stride(g):
        def along_tangents(theta, f):
            residual = np.asarray(task.targets) - f
            return theta, task.inputs, outcome.coefficients(g, residual)

        return along_tangents

    for first, last in pairwise((0, steps - steps // 2, steps)):
        yield stride(rule(problem, t, first, last))


def _moved(
    problem: Problem,
    here: Anchor,
    outcomes: Sequence[Outcome],
    outputs: Callable[..., np.ndarray],
    strides_by_task: Sequence[Sequence[Stride]],
) -> np.ndarray:
    """Changes [T', N, c] of the true outputs by the strides of each task."""
    pull_back, theta = kernels.operator(problem.network).vjp, here.theta
    f = np.asarray(here.history[-1])
    history = [f]
    for t, strides in zip(here.ahead(len(outcomes)), strides_by_task, strict=True):
        own = problem.tasks[t].inputs
        for k, stride in enumerate(strides):
            along, inputs, alpha = stride(theta, f[own] if k == 0 else f)
            alpha = np.asarray(alpha, problem.dtype)
            theta = _sum(theta, pull_back(along, problem.inputs(inputs), alpha))
            # On the way no more is read than the next stride asks for.
            f = outputs(theta) if k == len(strides) - 1 else outputs(theta, own)
            if not np.isfinite(f).all():
                return _everywhere(np.inf, outcomes)
        history.append(f)
    return np.diff(np.stack(history), axis=0)


@jax.jit
def _sum(a, b):
    return jax.tree.map(jnp.add, a, b)


def _everywhere(value: float, outcomes: Sequence[Outcome]) -> np.ndarray:
    return np.full((len(outcomes), *outcomes[0].change.shape), value)
