"""What the forecasts of some presets reached: drift R2 of every anchor, run by run.

    python scripts/figures/reached.py [RESULTS] [--draw]

Reads the runs of the commands that the table names; writes results/tables/reached.{json,md}. Exit
code 1 if a claim fails.
"""

from pathlib import Path

from publish import as_it_stands, claims_list, publish_runs

CLAIMS = (  # of a preset's runs at a width: the command, the anchor and its least R2
    (
        "rotated_fashion",
        4096,
        "ntkcl experiment=rotated_fashion network.width=4096 seed=0",
        "init",
        0.99,
    ),
    ("minibatch_split", 1024, "ntkcl experiment=minibatch_split", "boundary", 0.97),
    ("integrated_permuted", 256, "ntkcl experiment=integrated_permuted", "boundary", 0.98),
    ("integrated_permuted", 64, "ntkcl experiment=integrated_permuted", "boundary", 0.95),
)


def gather(root: Path) -> dict:
    """What is stored: a row for each run and anchor, and the claims."""
    rows = collect(root)
    return {"claims": judge(rows), "rows": rows}


def collect(root: Path) -> list[dict]:
    """A row for each run and anchor, in the order of the claims."""
    rows, runs = (
        [],
        {
            preset: list(as_it_stands(root, preset))
            for preset in dict.fromkeys(preset for preset, *_ in CLAIMS)
        },
    )
    for preset, width, *_ in CLAIMS:
        for run in runs[preset]:
            if run.cell["width"] == width:
                place = {"preset": preset} | run.cell
                rows += [
                    place | {"anchor": anchor} | _numbers(run.summary, anchor)
                    for anchor in run.summary["forecast"]
                ]
    return rows


def _numbers(summary: dict, anchor: str) -> dict:
    own, seconds = summary["forecast"][anchor], summary["seconds"]
    return {
        "drift_r2": own["drift_r2"],
        "verdict": own["verdict"],
        "kernels": own["kernels"],
        "gradients": own["gradients"],
        "forecast_seconds": seconds[f"forecast_{anchor}"],
        "train_seconds": seconds["train"],
    }


def judge(rows: list[dict]) -> list[dict]:
    """Every run of a command reaches what is claimed of its anchor."""
    claims = []
    for preset, width, command, anchor, least in CLAIMS:
        own = [
            row["drift_r2"]
            for row in rows
            if (row["preset"], row["width"], row["anchor"]) == (preset, width, anchor)
        ]
        numbers = ", ".join(map(_number, own))
        text = f"`{command}`: {anchor}, width {width}, R2 {numbers}, at least {least}"
        claims.append(
            {
                "claim": text,
                "holds": bool(own) and all(value is not None and value >= least for value in own),
            }
        )
    return claims


def _number(value) -> str:
    return "diverged" if value is None else f"{value:.4f}"


def markdown(stored: dict) -> str:
    lines = [
        "| preset | width | seed | anchor | drift R2 | kernels a task | gradients a task "
        "| forecast s | training s |",
        "|" + "---|" * 9,
    ]
    for row in stored["rows"]:
        several = [
            ", ".join(map(str, row[key])) if len(set(row[key])) > 1 else str(row[key][0])
            for key in ("kernels", "gradients")
        ]
        cells = [
            *(str(row[key]) for key in ("preset", "width", "seed", "anchor")),
            _number(row["drift_r2"]),
            *several,
        ]
        lines.append(
            f"| {' | '.join(cells)} | {row['forecast_seconds']:.1f} | {row['train_seconds']:.1f} |"
        )
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def main() -> None:
    publish_runs(__doc__, "reached", gather, markdown)


if __name__ == "__main__":
    main()
