"""Pay once: one training of the new samples, and the network linearised along it."""

import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ntkcl import kernels, networks
from ntkcl.compilation import portable
from ntkcl.types import Dataset, Params
from ntkcl.validation import SettingError, finite, one_of, whole
from ntkcl.whatif import anchors as linear
from ntkcl.whatif.follow import Base, along, cuts_of, steps
from ntkcl.whatif.question import Question, trained
from ntkcl.whatif.recipe import Recipe
from ntkcl.whatif.sketch import Sketch, columns, frozen, sketch, sketched_recipe

MIB = 2**20
# Gradients are cut from memory and multiplied at 5.2 GB a second on 2 cores: 36 steps of 16 samples
# x 2 outputs x 74,498 parameters in .065 s.
READ = 5e9
PASSES = 4.5  # forward passes that a step takes of each of its samples without kept gradients
SOME = 256  # samples of each set by which the loss's directions are found
KEEP = ("auto", "gradients", "sketch", "passes")


class Cache(NamedTuple):
    """What `prepare` has paid for.

    asked: the network and its samples.  recipe: of the base training.
    base: the base training, linearised along its way on all samples that are trained on.
    old: the network linearised at the base's end, on the old samples.
    new: outputs [n', c] of the new samples at the base's end.
    before: outputs [n, c] of the old samples as the network stands.
    end: the parameters that the base has ended with.
    sketch: what gradients are kept as; None as they are.
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
    sketch: Sketch | None
    seconds: dict[str, float]
    mib: float
    outside: float

    def transform(self, recipe: Recipe) -> optax.GradientTransformation:
        """What a candidate's steps do where it is followed: with sketches, in the metric of the
        base's optimizer."""
        recipe.checked(*self.asked.sizes)
        seen = sketched_recipe(recipe, self.recipe, self.sketch) if self.sketch else recipe
        return portable(seen.transform(self.asked.sizes[0]))


def prepare(
    asked: Question,
    recipe: Recipe,
    *,
    anchors: int = 4,
    keep: str = "auto",
    outputs: int | None = None,
    numbers: int = 4096,
    budget_mib: float | int = 2048,
) -> Cache:
    """The base training, and the network linearised at so many points of its way.

    Arguments:
      asked: of `whatif.question`.
      recipe: of the base: near the candidates that will be asked for, the share of replay in the
        middle of theirs, the learning rate the largest of theirs.
      anchors: m, at equal distances along the base, the first where it begins.
      keep: "gradients" keeps those of all samples at all anchors, so that answers need no pass
        through the network; "sketch" keeps `numbers` of each, for the optimizer of the base
        alone; "passes" keeps none; "auto" keeps gradients where they fit the budget and reading
        them takes less time than passes would.
      outputs: k, the most directions of output space in which gradients are kept, those in which
        the loss pulls most as the network stands. None is all in which it can pull, with
        cross-entropy one fewer than there are active outputs, and all of these for the old samples.
      numbers: d of a sketch, which is made odd and at most p.
      budget_mib: for gradients or sketches.
    Cost: a training, and with gradients (1 + k) passes of each sample at each anchor.
    Raises ValueError as `Recipe.checked`, for gradients or sketches that do not fit the budget, and
    for sketches with an optimizer that has no metric (`sketch.frozen`).
    """
    recipe.checked(*asked.sizes)
    total = recipe.steps(asked.sizes[0])
    if whole("whatif.anchors", anchors) > total:
        raise SettingError(f"whatif.anchors={anchors}: expected at most {total}, the steps")
    kept = directions_of(asked, outputs)
    linearise = _linearise(asked, anchors, keep, kept, whole("whatif.numbers", numbers), budget_mib)
    rule = frozen(recipe.optimizer) if keep == "sketch" else None
    clock = time.perf_counter()
    thetas, state = trained(asked, recipe, cuts_of(total, anchors)[:-1].tolist())
    seconds = {"train": time.perf_counter() - clock}
    clock, apply, end = time.perf_counter(), asked.network.apply, state.theta
    how = _sketch(asked, state, kept, numbers, rule.b2**total) if rule else None
    begun = Cache(
        asked=asked,
        recipe=recipe,
        base=Base(linearise(apply, thetas, asked.rows.x, kept.trained, how), (), ()),
        old=linearise(apply, [end], asked.old.x, kept.old, how),
        new=networks.forward(apply, end, asked.new.x),
        before=np.asarray(networks.forward(apply, asked.theta, asked.old.x), np.float64),
        end=end,
        sketch=how,
        seconds=seconds,
        mib=0.0,
        outside=kept.outside,
    )
    reached = map(how.place, [*thetas, end]) if how else [*thetas, end]
    base = along(
        begun.base.anchors,
        begun.transform(recipe),
        asked.samples,
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *reached),
        steps(recipe.batches(*asked.sizes), anchors),
        loss=asked.loss,
    )
    made = jax.block_until_ready((base, begun.old))
    seconds["linearise"] = time.perf_counter() - clock
    mib = sum(leaf.nbytes for leaf in jax.tree.leaves(made)) / MIB
    return begun._replace(base=base, mib=mib)


