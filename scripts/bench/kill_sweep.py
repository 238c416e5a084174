"""A sweep of several workers killed at random instants and launched again: what is lost?

    python scripts/bench/kill_sweep.py                   24 runs, 2 workers, 20 kills
    python scripts/bench/kill_sweep.py --kills 2 --steps 20 --seeds 2 --folder PATH

First the sweep goes undisturbed. Then all of its processes get SIGKILL at once, each time after a
time drawn evenly from nothing to what the undisturbed sweep took, and the same command is given
again, until it has been killed often enough; a sweep that completes is compared with the
undisturbed one, deleted and started from nothing. A folder that has appeared must never change
again: a run is then complete once, and made once. Compared byte by byte: config.yaml, arrays.npz,
rows.parquet, and summary.json but for seconds and memory. Writes kill_sweep.{json,md} under
results/bench; exit code 1 if anything is lost, doubled, different or left behind.
"""

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from kill_runs import compared, completes, differing
from publish import command, machine, parser, publish

METHODS = ("naive", "er", "ewc")
WIDTHS = (32, 64)


def command_of(seeds: int, steps: int, root: Path) -> list[str]:
    run = [
        "-m",
        f"method={','.join(METHODS)}",
        f"network.width={','.join(map(str, WIDTHS))}",
        f"seed=range({seeds})",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "training.batch_size=32",
        "training.learning_rate=0.1",
        "training.allow_unstable=true",
        f"training.steps={steps}",
        "forecast.anchors=[]",
        f"checkpoints.every={max(1, steps // 3)}",
        "tracking=disabled",
    ]
    return [sys.executable, "-m", "ntkcl", *run, f"results_dir={root}"]


def folders(root: Path) -> dict[str, Path]:
    return {path.name: path for path in (root / "runs" / "main").glob("[!.]*")}


def stamps(root: Path) -> dict[str, tuple]:
    """By run, what changes when it is written again: the folder, and its files' times."""
    return {
        name: (
            path.stat().st_ino,
            *((file, (path / file).stat().st_mtime_ns) for file in ("summary.json", "arrays.npz")),
        )
        for name, path in folders(root).items()
    }


def measure(seeds: int, steps: int, kills: int, draw: int) -> dict:
    rng, deaths, completions = random.Random(draw), [], []
    with tempfile.TemporaryDirectory() as scratch:
        root, log = Path(scratch), Path(scratch) / "log"
        begun = time.perf_counter()
        completes(command_of(seeds, steps, root / "alone"), log)
        whole, alone = (
            time.perf_counter() - begun,
            {name: compared(path) for name, path in folders(root / "alone").items()},
        )
        place, lives, seen, rewritten = root / "killed", 0, {}, set()
        while len(deaths) < kills or lives:
            after, lives, begun = rng.uniform(0, whole), lives + 1, time.time()
            limit = after if len(deaths) < kills else None
            complete = completes(command_of(seeds, steps, place), log, limit)
            now = stamps(place)
            rewritten |= {name for name, stamp in seen.items() if now.get(name) != stamp}
            seen = now
            if not complete:
                # Those of earlier kills, which wait to be taken over, are older.
                locks = sum(
                    lock.stat().st_mtime > begun
                    for lock in (place / "sweeps" / "main").glob("*.lock")
                )
                deaths.append({"after": round(after, 2), "complete": len(now), "at_work": locks})
                print(
                    f"kill {len(deaths)} after {after:.0f} s: "
                    f"{len(now)} runs complete, {locks} at work",
                    file=sys.stderr,
                )
                continue
            made = {name: compared(path) for name, path in folders(place).items()}
            completions.append(
                {
                    "lives": lives,
                    "runs": len(made),
                    "lost": len(alone.keys() - made.keys()),
                    "doubled": len(made.keys() - alone.keys()) + len(rewritten),
                    "differing_bytes": sum(
                        differing(alone[name], made[name]) for name in alone.keys() & made.keys()
                    ),
                    "left_behind": sorted(
                        path.name for path in (place / "sweeps" / "main").glob("*.lock")
                    ),
                }
            )
            shutil.rmtree(place)
            lives, seen, rewritten = 0, {}, set()
    size = sum(len(content) for files in alone.values() for content in files.values())
    return {
        "seconds_alone": whole,
        "runs": len(alone),
        "compared_bytes": size,
        "kills": deaths,
        "completions": completions,
    }


def markdown(stored: dict) -> str:
    completions, about = stored["completions"], stored["machine"]
    columns = ("lost", "doubled", "differing_bytes")
    return (
        f"`{stored['command']}`, {about['cores']} cores ({about['cpu']}). "
        f"A sweep of {stored['runs']} runs, 2 workers; undisturbed it "
        f"takes {stored['seconds_alone']:.0f} s; "
        f"compared are {stored['compared_bytes']:,} bytes.\n\n"
        "| kills | complete sweeps | launches they took | runs lost | runs doubled "
        "| differing bytes |\n"
        "|---|---|---|---|---|---|\n"
        f"| {len(stored['kills'])} | {len(completions)} "
        f"| {', '.join(str(t['lives']) for t in completions)} "
        f"| {' | '.join(str(sum(t[c] for t in completions)) for c in columns)} |\n"
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=20, help="(20)")
    options.add_argument("--seeds", type=int, default=4, help="of each of 6 cells (4)")
    options.add_argument("--steps", type=int, default=300, help="a task (300)")
    options.add_argument("--draw", type=int, default=0, help="seed of the instants (0)")
    given = options.parse_args()
    stored = {"command": command("kill_sweep", options, given), "machine": machine()}
    stored |= measure(given.seeds, given.steps, given.kills, given.draw)
    publish(given.folder, "kill_sweep", stored, markdown)
    failures = ("lost", "doubled", "differing_bytes", "left_behind")
    sys.exit(any(sweep[key] for sweep in stored["completions"] for key in failures))


if __name__ == "__main__":
    main()
