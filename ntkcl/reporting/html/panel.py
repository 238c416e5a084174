"""Panels of `ntkcl.reporting.panels` over the runs of a sweep, as plotly figures."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ntkcl.reporting.cells import once, statistics
from ntkcl.reporting.html.style import COLOURS, FLOOR, diagonal, titled
from ntkcl.reporting.panels import Panel
from ntkcl.runs import schema

SEEDS = 3  # below, the interval dwarfs the runs, and dots are drawn instead
NEVER_NEGATIVE = ("seconds.", "peak_mib.")
AT_MOST_ONE = ("_r2", ".skill")
BEYOND = 3.0  # times the measured range: predictions further outside are not drawn
TICKS = 8  # values of a setting up to which each has its tick
LOGARITHMIC = 8.0  # largest over smallest value from which an axis is logarithmic


def figure(panel: Panel, runs: pd.DataFrame) -> go.Figure | None:
    """A panel over the runs of a sweep table; None where it would show nothing."""
    y = [name for name in panel.y if name in runs and runs[name].notna().any()]
    if not y or panel.x not in runs or runs[panel.x].isna().all():
        return None
    drawn = {"line": _lines, "bar": _bars, "scatter": _scatter}[panel.kind](panel, y, runs)
    titled(drawn, panel.title)
    drawn.update_yaxes(title=panel.label or schema.axis(y[0]))
    if panel.kind != "scatter":
        _limit(drawn, y)
    if panel.by in runs:
        drawn.update_layout(legend_title_text=panel.by)
    return drawn


def _limit(drawn: go.Figure, y: Sequence[str]) -> None:
    """Keep the axis of numbers `y` where they can be, and where differences can be seen."""
    low = min((float(np.nanmin(trace.y)) for trace in drawn.data if len(trace.y)), default=0.0)
    if low < FLOOR and all(name.endswith(AT_MOST_ONE) for name in y):
        drawn.update_yaxes(range=[FLOOR, 1.05])
    if all(name.startswith(NEVER_NEGATIVE) for name in y):
        drawn.update_yaxes(rangemode="nonnegative")  # intervals may reach below zero


def _series(
    panel: Panel, y: Sequence[str], runs: pd.DataFrame
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(label, column, runs) of each line or group of bars: a value of `by` and a number."""
    groups = [("", runs)]
    if panel.by in runs:
        groups = list(runs.groupby(panel.by, sort=True, dropna=False))
    for key, rows in groups:
        for name in y:
            parts = [str(key)] if panel.by in runs else []
            if len(y) > 1 or not parts:
                parts.append(_legend(name, y))
            yield ", ".join(parts), name, rows


def _legend(name: str, y: Sequence[str]) -> str:
    """What tells a number from the others of its plot: the anchor, if all are one quantity."""
    found = schema.find(name)
    one_quantity = len({schema.label(other) for other in y}) == 1
    if len(y) == 1 or not one_quantity or found is None:
        return schema.heading(name)
    return ", ".join(found[1]) or "measured"


def _cells(x: str, name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Statistics of a number by each value of x that has any."""
    grouped = once(rows, [x]).groupby(x, sort=True, dropna=False)
    numbers = grouped[name].apply(lambda values: pd.Series(statistics(values.to_numpy(float))))
    cells = numbers.unstack()
    return cells[cells["n"] > 0]


def _error(cells: pd.DataFrame) -> dict:
    shown = cells["ci"].where(cells["n"] >= SEEDS)
    visible = bool(shown.notna().any())
    return dict(type="data", array=shown.to_numpy(float), visible=visible, thickness=1.2)


def _dots(x: str, name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Each run's number, in the cells with several runs that are too few for an interval."""
    values = once(rows, [x])[[x, name]].dropna(subset=[name])
    n = values.groupby(x, dropna=False)[name].transform("size")
    return values[(n > 1) & (n < SEEDS)]


def _dotted(colour: str) -> dict:
    marker = dict(size=6, color=colour, symbol="circle-open")
    return dict(mode="markers", marker=marker, showlegend=False)


def _lines(panel: Panel, y: Sequence[str], runs: pd.DataFrame) -> go.Figure:
    figure = go.Figure()
    for k, (label, name, rows) in enumerate(_series(panel, y, runs)):
        cells, dots = _cells(panel.x, name, rows), _dots(panel.x, name, rows)
        colour = COLOURS[k % len(COLOURS)]
        legend = dict(name=label, legendgroup=f"{k}")
        mean = dict(error_y=_error(cells), mode="lines+markers", line=dict(color=colour))
        figure.add_scatter(x=cells.index, y=cells["mean"], **mean, **legend)
        if len(dots):
            figure.add_scatter(x=dots[panel.x], y=dots[name], **_dotted(colour), **legend)
    values = np.array(sorted(runs[panel.x].dropna().unique()), float)
    wide = len(values) > 2 and values[0] > 0 and values[-1] / values[0] >= LOGARITHMIC
    figure.update_xaxes(title=panel.x, type="log" if wide else "linear")
    if len(values) <= TICKS:
        figure.update_xaxes(tickvals=values, ticktext=[f"{v:g}" for v in values])
    return figure


def _bars(panel: Panel, y: Sequence[str], runs: pd.DataFrame) -> go.Figure:
    figure = go.Figure()
    for k, (label, name, rows) in enumerate(_series(panel, y, runs)):
        cells, dots = _cells(panel.x, name, rows), _dots(panel.x, name, rows)
        legend = dict(name=label, legendgroup=f"{k}", offsetgroup=f"{k}")
        bars = dict(error_y=_error(cells), marker=dict(color=COLOURS[k % len(COLOURS)]))
        figure.add_bar(x=[str(key) for key in cells.index], y=cells["mean"], **bars, **legend)
        if len(dots):
            figure.add_scatter(x=dots[panel.x].map(str), y=dots[name], **_dotted("#444"), **legend)
    figure.update_layout(barmode="group", scattermode="group")  # a dot stands on its own bar
    figure.update_xaxes(title=panel.x, type="category")
    return figure


def _scatter(panel: Panel, y: Sequence[str], runs: pd.DataFrame) -> go.Figure:
    """Measured over predicted numbers, a dot a run; predictions far outside are left out."""
    figure = go.Figure()
    predicted, measured = runs[panel.x].to_numpy(float), runs[y].to_numpy(float)
    low, high = np.nanmin(measured), np.nanmax(measured)
    spread = BEYOND * (high - low)
    within = (predicted >= low - spread) & (predicted <= high + spread)
    shown = np.concatenate([measured[np.isfinite(measured)], predicted[within]])
    diagonal(figure, shown.min(), shown.max())
    for k, (label, name, rows) in enumerate(_series(panel, y, runs)):
        marker = dict(size=9, opacity=0.75, color=COLOURS[k % len(COLOURS)])
        dots = dict(mode="markers", name=label, text=rows["run"], marker=marker)
        figure.add_scatter(x=rows[panel.x], y=rows[name], **dots)
    figure.update_xaxes(title=schema.axis(panel.x))
    if not within[np.isfinite(predicted)].all():
        figure.update_xaxes(range=[shown.min(), shown.max()])
    return figure
