"""Forecast against measurement over width on Fashion-MNIST: the README's table and two figures.

Reads the runs of the presets rotated_fashion, permuted_fashion and split_fashion (run them first;
nothing is trained here). Writes results/tables/fashion_width.{json,md},
results/figures/fashion_width.png and results/figures/fashion_drift.png; the latter needs the runs'
arrays, and --draw leaves it as it is.

    python scripts/figures/fashion_width.py [RESULTS] [--draw]
"""

import json
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from publish import as_it_stands, publish_runs

from ntkcl.runs.files import load

STREAMS = ("rotated", "permuted", "split")
NUMBERS = {
    "R2 init": ("init", "drift_r2"),
    "R2 boundary": ("boundary", "drift_r2"),
    "R2 one task ahead": ("boundary", "change_r2"),
    "skill init": ("init", "skill"),
    "Spearman (i, j) init": ("init", "spearman_offdiagonal"),
    "forgetting forecast": ("init", "mean_forgetting_predicted"),
    "forgetting measured": ("init", "mean_forgetting_measured"),
}
COLOURS = dict(zip(STREAMS, ("tab:blue", "tab:orange", "tab:green"), strict=True))


def gather(root: Path) -> dict:
    """What is stored: the numbers run by run, and their means; draws the figure of the drifts too.

    A table of more runs than there are is not replaced.
    """
    runs, table = collect(root), root / "tables" / "fashion_width.json"
    if table.exists() and len(json.loads(table.read_text())["runs"]) > len(runs):
        sys.exit(
            f"only {len(runs)} runs here and more in {table}: run what is missing, "
            "or delete that file to replace it"
        )
    draw_drift(runs).savefig(root / "figures" / "fashion_drift.png", dpi=150)
    numbers = runs.drop(columns="folder").to_dict("records")
    return {"runs": numbers, "cells": cells(runs).to_dict("records")}


def collect(root: Path) -> pd.DataFrame:
    """One row a run: stream, width, seed, the numbers, seconds of forecast and training."""
    table = []
    for stream in STREAMS:
        for run in as_it_stands(root, f"{stream}_fashion"):
            row = {"stream": stream} | run.cell | {"folder": str(run.folder)}
            row |= {
                name: run.summary["forecast"][anchor][key]
                for name, (anchor, key) in NUMBERS.items()
            }
            seconds = run.summary["seconds"]
            row |= {
                "seconds forecast init": seconds["forecast_init"],
                "seconds train": seconds["train"],
            }
            table.append(row)
    if not table:
        sys.exit(
            f"no runs under {root}/runs: first `ntkcl experiment=rotated_fashion`, "
            "and permuted_fashion, split_fashion"
        )
    rank = {stream: k for k, stream in enumerate(STREAMS)}
    return pd.DataFrame(table).sort_values(
        ["stream", "width", "seed"], key=lambda c: c.map(rank) if c.name == "stream" else c
    )


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (ddof 1) over seeds of every number, by stream and width."""
    columns = [*NUMBERS, "seconds forecast init", "seconds train"]
    grouped = runs.groupby(["stream", "width"], sort=False)[columns].agg(["mean", "std"])
    grouped.columns = [f"{name} {part}" for name, part in grouped.columns]
    return grouped.assign(n=runs.groupby(["stream", "width"], sort=False).size()).reset_index()


def markdown(stored: dict) -> str:
    """Mean ± standard deviation over the seeds."""
    lines = [
        "| stream | width | seeds | " + " | ".join(NUMBERS) + " |",
        "|---|---|---|" + "---|" * len(NUMBERS),
    ]
    for row in stored["cells"]:
        entries = [_entry(row[f"{name} mean"], row[f"{name} std"]) for name in NUMBERS]
        lines.append(
            f"| {row['stream']} | {row['width']} | {row['n']} | " + " | ".join(entries) + " |"
        )
    return "\n".join(lines) + "\n"


def _entry(mean, std):
    return f"{mean:.4f}" + (f" ± {std:.4f}" if std is not None else "")


def draw(stored: dict) -> Figure:
    """R2 of the forecast at initialisation, every run a dot; forgetting, forecast and measured."""
    runs = pd.DataFrame(stored["runs"])
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for stream, group in runs.groupby("stream", sort=False):
        mean = group.groupby("width").mean(numeric_only=True)
        left.plot(group["width"], group["R2 init"], ".", color=COLOURS[stream], alpha=0.6)
        left.plot(mean.index, mean["R2 init"], color=COLOURS[stream], label=stream)
        right.plot(mean.index, mean["forgetting measured"], color=COLOURS[stream])
        right.plot(mean.index, mean["forgetting forecast"], "--", color=COLOURS[stream])
    left.set(
        xscale="log",
        xlabel="width",
        ylabel="R² of the drift, train inputs",
        title="one kernel at initialisation",
        ylim=(None, 1),
    )
    right.set(
        xscale="log",
        yscale="log",
        xlabel="width",
        ylabel="mean forgetting (train loss)",
        title="forgetting over the stream",
    )
    ticks = sorted(runs["width"].unique())
    for axis in (left, right):
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
    left.legend(fontsize=8)
    right.plot([], [], color="0.3", label="measured")
    right.plot([], [], "--", color="0.3", label="forecast")
    right.legend(fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.7))
    return figure


def draw_drift(runs: pd.DataFrame) -> Figure:
    """Predicted against measured drift of the rotated stream, seed 0, a panel a width."""
    chosen = runs[(runs["stream"] == "rotated") & (runs["seed"] == 0)].sort_values("width")
    figure = Figure(figsize=(3.2 * len(chosen), 3.7), layout="constrained")
    axes = figure.subplots(1, len(chosen), squeeze=False, sharex=True, sharey=True)[0]
    for axis, run in zip(axes, chosen.to_dict("records"), strict=True):
        _, _, arrays = load(run["folder"])
        starts = [*arrays["start_train"], arrays["start_test"][0]]
        for s in range(len(starts) - 2):
            own = slice(starts[s], starts[s + 1])
            measured = (arrays["measured"][-1, own] - arrays["measured"][s + 1, own]).ravel()
            predicted = arrays["changes_init"][s + 1 :, own].sum(0).ravel()
            axis.plot(predicted, measured, ".", ms=2, alpha=0.4, label=f"task {s}")
        axis.axline((0, 0), slope=1, color="0.4", lw=0.8)
        axis.set(
            xlabel="forecast drift",
            title=f"width {run['width']}, R² = {run['R2 init']:.3f}",
            aspect="equal",
        )
    axes[0].set_ylabel("measured drift")
    axes[0].legend(fontsize=7, markerscale=4, loc="upper left")
    return figure


def main() -> None:
    publish_runs(__doc__, "fashion_width", gather, markdown, draw)


if __name__ == "__main__":
    main()
