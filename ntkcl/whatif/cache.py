"""Pay once: one training of the new samples, and the network linearised along it."""

import time
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ntkcl import networks
from ntkcl.compilation import portable
from ntkcl.methods import is_naive
from ntkcl.resources import MIB
from ntkcl.types import Dataset, Network, Params
from ntkcl.validation import SettingError
from ntkcl.whatif import anchors as linear
from ntkcl.whatif import gram
from ntkcl.whatif.follow import Base, Rule, along, steps
from ntkcl.whatif.plan import SKETCHED_BY, Plan, plan
from ntkcl.whatif.question import Question, check_followed, in_loop, remembered, train
from ntkcl.whatif.recipe import Recipe
from ntkcl.whatif.rules import check_elementwise
from ntkcl.whatif.sketch import Sketch, importance, sketch


class Cache(NamedTuple):
    """What `prepare` has paid for.

    asked: the network and its samples.  recipe: of the base training.
    trained: whether there was one; else the base ends where it begins, where the network stands.
    base: the base training, linearised along its way on all samples that are trained on.
    old: the network linearised at the base's end, on the old samples.
    new: outputs [n', c] of the new samples at the base's end.
    before: outputs [n, c] of the old samples as the network stands.
    end: the parameters that the base has ended with.
    keep: "gradients", "gram", "sketch" or "passes": what is kept.
    with_methods: whether it answers for methods; else gradients may be kept in fewer directions.
    memory: what the base's method keeps of the pool, () of none.
    sketch: of gradients that are kept so; None else.
    seconds: of the base training and of the linearisations, compilation included.
    mib: memory of all that is kept.
    outside: the share of the loss's squared gradients, before the base, in directions of output
      space that were left out.
    """

    asked: Question
    recipe: Recipe
    trained: bool
    base: Base
    old: linear.Anchors
    new: Float[Array, "n2 c"]
    before: Float[np.ndarray, "n c"]
    end: Params
    keep: str
    with_methods: bool
    memory: Any
    sketch: Sketch | None
    seconds: dict[str, float]
    mib: float
    outside: float

    @property
    def diverges(self) -> bool:
        """Whether the base itself does where it is followed; no candidate can be followed then."""
        return not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(self.base.wrong))

    def rule(self, recipe: Recipe) -> Rule:
        """How a candidate takes its steps where it is followed.

        Raises ValueError for what it cannot be followed by."""
        recipe.checked(*self.asked.sizes)
        if self.keep == "gram":
            gram.check(recipe.optimizer)
        scale = None
        if self.sketch is not None:
            check_elementwise(recipe.optimizer)
            scale = self.sketch.scale
        transform = portable(recipe.transform(self.asked.sizes[0], scale))
        if is_naive(recipe.method):
            return Rule(transform)
        if not self.with_methods:
            raise SettingError(
                f"whatif.method: what is kept, {self.keep}, is for candidates without one; "
                "expected prepare(..., with_methods=True), a base with a method, or keep=passes"
            )
        memory = self.memory
        if recipe.method != self.recipe.method:
            check_followed(recipe.method, self.asked)
            memory = self.remembered(recipe)
        return Rule(transform, memory)

    def remembered(self, recipe: Recipe) -> Any:
        """What a candidate's method keeps of the pool."""
        return remembered(recipe.method, *self._where_it_stands())

    def static_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """What programs are compiled for: the loss, and the method of a candidate."""
        return dict(loss=self.asked.loss, method=in_loop(recipe.method))

    def _where_it_stands(self) -> tuple[Network, Question]:
        """The network linearised at the first anchor, which at its parameters is the network: of
        places among the samples that are trained on."""
        anchors, (new, pool) = self.base.anchors, self.asked.sizes
        network = Network(None, Partial(type(anchors).one, anchors, 0))
        places = jnp.arange(new + pool)
        own = Dataset(places[:new], self.asked.new.y), Dataset(places[new:], self.asked.pool.y)
        return network, self.asked._replace(new=own[0], pool=own[1])


def prepare(
    asked: Question,
    recipe: Recipe,
    *,
    anchors: int | None = 4,
    keep: str = "auto",
    outputs: int | None = None,
    numbers: int | None = None,
    budget_mib: float | int = 2048,
    with_methods: bool = False,
) -> Cache:
    """The base training, and the network linearised at so many points of its way.

    Arguments:
      asked: of `whatif.question`.
      recipe: of the base: near the candidates that will be asked for, the share of replay in the
        middle of theirs, the learning rate the largest of theirs.
      anchors: m, along the base at equal shares of the sum of its steps' learning rates, the first
        where it begins. None trains no base: the one linearisation is where the network stands,
        old samples are read off it too, no answer is called good, and `recipe` only says what
        candidates are like.
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
      with_methods: whether candidates may have one, as they may where the base has one: then
        gradients are kept in all directions of the active outputs, which a method may hold, and
        neither Gram blocks nor sketches are.
    Cost: a training, which is then followed as an answer is, and with gradients (1 + k) passes of
    each sample at each anchor.
    Raises ValueError as `Recipe.checked`, for what does not fit the budget, for an optimizer that
    Gram blocks or sketches cannot follow (`gram.check`, `rules.check_elementwise`), and for methods
    with either of them, or with `outputs`.
    """
    recipe.checked(*asked.sizes)
    kept = plan(asked, recipe, anchors, keep, outputs, numbers, budget_mib, with_methods)
    clock = time.perf_counter()
    cuts = recipe.cuts(asked.sizes[0], anchors or 1)
    thetas, end = [asked.theta], asked.theta
    if anchors is not None:
        *thetas, end = train(asked, recipe, cuts[:-1].tolist())
    seconds = {"train": time.perf_counter() - clock}
    clock, apply = time.perf_counter(), asked.network.apply
    how = _sketch(asked, thetas, end, kept, anchors) if kept.keep == "sketch" else None
    linearised, old, reached = _linearised(asked, kept, thetas, end, how, budget_mib)
    begun = Cache(
        asked=asked,
        recipe=recipe,
        trained=anchors is not None,
        base=Base(linearised, reached, jax.tree.map(jnp.zeros_like, reached)),
        old=old,
        new=networks.forward(apply, end, asked.new.x),
        before=np.asarray(networks.forward(apply, asked.theta, asked.old.x), np.float64),
        end=end,
        keep=kept.keep,
        with_methods=kept.with_methods,
        memory=(),
        sketch=how,
        seconds=seconds,
        mib=0.0,
        outside=kept.outside,
    )
    if not is_naive(recipe.method):
        begun = begun._replace(memory=begun.remembered(recipe))
    base = begun.base
    if begun.trained:
        taken = steps(recipe.batches(*asked.sizes), cuts)
        given = linearised, begun.rule(recipe), asked.samples, reached, taken
        base = along(*given, **begun.static_arguments(recipe))
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


def _sketch(asked: Question, thetas: list, end: Params, kept: Plan, anchors: int | None) -> Sketch:
    """Of the parameters that matter most to the outputs along the base, judged by the gradients of
    a few of the samples that are trained on, where the base ends."""
    x = asked.rows.x
    some = x[np.linspace(0, len(x) - 1, min(SKETCHED_BY, len(x))).astype(int)]
    squares = linear.mean_squares(asked.network.apply, end, some, kept.trained)

    def moved(*at):
        return sum((after - before) ** 2 for before, after in pairwise(at))

    if anchors is None:  # it is not known what moves
        return sketch(importance(squares, jax.tree.map(jnp.ones_like, end)), kept.numbers)
    return sketch(importance(squares, jax.tree.map(moved, *thetas, end)), kept.numbers)
