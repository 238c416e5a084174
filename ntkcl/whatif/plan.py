"""What is kept of a base training, and the memory it takes."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ntkcl import kernels, networks
from ntkcl.methods import is_naive
from ntkcl.resources import MIB
from ntkcl.types import Dataset
from ntkcl.validation import SettingError, finite, one_of, whole
from ntkcl.whatif import anchors as linear
from ntkcl.whatif import gram
from ntkcl.whatif.question import Question, check_followed
from ntkcl.whatif.recipe import Recipe
from ntkcl.whatif.rules import check_elementwise, is_elementwise, is_linear

KEEP = ("auto", "gradients", "gram", "sketch", "passes")
# Gradients are cut from memory and multiplied at 5.2 GB a second on 2 cores: 36 steps of 16 samples
# x 2 outputs x 74,498 parameters in .065 s.
BYTES_PER_SECOND = 5e9
# Forward passes that a step takes of each of its samples without kept gradients.
PASSES_PER_SAMPLE = 4.5
SLOW_SECONDS = 1.0  # of one order of an answer by passes, above which something else is kept
MOST_PASSES = 3.0  # how often gradients are computed for Gram blocks, at most, in `auto`
GRAM_SECONDS = 20.0  # of Gram blocks, up to which `auto` takes them before sketches
# Parameters in a sketch: with 65,536 of MiniLM's 22.6 million its answers were nearly as accurate
# as those by passes (R2 .91 and .92, one pair); with 1,024 of 74,498 they had a cosine of .99 with
# those of all.
FEWEST_NUMBERS, MOST_NUMBERS = 1024, 65_536
# Samples by whose gradients the parameters of a sketch are chosen: with 16 the estimate of outputs
# varied 11 % more, with 96 4 % less (all parameters of MiniLM, one pair).
SKETCHED_BY = 64
MOST_PROBED = 256  # samples of each set, where the loss's directions are looked for


class Plan(NamedTuple):
    """What is kept at each of m anchors.

    keep: "gradients", "gram", "sketch", or "passes", which keeps none.
    numbers: of a sample's gradient in one direction of output space; of Gram blocks the most there
      can be, N; 0 of passes.
    trained, old: those directions [c, k], of samples that are trained on and of old ones.
    outside: the share of the loss's squared gradients, before the base, in other directions.
    mib: of all that is kept.
    with_methods: whether candidates may have a method.
    """

    keep: str
    numbers: int
    trained: Float[np.ndarray, "c k"]
    old: Float[np.ndarray, "c k2"]
    outside: float
    mib: float
    with_methods: bool


def plan(
    asked: Question,
    recipe: Recipe,
    anchors: int | None,
    keep: str,
    outputs: int | None,
    numbers: int | None,
    budget_mib: float | int,
    with_methods: bool = False,
) -> Plan:
    """What `prepare` keeps, whose arguments these are.

    Raises ValueError for settings out of range, for what does not fit the budget, and for what
    sketches, Gram blocks or some of the directions cannot follow.
    """
    steps = recipe.steps(asked.sizes[0])
    anchors = 1 if anchors is None else anchors
    if whole("whatif.anchors", anchors) > steps:
        raise SettingError(f"whatif.anchors={anchors}: expected at most {steps}, the steps")
    if one_of("whatif.keep", keep, KEEP) == "sketch":
        check_elementwise(recipe.optimizer)
    if keep == "gram":
        gram.check(recipe.optimizer)
    finite("whatif.budget_mib", budget_mib, above=0.0)
    if not is_naive(recipe.method):
        check_followed(recipe.method, asked)
        with_methods = True
    if with_methods:
        _check_whole(keep, outputs)
    trained, old, outside = directions_of(asked, outputs, with_methods)
    count, itemsize = sizes_of(asked)
    parts = parts_of(asked, anchors, trained, old)
    rows = sum(n * k for n, k in parts)
    wide = {
        "gradients": count,
        "gram": min(rows + anchors + 1, count),
        "sketch": min(count, _numbers(numbers, budget_mib * MIB / (rows * itemsize))),
        "passes": 0,
    }
    mib = {name: rows * one * itemsize / MIB for name, one in wide.items()}
    if keep == "auto":
        able = {
            "gradients": True,
            "gram": not with_methods
            and is_linear(recipe.optimizer)
            and gram.products(rows, count) <= GRAM_SECONDS * gram.PRODUCTS_PER_SECOND
            and gram.passes_each(parts, count * itemsize, budget_mib) <= MOST_PASSES,
            "sketch": not with_methods and is_elementwise(recipe.optimizer),
        }
        fits = [name for name, can in able.items() if can and mib[name] <= budget_mib]
        keep = _worth(asked, recipe, {n: trained.shape[1] * wide[n] * itemsize for n in fits})
    if mib[keep] > budget_mib:
        raise SettingError(
            f"whatif.budget_mib={budget_mib:g}: at {anchors} anchors gradients take "
            f"{mib['gradients']:.4g} MiB, Gram blocks {mib['gram']:.4g}, sketches of "
            f"{wide['sketch']} numbers {mib['sketch']:.4g}; use a larger one, fewer anchors or "
            "samples, a smaller whatif.outputs or whatif.numbers, or whatif.keep=passes"
        )
    return Plan(
        keep, wide[keep], trained, old, outside, mib[keep], with_methods or keep == "passes"
    )


def _check_whole(keep: str, outputs: int | None) -> None:
    """SettingError for what a method may not see enough of."""
    if keep in ("gram", "sketch"):
        raise SettingError(
            f"whatif.keep={keep}: methods weigh and project parameters, which are not kept one by "
            "one; expected gradients or passes"
        )
    if outputs is not None:
        raise SettingError(
            f"whatif.outputs={outputs}: methods may hold all outputs; expected null, which keeps "
            "them all"
        )


def _numbers(numbers: int | None, fit: float) -> int:
    """Of a sketch, where so many fit the budget."""
    if numbers is None:
        return min(max(int(fit), FEWEST_NUMBERS), MOST_NUMBERS)
    return whole("whatif.numbers", numbers)


def _worth(asked: Question, recipe: Recipe, sizes: dict[str, int]) -> str:
    """The first of what is read in less time than passes take, given the bytes of a sample."""
    faster = [name for name, size in sizes.items() if reads_faster(asked, size)]
    if "gradients" in faster:
        return "gradients"
    return faster[0] if faster and _is_slow(asked, recipe) else "passes"


def directions_of(
    asked: Question, outputs: int | None = None, every: bool = False
) -> tuple[Float[np.ndarray, "c k"], Float[np.ndarray, "c k2"], float]:
    """Directions of output space in which the loss pulls as the network stands, for samples that
    are trained on and for old ones, and the share outside; `outputs` as of `prepare`; or `every`
    direction of the active outputs for both."""
    if outputs is not None:
        whole("whatif.outputs", outputs)
    each = [_some(part) for part in (asked.new, asked.pool, asked.old)]
    x, y = (np.concatenate(part) for part in zip(*each, strict=True))
    f = np.asarray(networks.forward(asked.network.apply, asked.theta, x))
    head = np.asarray(asked.head)
    Q, outside = linear.directions(asked.loss, f, y, head, outputs)
    active = np.eye(len(head), dtype=Q.dtype)[:, head > 0]
    return active if every else Q, active if outputs is None else Q, outside


def _some(samples: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spread."""
    apart = max(math.ceil(len(samples.x) / MOST_PROBED), 1)
    return np.asarray(samples.x)[::apart], np.asarray(samples.y)[::apart]


def parts_of(asked: Question, anchors: int, trained, old) -> tuple[tuple[int, int], ...]:
    """Samples whose gradients are kept, and in how many directions: at all anchors, and the old
    ones at the base's end."""
    return (anchors * sum(asked.sizes), trained.shape[1]), (len(asked.old.x), old.shape[1])


def reads_faster(asked: Question, size: int) -> bool:
    """Whether so many bytes of a sample are read in less time than its passes take."""
    return size / BYTES_PER_SECOND < PASSES_PER_SAMPLE * _pass_seconds(asked)


def _is_slow(asked: Question, recipe: Recipe) -> bool:
    """Whether an answer by passes is."""
    passes = PASSES_PER_SAMPLE * recipe.steps(asked.sizes[0]) * recipe.batch_size
    return passes * _pass_seconds(asked) > SLOW_SECONDS


def _pass_seconds(asked: Question) -> float:
    return kernels.pass_seconds(asked.network, asked.theta, 1, asked.new.x[0])


def sizes_of(asked: Question) -> tuple[int, int]:
    """Of theta: p, and the bytes of a number."""
    leaves = jax.tree.leaves(asked.theta)
    return sum(leaf.size for leaf in leaves), leaves[0].dtype.itemsize
