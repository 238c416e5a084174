"""The table of stored plans: how right the rankings were.

Writes results/tables/plans.{json,md}, and copies a figure of each from the plans' folders to
results/figures.

    python scripts/figures/plans.py [RESULTS] [--draw]

Needs the plans of `ntkcl experiment=orders_rotated` and the other presets of jobs; --draw needs the
stored table alone, and leaves the figures as they are.
"""

import shutil
from pathlib import Path

from publish import publish_runs

from ntkcl.runs.files import load_plan

PRESETS = ("orders_rotated", "orders_permuted", "orders_split", "methods_rotated")


def collect(root: Path) -> list[dict]:
    """A row for each preset's newest plan."""
    rows = []
    for preset in PRESETS:
        folders = sorted(
            (root / "plans" / preset).glob("[!.]*/summary.json"),
            key=lambda path: path.stat().st_mtime,
        )
        if not folders:
            continue
        folder = folders[-1].parent
        summary, candidates = load_plan(folder)
        name = f"{summary['score']}_{summary['part']}"
        measured = candidates[f"measured_{name}"].dropna()
        rows.append(
            {
                "preset": preset,
                **{
                    key: summary[key]
                    for key in (
                        "job",
                        "score",
                        "part",
                        "candidates",
                        "verified",
                        "spearman",
                        "regret",
                        "regret_share",
                        "seconds",
                    )
                },
                "measured_best": float(measured.min()),
                "measured_worst": float(measured.max()),
                "pairs": candidates[[f"predicted_{name}", f"measured_{name}"]]
                .dropna()
                .to_numpy()
                .tolist(),
            }
        )
        shutil.copy(
            folder / "figures" / f"{summary['job']}.png", root / "figures" / f"{preset}.png"
        )
    return rows


def markdown(rows: list[dict]) -> str:
    lines = [
        "# Plans: rankings from one kernel, and how right they were",
        "",
        "| preset | candidates | trained | Spearman | regret, share of the range "
        "| measured, best to worst | forecast s | training s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `ntkcl experiment={row['preset']}` | {row['candidates']} | {row['verified']} "
            f"| {row['spearman']:.3f} | {row['regret_share']:.4f} "
            f"| {row['measured_best']:.4f} to {row['measured_worst']:.4f} "
            f"| {row['seconds']['forecast']:.0f} | {row['seconds']['train']:.0f} |"
        )
    return (
        "\n".join(
            [
                *lines,
                "",
                "Score: average loss on train inputs after all tasks. "
                "Regret: measured(best predicted) - measured(best trained).",
            ]
        )
        + "\n"
    )


def main() -> None:
    publish_runs(__doc__, "plans", collect, markdown)


if __name__ == "__main__":
    main()
