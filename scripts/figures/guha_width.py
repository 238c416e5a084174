"""Guha, Lakshman 2024: accuracy and forgetting against width, beside their table.

Five rotations of Fashion-MNIST. Reads the runs of the preset guha_width (first
`ntkcl experiment=guha_width`; nothing is trained here) and writes
results/tables/guha_width.{json,md} and results/figures/guha_width.png; exit code 1 if a claim
fails.

Two ways of counting. *At the ends*: learning accuracy is that just after each task, and a task's
peak the best of those after tasks, as the paper says and its run.py does. *By epochs*: learning
accuracy is the mean over all epochs of a task, the peak the best of all epochs, as an earlier
script of the authors' repository, mnist_continual.py, counts.

    python scripts/figures/guha_width.py [RESULTS] [--draw]
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from publish import as_it_stands, claim, claims_list, publish_runs
from scipy import stats

from ntkcl import metrics

PUBLISHED = {  # percent, Fashion-MNIST: average accuracy, forgetting, learning accuracy
    32: (37.7, 46.0, 82.1),
    64: (37.9, 46.0, 82.4),
    128: (38.2, 46.0, 82.5),
    256: (38.4, 45.9, 82.7),
    512: (38.8, 45.6, 82.9),
    1024: (39.3, 45.3, 83.1),
    2048: (39.9, 44.8, 83.3),
}
NAMES = {"AA": "average accuracy", "AF": "forgetting", "LA": "learning accuracy"}
COLOURS = dict(zip(NAMES, ("tab:blue", "tab:red", "tab:green"), strict=True))
WITHIN = 1.5


def gather(root: Path) -> dict:
    """What is stored: the scores run by run, their means by width, the claims."""
    runs = collect(root)
    table = summarise(runs)
    return {"claims": judge(table), "table": table, "runs": runs}


def collect(root: Path) -> list[dict]:
    """Scores in percent of every run of the preset, by both ways of counting."""
    rows = []
    for run in as_it_stands(root, "guha_width"):
        curves, R = pd.read_parquet(run.folder / "curves.parquet"), np.array(run.summary["R"])
        rows.append(run.cell | at_the_ends(R) | by_epochs(curves, R))
    if not rows:
        sys.exit(f"no runs under {root}/runs/guha_width: first `ntkcl experiment=guha_width`")
    return sorted(rows, key=lambda row: (row["width"], row["seed"]))


def at_the_ends(R: np.ndarray) -> dict[str, float]:
    scores = (
        metrics.average_accuracy(R),
        metrics.forgetting_peak_all_tasks(R),
        metrics.learning_accuracy(R),
    )
    return {name: 100 * float(score) for name, score in zip(NAMES, scores, strict=True)}


def by_epochs(curves: pd.DataFrame, R: np.ndarray) -> dict[str, float]:
    """From the accuracy of each task after each epoch of its own and later trainings."""
    seen = curves[(curves["evaluated"] <= curves["training"]) & (curves["step"] > 0)]
    peak = seen.groupby("evaluated")["accuracy"].max().to_numpy()
    own = seen[seen["evaluated"] == seen["training"]]["accuracy"]
    return {
        "AF by epochs": 100 * float(np.mean(peak - R[-1])),
        "LA by epochs": 100 * float(own.mean()),
    }


def summarise(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation over the seeds, by width."""
    scores = [key for key in rows[0] if key not in ("width", "seed")]
    table = []
    for width in sorted({row["width"] for row in rows}):
        values = {key: [row[key] for row in rows if row["width"] == width] for key in scores}
        scores_by_name = {
            key: {"mean": float(np.mean(v)), "sd": float(np.std(v, ddof=1)) if len(v) > 1 else None}
            for key, v in values.items()
        }
        table.append({"width": width, "seeds": len(values["AA"])} | scores_by_name)
    return table


def judge(table: list[dict]) -> list[dict]:
    """Every published number met, and what they say of width."""
    return [
        *(met(table, key) for key in ("AA", "AF", "LA", "AF by epochs", "LA by epochs")),
        *(with_width(table, *one) for one in (("AA", 1), ("LA", 1), ("AF", -1))),
    ]


