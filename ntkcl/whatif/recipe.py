"""One training on new samples that could be done: its samples, its steps, its rule."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Int

from ntkcl import methods, optimizers
from ntkcl.compilation import once
from ntkcl.types import Method, Optimizer
from ntkcl.validation import MOST_STEPS, SettingError, finite, one_of, share, whole
from ntkcl.validation import seed as checked_seed

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "constant": lambda done: jnp.ones_like(done),
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
}
"""From the part of the steps that is done, in [0, 1), to a factor of the learning rate."""
SGD, NAIVE = optimizers.sgd(), methods.naive()


class Recipe(NamedTuple):
    """One training on the new samples, from where the network stands.

    learning_rate: of the optimizer, for the mean loss over a batch.
    epochs: S = ceil(epochs n / batch_size) steps, n the new samples that are kept.
    batch_size: samples a step, new and old together.
    share: of the samples of all steps that are old ones, replayed in the place of new ones. The
      number of steps does not depend on it.
    optimizer: `ntkcl.optimizers.sgd(momentum)`, `adam()` or any of Optax by `by_name(name)`, at
      rest at the start.
    schedule: one of `SCHEDULES`.
    clip: the largest norm of a step's gradient; None is any.
    order: a seed, of the order in which samples are drawn.
    replayed: places, among the samples that may be replayed, of those that are; None is all.
    left_out: places, among the new samples, of those that are not trained on.
    sequence: lists of places of new samples that are trained on one list after the other, each for
      its share of the steps; () mixes all.
    method: of `ntkcl.methods`, that spares what is old: the samples that may be replayed are the
      one task before, all of them whatever `replayed` says. It has ended where the network stands,
      and began there as well: `l2` is centred there for both "previous" and "start". Two methods
      are the same where they were made by the same call.
    """

    learning_rate: float
    epochs: float = 3.0
    batch_size: int = 16
    share: float = 0.0
    optimizer: Optimizer = SGD
    schedule: str = "constant"
    clip: float | None = None
    order: int = 0
    replayed: Any = None
    left_out: Any = ()
    sequence: Any = ()
    method: Method = NAIVE

    def checked(self, new: int, pool: int) -> "Recipe":
        """Itself; SettingError for settings out of range, where `new` samples are new and `pool`
        may be replayed."""
        finite("whatif.learning_rate", self.learning_rate, above=0.0)
        finite("whatif.epochs", self.epochs, above=0.0)
        whole("whatif.batch_size", self.batch_size)
        share("whatif.share", self.share)
        one_of("whatif.schedule", self.schedule, tuple(SCHEDULES))
        checked_seed("whatif.order", self.order)
        if self.clip is not None:
            finite("whatif.clip", self.clip, above=0.0)
        if not isinstance(self.optimizer, Optimizer):
            raise SettingError(
                f"whatif.optimizer={self.optimizer!r}: expected one such as optimizers.adam()"
            )
        if methods.checked(self.method).observe is not None:
            raise SettingError(
                "whatif.method: it watches every step from the first task on, and those before are "
                "not known here; expected one such as l2, lwf, functional, ewc or ogd"
            )
        _places("whatif.left_out", self.left_out, new)
        if len(np.unique(self.left_out)) >= new:
            raise SettingError(f"whatif.left_out: all {new} new samples; expected some to stay")
        for one in self.sequence:
            _places("whatif.sequence", one, new)
        listed = sorted(place for one in self.sequence for place in one)
        if len(self.sequence) and listed != list(range(new)):
            raise SettingError(
                f"whatif.sequence: {len(listed)} places, {len(set(listed))} of them different; "
                f"expected each of 0 to {new - 1} once"
            )
        _places("whatif.replayed", () if self.replayed is None else self.replayed, pool)
        if self.share > 0 and not len(self.replayable(pool)):
            raise SettingError(
                f"whatif.share={self.share:g}: there are no old samples to replay; give some, or "
                "expected 0"
            )
        if self.steps(new) > MOST_STEPS:
            raise SettingError(
                f"whatif.epochs={self.epochs:g}: more than {MOST_STEPS} steps; use fewer"
            )
        return self

    def kept(self, new: int) -> Int[np.ndarray, " n"]:
        """Places of the new samples that are trained on."""
        return np.setdiff1d(np.arange(new), np.asarray(self.left_out, int))

    def replayable(self, pool: int) -> Int[np.ndarray, " k"]:
        """Places of the old samples that are replayed."""
        return np.arange(pool) if self.replayed is None else np.unique(self.replayed).astype(int)

    def steps(self, new: int) -> int:
        """S, where `new` samples are new."""
        # Rounded: a number of steps given as epochs stays that number.
        return math.ceil(round(self.epochs * len(self.kept(new)) / self.batch_size, 9))

    def cuts(self, new: int, parts: int) -> Int[np.ndarray, " m1"]:
        """The step at which each of so many parts begins, and S: equal shares of the sum of all
        steps' learning rates, so of the way, at least a step each where S allows."""
        steps = self.steps(new)
        way = np.cumsum(np.asarray(SCHEDULES[self.schedule](np.arange(steps) / steps), float))
        # Rounded, since a third of three is a little less than one.
        way, shares = np.round(way / way[-1], 6), np.round(np.arange(parts + 1) / parts, 6)
        if parts > steps:  # some are empty, the first one is not
            return np.searchsorted(np.append(0, way), shares)
        places = np.arange(parts + 1)
        cuts = np.searchsorted(way, shares, "right")
        cuts = np.maximum.accumulate(cuts - places) + places
        return np.minimum(cuts, steps - places[::-1])

    def batches(self, new: int, pool: int) -> Int[np.ndarray, "S b"]:
        """The samples of each step, as places among the new samples and then those that may be
        replayed.

        Of both, fresh permutations are laid end to end, so that none is drawn a second time before
        all were drawn once; the places of replayed samples are spread evenly over the steps.
        """
        key, steps = np.random.default_rng(self.order), self.steps(new)
        slots = np.arange(steps * self.batch_size)
        # Rounded, since 20 x .05 is a little more than 1.
        until = np.floor(np.round(np.append(slots, len(slots)) * self.share, 9))
        old = np.diff(until) > 0
        order = np.empty(len(slots), int)
        order[~old] = self._new(key, new, int((~old).sum()))
        order[old] = new + _endless(key, self.replayable(pool), int(old.sum()))
        return order.reshape(steps, self.batch_size)

    def _new(self, key: np.random.Generator, new: int, count: int) -> np.ndarray:
        """`count` places of new samples, set after set."""
        kept = self.kept(new)
        sets = (
            [np.intersect1d(kept, one) for one in self.sequence] if len(self.sequence) else [kept]
        )
        ends = np.cumsum([0] + [len(one) for one in sets]) * count // len(kept)
        sizes = np.diff(ends).tolist()
        return np.concatenate(
            [_endless(key, one, size) for one, size in zip(sets, sizes, strict=True)]
        )

    def transform(self, new: int, scale: Any = None) -> optax.GradientTransformation:
        """The optimizer, its learning rate and number of steps arguments of compiled programs.

        scale: what each number of the parameters and gradients, one array, is multiplied by; the
          optimizer sees them without it, `clip` with it. None is 1.
        """
        halves = _transformation(self.optimizer, self.schedule, self.clip)
        bound = jnp.float32(self.learning_rate), jnp.float32(self.steps(new)), scale
        return optax.GradientTransformation(*(Partial(half, *bound) for half in halves))


