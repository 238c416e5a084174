"""How many runs of a sweep are complete, running, failed or missing, read from folders alone."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ntkcl.runs import lock, stored


class Count(NamedTuple):
    """Runs of a sweep by what has become of them."""

    done: int
    running: int
    failed: int
    left: int


def damaged(folders: Sequence[Path]) -> dict[Path, int]:
    """The inodes of the folders that are there and whose run is missing all the same: its files are
    damaged."""
    there = (folder for folder in folders if folder.is_dir() and stored.glance(folder) is None)
    return {folder: folder.stat().st_ino for folder in there}


def count(folders: Sequence[Path], damaged: Mapping[Path, int] | None = None) -> Count:
    """From the names of files alone: a thousand runs are looked through in milliseconds. What
    `damaged` found is done once another folder is in its place."""
    there = {path for parent in {f.parent for f in folders} for path in entries(parent)}
    notes = {
        path for parent in {lock.beside(f).parent for f in folders} for path in entries(parent)
    }

    def stands(folder):
        note, done = str(lock.beside(folder)), str(folder) in there
        if done and damaged and folder in damaged:
            with suppress(OSError):  # it is being replaced
                done = folder.stat().st_ino != damaged[folder]
        if done:
            return 0
        return 1 if f"{note}.lock" in notes else 2 if f"{note}.failed.json" in notes else 3

    states = [stands(folder) for folder in folders]
    return Count(*(states.count(k) for k in range(4)))


def entries(folder: Path) -> list[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [entry.path for entry in entries]
    return []


def failures(results_dir: Path, experiments: Sequence[str]) -> list[dict]:
    """What failed runs have left, `name` beside what `claims.failure` tells, of some experiments or
    of all."""
    folders = [results_dir / "sweeps" / name for name in experiments] or list(
        (results_dir / "sweeps").glob("*")
    )
    runs = [
        results_dir / "runs" / note.parent.name / note.name.removesuffix(".failed.json")
        for folder in folders
        for note in sorted(folder.glob("*.failed.json"))
    ]
    notes = [(run, lock.failure(run)) for run in runs if lock.outcome(run) == "failed"]
    return [{"name": run.name} | note for run, note in notes if note is not None]
