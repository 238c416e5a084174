"""What a sweep costs beside its runs.

    python scripts/bench/sweep.py                  200 tiny runs, 5 cold starts
    python scripts/bench/sweep.py --runs 4 --cold 1 --folder PATH

Launching, configuring and logging a run; the table and the report of many. Cold: the wall time of a
process that makes one tiny run, less the `seconds.total` of its summary, what the run itself took.
Shared: in one process, from one run's delivery to the next's, less the latter's `seconds.total`.
With W&B offline, without artifacts, and with logging disabled. Table and report: whole processes
over all runs, their imports included. Writes sweep.{json,md} under results/bench.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from publish import command, machine, parser, publish

TINY = (
    "network.width=8",
    "stream.tasks=2",
    "stream.train_per_class=2",
    "stream.test_per_class=2",
    "training.steps=5",
    "forecast.anchors=[]",
)


def timed(*arguments: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ntkcl", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def runs(root: Path) -> list[tuple[float, float]]:
    """When each run was delivered, and what it took, in order."""
    folders = [path for path in (root / "runs" / "main").iterdir() if not path.name.startswith(".")]
    ended = [
        (path / "summary.json", json.loads((path / "summary.json").read_text())["seconds"]["total"])
        for path in folders
    ]
    return sorted((path.stat().st_mtime, seconds) for path, seconds in ended)


def launching(mode: str, many: int, cold: int, root: Path) -> tuple[dict, Path]:
    """Medians of what a run costs beside itself, cold and in a process that makes many."""
    alone = []
    for k in range(cold + 1):  # the first warms the file system's cache
        place = root / f"{mode}-cold-{k}"
        whole = timed(*TINY, f"tracking={mode}", "figures=false", f"results_dir={place}")
        alone.append(whole - runs(place)[0][1])
    place = root / f"{mode}-shared"
    whole = timed("-m", *TINY, f"tracking={mode}", f"seed=range({many})", f"results_dir={place}")
    ended = runs(place)
    between = [
        (later - earlier) - took for (earlier, _), (later, took) in itertools.pairwise(ended)
    ]
    rows = {
        "case": f"tracking={mode}",
        "cold_seconds": statistics.median(alone[1:]),
        "cold_range": [min(alone[1:]), max(alone[1:])],
    }
    rows |= {
        "shared_seconds": statistics.median(between),
        "shared_p90": sorted(between)[int(0.9 * len(between))],
    }
    return rows | {"runs": many, "sweep_seconds": whole}, place


def evaluate(place: Path, repeats: int) -> dict:
    """The table and the report of all runs in a folder, medians of whole processes."""
    out = place / "report.html"
    table = [timed("table", f"results_dir={place}") for _ in range(repeats)]
    report = [timed("report", f"results_dir={place}", f"out={out}") for _ in range(repeats)]
    size = os.stat(out).st_size / 1e6
    return {
        "table_seconds": statistics.median(table),
        "report_seconds": statistics.median(report),
        "report_megabytes": size,
    }


def markdown(stored: dict) -> str:
    about, evaluations = stored["machine"], stored["looking"]
    lines = [
        f"`{stored['command']}`, {about['cores']} cores ({about['cpu']}). "
        "Medians; seconds a run beside what the run itself took.",
        "",
        "| logging | cold start | several in a process | 90 % below | runs |",
        "|---|---|---|---|---|",
    ]
    for row in stored["launching"]:
        cells = (f"{row[key]:.2f} s" for key in ("cold_seconds", "shared_seconds", "shared_p90"))
        lines.append(f"| `{row['case']}` | {' | '.join(cells)} | {row['runs']} |")
    lines += [
        "",
        f"Of {evaluations['runs']} runs, whole processes with their imports: "
        f"`ntkcl table` {evaluations['table_seconds']:.1f} s, "
        f"`ntkcl report` {evaluations['report_seconds']:.1f} s, "
        f"a page of {evaluations['report_megabytes']:.1f} MB.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=200, help="of the sweep (200)")
    options.add_argument("--cold", type=int, default=5, help="cold starts (5)")
    options.add_argument("--evaluations", type=int, default=3, help="tables and reports (3)")
    given = options.parse_args()
    stored: dict = {
        "command": command("sweep", options, given),
        "machine": machine(),
        "launching": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        for mode, many in (("disabled", given.runs), ("offline", max(2, given.runs // 5))):
            row, place = launching(mode, many, given.cold, Path(scratch))
            stored["launching"].append(row)
            if mode == "disabled":
                stored["looking"] = {"runs": many} | evaluate(place, given.evaluations)
    publish(given.folder, "sweep", stored, markdown)


if __name__ == "__main__":
    main()
