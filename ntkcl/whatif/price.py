"""What a cache will cost, and after how many questions it has paid, before it is made."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl.compilation import portable
from ntkcl.methods import is_naive
from ntkcl.training.loop import State
from ntkcl.whatif import anchors as linear
from ntkcl.whatif import gram
from ntkcl.whatif.plan import BYTES_PER_SECOND, SKETCHED_BY, Plan, parts_of, plan, sizes_of
from ntkcl.whatif.question import Question, start, step
from ntkcl.whatif.recipe import Recipe
from ntkcl.whatif.sketch import sketch

FEW = 4  # batches of gradients that are timed: a single one is mostly the start of the program
TIMED = 3  # steps, and chunks of gradients, whose median is taken
FOLLOWED = 1.5  # trainings that one order of an answer by passes through the network takes


class Price(NamedTuple):
    """Seconds without compilation, and MiB.

    train: one training.  prepare: the base training, the linearisations, and following the base.
    answer: one order of one candidate, and its check, which takes as long.
    mib: of what is kept of gradients; 0 where none is.
    """

    train: float
    prepare: float
    answer: float
    mib: float

    @property
    def pays_from(self) -> float:
        """Questions from which on the cache costs less than training each candidate; infinite
        where it never does."""
        saved = self.train - self.answer
        return float(np.ceil(self.prepare / saved)) if saved > 0 else float("inf")

    def __str__(self):
        what = f"{self.mib:,.0f} MiB kept" if self.mib else "no gradients kept"
        costs = (
            f"a training takes about {self.train:.2g} s; the base and its linearisations "
            f"{self.prepare:.2g} s, {what}; an answer {self.answer:.2g} s"
        )
        if self.pays_from == float("inf"):
            return f"{costs}: train the candidates themselves, it costs less"
        return f"{costs}: it pays from {self.pays_from:.0f} questions on"


def price(
    asked: Question,
    recipe: Recipe,
    *,
    anchors: int | None = 4,
    keep: str = "auto",
    outputs: int | None = None,
    numbers: int | None = None,
    budget_mib: float | int = 2048,
    with_methods: bool = False,
) -> Price:
    """Measured on a few steps of the training, and on the gradients of a few samples; the
    arguments are those of `prepare`."""
    recipe.checked(*asked.sizes)
    kept = plan(asked, recipe, anchors, keep, outputs, numbers, budget_mib, with_methods)
    steps = recipe.steps(asked.sizes[0])
    state, begin = _initial_state(asked, recipe)
    train = begin + steps * _step_seconds(asked, recipe, state)
    if kept.keep == "passes":
        base = 0.0 if anchors is None else (1 + FOLLOWED) * train
        return Price(train, base, 2 * FOLLOWED * train, 0.0)
    parts = parts_of(asked, anchors or 1, kept.trained, kept.old)
    each = [_gradient_seconds(asked, kept, Q) for Q in (kept.trained, kept.old)]
    linearise = sum(n * seconds for (n, _), seconds in zip(parts, each, strict=True))
    if kept.keep == "sketch":
        linearise += min(SKETCHED_BY, sum(asked.sizes)) * each[0]
    if kept.keep == "gram":
        p, itemsize = sizes_of(asked)
        linearise *= gram.passes_each(parts, p * itemsize, budget_mib)
        linearise += gram.products(sum(n * k for n, k in parts), p) / gram.PRODUCTS_PER_SECOND
    read = steps * (recipe.batch_size + _held(state.memory, asked)) * kept.trained.shape[1]
    read += len(asked.old.x) * kept.old.shape[1]
    # Each row of a step is read to cut it, to predict its output, and to pull its gradient back.
    follow = read * kept.numbers * sizes_of(asked)[1] / BYTES_PER_SECOND
    base = 0.0 if anchors is None else train + follow
    return Price(train, base + linearise, 2 * follow, kept.mib)


def _initial_state(asked: Question, recipe: Recipe) -> tuple[State, float]:
    """Where a training begins, and the seconds until then: what its method keeps is made."""
    state = start(asked, recipe)
    if is_naive(recipe.method):
        return state, 0.0
    clock = time.perf_counter()  # it is compiled by now
    jax.block_until_ready(start(asked, recipe))
    return state, time.perf_counter() - clock


def _held(memory: Any, asked: Question) -> int:
    """Samples among what a method keeps, which it may look at in each step: arrays like the inputs
    that are no parameters."""
    theta, x = (jax.tree.map(jnp.shape, part) for part in (asked.theta, asked.new.x))

    def is_theta(tree: Any) -> bool:
        return jax.tree.map(jnp.shape, tree) == theta

    kept = jax.tree.leaves(memory, is_leaf=is_theta)
    inputs = {id(one): one for one in kept if not is_theta(one) and jnp.shape(one)[1:] == x[1:]}
    return sum(len(one) for one in inputs.values() if one.dtype == asked.new.x.dtype)


def _step_seconds(asked: Question, recipe: Recipe, state: State) -> float:
    rows, batches = asked.rows, recipe.batches(*asked.sizes)

    def one():
        jax.block_until_ready(step(asked, rows, recipe, state, batches[0]))

    return _median(one)


def _gradient_seconds(asked, kept: Plan, Q) -> float:
    """Of one sample's gradients along the directions Q [c, k], as they are kept."""
    p = sizes_of(asked)[0]
    rows = min(linear.AT_ONCE, FEW * linear.rows_at_once(Q.shape[1] * p))
    x = jnp.resize(asked.old.x, (rows, *asked.old.x.shape[1:]))
    evenly = jax.tree.map(jnp.ones_like, asked.theta)
    how = sketch(evenly, kept.numbers) if kept.keep == "sketch" else None
    given = portable(asked.network.apply), asked.theta, x, Q, how
    return _median(lambda: jax.block_until_ready(linear.rows_of(*given))) / rows


def _median(call) -> float:
    call()  # compiled
    times = []
    for _ in range(TIMED):
        clock = time.perf_counter()
        call()
        times.append(time.perf_counter() - clock)
    return float(np.median(times))
