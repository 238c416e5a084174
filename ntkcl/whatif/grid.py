"""A grid of candidates: an answer for each, and some of them trained to see how right they were."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ntkcl import networks
from ntkcl.methods import naive
from ntkcl.metrics import correct, r2, spearman
from ntkcl.types import Method
from ntkcl.validation import SettingError, finite, share, whole
from ntkcl.whatif.answers import Answer, ask, losses_of
from ntkcl.whatif.cache import Cache
from ntkcl.whatif.price import Price
from ntkcl.whatif.question import Question, train
from ntkcl.whatif.recipe import Recipe

Methods = Sequence[tuple[Mapping[str, Any], Method]]
"""{"method": its name, and settings by theirs}, and the method."""
NO_METHODS: Methods = (({"method": "naive"}, naive()),)
"""Nothing is done to spare old samples: the plain training alone."""
MEASURED = ("accuracy_after", "lost", "retained", "accuracy_new", "loss_rise")
"""Columns of an answer that a training has, too, as `<column>_measured`."""
SLICED = ("accuracy_after", "loss_rise")  # of a slice, likewise


def candidates(
    recipe: Recipe,
    shares: Any,
    rates: Any,
    epochs: Any,
    methods: Methods = NO_METHODS,
) -> list[tuple[dict[str, Any], Recipe]]:
    """Every combination, in other orders of its batches than the recipe's.

    Arguments:
      recipe: what is the same for all.
      shares: a list, of old samples.  rates, epochs: lists, times those of the recipe.
      methods: any, named.
    Returns: coordinates, a column each, and the recipe.
    """
    check(shares, rates, epochs)
    made = []
    for (named, method), factor, passes, part in itertools.product(methods, rates, epochs, shares):
        one = recipe._replace(
            share=part,
            learning_rate=recipe.learning_rate * factor,
            epochs=recipe.epochs * passes,
            order=recipe.order + 1,
            method=method,
        )
        at = {"share": float(part), "rate": float(factor)}
        at |= {"learning_rate": one.learning_rate, "epochs": one.epochs}
        made.append((at | {"method": _label(named)}, one))
    return made


def _label(named: Mapping[str, Any]) -> str:
    """A method and its settings in a word or a few, such as "ewc penalty=0.1"."""
    name, *settings = named.items()
    return " ".join([str(name[1]), *(f"{key}={value}" for key, value in settings)])


def check(shares: Any, rates: Any, epochs: Any) -> None:
    """ValueError for what is no list of numbers in range."""
    for name, values in {"shares": shares, "rates": rates, "epochs": epochs}.items():
        if not isinstance(values, list | tuple) or not values:
            raise SettingError(f"whatif.{name}={values}: expected a list of numbers such as [0.1]")
        for value in values:
            if name == "shares":
                share("whatif.shares", value)
            else:
                finite(f"whatif.{name}", value, above=0.0)


def base_of(recipe: Recipe, rates: Sequence, epochs: Sequence, part: float | int) -> Recipe:
    """The base of a grid: at the largest of its rates and epochs, since candidates are followed
    better at less than the base's than at more."""
    return recipe._replace(
        share=part,
        learning_rate=recipe.learning_rate * max(rates),
        epochs=recipe.epochs * max(epochs),
    )


def answered(cache: Cache, recipe: Recipe, orders: int) -> tuple[dict[str, Any], Answer]:
    """The columns of a candidate's answer, means over orders, and the answer.

    accuracy_after_low, accuracy_after_high: where that of 90 % of trainings lies, `Answer.band`.
    """
    clock = time.perf_counter()
    answer = ask(cache, recipe, orders)
    return columns(answer) | {"seconds": time.perf_counter() - clock}, answer


def columns(answer: Answer) -> dict[str, Any]:
    """Of an answer, as `answered`."""
    low, high = answer.band()
    return {
        "accuracy_before": float(answer.correct_before.mean()),
        "accuracy_after": float(answer.correct.mean()),
        "accuracy_after_low": low,
        "accuracy_after_high": high,
        "lost": float(answer.lost.mean()),
        "retained": answer.retained,
        "accuracy_new": float(answer.learned.mean()),
        "loss_rise": float(answer.loss_change.mean()),
        "distance": float(answer.distance.mean()),
        "coarse_r2": answer.coarse_r2,
        "verdict": answer.verdict[0],
    }


def bill(prices: Sequence[Price], count: int, orders: int) -> dict[str, float]:
    """What the bases and so many candidates of each, in so many orders, are expected to take, in
    seconds and MiB at a time, and the trainings in their place."""
    train, prepare, answer, mib = map(np.array, zip(*prices, strict=True))
    price = Price(train.mean(), prepare.sum(), answer.mean(), mib.max())
    count *= len(prices)
    # Of a price's answer half is its check, which is done in one order alone.
    answers = count * price.answer * (orders + 1) / 2
    return price._asdict() | {
        "bases": len(prices),
        "pays_from": price.pays_from,
        "candidates": count,
        "orders": orders,
        "answers": answers,
        "asked": price.prepare + answers,
        "trained": count * price.train,
    }


