"""Pay once: one training of the new samples, and the network linearised along it."""

import time
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ntkcl import networks
from ntkcl.compilation import portable
from ntkcl.resources import MIB
from ntkcl.types import Params
from ntkcl.whatif import anchors as linear
from ntkcl.whatif import gram
from ntkcl.whatif.follow import Base, along, steps
from ntkcl.whatif.plan import SKETCHED_BY, Plan, plan
from ntkcl.whatif.question import Question, train
from ntkcl.whatif.recipe import Recipe
from ntkcl.whatif.rules import check_elementwise
from ntkcl.whatif.sketch import Sketch, importance, sketch


class Cache(NamedTuple):
    """What `prepare` has paid for.

    asked: the network and its samples.  recipe: of the base training.
    base: the base training, linearised along its way on all samples that are trained on.
    old: the network linearised at the base's end, on the old samples.
    new: outputs [n', c] of the new samples at the base's end.
    before: outputs [n, c] of the old samples as the network stands.
    end: the parameters that the base has ended with.
    keep: "gradients", "gram", "sketch" or "passes": what is kept.
    sketch: of gradients that are kept so; None else.
    seconds: of the base training and of the linearisations, compilation included.
    mib: memory of all that is kept.
    outside: the share of the loss's squared gradients, before the base, in directions of output
      space that were left out.
    """

    asked: Question
    recipe: Recipe
    base: Base
    old: linear.Anchors
    new: Float[Array, "n2 c"]
    before: Float[np.ndarray, "n c"]
    end: Params
    keep: str
    sketch: Sketch | None
    seconds: dict[str, float]
    mib: float
    outside: float

    def transform(self, recipe: Recipe) -> optax.GradientTransformation:
        """What a candidate's steps do where it is followed."""
        recipe.checked(*self.asked.sizes)
        if self.keep == "gram":
            gram.check(recipe.optimizer)
        scale = None
        if self.sketch is not None:
            check_elementwise(recipe.optimizer)
            scale = self.sketch.scale
        return portable(recipe.transform(self.asked.sizes[0], scale))


def prepare(
    asked: Question,
    recipe: Recipe,
    *,
    anchors: int = 4,
    keep: str = "auto",
    outputs: int | None = None,
    numbers: int | None = None,
    budget_mib: float | int = 2048,
) -> Cache:
    """The base training, and the network linearised at so many points of its way.

    Arguments:
      asked: of `whatif.question`.
      recipe: of the base: near the candidates that will be asked for, the share of replay in the
        middle of theirs, the learning rate the largest of theirs.
      anchors: m, along the base at equal shares of the sum of its steps' learning rates, the first
        where it begins.
      keep: "gradients" keeps those of all samples at all anchors, so that answers need no pass
        through the network; "gram" keeps their inner products, which is as exact and smaller where
        there are fewer samples than parameters, for optimizers linear in gradients; "sketch" keeps
        `numbers` of each, for element-wise optimizers (`rules.is_elementwise`); "passes" keeps
        none. "auto" keeps gradients where they fit the budget and reading them takes less time than
        passes would; else, where an answer by passes takes more than a second, Gram blocks where
        the optimizer allows them and they are cheap, or sketches where it allows these; else none.
      outputs: k, the most directions of output space in which gradients are kept, those in which
        the loss pulls most as the network stands. None is all in which it can pull, with
        cross-entropy one fewer than there are active outputs, and all of these for the old samples.
      numbers: parameters in a sketch, at most p; None is what the budget holds, from 1,024 to
        65,536.
      budget_mib: for gradients, Gram blocks or sketches.
    Cost: a training, which is then followed as an answer is, and with gradients (1 + k) passes of
    each sample at each anchor.
    Raises ValueError as `Recipe.checked`, for what does not fit the budget, and for an optimizer
    that Gram blocks or sketches cannot follow (`gram.check`, `rules.check_elementwise`).
    """
    recipe.checked(*asked.sizes)
    kept = plan(asked, recipe, anchors, keep, outputs, numbers, budget_mib)
    clock = time.perf_counter()
    cuts = recipe.cuts(asked.sizes[0], anchors)
    *thetas, end = train(asked, recipe, cuts[:-1].tolist())
    seconds = {"train": time.perf_counter() - clock}
    clock, apply = time.perf_counter(), asked.network.apply
    how = _sketch(asked, thetas, end, kept) if kept.keep == "sketch" else None
    linearised, old, reached = _linearised(asked, kept, thetas, end, how, budget_mib)
    begun = Cache(
        asked=asked,
        recipe=recipe,
        base=Base(linearised, (), ()),
        old=old,
        new=networks.forward(apply, end, asked.new.x),
        before=np.asarray(networks.forward(apply, asked.theta, asked.old.x), np.float64),
        end=end,
        keep=kept.keep,
        sketch=how,
        seconds=seconds,
        mib=0.0,
        outside=kept.outside,
    )
    base = along(
        linearised,
        begun.transform(recipe),
        asked.samples,
        reached,
        steps(recipe.batches(*asked.sizes), cuts),
        loss=asked.loss,
    )
    made = jax.block_until_ready((base, old))
    seconds["linearise"] = time.perf_counter() - clock
    mib = sum(leaf.nbytes for leaf in jax.tree.leaves(made)) / MIB
    return begun._replace(base=base, mib=mib)


def _linearised(
    asked: Question, kept: Plan, thetas: list, end: Params, how, budget_mib: float | int
):
    """At the anchors on what is trained on, at the end on the old samples; and the parameters of
    the anchors and of the end in these terms, leaves [m + 1, ...]."""
    apply = asked.network.apply
    trained, old = (asked.rows.x, kept.trained), (asked.old.x, kept.old)
    if kept.keep == "gram":
        return gram.linearised(apply, thetas, end, trained, old, budget_mib)
    places = [how.of(one) for one in [*thetas, end]] if how else [*thetas, end]
    reached = jax.tree.map(lambda *leaves: jnp.stack(leaves), *places)

    def at(thetas: list, x, Q) -> linear.Anchors:
        if kept.keep == "passes":
            return linear.passes(apply, thetas, x)
        return linear.gradients(apply, thetas, x, Q, how)

    return at(thetas, *trained), at([end], *old), reached


def _sketch(asked: Question, thetas: list, end: Params, kept: Plan) -> Sketch:
    """Of the parameters that matter most to the outputs along the base, judged by the gradients of
    a few of the samples that are trained on, where the base ends."""
    x = asked.rows.x
    some = x[np.linspace(0, len(x) - 1, min(SKETCHED_BY, len(x))).astype(int)]
    squares = linear.mean_squares(asked.network.apply, end, some, kept.trained)

    def moved(*at):
        return sum((after - before) ** 2 for before, after in pairwise(at))

    return sketch(importance(squares, jax.tree.map(moved, *thetas, end)), kept.numbers)
