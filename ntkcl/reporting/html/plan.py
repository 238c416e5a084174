"""The sections of one plan: its candidates, its figures, the old samples most at risk."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

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
    note = "Bands: where 90 % of the simulated orders of batches end. Rings: measured."
    drawn = _figures(folder, "retention")
    yield section("Retention against the share that is replayed", note, plots=drawn)
    yield _at_risk(folder, stored.arrays(folder, AT_RISK))


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
    facts = [_facts(int(row), arrays) for row in arrays["at_risk"]]
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


def _facts(row: int, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Of one old sample."""
    head, sides = arrays["head"].astype(bool), (arrays["before"][row], arrays["after"][0, row])
    before, after = (answer(f, head) for f in sides)
    return {
        "task": str(arrays["task"][row]),
        "class": answer(arrays["targets"][row], head),
        "before": before,
        "after": after,
        "rise of loss": f"{arrays['loss_change'][0, row]:+.2f}",
    }


def _caption(of: Mapping[str, str]) -> dict[str, str]:
    """What stands below the image of one old sample."""
    text = f"task {of['task']}: {of['class']}, taken for {of['before']}, then {of['after']}"
    return {"text": text, "more": f"loss {of['rise of loss']}"}
