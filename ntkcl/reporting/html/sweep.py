"""The sections of a sweep."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntkcl.reporting import cells, columns, formats, panels
from ntkcl.reporting.html import panel, plots
from ntkcl.reporting.html.run import matrices
from ntkcl.reporting.html.samples import samples
from ntkcl.reporting.html.section import html, number, rows, section
from ntkcl.reporting.html.verdict import verdict
from ntkcl.runs.files import load, read_summary
from ntkcl.runs.stored import Damaged

COLUMNS = (
    "metrics.average_accuracy",
    "metrics.learning_accuracy",
    "metrics.forgetting_chaudhry",
    "metrics.bwt_gem",
)
MATRICES = 60  # cells whose R matrices are on the page


def sections(
    runs: Sequence[Path], gathered: pd.DataFrame, skip: Callable[[str], None] | None
) -> Iterator[dict[str, Any] | None]:
    """Cells, panels, verdicts, R matrices, samples and the list of all runs.

    `gathered` is the table of `runs`; `skip` is called for a run whose arrays are damaged.
    """
    varied = columns.varied(gathered)
    yield _cells(gathered, varied)
    yield from _panels(gathered)
    summaries = {folder: read_summary(folder) for folder in runs}
    by_cell: dict[str, list[dict]] = {}
    for folder, (_, row) in zip(runs, gathered.iterrows(), strict=True):
        by_cell.setdefault(_name(row, varied), []).append(summaries[folder])
    yield verdict(by_cell)
    yield _matrices(by_cell)
    yield _samples(runs, summaries, gathered, skip)
    names = dict.fromkeys(["run", *varied, "seed", "status", *COLUMNS[:3], "seconds.total"])
    listed = gathered[[name for name in names if name in gathered]]
    yield section("Runs", "All of them.", rows=rows(formats.labelled(listed)))


def _cells(gathered: pd.DataFrame, varied: Sequence[str]) -> dict[str, Any]:
    values = [name for name in COLUMNS if name in gathered]
    texts = formats.readable(cells.summary(gathered, varied, values))
    note = (
        "Means over seeds with the half-width of their 95 % Student intervals. "
        "The figures below draw intervals of three seeds or more, and a dot for each of two."
    )
    return section("Cells", note, rows=rows(formats.labelled(texts)))


def _panels(gathered: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for one in panels.sections(*columns.axes(gathered), columns.anchors(gathered)):
        figures = [panel.figure(each, gathered) for each in one.panels]
        drawn = [html(figure) for figure in figures if figure is not None]
        if drawn:
            yield section(one.title, one.question, plots=drawn)


def _name(row: pd.Series, varied: Sequence[str]) -> str:
    return ", ".join(f"{name.split('.')[-1]} {number(row[name])}" for name in varied) or "all"


def _matrices(by_cell: Mapping[str, Sequence[Mapping]]) -> dict[str, Any]:
    note = "R on test inputs, measured and predicted, means over seeds."
    if len(by_cell) > MATRICES:
        note += f" The first {MATRICES} cells."
    first = list(by_cell.items())[:MATRICES]
    figures = {name: plots.matrices(_mean_matrices(summaries)) for name, summaries in first}
    choices = [{"name": n, "figure": json.loads(f.to_json())} for n, f in figures.items()]
    return section("Accuracy matrices", note, choices=choices)


def _mean_matrices(summaries: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Means of the matrices that all runs of a cell have, in one shape."""
    each = [matrices(summary) for summary in summaries]
    means = {}
    for name in each[0]:
        stacked = [np.array(one[name], float) for one in each if name in one]
        if len(stacked) == len(each) and len({R.shape for R in stacked}) == 1:
            means[name] = np.mean(stacked, axis=0)
    return means


def _samples(
    runs: Sequence[Path],
    summaries: Mapping[Path, Mapping],
    gathered: pd.DataFrame,
    skip: Callable[[str], None] | None,
) -> dict[str, Any] | None:
    """Samples of the run that forgets most, of those whose arrays can be read."""
    forgetting = gathered["metrics.forgetting_chaudhry"].astype(float).fillna(-math.inf)
    for folder in (runs[k] for k in np.argsort(-forgetting.to_numpy(), kind="stable")):
        try:
            return samples(folder, summaries[folder], load(folder)[2])
        except Damaged as error:
            if skip is None:
                raise
            skip(f"of the samples forgotten most: {error}")
    return None
