"""Baselines of a forecast that need the problem: a linear model, the gradient of the next task."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl import kernels, methods
from ntkcl.forecast.linearised import train_model
from ntkcl.metrics import baselines
from ntkcl.training.problem import Anchor, Problem
from ntkcl.types import Network, Params
from ntkcl.validation import are_tokens

SUBSAMPLE = 64
"""Train inputs of a task, at most, by which its kernel is compared with those of other tasks."""

WORDS = 1024
"""Columns of the counts of token ids."""

# What a method raises that refuses the model, or looks for parameters by names it does not have.
NO_LINEAR_MODEL = (ValueError, TypeError, LookupError, AttributeError)


def input_cosine(problem: Problem, f0: Float[Array, "N c"]) -> tuple[np.ndarray, str]:
    """A baseline without the network: the changes [T, N, c] of f_0(x) + W x / sqrt(n_0).

    Its kernel is X X^T / n_0 (x) I. A forecast that is no better has not needed the network.

    Trained from W = 0 as the network would be, with any loss, rule and method; being linear it is
    its own forecast. A rate that is stable for the network need not be so here: then the changes
    grow without bound, and say so. NaN, and one line that says why, for a method that cannot train
    such a model, whose parameters are W alone (gpm: it has no layers); else "" beside the changes.
    """
    x = _inputs_beside(_features(problem), f0)
    stream = tuple(
        task._replace(train=task.train._replace(x=np.asarray(x)[rows.inputs]))
        for task, rows in zip(problem.stream, problem.tasks, strict=True)
    )
    weights = np.zeros((x.shape[1] - f0.shape[1], f0.shape[1]), x.dtype)
    linear = problem._replace(stream=stream, x=x)
    try:
        outcomes = train_model(linear, INPUTS, Anchor(weights, (), (f0,)), len(stream))
    except NO_LINEAR_MODEL as error:
        if methods.is_naive(problem.method):  # asks nothing of a model: this is an error of ours
            raise
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        remark = f"input_cosine: the method does not train a linear model ({why})"
        return np.full((len(stream), *f0.shape), np.nan), remark
    return np.stack([outcome.change for outcome in outcomes]), ""


def _features(problem: Problem):
    """The inputs [N, ...]; of token ids how often each occurs, of length sqrt(n_0), so that the
    kernel is the cosine of two texts. Ids share `WORDS` places: a vocabulary is much larger than a
    text."""
    if not are_tokens(problem.x):
        return problem.x
    ids = np.asarray(problem.x).reshape(len(problem.x), -1)
    counts = np.zeros((len(ids), WORDS), problem.dtype)
    np.add.at(counts, (np.arange(len(ids))[:, None], ids % WORDS), ids != 0)  # 0 is padding
    length = np.linalg.norm(counts, axis=1, keepdims=True)
    return counts * WORDS**0.5 / np.maximum(length, 1)


@jax.jit
def _inputs_beside(x, f0):
    """The flat inputs [N, n_0], scaled, and the outputs beside them [N, n_0 + c]."""
    flat = x.reshape(len(x), -1)
    return jnp.concatenate([flat / flat.shape[1] ** 0.5, jnp.asarray(f0, flat.dtype)], 1)


def _from_inputs(weights, x):
    return x[len(weights) :] + x[: len(weights)] @ weights


INPUTS = Network(None, _from_inputs)  # one for all runs, so that it is compiled once


@partial(jax.jit, static_argnums=0)
def _signal(loss, f, y, head):
    return jax.grad(lambda f: jnp.mean(jax.vmap(loss.value, (0, 0, None))(f, y, head)))(f)


@jax.jit
def _length(tree):
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def slopes(problem: Problem) -> Callable[..., float]:
    """A baseline: `(t, theta, f) -> |dL_t/dtheta|`, the size of task t's gradient at theta.

    L_t is the task's mean loss; f [N, c] are the outputs at theta.
    """
    operator = kernels.operator(problem.network)

    def slope(t, theta, f):
        x, y = problem.stream[t].train
        own = np.asarray(f[problem.tasks[t].inputs], y.dtype)
        gradient = operator.vjp(theta, x, _signal(problem.loss, own, y, problem.stream[t].head))
        return float(_length(gradient))

    return slope


def energies(problem: Problem, theta: Params, kernel_fn) -> np.ndarray:
    """`metrics.baselines.energy` [T, T, 2] of the blocks between any two tasks, active outputs
    alone, by at most `SUBSAMPLE` train inputs a task, drawn by the problem's key."""
    seed = np.asarray(jax.random.key_data(problem.key)).tolist()
    places = [
        np.sort(np.random.default_rng([*seed, t]).permutation(task.inputs)[:SUBSAMPLE])
        for t, task in enumerate(problem.tasks)
    ]
    ends = np.cumsum([len(own) for own in places])
    active = [np.flatnonzero(task.head) for task in problem.tasks]
    every = problem.inputs(np.concatenate(places))

    def column(t):
        block = np.asarray(kernel_fn(theta, every, problem.inputs(places[t])))[..., active[t]]
        parts = np.split(block, ends[:-1])
        return [baselines.energy(part[:, rows]) for part, rows in zip(parts, active, strict=True)]

    return np.stack([np.stack(column(t)) for t in range(len(places))], 1)
