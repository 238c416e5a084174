"""The pictures of one run: predicted against measured drift, the R matrices, forgetting by task. The one room that plots."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ntkcl.experiment.record import Record
from ntkcl.types import Rows, Stream

LABELS = {
    "infinite": "forecast at infinite width",
    "init": "forecast at initialisation",
    "boundary": "forecast at task boundaries",
    "path": "in hindsight, along the path",
    "measured": "measured",
}
COLOURS = {
    "measured": "0.25",
    "infinite": "tab:green",
    "init": "tab:blue",
    "boundary": "tab:orange",
    "path": "tab:purple",
}
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
            measured, predicted = (
                record.drift(what, s, len(stream) - 1, own)[:, active].ravel()
                for what in ("measured", anchor)
            )
            shown = pick.permutation(len(measured))[: DOTS // len(stream)]
            axis.plot(predicted[shown], measured[shown], ".", ms=3, alpha=0.5, label=f"task {s}")
        axis.axline((0, 0), slope=1, color="0.4", lw=0.8)
        numbers = summary["forecast"][anchor]
        axis.set_title(
            f"{LABELS[anchor]}\nR² = {numbers['drift_r2']:.3f}, skill = {numbers['skill']:.3f}",
            fontsize=10,
        )
        axis.set_xlabel("predicted drift")
        axis.set_aspect("equal")
    axes[0].set_ylabel("measured drift")
    axes[0].legend(markerscale=3, fontsize=8, loc="upper left")
    return figure


def accuracy_matrices(summary: dict, anchors: Sequence[str]) -> Figure:
    """R measured and foretold: accuracy on task j's test inputs (columns) after training task i (rows)."""
    named = {"measured": summary["R"]} | {
        anchor: summary["forecast"][anchor]["R"] for anchor in anchors
    }
    tasks = len(summary["R"])
    figure = Figure(
        figsize=((1.2 + 0.5 * tasks) * len(named) + 0.8, 1.4 + 0.5 * tasks), layout="constrained"
    )
    axes = figure.subplots(1, len(named), squeeze=False)[0]
    for axis, (name, R) in zip(axes, named.items(), strict=True):
        R = np.array(R, float)
        image = axis.imshow(R, vmin=0, vmax=1, cmap="viridis")
        for (i, j), value in np.ndenumerate(R):
            text = f"{value:.2f}" if np.isfinite(value) else "-"
            axis.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                fontsize=8,
                color="black" if value > 0.6 else "white",
            )
        axis.set(
            xticks=range(tasks),
            yticks=range(tasks),
            xlabel="evaluated on task",
            ylabel="after task",
        )
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
    axis.set(
        xticks=range(len(values)), xlabel="old task", ylabel="forgetting (rise of the train loss)"
    )
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
    left.plot(
        1 + np.flatnonzero(seen),
        measured[seen],
        "o",
        mfc="none",
        color=COLOURS["measured"],
        label="measured",
    )
    label = f"{summary['score'].replace('_', ' ')} ({summary['part']} inputs)"
    left.set(xlabel="candidate, best predicted first", ylabel=label)
    left.legend(fontsize=8)
    for axis in right:
        axis.plot(predicted[seen], measured[seen], "o", mfc="none", color=COLOURS["measured"])
        axis.axline((predicted[seen][0], predicted[seen][0]), slope=1, color="0.4", lw=0.8)
        axis.set(xlabel=f"predicted {label}", ylabel="measured")
        axis.set_title(
            f"{summary['verified']} trained: Spearman {summary['spearman']:.3f}", fontsize=10
        )
    return figure


def explanation(run: dict, seeds: dict[str, dict]) -> Figure:
    """Why a task is forgotten: the new samples that harm it most and least, its drift by eigenmodes and layers, and the check.

    Arguments: one seed's numbers and all seeds', as `scripts/explain.py` stores them.
    """
    shown, width = run["shown"], max(map(len, run["shown"].values()))
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.15, 1))  # type: ignore[misc]
    grid = top.subplots(len(shown), width, squeeze=False)
    for row, (kind, samples) in zip(grid, shown.items(), strict=True):
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, sample in zip(row, samples, strict=False):
            image = as_image(np.array(sample["x"]))
            if image is None:
                axis.text(
                    0.5, 0.5, f"sample {sample['index']}", ha="center", va="center", fontsize=8
                )
            else:
                axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set_title(f"{sample['harm']:+.2f}", fontsize=9)
        row[0].set_ylabel(f"most {kind}", fontsize=10)
    top.suptitle("new samples by their share of the change of the old task's loss", fontsize=11)

    modes, layers, check = bottom.subplots(1, 3, width_ratios=(1, 0.8, 1.3))
    for side, values in run["cumulative"].items():
        colour = COLOURS["boundary" if side == "foretold" else side]
        label = f"{side}, participation rank {run['participation'][side]:.1f}"
        modes.step(np.arange(1, len(values) + 1), values, where="mid", color=colour, label=label)
    modes.set(
        xscale="log",
        ylim=(0, 1.03),
        xlabel="eigenmodes of the old task's kernel",
        ylabel="share of the squared drift",
    )
    modes.set_title("drift by eigenmode, cumulative", fontsize=10)
    modes.legend(fontsize=8, loc="lower right")

    names = list(run["shares by layer"])
    layers.bar(range(len(names)), list(run["shares by layer"].values()), color=COLOURS["boundary"])
    layers.set_xticks(range(len(names)), names, rotation=20, fontsize=8)
    layers.axhline(0, color="0.4", lw=0.8)
    layers.set_title("drift by layer, share", fontsize=10)

    kinds = ("nothing", "harmful", "random", "harmless")
    for k, kind in enumerate(kinds):
        for s, one in enumerate(seeds.values()):
            found = [one["all kept"]] if kind == "nothing" else one["check"][kind]
            for side, key, marker, offset in (
                ("measured", "forgetting", "o", -0.05),
                ("boundary", "foretold", "x", 0.05),
            ):
                place = np.full(len(found), k + 0.24 * (s - (len(seeds) - 1) / 2) + offset)
                check.plot(
                    place,
                    [each[key] for each in found],
                    marker,
                    ms=4,
                    color=COLOURS[side],
                    alpha=0.8,
                )
    for side, marker, name in (("measured", "o", "trained anew"), ("boundary", "x", "solved anew")):
        check.plot([], [], marker, ms=4, color=COLOURS[side], label=name)
    check.set_xticks(range(len(kinds)), kinds)
    check.set(
        xlabel="left out of the new task (groups: seeds)",
        ylabel="forgetting (rise of the train loss)",
    )
    check.set_title("the check", fontsize=10)
    check.legend(fontsize=8)
    return figure


def as_image(x: np.ndarray) -> np.ndarray | None:
    """An input as a picture: [h, w], [h, w, 1 or 3], or a vector with a square number of entries; None for any other."""
    if x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3)):
        return x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x
    side = round(x.size**0.5)
    return x.reshape(side, side) if x.ndim == 1 and side > 1 and side**2 == x.size else None
