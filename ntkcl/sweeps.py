"""A sweep, from its jobs to their runs: which it still lacks, who makes them, how far it is, what failed.

`launch` stands between Hydra's sweepers and its launchers, whichever they are (`hydra_plugins.ntkcl_sweep`). Everything it knows it
reads from the folders of the runs, so several launches of one sweep, on several machines, see the same.
"""

import itertools
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from ntkcl import claims, configuration, console, experiment, identity, machine, stored
from ntkcl.results import check_number, logged
from ntkcl.settings import whole

UNNAMED = "main"  # the experiment_name of whoever gives none: it may mean anything
NO_SWEEP = "-m: expected settings of runs; table, report and dashboard take no sweep, leave -m out"
EVERY = 5.0  # seconds between two lines of progress, at least


class Job(NamedTuple):
    """What Hydra would launch: overrides, the configuration they make, and the folder of each of its runs (one a seed)."""

    overrides: Sequence[str]
    cfg: DictConfig
    folders: tuple[Path, ...]

    @property
    def state(self) -> str:
        """That of its runs which is furthest from complete, in the order of `claims.STATES`."""
        return max(map(claims.state, self.folders), key=claims.STATES.index)


def launch(context, task, master: DictConfig, wraps: str, overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """The returns of all jobs, once those that are lacking have been made.

    Arguments:
      context, task: Hydra's.  master: the configuration of the whole.  wraps: the launcher's class, by its import path.
      overrides: of each job.  first: the first job's number.
    Raises ValueError, before anything is launched, for a configuration that cannot be, for a launcher that is not installed, and where
    the experiment's name stands for another sweep already. Exits with code 1, all told, where runs of a plain sweep failed.
    """
    if "sweep" not in master:
        raise ValueError(NO_SWEEP)
    jobs = [job(cfg, chosen) for cfg, chosen in zip(configurations(context.config_loader, master, overrides), overrides, strict=True)]
    chosen, plain = master.sweep, master.hydra.sweeper._target_.endswith("BasicSweeper")
    optimises = "direction" in master.hydra.sweeper
    if optimises and chosen.objective is None:
        raise ValueError(
            f"sweep.objective=null: expected what hydra/sweeper={master.hydra.runtime.choices['hydra/sweeper']} is to optimise, "
            "a number of summary.json such as metrics.average_accuracy"
        )
    lacking = [k for k, one in enumerate(jobs) if any(_lacks(one.cfg, folder) for folder in one.folders)]
    busy = [k for k, one in enumerate(jobs) if k not in lacking and one.state == "running"]  # last: their owners may yet die
    folders = list(dict.fromkeys(itertools.chain.from_iterable(one.folders for one in jobs)))
    for name, told in _meanings(jobs).items():
        keep_meaning(Path(master.results_dir), name, told, chosen.extend or optimises, write=not chosen.dry)
    if chosen.dry:
        listed(jobs, set(lacking))
        if optimises:
            print("these alone: what follows depends on what they find")
            sys.exit(0)
        return [skipped(one) for one in jobs]
    inner = _wrapped(context, task, master, wraps)
    made: dict[int, JobReturn] = {}
    todo = lacking + busy
    size = max(1, machine.workers(chosen.workers) if wraps.endswith(".LocalLauncher") else len(todo))  # which starts all at once
    try:
        with told_progress(folders) if len(folders) > 1 else nullcontext():
            for at in range(0, len(todo), size):
                part = todo[at : at + size]
                made |= dict(zip(part, inner.launch([jobs[k].overrides for k in part], first + at), strict=True))
    finally:  # a worker that is killed may take the launcher with it
        Path(master.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # sweepers write there, and claims clear an empty one away
        failed = [one for one in jobs if any(claims.state(folder) == "failed" for folder in one.folders)]
        if failed:
            told_failures(failed)
    if failed and plain:  # others decide for themselves what a failure means
        sys.exit(1)
    return [made.get(k) or skipped(one) for k, one in enumerate(jobs)]


def check_sweeper(sweeper: DictConfig) -> None:
    """ValueError for a number of jobs at once of which Hydra's sweepers make an empty assertion, or
    go on for ever."""
    for key in ("max_batch_size", "n_jobs"):
        if sweeper.get(key) is not None:
            whole(f"hydra.sweeper.{key}", sweeper[key])


def _lacks(cfg, folder) -> bool:
    return claims.wanted(claims.state(folder), cfg.sweep.retry) or unlogged(cfg, folder)


def unlogged(cfg: DictConfig, folder: Path) -> bool:
    """Whether a complete run is still to be logged to W&B."""
    return cfg.tracking.mode != "disabled" and folder.exists() and not logged(folder)


def job(cfg: DictConfig, overrides: Sequence[str]) -> Job:
    """ValueError for a configuration that cannot be, as far as that is known without data."""
    configuration.check(cfg)
    parts = configuration.parts(cfg)
    parts["network"](outputs=2)  # whatever the data have
    experiment.check_training(parts["training"])
    check_objective(cfg)
    return Job(overrides, cfg, tuple(identity.place(one)[0] for one in identity.seeds_of(cfg)))


def configurations(loader, master: DictConfig, jobs: Iterable[Sequence[str]]) -> Iterator[DictConfig]:
    """Each job's configuration as Hydra composes it. Jobs that differ in plain values alone share one composition: it takes longest."""
    parser, composed = OverridesParser.create(), {}
    for overrides in jobs:
        parsed = parser.parse_overrides(list(overrides))
        plain = [o for o in parsed if _plain(o, master)]
        structure = tuple(o.input_line for o in parsed if not _plain(o, master))
        if structure not in composed:
            composed[structure] = loader.load_sweep_config(master, list(structure))
        cfg = composed[structure].copy()
        try:
            for o in plain:
                OmegaConf.update(cfg, o.key_or_group, o.value(), merge=True)
        except Exception:
            cfg = loader.load_sweep_config(master, list(overrides))  # which tells what is wrong in Hydra's own words
        with open_dict(cfg):
            cfg.pop("hydra", None)
        yield cfg


def _plain(override, master) -> bool:
    """Whether it sets the value of a key that is there, and not which part of the configuration is composed."""
    key = override.key_or_group
    composes = key in master.hydra.runtime.choices or "/" in key or override.package is not None
    return not (composes or override.is_add() or override.is_delete() or override.is_force_add())


def _wrapped(context, task, master, wraps):
    inner = master.copy()
    with open_dict(inner):
        inner.hydra.launcher._target_ = wraps
    try:
        return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=inner)
    except (RuntimeError, ImportError) as error:
        name = master.hydra.runtime.choices["hydra/launcher"]
        raise ValueError(
            f"hydra/launcher={name}: not installed; it comes with an extra: pip install -e '.[launchers]' in a checkout of ntkcl"
        ) from error


def skipped(one: Job) -> JobReturn:
    """What a job that was not launched returns: what it returned when it was."""
    back = JobReturn(overrides=list(one.overrides), cfg=one.cfg, status=JobStatus.COMPLETED)
    back.return_value = objective(one.cfg, one.folders)
    return back


def check_objective(cfg: DictConfig) -> None:
    """ValueError for a `sweep.objective` that no such run will have."""
    if cfg.sweep.objective is not None and cfg.job == "run":
        check_number("sweep.objective", cfg.sweep.objective, list(cfg.forecast.anchors), list(cfg.references))


def objective(cfg: DictConfig, folders: Sequence[Path]) -> float | None:
    """The mean over the seeds of the number `sweep.objective` of their summaries, such as metrics.average_accuracy; None where none is
    asked for, a run is lacking, or its number is null."""
    if cfg.sweep.objective is None:
        return None
    values: list[float] = []
    for folder in folders:
        with suppress(stored.Damaged):
            found = stored.summary(folder)
            for key in cfg.sweep.objective.split("."):
                if not isinstance(found, dict) or key not in found:
                    raise ValueError(f"sweep.objective={cfg.sweep.objective}: no such number in {folder / 'summary.json'}")
                found = found[key]
            if found is None:  # it diverged
                return None
            if not isinstance(found, int | float):
                raise ValueError(f"sweep.objective={cfg.sweep.objective}: is {found} in {folder / 'summary.json'}; expected a number")
            values.append(float(found))
    return sum(values) / len(values) if len(values) == len(folders) else None


# What a name means


def _meanings(jobs) -> dict[str, dict[str, list]]:
    """For each experiment's name, each setting's values over the jobs, by dotted name."""
    by_name: dict[str, dict[str, list]] = {}
    for one in jobs:
        told = by_name.setdefault(one.cfg.experiment_name, {})
        for key, value in identity.flat(identity.coordinates(one.cfg)).items():
            values = told.setdefault(key, [])
            if value not in values:
                values.append(value)
    return by_name


def keep_meaning(results_dir: Path, name: str, told: Mapping[str, list], extend: bool, write: bool = True) -> None:
    """Joins a sweep to those of its name; ValueError where a setting that no sweep of this name varies has another value in it. A name
    under which no run is complete is free."""
    if name == UNNAMED:
        return
    path, before = results_dir / "sweeps" / name / "sweep.json", {}
    if any(not Path(entry).name.startswith(".") for entry in _names(results_dir / "runs" / name)):
        with suppress(OSError, ValueError, RecursionError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            kept = kept if isinstance(kept, dict) else {}
            before = {key: value for key, value in kept.items() if isinstance(value, list)}
    for key in before.keys() & told.keys():
        if len(before[key]) == len(told[key]) == 1 and before[key] != told[key] and not extend:
            raise ValueError(
                f"experiment_name={name}: stands for a sweep with {key}={before[key][0]}, and this one has {told[key][0]}; give it "
                f"another experiment_name, or sweep.extend=true to add to that one ({path})"
            )
    if not write:
        return
    joined = {key: before.get(key, []) + [v for v in told.get(key, []) if v not in before.get(key, [])] for key in {**before, **told}}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}-{os.getpid()}")
    fresh.write_text(json.dumps(joined, indent=1) + "\n")
    fresh.replace(path)


# How far it is


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
    there = {path for parent in {f.parent for f in folders} for path in _names(parent)}
    notes = {path for parent in {claims.beside(f).parent for f in folders} for path in _names(parent)}

    def stands(folder):
        note, done = str(claims.beside(folder)), str(folder) in there
        if done and damaged and folder in damaged:
            with suppress(OSError):  # it is being replaced
                done = folder.stat().st_ino != damaged[folder]
        if done:
            return 0
        return 1 if f"{note}.lock" in notes else 2 if f"{note}.failed.json" in notes else 3

    told = [stands(folder) for folder in folders]
    return Count(*(told.count(k) for k in range(4)))


def _names(folder) -> list[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [entry.path for entry in entries]
    return []


@contextmanager
def told_progress(folders: Sequence[Path]) -> Iterator[None]:
    """While the block runs, a line whenever something has changed: done, running, failed, left, and the time that may remain."""
    say, begun, ended = console.told(console.terminal()), time.monotonic(), threading.Event()
    spoilt = damaged(folders)
    before = count(folders, spoilt)
    say(f"{len(folders)} runs: {before.done} done, {before.failed} failed before, {before.running} running, {before.left} left")

    def watch():
        last = before
        while not ended.wait(EVERY):
            now = count(folders, spoilt)
            if now != last:
                say(_line(now, now.done - before.done, time.monotonic() - begun, len(folders)))
                last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        now = count(folders, spoilt)
        elsewhere = f"{now.running} running elsewhere, " if now.running else ""
        took = duration(time.monotonic() - begun)
        say(f"{now.done} of {len(folders)} done, {now.failed} failed, {elsewhere}{now.left} left, in {took}")


def _line(now, made, seconds, total) -> str:
    left = now.left + now.running
    remaining = f", about {duration(seconds / made * left)} to go" if made and left else ""
    return f"{now.done} of {total} done, {now.running} running, {now.failed} failed, {now.left} left{remaining}"


def duration(seconds: float) -> str:
    """Such as 40 s, 3 min, 2.5 h."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def listed(jobs: Sequence[Job], lacking: set[int]) -> None:
    """What would be launched and what would not, each job with its command."""
    for k, one in enumerate(jobs):
        print(f"{one.state:9}{'launch' if k in lacking else 'leave':8}{command(one)}")
    print(f"{len(lacking)} of {len(jobs)} jobs would be launched")


def told_failures(failed: Sequence[Job]) -> None:
    """Every failed run, the first line of its error, and the command that makes it alone."""
    print(f"ntkcl: {len(failed)} failed; the same command tries them again, sweep.retry=none leaves them", file=sys.stderr)
    for one in failed:
        for folder in one.folders:
            if claims.outcome(folder) == "failed" and (told := claims.failure(folder)) is not None:
                print(f"  {folder.name}: {told['error']}\n    {command(one)}", file=sys.stderr)


def failures(results_dir: Path, experiments: Sequence[str]) -> list[dict]:
    """What failed runs have left, `name` beside what `claims.failure` tells, of some experiments or of all."""
    folders = [results_dir / "sweeps" / name for name in experiments] or list((results_dir / "sweeps").glob("*"))
    runs = [
        results_dir / "runs" / note.parent.name / note.name.removesuffix(".failed.json")
        for folder in folders
        for note in sorted(folder.glob("*.failed.json"))
    ]
    told = [(run, claims.failure(run)) for run in runs if claims.outcome(run) == "failed"]
    return [{"name": run.name} | note for run, note in told if note is not None]


def command(one: Job) -> str:
    return shlex.join(["ntkcl", *(o for o in one.overrides if not o.startswith("sweep.dry"))])