def met(table: list[dict], key: str) -> dict:
    """A score near the published one at every width."""
    widths = ", ".join(str(row["width"]) for row in table)
    because = ""
    if key == "LA":
        largest = max(abs(value) for value in off(table, "LA by epochs"))
        because = (
            "counted as the mean over a task's epochs, as an earlier script of the authors' "
            f"repository does, ours is off by {largest:.1f} points at most"
        )
    return claim(
        f"{key} within {WITHIN} points of the published, at widths {widths}",
        published=" / ".join(str(published(row, key)) for row in table),
        ours=" / ".join(_with_interval(row[key], row["seeds"]) for row in table),
        holds=max(map(abs, off(table, key))) <= WITHIN,
        because=because,
    )


def with_width(table: list[dict], key: str, sign: int) -> dict:
    """A score that rises (sign 1) or falls from the narrowest to the widest network."""
    ends = table[0], table[-1]
    first, last = (row[key]["mean"] for row in ends)
    return claim(
        f"{key} {'rises' if sign > 0 else 'falls'} from width {ends[0]['width']} "
        f"to {ends[1]['width']}",
        published=" / ".join(str(published(row, key)) for row in ends),
        ours=" / ".join(_with_interval(row[key], row["seeds"]) for row in ends),
        holds=sign * (last - first) > 0,
    )


def published(row: dict, key: str) -> float:
    """The published score of this width, however ours is counted."""
    return PUBLISHED[row["width"]][list(NAMES).index(key[:2])]


def off(table: list[dict], key: str) -> list[float]:
    """How far each width's mean is from the published score, in points."""
    return [row[key]["mean"] - published(row, key) for row in table]


def _with_interval(score: dict, seeds: int) -> str:
    """The mean ± half of its 95 % interval over seeds."""
    if score["sd"] is None:
        return f"{score['mean']:.1f}"
    half = stats.t.ppf(0.975, seeds - 1) * score["sd"] / seeds**0.5
    return f"{score['mean']:.1f} ± {half:.1f}"


def markdown(stored: dict) -> str:
    lines = ["Percent, mean ± standard deviation over seeds; in brackets what is published.", ""]
    lines += ["| width | seeds | AA | AF | LA | AF by epochs | LA by epochs |", "|---" * 7 + "|"]
    for row in stored["table"]:
        cells = [
            f"{_entry(row[key])} ({published(row, key)})"
            for key in ("AA", "AF", "LA", "AF by epochs", "LA by epochs")
        ]
        lines.append(f"| {row['width']} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def _entry(score: dict) -> str:
    return f"{score['mean']:.1f}" + ("" if score["sd"] is None else f" ± {score['sd']:.1f}")


def draw(stored: dict) -> Figure:
    """A panel a score: every run a dot, means a line, the published table in black."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    widths = [row["width"] for row in stored["table"]]
    for k, (axis, (key, name)) in enumerate(zip(figure.subplots(1, 3), NAMES.items(), strict=True)):
        axis.plot(
            list(PUBLISHED),
            [row[k] for row in PUBLISHED.values()],
            color="black",
            marker="x",
            ms=5,
            lw=0.8,
            label="published",
        )
        for counted, style in ((key, "-"), (f"{key} by epochs", "--")):
            if counted in stored["table"][0]:
                label = "ours" + (
                    ", by epochs" if counted != key else ", at the ends" if key != "AA" else ""
                )
                axis.plot(
                    widths,
                    [row[counted]["mean"] for row in stored["table"]],
                    style,
                    color=COLOURS[key],
                    label=label,
                )
                at, values = zip(
                    *((row["width"], row[counted]) for row in stored["runs"]), strict=True
                )
                axis.plot(at, values, ".", color=COLOURS[key], alpha=0.5)
        axis.set(xscale="log", xlabel="width", title=f"{name} ({key})")
        axis.set_xticks(widths, widths)
        axis.minorticks_off()
        axis.legend(fontsize=8)
    figure.axes[0].set_ylabel("percent, test images")
    return figure


def main() -> None:
    publish_runs(__doc__, "guha_width", gather, markdown, draw)


if __name__ == "__main__":
    main()
