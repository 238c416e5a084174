"""Panels and matrices as plotly figures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ntkcl.reporting.panels import Panel
from ntkcl.reporting.table import once, statistics

COLOURS = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#6cc5b0",
    "#3ca951",
    "#ff8ab7",
    "#a463f2",
    "#97bbf5",
    "#9c6b4e",
    "#9498a0",
)
SEEDS = 3  # below, the interval dwarfs the runs, and dots are drawn instead
NEVER_NEGATIVE = ("seconds.", "peak_mib.")
FLOOR = -1.0  # of R² and skill: worse is not worse
BEYOND = 3.0  # times the measured range that a forecast may leave it on a plot
LAYOUT = dict(
    template="plotly_white",
    height=380,
    margin=dict(l=64, r=40, t=48, b=56),
    modebar=dict(orientation="v"),  # beside the plot: above it, it covers the title
    font=dict(size=13),
    legend=dict(orientation="h", yanchor="top", y=-0.22, title=""),
    colorway=list(COLOURS),
)


def figure(panel: Panel, runs: pd.DataFrame) -> go.Figure | None:
    """A panel over the runs of a sweep table, or None where it would show nothing."""
    y = [name for name in panel.y if name in runs and runs[name].notna().any()]
    if not y or panel.x not in runs or runs[panel.x].isna().all():
        return None
    drawn = {"line": _lines, "bar": _bars, "scatter": _scatter}[panel.kind](panel, y, runs)
    drawn.update_layout(title=dict(text=panel.title, x=0.02, font=dict(size=16)), **LAYOUT)
    drawn.update_yaxes(title=panel.label or short(y[0]))
    low = min((float(np.nanmin(trace.y)) for trace in drawn.data if len(trace.y)), default=0.0)
    if (
        low < FLOOR
        and panel.kind != "scatter"
        and all(name.endswith(("_r2", ".skill")) for name in y)
    ):
        drawn.update_yaxes(range=[FLOOR, 1.05])  # a forecast that has blown up is below any picture
    if panel.kind != "scatter" and all(name.startswith(NEVER_NEGATIVE) for name in y):
        drawn.update_yaxes(rangemode="nonnegative")  # as intervals are not, but durations
    if panel.by in runs:
        drawn.update_layout(legend_title_text=panel.by)
    return drawn


def _series(panel, y, runs):
    """(name, column, runs) of each line or group of bars."""
    groups = (
        list(runs.groupby(panel.by, sort=True, dropna=False)) if panel.by in runs else [("", runs)]
    )
    for key, rows in groups:
        for name in y:
            both = (
                str(key) if panel.by in runs else "",
                short(name) if len(y) > 1 or panel.by not in runs else "",
            )
            yield ", ".join(part for part in both if part), name, rows


def _cells(x, name, rows):
    grouped = once(rows, [x]).groupby(x, sort=True, dropna=False)
    told = (
        grouped[name].apply(lambda values: pd.Series(statistics(values.to_numpy(float)))).unstack()
    )
    return told[told["n"] > 0]


def _error(cells):
    shown = cells["ci"].where(cells["n"] >= SEEDS)
    visible = bool(shown.notna().any())
    return dict(type="data", array=shown.to_numpy(float), visible=visible, thickness=1.2)


def _dots(x, name, rows):
    """Each run's value, of the cells that have more than one run and too few for an interval."""
    values = once(rows, [x])[[x, name]].dropna(subset=[name])
    n = values.groupby(x, dropna=False)[name].transform("size")
    return values[(n > 1) & (n < SEEDS)]


def _lines(panel, y, runs):
    figure = go.Figure()
    for k, (label, name, rows) in enumerate(_series(panel, y, runs)):
        cells, dots = _cells(panel.x, name, rows), _dots(panel.x, name, rows)
        colour = COLOURS[k % len(COLOURS)]
        looks = dict(name=label, legendgroup=f"{k}")
        mean = dict(error_y=_error(cells), mode="lines+markers", line=dict(color=colour))
        figure.add_scatter(x=cells.index, y=cells["mean"], **mean, **looks)
        if len(dots):
            figure.add_scatter(x=dots[panel.x], y=dots[name], **_dotted(colour), **looks)
    values = np.array(sorted(runs[panel.x].dropna().unique()), float)
    wide = len(values) > 2 and values[0] > 0 and values[-1] / values[0] >= 8
    figure.update_xaxes(title=panel.x, type="log" if wide else "linear")
    if len(values) <= 8:
        figure.update_xaxes(tickvals=values, ticktext=[f"{v:g}" for v in values])
    return figure


def _bars(panel, y, runs):
    figure = go.Figure()
    for k, (label, name, rows) in enumerate(_series(panel, y, runs)):
        cells, dots = _cells(panel.x, name, rows), _dots(panel.x, name, rows)
        colour = COLOURS[k % len(COLOURS)]
        looks = dict(name=label, legendgroup=f"{k}", offsetgroup=f"{k}")
        bars = dict(error_y=_error(cells), marker=dict(color=colour))
        figure.add_bar(x=[str(key) for key in cells.index], y=cells["mean"], **bars, **looks)
        if len(dots):
            figure.add_scatter(x=dots[panel.x].map(str), y=dots[name], **_dotted("#444"), **looks)
    figure.update_layout(barmode="group", scattermode="group")  # a dot stands on its own bar
    figure.update_xaxes(title=panel.x, type="category")
    return figure


def _dotted(colour):
    marker = dict(size=6, color=colour, symbol="circle-open")
    return dict(mode="markers", marker=marker, showlegend=False)


