"""The pictures of one run: predicted against measured drift, the R matrices, forgetting by task. The one room that plots."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ntkcl.experiment import Rows
from ntkcl.record import Record
from ntkcl.types import Stream

LABELS = {"init": "forecast at initialisation", "boundary": "forecast at task boundaries", "measured": "measured"}
COLOURS = {"measured": "0.25", "init": "tab:blue", "boundary": "tab:orange"}
DOTS = 4000  # more overlap to a blot and swell the file


def draw(record: Record, summary: dict, stream: Stream) -> dict[str, Figure]:
    """Every figure that this run has data for, by name."""
    anchors = list(record.changes)
    figures = {"R": accuracy_matrices(summary, anchors)}
    if anchors and len(stream) > 1 and record.status == "completed":
        figures["drift"] = drift(record, summary, stream, anchors)
        figures["forgetting"] = forgetting(summary, anchors)
    return figures


def drift(record: Record, summary: dict, stream: Stream, anchors: Sequence[str]) -> Figure:
    """Predicted against measured drift of every output on the train inputs of the old tasks, a panel an anchor."""
    figure = Figure(figsize=(4.6 * len(anchors), 4.6), layout="constrained")
    axes = figure.subplots(1, len(anchors), squeeze=False, sharex=True, sharey=True)[0]
    pick = np.random.default_rng(0)
    for axis, anchor in zip(axes, anchors, strict=True):
        for s, own in enumerate(Rows.of(stream).train[:-1]):
            active = np.flatnonzero(stream[s].head)
            measured, predicted = (record.drift(what, s, len(stream) - 1, own)[:, active].ravel() for what in ("measured", anchor))
            shown = pick.permutation(len(measured))[: DOTS // len(stream)]
            axis.plot(predicted[shown], measured[shown], ".", ms=3, alpha=0.5, label=f"task {s}")
        axis.axline((0, 0), slope=1, color="0.4", lw=0.8)
        numbers = summary["forecast"][anchor]
        axis.set_title(f"{LABELS[anchor]}\nR² = {numbers['drift_r2']:.3f}, skill = {numbers['skill']:.3f}", fontsize=10)
        axis.set_xlabel("predicted drift")
        axis.set_aspect("equal")
    axes[0].set_ylabel("measured drift")
    axes[0].legend(markerscale=3, fontsize=8, loc="upper left")
    return figure


def accuracy_matrices(summary: dict, anchors: Sequence[str]) -> Figure:
    """R measured and foretold: accuracy on task j's test inputs (columns) after training task i (rows)."""
    named = {"measured": summary["R"]} | {anchor: summary["forecast"][anchor]["R"] for anchor in anchors}
    tasks = len(summary["R"])
    figure = Figure(figsize=((1.2 + 0.5 * tasks) * len(named) + 0.8, 1.4 + 0.5 * tasks), layout="constrained")
    axes = figure.subplots(1, len(named), squeeze=False)[0]
    for axis, (name, R) in zip(axes, named.items(), strict=True):
        R = np.array(R, float)
        image = axis.imshow(R, vmin=0, vmax=1, cmap="viridis")
        for (i, j), value in np.ndenumerate(R):
            text = f"{value:.2f}" if np.isfinite(value) else "-"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color="black" if value > 0.6 else "white")
        axis.set(xticks=range(tasks), yticks=range(tasks), xlabel="evaluated on task", ylabel="after task")
        axis.set_title(LABELS[name], fontsize=9)
    figure.colorbar(image, ax=axes, label="test accuracy", shrink=0.8)
    return figure


def forgetting(summary: dict, anchors: Sequence[str]) -> Figure:
    """Rise of the loss on each old task's train inputs from just after it was learned to the end, foretold and measured."""
    heights = {"measured": summary["forecast"][anchors[0]]["forgetting_measured"]}
    heights |= {anchor: summary["forecast"][anchor]["forgetting_predicted"] for anchor in anchors}
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(heights)
    for k, (name, values) in enumerate(heights.items()):
        axis.bar(
            np.arange(len(values)) + (k - (len(heights) - 1) / 2) * width,
            values,
            width,
            label=LABELS[name],
            color=COLOURS[name],
        )
    axis.axhline(0, color="0.4", lw=0.8)
    axis.set(xticks=range(len(values)), xlabel="old task", ylabel="forgetting (rise of the train loss)")
    axis.legend(fontsize=8)
    return figure


def ranking(rows: Sequence[dict], summary: dict) -> Figure:
    """Candidates by their predicted score, and the measured score of those that were trained, in order and against each other."""
    name = f"{summary['score']}_{summary['part']}"
    predicted = np.array([row[f"predicted_{name}"] for row in rows], float)
    measured = np.array([row.get(f"measured_{name}", np.nan) for row in rows], float)
    seen = np.isfinite(measured)
    figure = Figure(figsize=(9.2 if seen.any() else 5.2, 4.2), layout="constrained")
    left, *right = figure.subplots(1, 2 if seen.any() else 1, squeeze=False)[0]
    left.plot(np.arange(1, len(rows) + 1), predicted, ".", color=COLOURS["init"], label="predicted")
    left.plot(1 + np.flatnonzero(seen), measured[seen], "o", mfc="none", color=COLOURS["measured"], label="measured")
    label = f"{summary['score'].replace('_', ' ')} ({summary['part']} inputs)"
    left.set(xlabel="candidate, best predicted first", ylabel=label)
    left.legend(fontsize=8)
    for axis in right:
        axis.plot(predicted[seen], measured[seen], "o", mfc="none", color=COLOURS["measured"])
        axis.axline((predicted[seen][0], predicted[seen][0]), slope=1, color="0.4", lw=0.8)
        axis.set(xlabel=f"predicted {label}", ylabel="measured")
        axis.set_title(f"{summary['verified']} trained: Spearman {summary['spearman']:.3f}", fontsize=10)
    return figure
