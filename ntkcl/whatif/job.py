"""job=whatif: the last task of a stream is what a network may be trained on next.

The network is trained on the tasks before it. Their test samples are the old ones, their train
samples may be replayed, and the candidates of the settings `whatif` are answered for.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ntkcl.resources import Meter
from ntkcl.types import Stream
from ntkcl.whatif import advice, grid
from ntkcl.whatif.answers import Answer
from ntkcl.whatif.cache import prepare
from ntkcl.whatif.last_task import Group, cache_settings, finite_or_refused, initial_question
from ntkcl.whatif.question import Question
from ntkcl.whatif.recipe import Recipe
from ntkcl.whatif.recommend import classes

JOB = "whatif"
"""What the setting `job` is for these questions."""
NO_COLUMNS: Mapping[str, Callable[[Any], Sequence]] = MappingProxyType({})
KEPT = {"gradients": "gradients", "gram": "Gram blocks", "sketch": "sketches", "passes": "passes"}
AT_RISK = 24  # old samples whose inputs are kept to be shown


class Answers(NamedTuple):
    """A row for each candidate, in the order of the grid, the summary, arrays by old sample, and a
    row for each slice of the old samples in each candidate."""

    rows: tuple[dict, ...]
    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]
    slices: tuple[dict, ...]


def run_job(
    named: Mapping[str, Any],
    settings: Mapping[str, Any],
    say: Callable[[str], None],
    columns: Mapping[str, Callable[[Any], Sequence]] = NO_COLUMNS,
    methods: grid.Methods = grid.NO_METHODS,
) -> Answers:
    """What each candidate would do to the tasks before the last one.

    Arguments:
      named: the arguments of `experiment.initialise`.
      settings: `whatif` of conf/config.yaml, but for its methods.
      say: called with a line for each phase.
      columns: labels [n] of inputs [n, ...] by name, by which old samples are grouped, beside their
        class and task.
      methods: what `whatif.methods` names; each has a base of its own.
    Raises ValueError for settings out of range, before anything is trained.
    """
    asked, groups, seconds, expected = initial_question(named, settings, say, methods)
    stream, nothing = named["stream"], dict.fromkeys(advice.NAMES)
    given: list[_Followed] = []
    for group in groups:
        wanted = nothing if given else settings["recommend"]
        given.append(_followed(asked, group, settings, wanted, stream, say, len(groups) == 1))
    rows, said = ([one for part in given for one in getattr(part, k)] for k in ("rows", "said"))
    origins = [part.origins for part in given for _ in part.rows]
    seconds |= {key: sum(part.seconds[key] for part in given) for key in given[0].seconds}
    say(f"{len(rows)} candidates answered for in {seconds['answers']:.1f} s")
    # All answers are given: training starts.
    trained = {}
    for place in grid.places_to_verify(rows, settings["verify"] or 0):
        came, trained[place] = grid.measured(asked, origins[place], said[place])
        rows[place] |= came
        say(f"trained candidate {place + 1}")
    seconds["verify"] = sum(row.get("seconds_measured", 0.0) for row in rows)
    numbers = partial(_numbers, asked, origins[0], settings["verify"] is not None)
    recommended = {name: advice.record(one, numbers) for name, one in given[0].chosen.items()}
    base = _named(groups[0].base) | {"method": rows[0]["method"]}
    summary = {"job": JOB, "candidates": len(rows), "base": base, "orders": settings["orders"]}
    summary |= _kept([part.facts for part in given]) | {"seconds": seconds}
    summary |= {"price": expected, "recommended": recommended} | grid.agreement(rows)
    arrays = _arrays(asked, origins[0].before, stream, said, trained)
    labelled = {"class": classes(arrays["targets"]), "task": arrays["task"]}
    labelled |= {name: np.asarray(labels(asked.old.x)) for name, labels in columns.items()}
    coordinates = [at for group in groups for at, _ in group.candidates]
    slices = [
        at | row
        for k, (at, answer) in enumerate(zip(coordinates, said, strict=True))
        for row in grid.slices(answer, labelled, trained.get(k))
    ]
    return Answers(tuple(rows), summary, arrays, tuple(slices))


class _Followed(NamedTuple):
    """What is left of a base once it was asked: of each candidate a row and the answer, what is
    recommended, what all has taken, and what was kept."""

    rows: list[dict[str, Any]]
    said: list[Answer]
    origins: grid.Origins
    chosen: dict[str, advice.Choice]
    seconds: dict[str, float]
    facts: dict[str, Any]


def _followed(
    asked: Question,
    group: Group,
    settings: Mapping[str, Any],
    wanted: Mapping[str, Any],
    stream: Stream,
    say: Callable[[str], None],
    alone: bool,
) -> _Followed:
    """The base trained and linearised, then asked. One of several that diverges is data."""
    cache, orders = prepare(asked, group.base, **cache_settings(settings)), settings["orders"]
    if alone:
        finite_or_refused(cache.end, group.base.learning_rate, f"the {group.name}")
    kept = KEPT[cache.keep]
    held = f"{kept} kept: {cache.mib:,.0f} MiB" if cache.keep != "passes" else "no gradients kept"
    say(f"{group.name} trained in {cache.seconds['train']:.1f} s, {held}")
    if cache.diverges:
        say(f"followed along the {group.name} trainings diverge: it has no answers")
    given = [grid.answered(cache, one, orders) for _, one in group.candidates]
    rows = [at | row for (at, _), (row, _) in zip(group.candidates, given, strict=True)]
    said, meter = [answer for _, answer in given], Meter()
    chosen = advice.choices(cache, wanted, said, orders, stream)
    seconds = {
        "base": cache.seconds["train"],
        "linearise": cache.seconds["linearise"],
        "answers": sum(row["seconds"] for row in rows),
        "recommend": meter.read().seconds,
    }
    facts = {"kept": kept, "mib": cache.mib, "outside": cache.outside}
    return _Followed(rows, said, grid.origins(cache), chosen, seconds, facts)


def _kept(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of all bases: how they are kept, the most memory at a time, the most left out."""
    how = ", ".join(dict.fromkeys(one["kept"] for one in facts))
    return {"kept": how} | {key: max(one[key] for one in facts) for key in ("mib", "outside")}


