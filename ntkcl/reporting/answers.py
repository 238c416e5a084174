"""The answers of job=whatif in words and numbers, as the terminal and the report show them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

COORDINATES = {
    "method": "method",
    "share": "share of old",
    "learning_rate": "learning rate",
    "epochs": "epochs",
}
COLUMNS = {
    "accuracy_after": "old, after",
    "band": "5 to 95 %",
    "retained": "retained",
    "accuracy_new": "new, after",
    "loss_rise": "rise of loss",
    "distance": "distance",
    "coarse_r2": "R² halved",
    "verdict": "verdict",
    "accuracy_after_measured": "old, measured",
    "accuracy_new_measured": "new, measured",
    "r2_change": "R² of the change",
    "r2_from_base": "R² from the base",
}
SIDES = ("recommended", "compared")
RESULTS = {
    "accuracy_after": "old, after",
    "loss_rise": "rise of loss",
    "accuracy_new": "new, after",
    "accuracy_after_measured": "old, measured",
    "loss_rise_measured": "rise, measured",
}
BRIEF = ("accuracy_after", "band", "accuracy_new", "distance", "coarse_r2", "verdict",
         "accuracy_after_measured")  # fmt: skip
"""What a terminal has room for."""
MEANING = (
    "Accuracy on old and on new samples after each candidate, the mean over simulated orders of "
    "its batches, and where 90 % of trainings would end, by these orders and the answer's own "
    "error. retained: of the accuracy before. distance: "
    "from the end of the base, in lengths of its way; answers are best near it. R² halved: of the "
    "outputs' changes predicted with half of the anchors, against all; verdict: poor below "
    ".95 of that, or above .9 of the distance: add anchors, take a base nearer to it, or train it. "
    "measured: trained, once, after all answers were given."
)


def texts(rows: Sequence[Mapping], columns: Sequence[str] = tuple(COLUMNS)) -> list[dict[str, str]]:
    """A row a candidate: what tells it from the others, and those columns that any of them has."""
    apart = [
        key for key in COORDINATES if key == "share" or len({row.get(key) for row in rows}) > 1
    ]
    numbers = [{key: _text(key, row) for key in columns} for row in rows]
    there = [key for key in columns if any(one[key] for one in numbers)]
    return [
        {COORDINATES[key]: _coordinate(key, row[key]) for key in apart}
        | {COLUMNS[key]: one[key] for key in there}
        for row, one in zip(rows, numbers, strict=True)
    ]


def remarks(rows: Sequence[Mapping], summary: Mapping) -> Iterator[str]:
    """The base, and how right the answers were where some were trained."""
    base, several = summary["base"], len({row.get("method") for row in rows}) > 1
    each = "one training of each method" if several else "one training"
    yield f"accuracy on old samples before: {rows[0]['accuracy_before']:.3f}"
    yield (
        f"{each} answers, the base: share {percent(base['share'])}, learning rate "
        f"{base['learning_rate']:.4g}, {base['epochs']:.4g} epochs"
    )
    if summary["verified"]:
        error, spearman, covered = (
            f"{summary[key]:.3f}" if _is_number(summary[key]) else "-"
            for key in ("lost_error", "spearman", "covered")
        )
        without = summary.get("unanswered", 0)
        beside = f", {without} without an answer" if without else ""
        yield (
            f"{summary['verified']} trained, {summary['diverged']} diverged{beside}: mean error of "
            f"the accuracy lost {error}, Spearman {spearman}, share within the band {covered}"
        )
    else:
        yield "no candidate was trained to check: whatif.verify=2 trains two of them"


def recommended(summary: Mapping) -> list[dict[str, str]]:
    """A row for each recommendation, and one below it for what it is compared with."""
    rows = []
    for name, one in summary.get("recommended", {}).items():
        for side, words in zip(SIDES, _words(name, one), strict=True):
            if words:
                numbers = {RESULTS[key]: _text(key, one.get(side, {})) for key in RESULTS}
                rows.append({"recommended": words} | numbers)
    there = [key for key in (rows or [{}])[0] if any(row[key] for row in rows)]
    return [{key: row[key] for key in there} for row in rows]


def _words(name: str, one: Mapping) -> tuple[str, str]:
    """What is recommended, and what it is compared with; nothing where there is no such."""
    if name == "retention":
        least = percent(one["retention"])
        beside = [f"beside: share {percent(share)}" for share in one["beside"]]
        if one["share"] is None:
            return f"no share retains {least}", "".join(beside)
        first = f"share {percent(one['share'])}, the least to retain {least}"
        return first, "".join(beside)
    count = one["samples"]
    what = f"replay {count} old samples" if name == "replay" else f"leave out {count} new samples"
    return what, f"beside: {count} drawn, mean of {one['drawn']} draws"


def places(summary: Mapping, most: int | None = None) -> Iterator[str]:
    """Which samples are to be replayed and left out, a line for each task; at most so many."""
    words = {"replay": "replay", "drop": "leave out"}
    for name in words:
        for task, indices in summary["recommended"].get(name, {}).get("places", {}).items():
            shown = ", ".join(map(str, indices[:most]))
            more = ", ..." if len(indices) > len(indices[:most]) else ""
            yield f"{words[name]}, of the training samples of {task}: {shown}{more}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:g} %"


def _is_number(value) -> bool:
    return value is not None and value == value


def _coordinate(key: str, value: Any) -> str:
    if key == "method":
        return value
    return percent(value) if key == "share" else f"{value:.3g}"


def _text(key: str, row: Mapping) -> str:
    if key == "band":
        low, high = (row[f"accuracy_after_{end}"] for end in ("low", "high"))
        return f"{low:.2f}-{high:.2f}" if _is_number(low) else ""
    if key == "verdict":
        return row.get(key, "")
    return f"{row[key]:.3f}" if _is_number(row.get(key)) else ""
