"""Ask many times: what a candidate does to the old samples, without training it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from scipy import stats

from ntkcl.metrics import correct, r2
from ntkcl.validation import fraction, shape_is, whole
from ntkcl.whatif.cache import Cache
from ntkcl.whatif.follow import Steps, at, follow, parts, steps
from ntkcl.whatif.question import Question
from ntkcl.whatif.recipe import Recipe

# Of 576 candidates of networks trained from scratch (`scripts/bench/whatif.py`) the R2 of the
# outputs' changes was below .8 in 122; 359 of the 576 are within both, of these 122 are 13.
AGREED = 0.95  # R2 with half of the anchors
FAR = 0.9  # lengths of the base's way


class Answer(NamedTuple):
    """What a candidate would do, in each of K orders of its batches.

    outputs: [K, n, c], of the old samples afterwards.
    loss_change: [K, n], of each old sample's loss.
    correct_before: [n], correct: [K, n], of the old samples: 1 classified rightly, 0 wrongly, 1/k
      in a tie of k outputs, NaN where it diverged.
    learned: [K, n'], the same of the new samples.
    distance: [K], how far the candidate ends from the base, in lengths of the base's way; NaN
      where no base was trained.
    coarse_r2: R2 of the outputs' changes in the first order with what half of the anchors predict;
      NaN for one anchor.
    own_error: of the accuracy, sqrt((sum d)^2 + sum d^2) / n, d of an old sample whether it is
      right with half of the anchors less whether it is with all, in the first order; NaN for one
      anchor.
    method_of_base: whether its method is the base's, or no base was trained.
    """

    recipe: Recipe
    outputs: Float[np.ndarray, "K n c"]
    loss_change: Float[np.ndarray, "K n"]
    correct_before: Float[np.ndarray, " n"]
    correct: Float[np.ndarray, "K n"]
    learned: Float[np.ndarray, "K m"]
    distance: Float[np.ndarray, " K"]
    coarse_r2: float
    own_error: float
    method_of_base: bool

    @property
    def retained(self) -> float:
        """Accuracy on the old samples afterwards over that before, the mean over orders."""
        return float(self.correct.mean() / max(self.correct_before.mean(), 1e-12))

    @property
    def lost(self) -> Float[np.ndarray, " K"]:
        """Accuracy on the old samples that is lost, by order."""
        return self.correct_before.mean() - self.correct.mean(1)

    def band(self, level: float = 0.9) -> tuple[float, float]:
        """Where the accuracy on the old samples after one such training lies, at this level: the
        prediction interval of Student's t over the K orders, its variance that between orders, at
        least that of one sample, and the square of `own_error`; NaN for K = 1 and for one
        anchor."""
        fraction("level", level)
        after = self.correct.mean(1)
        count = len(after)
        if count == 1:
            return float("nan"), float("nan")
        variance = max(after.var(ddof=1), len(self.correct_before) ** -2.0)
        spread = np.sqrt(variance * (1 + 1 / count) + self.own_error**2)
        wide = stats.t.ppf(0.5 + level / 2, count - 1) * spread
        low, high = np.clip([after.mean() - wide, after.mean() + wide], 0.0, 1.0)
        return float(low), float(high)

    @property
    def verdict(self) -> tuple[str, tuple[str, ...]]:
        """("good" | "poor" | "unknown", reasons), from signs that need no training."""
        if not np.isfinite(self.outputs).all():
            return "poor", ("followed along the base it diverges",)
        far = float(self.distance.mean())
        against = {
            f"half of the anchors predict otherwise, R2 {self.coarse_r2:.2f}: take more of them, "
            "or a base nearer to it": self.coarse_r2 < AGREED,
            f"it ends {far:.2f} of the base's way from the base: take a base nearer to it": (
                far > FAR
            ),
            "its method is not the base's: take a base with it": not self.method_of_base,
        }
        reasons = tuple(reason for reason, holds in against.items() if holds)
        if reasons:
            return "poor", reasons
        if np.isnan(self.coarse_r2):
            if np.isnan(far):
                return "unknown", ("no base was trained to check it by",)
            return "unknown", ("one anchor cannot be halved",)
        return "good", ()

    def by(self, labels: Sequence | np.ndarray) -> dict[Any, dict[str, float | int]]:
        """By slice, for labels of the old samples [n], such as their classes or a column of their
        table: how many there are, their accuracy before and after, the rise of their mean loss."""
        labels, slices = np.asarray(labels), {}
        labels = labels.astype(str) if labels.dtype == object else labels  # None is one, too
        shape_is("labels", labels, self.correct_before.shape)
        values, places = np.unique(labels, return_inverse=True)
        for k, value in enumerate(values):
            own = places == k
            slices[value.item()] = {
                "samples": int(own.sum()),
                "accuracy_before": float(self.correct_before[own].mean()),
                "accuracy_after": float(self.correct[:, own].mean()),
                "loss_rise": float(self.loss_change[:, own].mean()),
            }
        return slices

    @property
    def at_risk(self) -> np.ndarray:
        """Places of the old samples, the largest rise of the loss first."""
        return np.argsort(-self.loss_change.mean(0), kind="stable")


def ask(cache: Cache, recipe: Recipe, orders: int = 1) -> Answer:
    """What a candidate would do to the old samples.

    Its training is followed through the linearisations along the base, with its own samples,
    batches, learning rate and optimizer.

    Arguments:
      recipe: of the candidate, such as `cache.recipe._replace(share=0.1)`.
      orders: K, as many orders of its batches, the seeds `recipe.order` and those after it: what a
        second training would differ by.
    Raises ValueError as `Recipe.checked`, and for an optimizer or a method that what is kept cannot
    follow.
    """
    taken, m = taken_of(cache, recipe, orders), parts(cache.base.reached)
    old, new, distance = _answered(cache, recipe, taken)
    coarse = None
    if m > 1:
        coarse = _answered(cache, recipe, taken_of(cache, recipe, 1, every=2))[0][0]
    return _answer(cache, recipe, old, new, distance, coarse)


def mean_loss(cache: Cache, recipe: Recipe, orders: int) -> float:
    """Of the old samples after a candidate, the mean over them and over so many orders."""
    old = _answered(cache, recipe, taken_of(cache, recipe, orders))[0]
    return float(np.mean([losses_of(cache.asked, f) for f in old]))


def taken_of(cache: Cache, recipe: Recipe, orders: int, every: int = 1) -> Steps:
    """The steps of a candidate in so many orders, leaves [K, S, ...]."""
    recipe.checked(*cache.asked.sizes)
    seeds = range(recipe.order, recipe.order + whole("whatif.orders", orders))
    batches = (recipe._replace(order=seed).batches(*cache.asked.sizes) for seed in seeds)
    cuts = recipe.cuts(cache.asked.sizes[0], parts(cache.base.reached))
    each = [steps(one, cuts, every) for one in batches]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def _answer(cache, recipe, old, new, distance, coarse) -> Answer:
    asked = cache.asked
    head, y = np.asarray(asked.head), np.asarray(asked.old.y)
    rise = np.stack([losses_of(asked, one) for one in old]) - losses_of(asked, cache.before)
    right = np.stack([correct(one, y, head) for one in old])
    agreed = own_error = float("nan")
    if coarse is not None:
        active = head > 0
        if not np.isfinite(coarse).all():
            agreed = -np.inf
        else:
            agreed = r2(*((f - cache.before)[:, active].ravel() for f in (old[0], coarse)))
        other = correct(coarse, y, head) * 1.0 - right[0]
        own_error = float(np.hypot(other.sum(), np.linalg.norm(other)) / len(y))
    return Answer(
        recipe=recipe,
        outputs=old,
        loss_change=rise,
        correct_before=correct(cache.before, y, head),
        correct=right,
        learned=np.stack([correct(one, np.asarray(asked.new.y), head) for one in new]),
        distance=distance if cache.trained else distance * np.nan,
        coarse_r2=agreed,
        own_error=own_error,
        method_of_base=not cache.trained or recipe.method == cache.recipe.method,
    )


def losses_of(asked: Question, outputs: np.ndarray) -> Float[np.ndarray, " n"]:
    """The loss of each old sample at outputs [n, c]."""
    each = jax.vmap(asked.loss.value, (0, 0, None))
    return np.asarray(each(jnp.asarray(outputs), asked.old.y, asked.head), np.float64)


def _answered(cache: Cache, recipe: Recipe, taken):
    """Outputs of old and of new samples [K, n, c], and distances [K]."""
    given = (
        cache.base,
        cache.rule(recipe),
        cache.asked.samples,
        taken,
        cache.old,
        cache.before,
        cache.new,
    )
    return tuple(
        np.asarray(part, np.float64) for part in _mapped(*given, **cache.static_arguments(recipe))
    )


@partial(jax.jit, static_argnames=("loss", "method"))
def _mapped(base, rule, samples, taken, old, f_old, f_new, *, loss, method):
    start, end = (at(base.reached, place) for place in (0, -1))
    last, fresh = parts(base.reached) - 1, len(f_new)

    def one(taken):
        theta = follow(base, rule, samples, taken, loss=loss, method=method)
        # Of the new samples no gradients are kept at the very end: those of the last anchor.
        moved, still = (base.anchors.outputs(last, where, fresh) for where in (theta, end))
        kept = old.outputs(0, theta, len(f_old))
        return kept, f_new + moved - still, _distance(theta, end) / (_distance(start, end) + 1e-30)

    return jax.lax.map(one, taken)


def _distance(a, b):
    return optax.tree.norm(optax.tree.sub(a, b))
