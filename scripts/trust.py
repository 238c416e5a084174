"""How well the verdict, and the trial it rests on, foretold the error: tables/trust.{json,md} and figures/trust.png.

python scripts/trust.py [RESULTS]      after `ntkcl experiment=trust`
"""

import argparse
import json
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure

from ntkcl import forecast

VERDICTS = ("good", "fair", "poor")
SUMMARY = {"lowest": np.min, "median": np.median, "highest": np.max}
MARKS = {"rotated": "o", "permuted": "s", "split": "^"}


def collect(root: Path) -> list[dict]:
    """A row for each anchor of each run."""
    rows = []
    for path in sorted((root / "runs" / "trust").glob("*/summary.json")):
        summary, config = json.loads(path.read_text()), yaml.safe_load((path.parent / "config.yaml").read_text())
        for anchor, told in summary["forecast"].items():
            stream = config["stream"]["_target_"].rsplit(".", 1)[-1]
            place = {"stream": stream, "width": config["network"]["width"], "steps": config["training"]["steps"]}
            numbers = {key: told[key] for key in ("trial_r2", "verdict", "drift_r2", "change_r2")}
            rows.append(place | {"seed": config["seed"], "anchor": anchor} | numbers)
    return rows


def told(rows: list[dict]) -> list[dict]:
    """For each anchor and verdict the R2 that came, of the drift and one task ahead; the drift's rank correlation with the trial."""
    table = []
    for anchor in sorted({row["anchor"] for row in rows}, reverse=True):
        mine = [row for row in rows if row["anchor"] == anchor]
        rank = forecast.spearman(np.array([row["drift_r2"] for row in mine]), np.array([row["trial_r2"] for row in mine]))
        for verdict in VERDICTS:
            same = [row for row in mine if row["verdict"] == verdict]
            if same:
                r2 = {key: np.array([row[key] for row in same]) for key in ("drift_r2", "change_r2")}
                numbers = {f"{key}_{name}": float(f(r2[key])) for key in r2 for name, f in SUMMARY.items()}
                table.append({"anchor": anchor, "verdict": verdict, "forecasts": len(same), "spearman": rank} | numbers)
    return table


def markdown(rows: list[dict]) -> str:
    lines = [
        "# Verdicts from before training, and the drift R2 that came",
        "",
        "| anchor | verdict | forecasts | drift R2: lowest, median, highest | one task ahead: lowest, median, highest | Spearman |",
        "|---|---|---|---|---|---|",
    ]
    for row in told(rows):
        drift, ahead = (", ".join(f"{row[f'{key}_{name}']:.3f}" for name in SUMMARY) for key in ("drift_r2", "change_r2"))
        lines.append(f"| {row['anchor']} | {row['verdict']} | {row['forecasts']} | {drift} | {ahead} | {row['spearman']:.3f} |")
    said = "Spearman: of the trial's R2, before training, with the drift's. `ntkcl experiment=trust`, then `python scripts/trust.py`."
    return "\n".join([*lines, "", said]) + "\n"


def draw(rows: list[dict]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    anchors = sorted({row["anchor"] for row in rows}, reverse=True)
    for axes, anchor in zip(figure.subplots(1, len(anchors), sharey=True, squeeze=False)[0], anchors, strict=True):
        for stream, mark in MARKS.items():
            mine = [row for row in rows if (row["anchor"], row["stream"]) == (anchor, stream)]
            axes.plot([row["trial_r2"] for row in mine], [row["drift_r2"] for row in mine], mark, fillstyle="none", label=stream)
        for cut in (forecast.trust.GOOD, forecast.trust.FAIR):
            axes.axvline(cut, color="0.8", zorder=0)
        axes.set(title=f"from {anchor}", xlabel="R² of the trial, before training")
    figure.axes[0].set_ylabel("R² of the drift, measured")
    figure.axes[0].legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    root = parser.parse_args().results
    rows = collect(root)
    if not rows:
        parser.error(f"no runs in {root / 'runs' / 'trust'}; expected those of `ntkcl experiment=trust`")
    for folder in ("tables", "figures"):
        (root / folder).mkdir(exist_ok=True)
    (root / "tables" / "trust.json").write_text(json.dumps(rows, indent=1) + "\n")
    (root / "tables" / "trust.md").write_text(markdown(rows))
    draw(rows).savefig(root / "figures" / "trust.png", dpi=150)
    print(markdown(rows))


if __name__ == "__main__":
    main()
