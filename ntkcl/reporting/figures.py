"""Figures of a run and of a plan, by matplotlib: drift, R matrices, forgetting, rankings,
retention."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntkcl.experiment.record import Record
from ntkcl.reporting.answers import percent
from ntkcl.reporting.pictures import pictures
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
DOTS = 4000  # outputs of a scatter plot; more overlap and swell the file
SLICES = 40  # in a figure
BESIDE = 3  # lines whose legend has room within the axes, rings too; that of more is below them
RINGS = ", measured"
LINE: dict[str, Any] = dict(color="0.4", lw=0.8)  # where predicted equals measured, or zero


def draw(record: Record, summary: dict, stream: Stream) -> dict[str, Figure]:
    """Every figure that this run has data for, by name."""
    anchors = list(record.changes)
    sides = anchors if record.status == "forecast" else ["measured", *anchors]
    figures = {"R": accuracy_matrices(summary, sides)}
    if anchors and len(stream) > 1 and record.status == "completed":
        figures["drift"] = drift(record, summary, stream, anchors)
        figures["forgetting"] = forgetting(summary, anchors)
    return figures


def drift(record: Record, summary: dict, stream: Stream, anchors: Sequence[str]) -> Figure:
    """Measured over predicted drift of old tasks' outputs on train inputs, a panel an anchor."""
    figure = Figure(figsize=(4.6 * len(anchors), 4.6), layout="constrained")
    axes = figure.subplots(1, len(anchors), squeeze=False, sharex=True, sharey=True)[0]
    pick = np.random.default_rng(0)
    for axis, anchor in zip(axes, anchors, strict=True):
        for s, rows in enumerate(Rows.of(stream).train[:-1]):
            active = np.flatnonzero(stream[s].head)
            measured, predicted = (
                record.drift(what, s, len(stream) - 1, rows)[:, active].ravel()
                for what in ("measured", anchor)
            )
            shown = pick.permutation(len(measured))[: DOTS // len(stream)]
            axis.plot(predicted[shown], measured[shown], ".", ms=3, alpha=0.5, label=f"task {s}")
        axis.axline((0, 0), slope=1, **LINE)
        numbers = summary["forecast"][anchor]
        agreement = f"R² = {numbers['drift_r2']:.3f}, skill = {numbers['skill']:.3f}"
        axis.set_title(f"{LABELS[anchor]}\n{agreement}", fontsize=10)
        axis.set_xlabel("predicted drift")
        axis.set_aspect("equal")
    axes[0].set_ylabel("measured drift")
    axes[0].legend(markerscale=3, fontsize=8, loc="upper left")
    return figure


def accuracy_matrices(summary: dict, sides: Sequence[str]) -> Figure:
    """R, as measured or predicted by an anchor, side by side.

    R[i, j] is the accuracy on task j's test inputs (columns) after training task i (rows).
    """
    matrices = {
        name: summary["R"] if name == "measured" else summary["forecast"][name]["R"]
        for name in sides
    }
    tasks = len(summary["R"])
    size = (1.2 + 0.5 * tasks) * len(matrices) + 0.8, 1.4 + 0.5 * tasks
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (name, R) in zip(axes, matrices.items(), strict=True):
        image = _matrix(axis, np.array(R, float))
        axis.set_title(LABELS[name], fontsize=9)
    figure.colorbar(image, ax=axes, label="test accuracy", shrink=0.8)
    return figure


def _matrix(axis: Axes, R: np.ndarray) -> Any:
    """R as an image with its numbers; the image."""
    image = axis.imshow(R, vmin=0, vmax=1, cmap="viridis")
    centred: dict[str, Any] = dict(ha="center", va="center", fontsize=8)
    for (i, j), value in np.ndenumerate(R):
        text = f"{value:.2f}" if np.isfinite(value) else "-"
        axis.text(j, i, text, color="black" if value > 0.6 else "white", **centred)
    ticks = range(len(R))
    axis.set(xticks=ticks, yticks=ticks, xlabel="evaluated on task", ylabel="after task")
    return image


def forgetting(summary: dict, anchors: Sequence[str]) -> Figure:
    """Forgetting of each old task, measured and predicted.

    That is the rise of the loss on its train inputs, from just after it was learned to the end.
    """
    forecasts = summary["forecast"]
    heights = {"measured": forecasts[anchors[0]]["forgetting_measured"]}
    heights |= {anchor: forecasts[anchor]["forgetting_predicted"] for anchor in anchors}
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(heights)
    for k, (name, values) in enumerate(heights.items()):
        places = np.arange(len(values)) + (k - (len(heights) - 1) / 2) * width
        axis.bar(places, values, width, label=LABELS[name], color=COLOURS[name])
    axis.axhline(0, **LINE)
    axis.set(xticks=range(len(values)), xlabel="old task")
    axis.set_ylabel("forgetting (rise of the train loss)")
    axis.legend(fontsize=8)
    return figure


def plan(
    rows: Sequence[Mapping],
    summary: Mapping,
    arrays: Mapping[str, np.ndarray],
    slices: Sequence[Mapping] = (),
) -> dict[str, Figure]:
    """Every figure that a plan has data for, by name."""
    if summary["job"] != "whatif":
        return {summary["job"]: ranking(rows, summary)}
    figures = {"retention": retention(rows), "slices": by_slice(slices)}
    if (images := pictures(arrays["at_risk_x"])) is not None:
        figures["at_risk"] = at_risk(images, arrays)
    return figures


def retention(rows: Sequence[Mapping]) -> Figure:
    """Accuracy on old and on new samples against the share of old samples that are replayed.

    A line for each method, learning rate and length, its band where 90 % of trainings would end;
    rings are measured.
    """
    figure = Figure(figsize=(9.2, 4.0), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    shares = sorted({row["share"] for row in rows})
    kinds = list(dict.fromkeys(map(_kind, rows)))
    for k, kind in enumerate(kinds):
        own = sorted((row for row in rows if _kind(row) == kind), key=lambda row: row["share"])
        label = _label(kind, kinds)
        for axis, name in zip(axes, ("accuracy_after", "accuracy_new"), strict=True):
            _against_share(axis, name, own, shares, dict(color=f"C{k}"), label)
    axes[0].axhline(rows[0]["accuracy_before"], ls="--", label="before", **LINE)
    axes[0].set_ylabel("accuracy")
    for axis, what in zip(axes, ("old", "new"), strict=True):
        axis.set_title(f"on {what} samples", fontsize=10)
        axis.set_xlabel("share of old samples in the training")
        axis.set_xticks(range(len(shares)), [percent(share) for share in shares])
    if len(kinds) <= BESIDE:
        axes[0].legend(fontsize=8)
        return figure
    handles, labels = axes[0].get_legend_handles_labels()
    entries = {
        label: handle
        for label, handle in zip(labels, handles, strict=True)
        if not label.endswith(RINGS)  # a ring has the colour of its line
    }
    below: dict[str, Any] = dict(loc="outside lower center", ncols=2, fontsize=8)
    figure.legend(entries.values(), entries.keys(), title="rings: measured", **below)
    figure.set_figheight(4.0 + 0.09 * len(entries))
    return figure


def _kind(row: Mapping) -> tuple[str, float, float]:
    """What a line stands for."""
    return row["method"], row["learning_rate"], row["epochs"]


def _label(kind: tuple[str, float, float], kinds: Sequence[tuple[str, float, float]]) -> str:
    """By what tells it from the others."""
    methods, *others = (set(values) for values in zip(*kinds, strict=True))
    words = [kind[0]] if len(methods) > 1 else []
    if any(len(values) > 1 for values in others):
        words.append("rate {:.3g}, {:.3g} epochs".format(*kind[1:]))
    return ", ".join(words) or "predicted"


def _against_share(axis: Axes, name: str, rows, shares, colour, label: str) -> None:
    places = [shares.index(row["share"]) for row in rows]
    axis.plot(places, [row[name] for row in rows], ".-", label=label, **colour)
    if f"{name}_low" in rows[0]:
        low, high = ([row[f"{name}_{end}"] for row in rows] for end in ("low", "high"))
        axis.fill_between(places, low, high, alpha=0.2, lw=0, **colour)
    measured = [row.get(f"{name}_measured", np.nan) for row in rows]
    if np.isfinite(measured).any():
        rings: dict[str, Any] = dict(
            mfc="none", ms=8, label=f"{label}{RINGS}".removeprefix("predicted, ")
        )
        axis.plot(places, measured, "o", **rings, **colour)


def by_slice(slices: Sequence[Mapping]) -> Figure:
    """Accuracy on each class of the old samples, on each task if there are several, and by columns
    of their table, against the share that is replayed, with the first method, at the largest
    learning rate and length; before any of it on the left. Of more than `SLICES` those of most
    samples."""
    first, largest = slices[0]["method"], max(_kind(row)[1:] for row in slices)
    own = [row for row in slices if _kind(row) == (first, *largest)]
    shares = sorted({row["share"] for row in own})
    names = list(dict.fromkeys((row["slice"], row["value"]) for row in own))
    if [kind for kind, _ in names].count("task") == 1:
        names = [name for name in names if name[0] != "task"]
    sizes = {(row["slice"], row["value"]): row["samples"] for row in own}
    shown = sorted(names, key=lambda one: -sizes[one])[:SLICES]
    names = [name for name in names if name in shown]
    before = {(row["slice"], row["value"]): row["accuracy_before"] for row in own}
    after = {(row["slice"], row["value"], row["share"]): row["accuracy_after"] for row in own}
    grid = np.array([[before[one], *(after[*one, share] for share in shares)] for one in names])
    size = (1.6 + 0.75 * (len(shares) + 1), 1.1 + 0.34 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.imshow(grid, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto", alpha=0.75)
    for (i, k), value in np.ndenumerate(grid):
        axis.text(k, i, f"{value:.2f}", ha="center", va="center", fontsize=9)
    axis.axvline(0.5, color="white", lw=4)
    axis.set_xticks(range(len(shares) + 1), ["before", *map(percent, shares)])
    axis.set_yticks(range(len(names)), [" ".join(one) for one in names])
    axis.set_xlabel("share of old samples in the training")
    return figure


def at_risk(images: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Figure:
    """The old samples whose loss rises most in the first candidate, with their class and the
    rise."""
    columns, worst = 8, arrays["at_risk"]
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(1.15 * columns, 1.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, row in zip(axes.flat, images, worst, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        rise = arrays["loss_change"][0, row]
        axis.set_title(f"{_class(arrays['targets'][row])}: {rise:+.2f}", fontsize=9)
    return figure


def _class(target: np.ndarray) -> str:
    return f"class {np.argmax(target)}" if len(target) > 1 else f"{target[0]:+.0f}"


def ranking(rows: Sequence[Mapping], summary: Mapping) -> Figure:
    """Candidates of a plan by predicted score, and the measured score of those that were trained.

    On the left in order of the ranking, on the right measured over predicted.
    """
    name = f"{summary['score']}_{summary['part']}"
    predicted = np.array([row[f"predicted_{name}"] for row in rows], float)
    measured = np.array([row.get(f"measured_{name}", np.nan) for row in rows], float)
    trained = np.isfinite(measured)
    panels = 2 if trained.any() else 1
    figure = Figure(figsize=(9.2 if panels == 2 else 5.2, 4.2), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    label = f"{summary['score'].replace('_', ' ')} ({summary['part']} inputs)"
    rings = dict(mfc="none", color=COLOURS["measured"])
    places = np.arange(1, len(rows) + 1)
    axes[0].plot(places, predicted, ".", color=COLOURS["init"], label="predicted")
    axes[0].plot(places[trained], measured[trained], "o", label="measured", **rings)
    axes[0].set(xlabel="candidate, best predicted first", ylabel=label)
    axes[0].legend(fontsize=8)
    for axis in axes[1:]:
        axis.plot(predicted[trained], measured[trained], "o", **rings)
        axis.axline((predicted[trained][0], predicted[trained][0]), slope=1, **LINE)
        axis.set(xlabel=f"predicted {label}", ylabel="measured")
        title = f"{summary['verified']} trained: Spearman {summary['spearman']:.3f}"
        axis.set_title(title, fontsize=10)
    return figure