def _numbers(
    asked: Question, origins: grid.Origins, verify: bool, answer: Answer
) -> dict[str, float]:
    """Of a recommendation, or of what it is compared with; measured ones too where one is to be
    trained."""
    said = grid.columns(answer) | (grid.measured(asked, origins, answer)[0] if verify else {})
    return {name: said[name] for name in advice.NUMBERS if name in said}


def _named(base: Recipe) -> dict[str, Any]:
    return {key: getattr(base, key) for key in ("share", "learning_rate", "epochs", "batch_size")}


def _arrays(
    asked: Question,
    before: np.ndarray,
    stream: Stream,
    given: list[Answer],
    trained: Mapping[int, Answer],
) -> dict[str, np.ndarray]:
    """By candidate and old sample, and the samples at risk in the first candidate."""
    after = np.stack([answer.outputs.mean(0) for answer in given])
    rise = np.stack([answer.loss_change.mean(0) for answer in given])
    measured = {"after_measured": after * np.nan, "loss_change_measured": rise * np.nan}
    for place, one in trained.items():
        measured["after_measured"][place] = one.outputs[0]
        measured["loss_change_measured"][place] = one.loss_change[0]
    worst = given[0].at_risk[:AT_RISK]
    return measured | {
        "task": np.repeat(np.arange(len(stream) - 1), [len(task.test.x) for task in stream[:-1]]),
        "targets": np.asarray(asked.old.y),
        "head": np.asarray(asked.head),
        "before": before,
        "after": after,
        "loss_change": rise,
        "at_risk": worst,
        "at_risk_x": np.asarray(asked.old.x)[worst],
    }