def _sketch(asked: Question, state, kept: "Kept", numbers: int, b2_power: float) -> Sketch:
    """In the metric of the optimizer's state where the base ends."""
    few = linear.rows_at_once(kept.trained.shape[1] * _sizes(asked)[0])
    some = jnp.asarray(asked.new.x[:few])
    _, rows = linear.rows_of(portable(asked.network.apply), state.theta, some, kept.trained)
    return sketch(state.theta, state.optimizer, rows, numbers, b2_power)


class Kept(NamedTuple):
    """Directions of output space [c, k] in which gradients are kept, of samples that are trained
    on and of old ones, and the share of the loss's squared gradients outside of them."""

    trained: Float[np.ndarray, "c k"]
    old: Float[np.ndarray, "c k2"]
    outside: float


def directions_of(asked: Question, outputs: int | None = None) -> Kept:
    """Those in which the loss pulls as the network stands; `outputs` as of `prepare`."""
    if outputs is not None:
        whole("whatif.outputs", outputs)
    each = [_some(part) for part in (asked.new, asked.pool, asked.old)]
    x, y = (np.concatenate(part) for part in zip(*each, strict=True))
    f = np.asarray(networks.forward(asked.network.apply, asked.theta, x))
    head = np.asarray(asked.head)
    Q, outside = linear.directions(asked.loss, f, y, head, outputs)
    every = np.eye(len(head), dtype=Q.dtype)[:, head > 0]
    return Kept(Q, every if outputs is None else Q, outside)


def _some(samples: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spread."""
    apart = max(-(-len(samples.x) // SOME), 1)
    return np.asarray(samples.x)[::apart], np.asarray(samples.y)[::apart]


def _linearise(
    asked: Question, anchors: int, keep: str, kept: Kept, numbers: int, budget_mib: float | int
):
    """`linearise(apply, thetas, x, Q, sketch)`, as of `anchors.gradients`."""
    one_of("whatif.keep", keep, KEEP)
    finite("whatif.budget_mib", budget_mib, above=0.0)
    needed = gradients_mib(asked, anchors, kept)
    small = gradients_mib(asked, anchors, kept, numbers)
    if (needed if keep == "gradients" else small if keep == "sketch" else 0) > budget_mib:
        raise SettingError(
            f"whatif.budget_mib={budget_mib:g}: at {anchors} anchors gradients take {needed:.4g} "
            f"MiB, sketches of {numbers} numbers {small:.4g}; use fewer anchors, samples or "
            "whatif.outputs, or keep=passes"
        )
    worth = needed <= budget_mib and reads_faster(asked, kept)
    if keep in ("gradients", "sketch") or (keep == "auto" and worth):
        return linear.gradients
    return lambda apply, thetas, x, *_: linear.passes(apply, thetas, x)


def reads_faster(asked: Question, kept: Kept) -> bool:
    """Whether a step of kept gradients takes less time than one of passes through the network."""
    passed = PASSES * kernels.pass_seconds(asked.network, asked.theta, 1, asked.new.x[0])
    return kept.trained.shape[1] * math.prod(_sizes(asked)) / READ < passed


def gradients_mib(asked: Question, anchors: int, kept: Kept, numbers: int | None = None) -> float:
    """MiB of the gradients, or of sketches of so many numbers, of all samples that are trained on
    at all anchors, and of the old ones at the end."""
    trained = anchors * sum(asked.sizes) * kept.trained.shape[1]
    rows, (count, itemsize) = trained + len(asked.old.x) * kept.old.shape[1], _sizes(asked)
    wide = count if numbers is None else columns(numbers, count)
    return rows * wide * itemsize / MIB


def _sizes(asked: Question) -> tuple[int, int]:
    """Of theta: p, and the bytes of a number."""
    leaves = jax.tree.leaves(asked.theta)
    return sum(leaf.size for leaf in leaves), leaves[0].dtype.itemsize
