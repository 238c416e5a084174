"""A run with checkpoints killed at random instants and started again, until it has been killed often enough: do its results differ?

    python scripts/kill_runs.py                   30 kills
    python scripts/kill_runs.py --kills 3 --steps 60 --folder PATH

First the run is left alone. Then its process and all that it has started get SIGKILL after a time drawn evenly from nothing to the
undisturbed run's, and the same command is given again; a run that completes is compared with the undisturbed one, deleted, and begun
anew. Compared byte by byte: config.yaml, arrays.npz, rows.parquet, and summary.json but for seconds and memory. The run: DER++ with
momentum carried over five tasks of digits, so that parameters, momentum, buffer and counts must all come back. Writes
kill_runs.{json,md} under results/bench.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_report import machine

COMPARED = ("config.yaml", "arrays.npz", "rows.parquet", "summary.json")
UNTIMED = ("seconds", "peak_mib", "environment")


def command(steps: int, every: int, root: Path) -> list[str]:
    run = [
        "stream=rotated",
        "method=der_plus_plus",
        "loss=cross_entropy",
        "optimizer.momentum=0.9",
        "training.optimizer_state=carry",
        "training.batch_size=64",
        "training.learning_rate=0.01",
        "training.allow_unstable=true",
        f"training.steps={steps}",
        "forecast.anchors=[]",
        f"checkpoints.every={every}",
        "tracking=disabled",
    ]
    return [sys.executable, "-m", "ntkcl", *run, f"results_dir={root}"]


def contents(root: Path) -> dict[str, bytes] | None:
    """What is compared of a complete run; None if there is none."""
    (folder,) = (*(root / "runs" / "main").glob("[!.]*"), None)[:1]
    return None if folder is None else compared(folder)


def compared(folder: Path) -> dict[str, bytes]:
    """The files that are compared, seconds and memory left out."""
    told = {name: (folder / name).read_bytes() for name in COMPARED}
    summary = json.loads(told["summary.json"])
    return told | {"summary.json": json.dumps({key: value for key, value in summary.items() if key not in UNTIMED}).encode()}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> int:
    """Bytes at which files differ, those that one has more than the other included."""
    return sum(
        sum(a != b for a, b in zip(one[name], other[name], strict=False)) + abs(len(one[name]) - len(other[name])) for name in one
    )


def started(call: list[str], log) -> subprocess.Popen:
    return subprocess.Popen(call, start_new_session=True, stdout=log, stderr=log)


def measure(kills: int, steps: int, every: int, seed: int) -> dict:
    rng, deaths, completions = random.Random(seed), [], []
    with tempfile.TemporaryDirectory() as scratch:
        root, log = Path(scratch), (Path(scratch) / "log").open("ab")
        begun = time.perf_counter()
        started(command(steps, every, root / "alone"), log).wait()
        whole, alone = time.perf_counter() - begun, contents(root / "alone")
        if alone is None:
            sys.exit("the undisturbed run did not complete:\n" + (root / "log").read_text())
        place, lives = root / "killed", 0
        while len(deaths) < kills or lives:
            process, lives, after = started(command(steps, every, place), log), lives + 1, rng.uniform(0, whole)
            try:
                process.wait(timeout=after if len(deaths) < kills else None)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                reached = sorted(path.name for path in (place / "checkpoints").glob("*/*/task*"))
                deaths.append({"after": round(after, 2), "newest": reached[-1] if reached else None})
                continue
            if process.returncode:
                sys.exit(f"a run ended with code {process.returncode}:\n" + (root / "log").read_text()[-3000:])
            completions.append({"lives": lives, "differing_bytes": differing(alone, contents(place))})
            print(f"{len(deaths)} kills, complete after {lives} lives: {completions[-1]['differing_bytes']} bytes", file=sys.stderr)
            shutil.rmtree(place)
            lives = 0
    sizes = {name: len(content) for name, content in alone.items()}
    return {"seconds_alone": whole, "compared_bytes": sizes, "kills": deaths, "completions": completions}


def markdown(stored: dict) -> str:
    midst = sum(kill["newest"] is not None for kill in stored["kills"])
    told, about = stored["completions"], stored["machine"]
    return (
        f"`{stored['command']}`, {about['cores']} cores ({about['cpu']}). Undisturbed, the run takes {stored['seconds_alone']:.0f} s; "
        f"compared are {sum(stored['compared_bytes'].values()):,} bytes.\n\n"
        "| kills | of them after the first checkpoint | complete runs | lives they took | differing bytes |\n|---|---|---|---|---|\n"
        f"| {len(stored['kills'])} | {midst} | {len(told)} | {', '.join(str(t['lives']) for t in told)} "
        f"| {sum(t['differing_bytes'] for t in told)} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="(30)")
    parser.add_argument("--steps", type=int, default=3000, help="a task (3000)")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (0)")
    parser.add_argument("--folder", type=Path, default=Path("results/bench"), help="where to write (results/bench)")
    given = parser.parse_args()
    options = [
        f"--{name} {getattr(given, name)}"
        for name in ("kills", "steps", "every", "seed")
        if getattr(given, name) != parser.get_default(name)
    ]
    stored = {"command": " ".join(["python scripts/kill_runs.py", *options]), "machine": machine()}
    stored |= measure(given.kills, given.steps, given.every, given.seed)
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "kill_runs.json").write_text(json.dumps(stored, indent=1) + "\n")
    (given.folder / "kill_runs.md").write_text(markdown(stored))
    print(markdown(stored))
    sys.exit(any(told["differing_bytes"] for told in stored["completions"]))


if __name__ == "__main__":
    main()