def _places(name: str, places, count: int) -> None:
    array = np.asarray(places)
    if array.size and not (np.issubdtype(array.dtype, np.integer) and array.ndim == 1):
        raise SettingError(f"{name}: expected a list of whole numbers, places of samples")
    if array.size and not (array.min() >= 0 and array.max() < count):
        raise SettingError(
            f"{name}: places from {array.min()} to {array.max()}; expected 0 to {count - 1}"
        )


def _endless(key: np.random.Generator, places: np.ndarray, count: int) -> np.ndarray:
    if not count:
        return places[:0]
    rounds = -(-count // len(places))
    return np.concatenate([key.permutation(places) for _ in range(rounds)])[:count]


@once
def _transformation(optimizer: Optimizer, schedule: str, clip: float | None):
    """`init(learning_rate, steps, scale, theta)` and `update(learning_rate, steps, scale, gradient,
    ...)`: the same two functions for the same settings, so that programs are shared."""
    factor = SCHEDULES[schedule]

    def transform(learning_rate, steps, scale):
        parts = [_without(scale, optimizer.transform(learning_rate))]
        if clip is not None:
            parts.insert(0, optax.clip_by_global_norm(clip))
        if schedule != "constant":
            parts.append(optax.scale_by_schedule(lambda step: factor(step / steps)))
        return optax.chain(*parts)

    def half(name, learning_rate, steps, scale, *given):
        return getattr(transform(learning_rate, steps, scale), name)(*given)

    return partial(half, "init"), partial(half, "update")


def _without(scale, rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """The rule on unscaled parameters and gradients, given those that are multiplied by `scale`."""
    if scale is None:
        return rule

    def update(gradient, state, theta):
        updates, state = rule.update(gradient / scale, state, theta / scale)
        return updates * scale, state

    return optax.GradientTransformation(lambda theta: rule.init(theta / scale), update)