def _scatter(panel, y, runs):
    figure = go.Figure()
    foretold, told = runs[panel.x].to_numpy(float), runs[y].to_numpy(float)
    spread = BEYOND * (np.nanmax(told) - np.nanmin(told))
    within = (foretold >= np.nanmin(told) - spread) & (foretold <= np.nanmax(told) + spread)
    shown = np.concatenate([told[np.isfinite(told)], foretold[within]])
    _diagonal(figure, shown.min(), shown.max())
    for k, (label, name, rows) in enumerate(_series(panel, y, runs)):
        dots = dict(size=9, opacity=0.75, color=COLOURS[k % len(COLOURS)])
        figure.add_scatter(
            x=rows[panel.x], y=rows[name], mode="markers", name=label, text=rows["run"], marker=dots
        )
    figure.update_xaxes(title=f"foretold: {panel.label}")
    if not within[np.isfinite(foretold)].all():  # a forecast has blown up
        figure.update_xaxes(range=[shown.min(), shown.max()])
    return figure


def _diagonal(figure, low, high):
    grey = dict(color="#bbb", width=1)
    figure.add_scatter(
        x=[low, high], y=[low, high], mode="lines", line=grey, name="as foretold", hoverinfo="skip"
    )


def short(name: str) -> str:
    """A number's name without where it stands, but with who foretells it."""
    parts = name.split(".")
    return f"{parts[-1]} ({parts[1]})" if parts[0] == "forecast" and len(parts) > 2 else parts[-1]


def matrices(named: Mapping[str, Any]) -> go.Figure:
    """R measured and foretold side by side: accuracy on task j's test inputs (columns) after training task i (rows)."""
    from plotly.subplots import make_subplots

    figure = make_subplots(1, len(named), subplot_titles=list(named), horizontal_spacing=0.06)
    for k, R in enumerate((np.array(matrix, float) for matrix in named.values()), 1):
        text = (
            [[f"{v:.2f}" if np.isfinite(v) else "" for v in row] for row in R]
            if len(R) <= 12
            else None
        )
        figure.add_heatmap(
            z=R, zmin=0, zmax=1, text=text, texttemplate="%{text}" if text else None, coloraxis="coloraxis", row=1, col=k,
            hovertemplate="after task %{y}, on task %{x}: %{z:.3f}<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(
            title="on task", dtick=max(1, len(R) // 10), row=1, col=k, constrain="domain"
        )
        figure.update_yaxes(
            autorange="reversed",
            dtick=max(1, len(R) // 10),
            row=1,
            col=k,
            scaleanchor=f"x{k if k > 1 else ''}",
        )
    figure.update_yaxes(title="after task", row=1, col=1)
    figure.update_layout(
        **LAYOUT,
        coloraxis=dict(colorscale="Viridis", cmin=0, cmax=1, colorbar=dict(title="accuracy")),
    )
    return figure


def history(R: Any, b: Any, forecasts: Mapping[str, Any]) -> go.Figure:
    """Accuracy on every task over the stream: measured in lines, foretold in dashes."""
    figure = go.Figure()
    for what, matrix in {"measured": R, **forecasts}.items():
        rows = np.vstack([np.array(b, float), np.array(matrix, float)])
        for j in range(rows.shape[1]):
            figure.add_scatter(
                x=np.arange(-1, len(rows) - 1), y=rows[:, j], mode="lines+markers" if what == "measured" else "lines",
                line=dict(color=COLOURS[j % len(COLOURS)], dash="solid" if what == "measured" else "dash"),
                name=f"task {j}" if what == "measured" else f"task {j}, {what}", legendgroup=f"{j}", showlegend=what == "measured",
            )  # fmt: skip
    figure.update_layout(
        title=dict(text="Accuracy on each task (dashes: foretold)", x=0.02, font=dict(size=16)),
        **LAYOUT,
    )
    figure.update_xaxes(title="after task (-1: untrained)", dtick=1 if len(R) <= 20 else None)
    figure.update_yaxes(title="test accuracy")
    return figure


def drift(measured: np.ndarray, foretold: Mapping[str, np.ndarray], dots: int = 1500) -> go.Figure:
    """Measured against predicted drift of the old tasks' outputs, a colour an anchor; of many outputs, some drawn evenly."""
    figure = go.Figure()
    low, high = float(np.nanmin(measured)), float(np.nanmax(measured))
    _diagonal(figure, low, high)
    shown = np.random.default_rng(0).permutation(len(measured))[:dots]
    for anchor, values in foretold.items():
        x, y = values[shown].round(4), measured[shown].round(4)
        figure.add_scatter(x=x, y=y, mode="markers", name=anchor, marker=dict(size=4, opacity=0.5))
    figure.update_layout(
        title=dict(text="Drift of old tasks' outputs", x=0.02, font=dict(size=16)), **LAYOUT
    )
    figure.update_xaxes(title="predicted drift")
    figure.update_yaxes(title="measured drift")
    return figure


def budget(rows: Mapping[str, Mapping[str, float]]) -> go.Figure | None:
    """What keeps R² of the drift from 1, by cell: from which anchor on it is told right."""
    if not rows:
        return None
    figure = go.Figure()
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    for part in parts:
        figure.add_bar(x=list(rows), y=[row.get(part) for row in rows.values()], name=part)
    figure.update_layout(
        barmode="relative", title=dict(text="Error budget", x=0.02, font=dict(size=16)), **LAYOUT
    )
    figure.update_xaxes(type="category")
    if max(abs(value) for row in rows.values() for value in row.values()) > 1 - FLOOR:
        figure.update_yaxes(range=[FLOOR, 1 - FLOOR])
    figure.update_yaxes(title="share of the drift not foretold")
    return figure
