"""How well the verdict, and the trial it rests on, predicted the error.

Writes results/tables/trust.{json,md} and results/figures/trust.png.

    python scripts/figures/trust.py [RESULTS] [--draw]      after `ntkcl experiment=trust`
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from publish import complete, publish_runs

from ntkcl import metrics
from ntkcl.metrics.verdict import FAIR, GOOD

VERDICTS = ("good", "fair", "poor")
# Of a sign that is null in the summary: a trial that diverged, a singular kernel, or not known.
WORST = -1e300
# Known before training, and whether more of it should mean a better forecast.
SIGNS = {"trial_r2": 1, "halved_r2": 1, "condition": -1}
SUMMARY = {"lowest": np.min, "median": np.median, "highest": np.max}
MARKS = {"rotated": "o", "permuted": "s", "split": "^"}


def collect(root: Path) -> list[dict]:
    """A row for each anchor of each run."""
    rows = []
    for run in complete(root, "trust"):
        for anchor, entry in run.summary["forecast"].items():
            stream = run.config["stream"]["_target_"].rsplit(".", 1)[-1]
            place = {
                "stream": stream,
                "width": run.cell["width"],
                "steps": run.config["training"]["steps"],
            }
            numbers = {
                key: entry[key]
                for key in ("trial_r2", "halved_r2", "verdict", "drift_r2", "change_r2")
            }
            numbers["condition"] = max(
                entry["condition"], key=lambda one: float("inf") if one is None else one
            )
            rows.append(place | {"seed": run.cell["seed"], "anchor": anchor} | numbers)
    if not rows:
        sys.exit(f"no runs in {root / 'runs' / 'trust'}: first `ntkcl experiment=trust`")
    return rows


def by_verdict(rows: list[dict]) -> list[dict]:
    """For each anchor and verdict the R2 that came, of the drift and one task ahead."""
    table = []
    for anchor in anchors(rows):
        mine = [row for row in rows if row["anchor"] == anchor]
        for grade in VERDICTS:
            same = [row for row in mine if row["verdict"] == grade]
            if same:
                r2 = {
                    key: np.array([row[key] for row in same]) for key in ("drift_r2", "change_r2")
                }
                numbers = {
                    f"{key}_{name}": float(f(r2[key])) for key in r2 for name, f in SUMMARY.items()
                }
                table.append({"anchor": anchor, "verdict": grade, "forecasts": len(same)} | numbers)
    return table


def anchors(rows: list[dict]) -> list[str]:
    return sorted({row["anchor"] for row in rows}, reverse=True)


def ranked(rows: list[dict]) -> list[dict]:
    """For each anchor and sign its rank correlation with the measured drift R2.

    Over all streams, and within each.
    """
    table = []
    for anchor in anchors(rows):
        mine = [row for row in rows if row["anchor"] == anchor]
        streams = {"all": mine} | {
            name: [row for row in mine if row["stream"] == name] for name in MARKS
        }
        for sign, better in SIGNS.items():
            ranks = {}
            for name, same in streams.items():
                values = [WORST if row[sign] is None else better * row[sign] for row in same]
                if len(same) > 2:
                    ranks[name] = metrics.spearman(
                        np.array([row["drift_r2"] for row in same]), np.array(values)
                    )
            table.append(
                {"anchor": anchor, "sign": sign, "null": sum(row[sign] is None for row in mine)}
                | ranks
            )
    return table


def markdown(rows: list[dict]) -> str:
    lines = [
        "# Verdicts from before training, and the drift R2 that came",
        "",
        "| anchor | verdict | forecasts | drift R2: lowest, median, highest "
        "| one task ahead: lowest, median, highest |",
        "|---|---|---|---|---|",
    ]
    for row in by_verdict(rows):
        drift, ahead = (
            ", ".join(f"{row[f'{key}_{name}']:.3f}" for name in SUMMARY)
            for key in ("drift_r2", "change_r2")
        )
        lines.append(
            f"| {row['anchor']} | {row['verdict']} | {row['forecasts']} | {drift} | {ahead} |"
        )
    lines += [
        "",
        f"| anchor | sign | null | Spearman with the drift R2 | {' | '.join(MARKS)} |",
        "|---|---|---|---|" + "---|" * len(MARKS),
    ]
    for row in ranked(rows):
        numbers = (f"{row[name]:.3f}" if name in row else "-" for name in ("all", *MARKS))
        lines.append(f"| {row['anchor']} | {row['sign']} | {row['null']} | {' | '.join(numbers)} |")
    note = (
        "Signs from before training; `condition`: the largest of a run's kernels, smaller being "
        "better. Null, and counted as the worst: a trial that blew up, a singular kernel, or a "
        "sign that is not known. `ntkcl experiment=trust`, then `python scripts/figures/trust.py`."
    )
    return "\n".join([*lines, "", note]) + "\n"


def draw(rows: list[dict]) -> Figure:
    """A panel for each anchor and each sign that has units of R2; at the left edge what is null."""
    names = {
        "trial_r2": "R² of forecast and trial, before training",
        "halved_r2": "R² of one stride and two, before training",
    }
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    panels = figure.subplots(
        len(names), len(anchors(rows)), sharex=True, sharey=True, squeeze=False
    )
    for line, sign in zip(panels, names, strict=True):
        for axes, anchor in zip(line, anchors(rows), strict=True):
            for stream, mark in MARKS.items():
                mine = [row for row in rows if (row["anchor"], row["stream"]) == (anchor, stream)]
                axes.plot(
                    [-0.18 if row[sign] is None else row[sign] for row in mine],
                    [row["drift_r2"] for row in mine],
                    mark,
                    fillstyle="none",
                    label=stream,
                )
            for cut in (GOOD, FAIR):
                axes.axvline(cut, color="0.8", zorder=0)
            axes.set(title=f"from {anchor}", xlabel=names[sign], xlim=(-0.2, 1.02))
        line[0].set_ylabel("R² of the drift, measured")
    panels[0, 0].legend()
    return figure


def main() -> None:
    publish_runs(__doc__, "trust", collect, markdown, draw)


if __name__ == "__main__":
    main()
