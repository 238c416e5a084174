"""The figure of `scripts/figures/explain.py`: why a task is forgotten.

Above, the new samples that harm the old task most and least. Below, the drift by eigenmodes and by
layers, and the check: training again without the samples of each kind.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntkcl.reporting.figures import COLOURS

LEFT_OUT = ("nothing", "harmful", "random", "harmless")
# The sides of the check: what is drawn, by which key of the stored table, how.
CHECKED = (("measured", "forgetting", "o", -0.05), ("boundary", "predicted", "x", 0.05))


def explanation(run: Mapping, seeds: Mapping[str, Mapping]) -> Figure:
    """Samples, modes, layers and the check.

    Arguments:
      run: the numbers of one seed, as `scripts/figures/explain.py` stores them.
      seeds: those of all seeds.
    """
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.15, 1))  # type: ignore[misc]
    _samples(top, run["shown"])
    modes, layers, check = bottom.subplots(1, 3, width_ratios=(1, 0.8, 1.3))
    _modes(modes, run)
    _layers(layers, run["shares by layer"])
    _check(check, list(seeds.values()))
    return figure


def _samples(figure: Any, kinds: Mapping[str, Sequence[Mapping]]) -> None:
    """A row of samples for each kind, such as harmful."""
    width = max(map(len, kinds.values()))
    grid = figure.subplots(len(kinds), width, squeeze=False)
    for row, (kind, samples) in zip(grid, kinds.items(), strict=True):
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, sample in zip(row, samples, strict=False):
            _sample(axis, sample)
        row[0].set_ylabel(f"most {kind}", fontsize=10)
    figure.suptitle("new samples by their share of the change of the old task's loss", fontsize=11)


def _sample(axis: Axes, sample: Mapping) -> None:
    image = as_image(np.array(sample["x"]))
    if image is None:
        text = f"sample {sample['index']}"
        axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=8)
    else:
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.set_title(f"{sample['harm']:+.2f}", fontsize=9)


def _modes(axis: Axes, run: Mapping) -> None:
    """Cumulative share of the squared drift over the eigenmodes of the old task's kernel."""
    sides = {"predicted": ("predicted", "boundary"), "measured": ("measured", "measured")}
    for key, values in run["cumulative"].items():
        side, colour = sides[key]
        label = f"{side}, participation rank {run['participation'][key]:.1f}"
        places = np.arange(1, len(values) + 1)
        axis.step(places, values, where="mid", color=COLOURS[colour], label=label)
    axis.set(xscale="log", ylim=(0, 1.03), xlabel="eigenmodes of the old task's kernel")
    axis.set_ylabel("share of the squared drift")
    axis.set_title("drift by eigenmode, cumulative", fontsize=10)
    axis.legend(fontsize=8, loc="lower right")


def _layers(axis: Axes, shares: Mapping[str, float]) -> None:
    axis.bar(range(len(shares)), list(shares.values()), color=COLOURS["boundary"])
    axis.set_xticks(range(len(shares)), list(shares), rotation=20, fontsize=8)
    axis.axhline(0, color="0.4", lw=0.8)
    axis.set_title("drift by layer, share", fontsize=10)


def _check(axis: Axes, seeds: Sequence[Mapping]) -> None:
    """Forgetting without the samples of each kind: measured and predicted, a group a seed."""
    for k, kind in enumerate(LEFT_OUT):
        for s, one in enumerate(seeds):
            found = [one["all kept"]] if kind == "nothing" else one["check"][kind]
            group = k + 0.24 * (s - (len(seeds) - 1) / 2)
            for side, key, marker, offset in CHECKED:
                places = np.full(len(found), group + offset)
                values = [each[key] for each in found]
                axis.plot(places, values, marker, ms=4, color=COLOURS[side], alpha=0.8)
    for (side, _, marker, _), name in zip(
        CHECKED, ("trained again", "predicted again"), strict=True
    ):
        axis.plot([], [], marker, ms=4, color=COLOURS[side], label=name)
    axis.set_xticks(range(len(LEFT_OUT)), LEFT_OUT)
    axis.set_xlabel("left out of the new task (groups: seeds)")
    axis.set_ylabel("forgetting (rise of the train loss)")
    axis.set_title("the check", fontsize=10)
    axis.legend(fontsize=8)


def as_image(x: np.ndarray) -> np.ndarray | None:
    """An input as a picture; None where it is no picture.

    Of shape [h, w], [h, w, 1 or 3], or a vector with a square number of entries.
    """
    if x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3)):
        return x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x
    side = round(x.size**0.5)
    return x.reshape(side, side) if x.ndim == 1 and side > 1 and side**2 == x.size else None
