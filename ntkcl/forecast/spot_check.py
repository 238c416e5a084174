"""Signs of a forecast's error at a few rows, for a small share of what the forecast costs.

Rows are train inputs of the tasks so far and of those ahead, evenly spaced. Elsewhere a check is
NaN, and infinite where the network diverged.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import kernels
from ntkcl.compilation import portable
from ntkcl.forecast.outcome import Outcome
from ntkcl.training.problem import Anchor, Problem
from ntkcl.types import Network, Params

SHARE = 0.04  # of a forecast's passes of a sample through the network
STEP_PASSES = 6  # of each sample of a step of the linearised network, forwards and backwards
TANGENT_PASSES = 3  # of a sample whose change along a tangent is read
FEWEST, MOST = 8, 64  # rows a task
SOLVES = 15  # products with a kernel that look for the shortest way to predicted changes


def rows(problem: Problem, ahead: range, passes: float | int) -> np.ndarray:
    """Rows of all tasks to the last `ahead`; a row costs so many passes of a sample."""
    trained = sum(problem.steps[t] * _batch(problem, t) for t in ahead)
    each = SHARE * STEP_PASSES * trained / (passes * (ahead[-1] + 1))
    return some(problem, ahead[-1] + 1, each)


def some(problem: Problem, tasks: int, each: float | int) -> np.ndarray:
    """About `each` evenly spaced train inputs of each of the first so many tasks."""
    count = int(np.clip(each, FEWEST, MOST))
    own = [problem.tasks[t].inputs for t in range(tasks)]
    picks = [np.linspace(0, len(one) - 1, min(count, len(one))).astype(int) for one in own]
    return np.concatenate([one[pick] for one, pick in zip(own, picks, strict=True)])


def _batch(problem: Problem, t: int) -> int:
    return problem.batch_size or len(problem.tasks[t].inputs)


def spread(changes: np.ndarray, places: np.ndarray, n: int) -> np.ndarray:
    """Changes [..., m, c] at places among N = `n` rows, NaN at others [..., N, c]."""
    out = np.full((*changes.shape[:-2], n, changes.shape[-1]), np.nan)
    out[..., places, :] = np.where(np.isfinite(changes), changes, np.inf)
    return out


def at_parameters(
    problem: Problem, here: Anchor, outcomes: Sequence[Outcome], outputs: Callable[..., np.ndarray]
) -> np.ndarray:
    """Changes [T', N, c] of the true outputs, at some rows, by each outcome's `theta`."""
    ahead = here.ahead(len(outcomes))
    places = rows(problem, ahead, len(ahead))
    read = [np.asarray(here.history[-1])[places]]
    read += [outputs(outcome.theta, places) for outcome in outcomes]
    return spread(np.diff(np.stack(read), axis=0), places, len(problem.x))


def along_tangents(network: Network, x, network_at: Callable[[Params], Network]):
    """`network_at` itself, and `total(theta)`: the change [m, c] of the outputs of x by the
    tangents of the network at each theta at which it was asked for, up to the next of them."""
    start: list[Params] = []
    changes: list[jax.Array] = []  # nobody waits for them before the end
    apply, x = portable(network.apply), jnp.asarray(x)

    def move(theta):
        if start:
            changes.append(_along(apply, start.pop(), theta, x))
        start.append(theta)

    def watched(theta):
        move(theta)
        return network_at(theta)

    def total(theta):
        move(theta)
        return np.sum([np.asarray(change, np.float64) for change in changes], axis=0)

    return watched, total


@jax.jit
def _along(apply, theta, towards, x):
    away = jax.tree.map(jnp.subtract, towards, theta)
    return jax.jvp(lambda p: jax.vmap(apply, (None, 0))(p, x), (theta,), (away,))[1]


def shortest_way(
    problem: Problem, here: Anchor, outcomes: Sequence[Outcome], outputs: Callable[..., np.ndarray]
) -> np.ndarray:
    """For outcomes that do not say how parameters move: predicted changes, and what the network's
    curvature adds to them along the shortest way there, at some rows [T', N, c].

        u = J^T beta,  J J^T beta = change        change + f(theta + u) - f(theta) - J u

    J is of the chosen rows at the anchor, theta where the ways of earlier tasks have led.
    """
    ahead = here.ahead(len(outcomes))
    places, operator = some(problem, ahead[-1] + 1, FEWEST), kernels.operator(problem.network)
    x, theta, f = problem.inputs(places), here.theta, np.asarray(here.history[-1])[places]
    matvec, checks = operator.matvec(here.theta, x), []
    for outcome in outcomes:
        change = np.asarray(outcome.change, np.float64)[places]
        u = operator.vjp(here.theta, x, _solved(matvec, jnp.asarray(change, problem.dtype)))
        along = operator.jvp(here.theta, x, u)
        theta, before = jax.tree.map(jnp.add, theta, u), f
        f = outputs(theta, places)
        checks.append(change + (f - before) - np.asarray(along, np.float64))
    return spread(np.stack(checks), places, len(problem.x))


@jax.jit
def _solved(matvec, change):
    return jax.scipy.sparse.linalg.cg(matvec, change, maxiter=SOLVES)[0]
