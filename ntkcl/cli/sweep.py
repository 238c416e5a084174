"""A sweep, from its jobs to their runs: which it still lacks, who makes them, how far it is, what failed.

`launch` stands between Hydra's sweepers and its launchers, whichever they are (`hydra_plugins.ntkcl_sweep`). Everything it knows it
reads from the folders of the runs, so several launches of one sweep, on several machines, see the same.
"""

import itertools
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from ntkcl.cli import config
from ntkcl.cli.progress import told_progress
from ntkcl.runs import identity, lock, machine, stored
from ntkcl.runs.experiment_name import keep_meaning
from ntkcl.runs.files import logged
from ntkcl.runs.schema import check_number
from ntkcl.training.settings import check_training
from ntkcl.validation import whole

NO_SWEEP = "-m: expected settings of runs; table, report and dashboard take no sweep, leave -m out"


class Job(NamedTuple):
    """What Hydra would launch: overrides, the configuration they make, and the folder of each of its runs (one a seed)."""

    overrides: Sequence[str]
    cfg: DictConfig
    folders: tuple[Path, ...]

    @property
    def state(self) -> str:
        """That of its runs which is furthest from complete, in the order of `claims.STATES`."""
        return max(map(lock.state, self.folders), key=lock.STATES.index)


def launch(
    context, task, master: DictConfig, wraps: str, overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """The returns of all jobs, once those that are lacking have been made.

    Arguments:
      context, task: Hydra's.  master: the configuration of the whole.  wraps: the launcher's class, by its import path.
      overrides: of each job.  first: the first job's number.
    Raises ValueError, before anything is launched, for a configuration that cannot be, for a launcher that is not installed, and where
    the experiment's name stands for another sweep already. Exits with code 1, all told, where runs of a plain sweep failed.
    """
    if "sweep" not in master:
        raise ValueError(NO_SWEEP)
    jobs = [
        job(cfg, chosen)
        for cfg, chosen in zip(
            configurations(context.config_loader, master, overrides), overrides, strict=True
        )
    ]
    chosen, plain = master.sweep, master.hydra.sweeper._target_.endswith("BasicSweeper")
    optimises = "direction" in master.hydra.sweeper
    if optimises and chosen.objective is None:
        raise ValueError(
            f"sweep.objective=null: expected what hydra/sweeper={master.hydra.runtime.choices['hydra/sweeper']} is to optimise, "
            "a number of summary.json such as metrics.average_accuracy"
        )
    lacking = [
        k for k, one in enumerate(jobs) if any(_lacks(one.cfg, folder) for folder in one.folders)
    ]
    busy = [
        k for k, one in enumerate(jobs) if k not in lacking and one.state == "running"
    ]  # last: their owners may yet die
    folders = list(dict.fromkeys(itertools.chain.from_iterable(one.folders for one in jobs)))
    for name, told in _meanings(jobs).items():
        keep_meaning(
            Path(master.results_dir), name, told, chosen.extend or optimises, write=not chosen.dry
        )
    if chosen.dry:
        listed(jobs, set(lacking))
        if optimises:
            print("these alone: what follows depends on what they find")
            sys.exit(0)
        return [skipped(one) for one in jobs]
    inner = _wrapped(context, task, master, wraps)
    made: dict[int, JobReturn] = {}
    todo = lacking + busy
    size = max(
        1, machine.workers(chosen.workers) if wraps.endswith(".LocalLauncher") else len(todo)
    )  # which starts all at once
    try:
        with told_progress(folders) if len(folders) > 1 else nullcontext():
            for at in range(0, len(todo), size):
                part = todo[at : at + size]
                made |= dict(
                    zip(
                        part,
                        inner.launch([jobs[k].overrides for k in part], first + at),
                        strict=True,
                    )
                )
    finally:  # a worker that is killed may take the launcher with it
        Path(master.hydra.sweep.dir).mkdir(
            parents=True, exist_ok=True
        )  # sweepers write there, and claims clear an empty one away
        failed = [
            one for one in jobs if any(lock.state(folder) == "failed" for folder in one.folders)
        ]
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
    return lock.wanted(lock.state(folder), cfg.sweep.retry) or unlogged(cfg, folder)


def unlogged(cfg: DictConfig, folder: Path) -> bool:
    """Whether a complete run is still to be logged to W&B."""
    return cfg.tracking.mode != "disabled" and folder.exists() and not logged(folder)


def job(cfg: DictConfig, overrides: Sequence[str]) -> Job:
    """ValueError for a configuration that cannot be, as far as that is known without data."""
    config.check(cfg)
    parts = config.parts(cfg)
    parts["network"](outputs=2)  # whatever the data have
    check_training(parts["training"])
    check_objective(cfg)
    return Job(overrides, cfg, tuple(identity.place(one)[0] for one in identity.seeds_of(cfg)))


def configurations(
    loader, master: DictConfig, jobs: Iterable[Sequence[str]]
) -> Iterator[DictConfig]:
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
            cfg = loader.load_sweep_config(
                master, list(overrides)
            )  # which tells what is wrong in Hydra's own words
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
        return Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task, config=inner
        )
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
        check_number(
            "sweep.objective", cfg.sweep.objective, list(cfg.forecast.anchors), list(cfg.references)
        )


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
                    raise ValueError(
                        f"sweep.objective={cfg.sweep.objective}: no such number in {folder / 'summary.json'}"
                    )
                found = found[key]
            if found is None:  # it diverged
                return None
            if not isinstance(found, int | float):
                raise ValueError(
                    f"sweep.objective={cfg.sweep.objective}: is {found} in {folder / 'summary.json'}; expected a number"
                )
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


# How far it is


def listed(jobs: Sequence[Job], lacking: set[int]) -> None:
    """What would be launched and what would not, each job with its command."""
    for k, one in enumerate(jobs):
        print(f"{one.state:9}{'launch' if k in lacking else 'leave':8}{command(one)}")
    print(f"{len(lacking)} of {len(jobs)} jobs would be launched")


def told_failures(failed: Sequence[Job]) -> None:
    """Every failed run, the first line of its error, and the command that makes it alone."""
    print(
        f"ntkcl: {len(failed)} failed; the same command tries them again, sweep.retry=none leaves them",
        file=sys.stderr,
    )
    for one in failed:
        for folder in one.folders:
            if lock.outcome(folder) == "failed" and (told := lock.failure(folder)) is not None:
                print(f"  {folder.name}: {told['error']}\n    {command(one)}", file=sys.stderr)


def command(one: Job) -> str:
    return shlex.join(["ntkcl", *(o for o in one.overrides if not o.startswith("sweep.dry"))])
