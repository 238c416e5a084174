"""What job=whatif recommends, and how right that was: a share of replay, old samples to replay, new
samples to leave out, each beside what one would take without it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ntkcl.types import Stream
from ntkcl.validation import SettingError, unit, whole
from ntkcl.whatif import recommend
from ntkcl.whatif.answers import Answer, ask
from ntkcl.whatif.cache import Cache
from ntkcl.whatif.recipe import Recipe

DRAWN = 3  # sets that a recommended one is compared with
NAMES = ("retention", "replay", "drop")
NUMBERS = tuple(
    f"{name}{end}"
    for end in ("", "_measured")
    for name in ("accuracy_after", "retained", "accuracy_new", "loss_rise")
)
"""Columns of an answer that are kept of what is recommended, and of what it is compared with."""


class Choice(NamedTuple):
    """One recommendation.

    facts: what was asked for and what is recommended, as summary.json keeps it.
    answer: for what is recommended; None where no share keeps enough.
    beside: answers for what it is compared with: the share below, or sets that are drawn.
    """

    facts: dict[str, Any]
    answer: Answer | None
    beside: list[Answer]


def check(wanted: Any, base_share: float | int, stream: Stream) -> None:
    """ValueError for what cannot be recommended about a stream's last task."""
    if not isinstance(wanted, Mapping) or set(wanted) != set(NAMES):
        raise SettingError(
            f"whatif.recommend={wanted}: expected {', '.join(NAMES)}, each a number or null"
        )
    retention, replay, drop = (wanted[name] for name in NAMES)
    if retention is not None and unit("whatif.recommend.retention", retention) == 0:
        raise SettingError("whatif.recommend.retention=0: expected a number above 0, up to 1")
    pool, new = sum(len(task.train.x) for task in stream[:-1]), len(stream[-1].train.x)
    if replay is not None and whole("whatif.recommend.replay", replay) > pool:
        raise SettingError(
            f"whatif.recommend.replay={replay}: expected at most {pool}, the old samples that may "
            "be replayed"
        )
    if drop is not None and whole("whatif.recommend.drop", drop) >= new:
        raise SettingError(
            f"whatif.recommend.drop={drop}: expected fewer than the {new} new samples"
        )
    if replay is not None and not base_share:
        raise SettingError(
            "whatif.base_share=0: nothing is replayed with it, and whatif.recommend.replay asks "
            "what to replay; expected a share above 0"
        )


def choices(
    cache: Cache, wanted: Mapping[str, Any], given: Sequence[Answer], orders: int, stream: Stream
) -> dict[str, Choice]:
    """What is recommended, by name; nothing is trained. Nothing where the base cannot be followed.

    Arguments:
      wanted: `whatif.recommend` of conf/config.yaml.
      given: answers for the candidates. The share is one of theirs, at the base's learning rate and
        length. Sets of samples are for training as the base, in another order.
      orders: of the batches in which sets of samples are simulated.
    """
    base = cache.recipe._replace(order=cache.recipe.order + 1)
    asked = partial(_set, cache, base, orders)
    new, sizes = cache.asked.new, [len(task.train.x) for task in stream]
    made: dict[str, Choice] = {}
    if cache.diverges:
        return made
    if wanted["retention"] is not None:
        made["retention"] = _share(base, wanted["retention"], given)
    if wanted["replay"] is not None:
        places = recommend.replay(cache, base, wanted["replay"])
        made["replay"] = asked("replayed", places, cache.asked.pool.y, by_task(places, sizes[:-1]))
    if wanted["drop"] is not None:
        places = recommend.drop(cache, base, wanted["drop"])
        of_task = {f"task {len(sizes) - 1}": places.tolist()}
        made["drop"] = asked("left_out", places, new.y, of_task)
    return made


def _share(base: Recipe, retention: float | int, given: Sequence[Answer]) -> Choice:
    """The smallest share that keeps so much, beside the one below it."""
    like_base = [answer for answer in given if answer.recipe._replace(share=base.share) == base]
    ordered = sorted(like_base, key=lambda answer: answer.recipe.share)
    chosen = recommend.smallest(ordered, retention)
    below = [one for one in ordered if chosen is None or one.recipe.share < chosen.recipe.share]
    share = None if chosen is None else chosen.recipe.share
    facts = {"retention": retention, "share": share}
    beside = below[-1:]
    return Choice(facts | {"beside": [one.recipe.share for one in beside]}, chosen, beside)


def _set(cache, base, orders, field, places, y, of_task) -> Choice:
    """A recommended set, beside drawn ones."""
    key, kinds = np.random.default_rng(base.order), recommend.classes(y)
    sets = [places, *(drawn_like(key, kinds, places) for _ in range(DRAWN))]
    answer, *beside = (ask(cache, base._replace(**{field: one}), orders) for one in sets)
    facts = {"samples": len(places), "share": base.share, "drawn": DRAWN, "places": of_task}
    return Choice(facts, answer, beside)


def drawn_like(key: np.random.Generator, kinds: np.ndarray, places: np.ndarray) -> np.ndarray:
    """As many places of each class as among those given, drawn."""
    counts = zip(*np.unique(kinds[places], return_counts=True), strict=True)
    parts = [key.permutation(np.flatnonzero(kinds == one))[:count] for one, count in counts]
    return np.sort(np.concatenate(parts))


def by_task(places: np.ndarray, sizes: Sequence[int]) -> dict[str, list[int]]:
    """Places among the samples of several tasks as indices of each task's own."""
    starts = np.cumsum([0, *sizes])
    parts = {
        f"task {t}": places[(places >= starts[t]) & (places < starts[t + 1])] - starts[t]
        for t in range(len(sizes))
    }
    return {name: part.tolist() for name, part in parts.items() if len(part)}


def record(choice: Choice, numbers: Callable[[Answer], Mapping[str, float]]) -> dict[str, Any]:
    """A recommendation as summary.json keeps it: its facts and, of it and of what it is compared
    with, the mean of their numbers."""
    chosen = [] if choice.answer is None else [choice.answer]
    sides = {"recommended": chosen, "compared": choice.beside}
    means = {side: _mean([numbers(one) for one in given]) for side, given in sides.items() if given}
    return choice.facts | means


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
