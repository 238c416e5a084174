"""What spares the old samples: a share of replay, the samples to replay, new samples to leave out.

Influence is one derivative. With w_i the weight of training sample i in its batches,

    influence_i = d/dw_i mean loss of the old samples after the candidate's training,

taken through all its steps along the base, the optimizer's state included. New samples with the
most positive one cost most. Samples to replay are chosen as a set, by what is predicted for it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Float, Int

from ntkcl.validation import SettingError, finite, shape_is, whole
from ntkcl.whatif.answers import Answer, ask, mean_loss, taken_of
from ntkcl.whatif.cache import Cache
from ntkcl.whatif.follow import follow
from ntkcl.whatif.recipe import Recipe

SHARES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5)
ORDERS = 4  # over which influences are averaged: a sample is drawn in some steps of each
# Sets of samples to replay that are compared. The one chosen by influence alone forgot more than a
# drawn one in 8 of 20 networks (`scripts/bench/whatif_recommend.py`, an earlier version).
PROPOSALS = 40
ROUNDS = 4  # in which samples to replay are chosen: later ones see what the earlier ones keep
# In place of a smaller gradient, since the root of Adam's second moment has no derivative at 0.
# Beside its eps of 1e-8 it moves nothing.
TINY = 1e-12


def share(
    cache: Cache,
    recipe: Recipe,
    *,
    retention: float = 0.95,
    shares: Sequence[float] = SHARES,
    orders: int = ORDERS,
) -> tuple[Answer | None, list[Answer]]:
    """The smallest share of replay after which `retention` of the accuracy on old samples is left.

    Returns: the answer for that share, None where no share keeps so much, and the answers for all
      of `shares`, from the smallest on.
    """
    finite("whatif.retention", retention, above=0.0)
    if not len(shares):
        raise SettingError(f"whatif.shares={shares}: expected at least one")
    answers = [ask(cache, recipe._replace(share=one), orders) for one in sorted(shares)]
    return smallest(answers, retention), answers


def smallest(answers: Sequence[Answer], retention: float) -> Answer | None:
    """The first answer after which `retention` of the accuracy on old samples is left."""
    return next((answer for answer in answers if answer.retained >= retention), None)


def drop(cache: Cache, recipe: Recipe, k: int) -> Int[np.ndarray, " k"]:
    """Places of the k new samples that cost most: without which the old ones' mean loss is
    least."""
    new, _ = cache.asked.sizes
    if whole("whatif.drop", k) >= new:
        raise SettingError(f"whatif.drop={k}: expected fewer than the {new} new samples")
    return np.sort(np.argsort(-influence(cache, recipe)[:new], kind="stable")[:k])


def replay(
    cache: Cache, recipe: Recipe, k: int, proposals: int = PROPOSALS
) -> Int[np.ndarray, " k"]:
    """Places, in the pool, of k samples whose replay keeps much, for `recipe._replace(
    replayed=...)`: of a set chosen by influence and so many drawn ones, each with its share of
    every class, the one with which the old samples' mean loss is predicted to be least."""
    new, pool = cache.asked.sizes
    if whole("whatif.replay", k) > pool:
        raise SettingError(f"whatif.replay={k}: expected at most {pool}, the samples of the pool")
    recipe = recipe._replace(replayed=None).checked(new, pool)
    if not recipe.share:
        raise SettingError("whatif.share=0: nothing is replayed; expected a share above 0")
    key = np.random.default_rng(recipe.order)
    kinds = classes(cache.asked.pool.y)
    sets = [_influential(cache, recipe, k)]
    sets += [_drawn(key, kinds, k) for _ in range(whole("whatif.proposals", proposals, 0))]
    means = [mean_loss(cache, recipe._replace(replayed=one), ORDERS) for one in sets]
    return np.sort(sets[int(np.argmin(np.nan_to_num(means, nan=np.inf)))])


def classes(y: Any) -> Int[np.ndarray, " n"]:
    """The class of each target [n, c]: its largest output, or of a single one whether it is
    above 0."""
    y = np.asarray(y)
    return y.argmax(1) if y.shape[1] > 1 else (y[:, 0] > 0).astype(int)


def _influential(cache: Cache, recipe: Recipe, k: int) -> Int[np.ndarray, " k"]:
    """Chosen by influence in rounds, each given those of the rounds before."""
    new, pool = cache.asked.sizes
    chosen = np.zeros(0, int)
    for part in np.array_split(np.arange(k), min(ROUNDS, k)):
        # Those chosen so far stand for the whole pool, each so many times as heavy.
        weights = np.ones(new + pool)
        if len(chosen):
            weights[new:] = 0
            weights[new + chosen] = pool / len(chosen)
        worth = -influence(cache, recipe, weights)[new:]
        worth[chosen] = -np.inf
        chosen = np.append(chosen, np.argsort(-worth, kind="stable")[: len(part)])
    return chosen


def _drawn(key: np.random.Generator, classes: np.ndarray, k: int) -> Int[np.ndarray, " k"]:
    """k places, as many of each class as can be: of shuffled classes in turn, one after another."""
    order = key.permutation(len(classes))
    turn = np.empty(len(classes), int)
    for one in np.unique(classes):
        own = order[classes[order] == one]
        turn[own] = np.arange(len(own))
    return order[np.argsort(turn[order], kind="stable")][:k]


def influence(
    cache: Cache, recipe: Recipe, weights=None, orders: int = ORDERS
) -> Float[np.ndarray, " R"]:
    """d mean loss of the old samples / d weight, of each new sample and then of the pool's, where
    the weights are those given [R], or 1; the mean over orders of the batches."""
    if cache.diverges:
        raise SettingError(
            "whatif: followed along its own linearisations the base diverges, so nothing can be "
            "recommended; take more anchors, a smaller rate or a weaker method"
        )
    samples = cache.asked.samples
    if weights is not None:
        shape_is("weights", weights, samples.weights.shape)
        samples = samples._replace(weights=jnp.asarray(weights, samples.y.dtype))
    rule = cache.rule(recipe)
    update = Partial(_nudged, rule.transform.update)
    nudged = rule._replace(transform=optax.GradientTransformation(rule.transform.init, update))
    given = cache.base, nudged, samples, taken_of(cache, recipe, orders), cache.old
    return np.asarray(
        _influence(*given, cache.asked.old.y, **cache.static_arguments(recipe)), np.float64
    )


def _nudged(update, gradient, *given):
    return update(jax.tree.map(lambda g: jnp.where(jnp.abs(g) < TINY, TINY, g), gradient), *given)


@partial(jax.jit, static_argnames=("loss", "method"))
def _influence(base, rule, samples, taken, old, y, *, loss, method):
    def after(weights, taken):
        weighted = samples._replace(weights=weights)
        theta = follow(base, rule, weighted, taken, loss=loss, method=method)
        f = old.outputs(0, theta, len(y))
        return jnp.mean(jax.vmap(loss.value, (0, 0, None))(f, y, samples.head))

    each = jax.lax.map(partial(jax.grad(after), samples.weights), taken)
    return each.mean(0)
