"""The sections of one plan: its candidates, its figures, the old samples most at risk."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from ntkcl import whatif
from ntkcl.reporting import answers
from ntkcl.reporting.html.samples import answer, shown
from ntkcl.reporting.html.section import rows as texts
from ntkcl.reporting.html.section import section
from ntkcl.runs import stored
from ntkcl.runs.files import load_plan

LABELS = ("experiment", "run", "name", "width", "seed")  # the same for all candidates
AT_RISK = ("task", "targets", "head", "before", "after", "loss_change", "at_risk", "at_risk_x")


def sections(folder: Path) -> Iterator[dict[str, Any] | None]:
    """Of the plan in a folder."""
    summary, table = load_plan(folder)
    if summary["job"] != "whatif":
        note = f"By predicted {summary['score']} on {summary['part']} inputs, the best first."
        rows = texts(table.drop(columns=[*LABELS]))
        yield section("Candidates", note, rows=rows, plots=_figures(folder))
        return
    given = table.to_dict("records")
    said = "; ".join(answers.remarks(given, summary))
    note = f"{said[0].upper()}{said[1:]}. {answers.MEANING}"
    yield section("Answers", note, rows=answers.texts(given))
    note = "Bands: where 90 % of trainings would end. Rings: measured."
    drawn = _figures(folder, "retention")
    yield section("Retention against the share that is replayed", note, plots=drawn)
    yield from _recommended(summary)
    note = (
        "Accuracy on each class of the old samples and by whatif.slices, before and after, at the "
        "largest learning rate and length, of several methods with the first; slices.parquet has "
        "every candidate, by task too."
    )
    if drawn := _figures(folder, "slices"):
        yield section("By class and slice", note, plots=drawn)
    if "price" in summary:
        yield _price(summary)
    yield _at_risk(folder, stored.arrays(folder, AT_RISK))


def _recommended(summary: Mapping) -> Iterator[dict[str, Any]]:
    """What is recommended, beside what one would take without it, and which samples these are."""
    rows = answers.recommended(summary)
    if not rows:
        return
    note = (
        "Chosen before anything was trained. A set of samples is compared with others of the same "
        "size, drawn of the same classes."
    )
    yield section("Recommended", note, rows=rows)
    lines = [line.split(": ") for line in answers.places(summary)]
    if lines:
        note = "Their places in the training sets of their tasks, counted from 0."
        listed = [{"recommended": what, "places": where} for what, where in lines]
        yield section("Recommended samples", note, rows=listed)


def _price(summary: Mapping) -> dict[str, Any]:
    """What all was expected to take, beside what it took."""
    expected, took = summary["price"], summary["seconds"]
    count = expected.get("bases", 1)  # earlier versions had one
    train, one = count * expected["train"], count == 1
    rows = [
        {"": "base" if one else f"{count} bases", "expected, s": train, "took, s": took["base"]},
        {
            "": f"{'its' if one else 'their'} linearisations",
            "expected, s": expected["prepare"] - train,
            "took, s": took["linearise"],
        },
        {
            "": f"{expected['candidates']} answers in {expected['orders']} orders",
            "expected, s": expected["answers"],
            "took, s": took["answers"],
        },
        {
            "": f"{summary['verified']} candidates trained",
            "expected, s": summary["verified"] * expected["train"],
            "took, s": took["verify"],
        },
    ]
    said = ". ".join(f"{line[0].upper()}{line[1:]}" for line in whatif.bill_lines(expected))
    note = f"Before it started: {said}. What it took includes compilation."
    return section("Price", note, rows=texts(pd.DataFrame(rows)))


def _figures(folder: Path, name: str = "*") -> list[Any]:
    """PNG files of the folder as images within the page."""
    texts = (
        base64.b64encode(path.read_bytes()).decode()
        for path in sorted((folder / "figures").glob(f"{name}.png"))
    )
    image = '<img style="max-width: 100%" alt="" src="data:image/png;base64,{}">'
    return [jinja2.utils.markupsafe.Markup(image.format(text)) for text in texts]


def _at_risk(folder: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """The old samples whose loss rises most in the first candidate, images or a table of texts;
    None for inputs that cannot be shown."""
    inputs = shown(folder, arrays["at_risk_x"])
    if inputs is None:
        return None
    names = class_names(stored.settings(folder), len(arrays["head"]))
    facts = [_facts(int(row), arrays, names) for row in arrays["at_risk"]]
    note = (
        "Old samples whose loss would rise most in the first candidate: the class, the answers "
        "before and after, and the rise of the loss."
    )
    pairs = zip(inputs, facts, strict=True)
    if "words" in inputs[0]:
        return section(
            "Most at risk", note, rows=[{"text": one["words"]} | of for one, of in pairs]
        )
    return section("Most at risk", note, samples=[one | _caption(of) for one, of in pairs])


def class_names(settings: Mapping[str, Any], count: int) -> dict[str, str]:
    """The name of each of so many outputs by its number; none where the configuration lists none,
    or the stream deals them out in another order."""
    source, stream = settings["source"], settings["stream"]
    listed = source.get("classes")  # of some sources how many there are
    named = list(map(str, listed)) if isinstance(listed, list) else []
    in_order = stream.get("scenario") == "class" and not stream.get("shuffle_classes")
    return {str(k): name for k, name in enumerate(named[:count])} if in_order else {}


def _facts(row: int, arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, str]:
    """Of one old sample."""
    head = arrays["head"].astype(bool)
    sides = arrays["targets"][row], arrays["before"][row], arrays["after"][0, row]
    right, before, after = (names.get(one, one) for one in (answer(f, head) for f in sides))
    return {
        "task": str(arrays["task"][row]),
        "class": right,
        "before": before,
        "after": after,
        "rise of loss": f"{arrays['loss_change'][0, row]:+.2f}",
    }


def _caption(of: Mapping[str, str]) -> dict[str, str]:
    """What stands below the image of one old sample."""
    text = f"task {of['task']}: {of['class']}, taken for {of['before']}, then {of['after']}"
    return {"text": text, "more": f"loss {of['rise of loss']}"}
