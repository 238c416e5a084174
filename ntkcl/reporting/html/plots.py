"""The figures of one run or one cell: R matrices, history, drift, error budget."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ntkcl.reporting.html.style import COLOURS, FLOOR, LAYOUT, diagonal, titled

DOTS = 1500  # outputs of a scatter plot; more overlap and swell the page
WRITTEN = 12  # tasks up to which the entries of R are written on it


def matrices(named: Mapping[str, Any]) -> go.Figure:
    """Matrices R side by side, measured and predicted, by their titles.

    R[i, j] is the accuracy on task j's test inputs (columns) after training task i (rows).
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(1, len(named), subplot_titles=list(named), horizontal_spacing=0.06)
    for k, R in enumerate((np.array(matrix, float) for matrix in named.values()), 1):
        _add_matrix(figure, R, k)
    figure.update_yaxes(title="after task", row=1, col=1)
    bar = dict(colorscale="Viridis", cmin=0, cmax=1, colorbar=dict(title="accuracy"))
    return figure.update_layout(**LAYOUT, coloraxis=bar)


def _add_matrix(figure: go.Figure, R: np.ndarray, k: int) -> None:
    """R as the k-th heatmap, from 1."""
    at = dict(row=1, col=k)
    text = None
    if len(R) <= WRITTEN:
        text = [[f"{v:.2f}" if np.isfinite(v) else "" for v in row] for row in R]
    figure.add_heatmap(
        z=R,
        zmin=0,
        zmax=1,
        text=text,
        texttemplate="%{text}" if text else None,
        coloraxis="coloraxis",
        hovertemplate="after task %{y}, on task %{x}: %{z:.3f}<extra></extra>",
        **at,
    )
    ticks = dict(dtick=max(1, len(R) // 10))
    figure.update_xaxes(title="on task", constrain="domain", **ticks, **at)
    square = f"x{k if k > 1 else ''}"
    figure.update_yaxes(autorange="reversed", scaleanchor=square, **ticks, **at)


def history(R: Any, b: Any, forecasts: Mapping[str, Any]) -> go.Figure:
    """Accuracy on every task over the stream: measured in lines, predicted in dashes."""
    figure = go.Figure()
    for what, matrix in {"measured": R, **forecasts}.items():
        rows = np.vstack([np.array(b, float), np.array(matrix, float)])
        measured = what == "measured"
        for j in range(rows.shape[1]):
            colour = COLOURS[j % len(COLOURS)]
            figure.add_scatter(
                x=np.arange(-1, len(rows) - 1),
                y=rows[:, j],
                mode="lines+markers" if measured else "lines",
                line=dict(color=colour, dash="solid" if measured else "dash"),
                name=f"task {j}" if measured else f"task {j}, predicted from {what}",
                legendgroup=f"{j}",
                showlegend=measured,
            )
    dashes = f" (dashes: predicted from {', '.join(forecasts)})" if forecasts else ""
    titled(figure, f"Accuracy on each task{dashes}")
    figure.update_xaxes(title="after task (-1: untrained)", dtick=1 if len(R) <= 20 else None)
    figure.update_yaxes(title="test accuracy")
    return figure


def drift(measured: np.ndarray, predicted: Mapping[str, np.ndarray]) -> go.Figure:
    """Measured over predicted drift of old tasks' outputs, a colour an anchor; a sample of many."""
    figure = go.Figure()
    diagonal(figure, float(np.nanmin(measured)), float(np.nanmax(measured)))
    shown = np.random.default_rng(0).permutation(len(measured))[:DOTS]
    for anchor, values in predicted.items():
        x, y = values[shown].round(4), measured[shown].round(4)
        figure.add_scatter(x=x, y=y, mode="markers", name=anchor, marker=dict(size=4, opacity=0.5))
    titled(figure, "Drift of old tasks' outputs")
    figure.update_xaxes(title="predicted drift")
    figure.update_yaxes(title="measured drift")
    return figure


def budget(rows: Mapping[str, Mapping[str, float]]) -> go.Figure | None:
    """What keeps the R² of the drift from 1, in parts by cell; None where no cell has them."""
    if not rows:
        return None
    figure = go.Figure()
    for part in dict.fromkeys(part for row in rows.values() for part in row):
        figure.add_bar(x=list(rows), y=[row.get(part) for row in rows.values()], name=part)
    figure.update_layout(barmode="relative")
    titled(figure, "Error budget")
    figure.update_xaxes(type="category")
    if max(abs(value) for row in rows.values() for value in row.values()) > 1 - FLOOR:
        figure.update_yaxes(range=[FLOOR, 1 - FLOOR])
    figure.update_yaxes(title="1 - R² of the drift")
    return figure
