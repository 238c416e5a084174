"""A run with checkpoints killed at random instants and started again: do its results differ?

    python scripts/bench/kill_runs.py                   30 kills
    python scripts/bench/kill_runs.py --kills 3 --steps 60 --folder PATH

First the run goes undisturbed. Then its process and all that it has started get SIGKILL after a
time drawn evenly from nothing to the undisturbed run's, and the same command is given again, until
it has been killed often enough; a run that completes is compared with the undisturbed one, deleted,
and started from nothing. Compared byte by byte: config.yaml, arrays.npz, rows.parquet, and
summary.json but for seconds and memory. The run: DER++ with momentum carried over five tasks of
digits, so that parameters, momentum, buffer and counts must all come back. Writes
kill_runs.{json,md} under results/bench; exit code 1 if a byte differs.
"""

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

from publish import command, machine, parser, publish

COMPARED = ("config.yaml", "arrays.npz", "rows.parquet", "summary.json")
UNTIMED = ("seconds", "peak_mib", "environment")


def command_of(steps: int, every: int, root: Path) -> list[str]:
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
    """The files that are compared, without seconds and memory."""
    files = {name: (folder / name).read_bytes() for name in COMPARED}
    summary = json.loads(files["summary.json"])
    return files | {
        "summary.json": json.dumps(
            {key: value for key, value in summary.items() if key not in UNTIMED}
        ).encode()
    }


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> int:
    """Bytes at which files differ, those that one has more than the other included."""
    return sum(
        sum(a != b for a, b in zip(one[name], other[name], strict=False))
        + abs(len(one[name]) - len(other[name]))
        for name in one
    )


def completes(call: list[str], log: Path, limit: float | None = None) -> bool:
    """Whether a command ends before `limit` seconds.

    If not, it and all that it has started get SIGKILL. Its output is appended to `log`. SystemExit
    if it ends with an error.
    """
    with log.open("ab") as file:
        process = subprocess.Popen(call, start_new_session=True, stdout=file, stderr=file)
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
    if process.returncode:
        sys.exit(
            f"{' '.join(call[2:])} ended with code {process.returncode}:\n{log.read_text()[-3000:]}"
        )
    return True


def measure(kills: int, steps: int, every: int, seed: int) -> dict:
    rng, deaths, completions = random.Random(seed), [], []
    with tempfile.TemporaryDirectory() as scratch:
        root, log = Path(scratch), Path(scratch) / "log"
        start = time.perf_counter()
        completes(command_of(steps, every, root / "alone"), log)
        whole, alone = time.perf_counter() - start, contents(root / "alone")
        if alone is None:
            sys.exit("the undisturbed run left no result:\n" + log.read_text())
        place, lives = root / "killed", 0
        while len(deaths) < kills or lives:
            lives, after = lives + 1, rng.uniform(0, whole)
            limit = after if len(deaths) < kills else None
            if not completes(command_of(steps, every, place), log, limit):
                reached = sorted(path.name for path in place.glob("checkpoints/*/*/task*"))
                newest = reached[-1] if reached else None
                deaths.append({"after": round(after, 2), "newest": newest})
                continue
            count = differing(alone, contents(place))
            completions.append({"lives": lives, "differing_bytes": count})
            print(
                f"{len(deaths)} kills, complete after {lives} lives: {count} bytes",
                file=sys.stderr,
            )
            shutil.rmtree(place)
            lives = 0
    sizes = {name: len(content) for name, content in alone.items()}
    return {
        "seconds_alone": whole,
        "compared_bytes": sizes,
        "kills": deaths,
        "completions": completions,
    }


def markdown(stored: dict) -> str:
    midst = sum(kill["newest"] is not None for kill in stored["kills"])
    completions, about = stored["completions"], stored["machine"]
    return (
        f"`{stored['command']}`, {about['cores']} cores ({about['cpu']}). "
        f"Undisturbed, the run takes {stored['seconds_alone']:.0f} s; "
        f"compared are {sum(stored['compared_bytes'].values()):,} bytes.\n\n"
        "| kills | of them after the first checkpoint | complete runs | lives they took "
        "| differing bytes |\n|---|---|---|---|---|\n"
        f"| {len(stored['kills'])} | {midst} | {len(completions)} "
        f"| {', '.join(str(t['lives']) for t in completions)} "
        f"| {sum(t['differing_bytes'] for t in completions)} |\n"
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=30, help="(30)")
    options.add_argument("--steps", type=int, default=3000, help="a task (3000)")
    options.add_argument("--every", type=int, default=100, help="steps between checkpoints (100)")
    options.add_argument("--seed", type=int, default=0, help="of the instants (0)")
    given = options.parse_args()
    stored = {"command": command("kill_runs", options, given), "machine": machine()}
    stored |= measure(given.kills, given.steps, given.every, given.seed)
    publish(given.folder, "kill_runs", stored, markdown)
    sys.exit(any(run["differing_bytes"] for run in stored["completions"]))


if __name__ == "__main__":
    main()
