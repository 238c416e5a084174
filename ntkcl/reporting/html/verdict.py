"""The section on how far a forecast may be trusted: its verdict, and what its error is made of."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntkcl.reporting.html import plots
from ntkcl.reporting.html.section import html, number, section
from ntkcl.runs import schema

VERDICT_COLUMNS = tuple(
    f"forecast.<anchor>.{name}" for name in ("drift_r2", "skill", "trial_r2", "halved_r2")
)
_LADDER = ("init", "boundary", "path")  # each knows more of the training than the one before
NOTE = (
    "The verdict is made before training, by trial: the network is evaluated at the predicted "
    "parameters. The budget shows what keeps the R² of the drift from 1: that the kernel moves "
    "before a task begins, that it moves while the task is learned, and the rest, which even the "
    "kernel along the path does not explain."
)


def verdict(cells: Mapping[str, Sequence[Mapping]]) -> dict[str, Any] | None:
    """A row for each cell and anchor, and the error budget of each cell.

    `cells` holds the summaries of each cell's runs by the cell's name, which is "" for a single
    run. None where nothing was predicted.
    """
    rows, budgets = [], {}
    for name, summaries in cells.items():
        for anchor in summaries[0]["forecast"]:
            cell = {"cell": name} if name else {}
            rows.append(cell | _row(anchor, summaries))
        if parts := budget(summaries):
            budgets[name or "this run"] = parts
    if not rows:
        return None
    figure = plots.budget(budgets)
    drawn = [html(figure)] if figure else []
    title = "The forecast's verdict and its error budget"
    return section(title, NOTE, rows=rows, plots=drawn, wide=True)


def _row(anchor: str, summaries: Sequence[Mapping]) -> dict[str, str]:
    forecasts = [s["forecast"][anchor] for s in summaries if anchor in s["forecast"]]
    row = {"anchor": anchor, "verdict": _counted([one["verdict"] for one in forecasts])}
    for key in VERDICT_COLUMNS:
        name = key.rsplit(".", 1)[-1]
        row[schema.label(key)] = number(_mean([one[name] for one in forecasts]))
    reasons = dict.fromkeys(reason for one in forecasts for reason in one["reasons"])
    return row | {"because": "; ".join(reasons)}


def _counted(verdicts: Sequence[str]) -> str:
    """Each verdict with how often it was given, where they differ."""
    each = dict.fromkeys(verdicts)
    if len(each) == 1:
        return verdicts[0]
    return ", ".join(f"{verdicts.count(one)} {one}" for one in each)


def budget(summaries: Sequence[Mapping]) -> dict[str, float]:
    """1 - R² of the drift in parts, each what the next better anchor adds; means over runs."""
    init, boundary, path = (_unexplained(anchor, summaries) for anchor in _LADDER)
    if not math.isfinite(init) or not math.isfinite(boundary):
        return {}
    parts = {"kernel moved before the task": init - boundary}
    if not math.isfinite(path):
        return parts | {"kernel moves within the task, and the rest": boundary}
    return parts | {"kernel moves within the task": boundary - path, "the rest": path}


def _unexplained(anchor: str, summaries: Sequence[Mapping]) -> float:
    forecasts = (s["forecast"][anchor] for s in summaries if anchor in s["forecast"])
    return 1 - _mean([one["drift_r2"] for one in forecasts])


def _mean(values: Sequence[float | None]) -> float:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