def bill_lines(bill: Mapping[str, Any]) -> Iterator[str]:
    """The same in words, and a second line where to train the candidates costs less."""
    took = {key: f"{bill[key]:.2g} s" for key in ("train", "prepare", "answer", "asked", "trained")}
    memory = f"{bill['mib']:,.0f} MiB kept" if bill["mib"] else "no gradients kept"
    from_on = bill["pays_from"]
    pays = from_on is not None and np.isfinite(from_on)
    bases = bill.get("bases", 1)  # earlier versions had one
    what, its = ("the base", "its") if bases == 1 else (f"{bases} bases", "their")
    yield (
        f"a training takes about {took['train']}, {what} and {its} linearisations "
        f"{took['prepare']} ({memory}), an answer {took['answer']}: "
        + (f"asking pays from {from_on:.0f} questions on" if pays else "asking never pays")
    )
    if bill["trained"] < bill["asked"]:
        yield (
            f"train them: {bill['candidates']} trainings take about {took['trained']}, "
            f"{what} and their answers in {bill['orders']} orders {took['asked']}"
        )


def places_to_verify(rows: Sequence[dict], count: int) -> list[int]:
    """The candidates that lose least and most accuracy, and those spread evenly between them."""
    order = np.argsort([row["lost"] for row in rows], kind="stable")
    return sorted(order[np.linspace(0, len(rows) - 1, count).round().astype(int)].tolist())


def check_verify(verify: Any, count: int) -> None:
    """ValueError for more candidates to train than there are."""
    if verify is not None and whole("whatif.verify", verify, or_else="null") > count:
        raise SettingError(
            f"whatif.verify={verify}: expected at most {count}, the candidates, or null"
        )


class Origins(NamedTuple):
    """What a change is measured from: outputs [n, c] of the old samples before, and where the base
    has ended."""

    before: Float[np.ndarray, "n c"]
    base: Float[np.ndarray, "n c"]


def origins(cache: Cache) -> Origins:
    """Of a base and the candidates that are followed along it."""
    return Origins(cache.before, _outputs(cache.asked, cache.end, cache.asked.old.x))


def measured(asked: Question, origins: Origins, answer: Answer) -> tuple[dict[str, float], Answer]:
    """A candidate trained, in the first of its answer's orders: its columns, and what has become of
    the samples in the form of an answer of one order.

    r2_change: R2 of the predicted change of the old samples' outputs.
    r2_from_base: R2 of what they differ by from those that the base has ended with.
    All are NaN where the training has diverged.
    """
    clock = time.perf_counter()
    theta = train(asked, answer.recipe)[-1]
    seconds = time.perf_counter() - clock
    old, new = (_outputs(asked, theta, part.x) for part in (asked.old, asked.new))
    head = np.asarray(asked.head)
    trained = answer._replace(
        outputs=old[None],
        loss_change=(losses_of(asked, old) - losses_of(asked, origins.before))[None],
        correct=correct(old, np.asarray(asked.old.y), head)[None],
        learned=correct(new, np.asarray(asked.new.y), head)[None],
    )
    names = [*(f"{name}_measured" for name in MEASURED), "r2_change", "r2_from_base"]
    if not np.isfinite(old).all():
        values = [np.nan] * len(names)
    else:
        came, active = columns(trained), head > 0
        pairs = (((f - origin)[:, active].ravel() for f in (old, answer.outputs[0]))
                 for origin in origins)  # fmt: skip
        values = [*(came[name] for name in MEASURED), *(r2(*pair) for pair in pairs)]
    return dict(zip(names, values, strict=True)) | {"seconds_measured": seconds}, trained


def slices(answer: Answer, groups: Mapping[str, Any], trained: Answer | None = None) -> list[dict]:
    """Columns of `Answer.by` of each class, task or the like; where the candidate was trained, the
    measured ones beside them.

    groups: labels of the old samples [n] by the name of what they are.
    """
    rows: list[dict] = []
    for name, labels in groups.items():
        came = {} if trained is None else trained.by(labels)
        for value, row in answer.by(labels).items():
            beside = {f"{key}_measured": came[value][key] for key in SLICED if came}
            rows.append({"slice": name, "value": str(value)} | row | beside)
    return rows


def _outputs(asked, theta, x) -> np.ndarray:
    return np.asarray(networks.forward(asked.network.apply, theta, x), np.float64)


def agreement(rows: Sequence[dict]) -> dict[str, float | int]:
    """How right the answers were, over the candidates that were trained.

    Returns:
      verified, diverged: how many were trained, and how many diverged; those count in no number.
      unanswered: how many of the others have an answer that is no number; nor do those.
      lost_error: the mean error of the accuracy lost.
      spearman: the rank correlation of predicted with measured accuracy lost.
      covered: the part whose accuracy lay in the band, of those that have one.
      r2_change, r2_from_base: medians.
    """
    trained = [row for row in rows if "lost_measured" in row]
    came = [row for row in trained if np.isfinite(row["lost_measured"] - row["lost"])]
    counts: dict[str, float | int] = {
        "verified": len(trained),
        "diverged": sum(not np.isfinite(row["lost_measured"]) for row in trained),
        "unanswered": sum(
            bool(np.isfinite(row["lost_measured"]) and not np.isfinite(row["lost"]))
            for row in trained
        ),
    }
    names = "lost_error", "spearman", "covered", "r2_change", "r2_from_base"
    if not came:
        return counts | dict.fromkeys(names, float("nan"))
    said, was = (np.array([row[name] for row in came]) for name in ("lost", "lost_measured"))
    inside = [
        row["accuracy_after_low"] - 1e-9
        <= row["accuracy_after_measured"]
        <= row["accuracy_after_high"] + 1e-9
        for row in came
        if np.isfinite(row["accuracy_after_low"])
    ]
    covered = float(np.mean(inside)) if inside else float("nan")
    medians = (float(np.nanmedian([row[name] for row in came])) for name in names[3:])
    values = float(np.abs(said - was).mean()), spearman(was, said), covered
    return counts | dict(zip(names, (*values, *medians), strict=True))
