"""A sweep, from its jobs to their runs: which are missing, who makes them, what failed.

`launch` stands between Hydra's sweepers and its launchers, whichever they are
(`hydra_plugins.ntkcl_sweep`). Everything it knows it reads from the folders of the runs, so several
launches of one sweep, on several machines, see the same.
"""

import itertools
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from ntkcl.cli import config, objective, parts
from ntkcl.cli.config import Request
from ntkcl.cli.progress import progress_lines
from ntkcl.runs import files, identity, lock, machine
from ntkcl.runs.experiment_name import register_sweep
from ntkcl.validation import SettingError, whole

NO_SWEEP = "-m: expected settings of runs; table, report and dashboard take no sweep, leave -m out"


class SweepJob(NamedTuple):
    """What Hydra would launch: overrides, the configuration they make, a request for each run."""

    overrides: Sequence[str]
    cfg: DictConfig
    requests: tuple[Request, ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(one.run.folder for one in self.requests)

    @property
    def state(self) -> str:
        """That of its runs which is furthest from complete, in the order of `lock.STATES`."""
        return max(map(lock.state, self.folders), key=lock.STATES.index)

    @property
    def failed(self) -> bool:
        return any(lock.state(folder) == "failed" for folder in self.folders)

    @property
    def missing(self) -> bool:
        """Whether one of its runs is to be made, or to be logged."""
        return any(
            lock.wanted(lock.state(one.run.folder), one.retry) or files.unlogged(one.run)
            for one in self.requests
        )

    @property
    def command(self) -> str:
        """That makes it alone."""
        overrides = (o for o in self.overrides if not o.startswith("sweep.dry"))
        return shlex.join(["ntkcl", *overrides])


class Ended(BaseException):  # no failure of a job, which is an Exception
    """The sweep is over and all is said: the command is to end with this exit code."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


class Launch(NamedTuple):
    """What came of a launch: Hydra's returns; the exit code of the command where it is to end here,
    else None."""

    returns: list[JobReturn]
    exit_code: int | None = None


def launch(
    context, task, master: DictConfig, wraps: str, overrides: Sequence[Sequence[str]], first: int
) -> Launch:
    """Makes the jobs that are missing.

    Arguments:
      context, task: Hydra's.  master: the configuration of the whole.
      wraps: the launcher's class, by its import path.
      overrides: of each job.  first: the first job's number.
    Raises SettingError, before anything is launched, for a configuration that cannot be, for a
    launcher that is not installed, and where the experiment's name stands for another sweep.
    The exit code is 1 where runs of a plain sweep failed, and 0 where an optimiser lists its first
    trials (sweep.dry).
    """
    jobs = _jobs(context, master, overrides)
    optimises = _check_optimiser(master)
    missing = [job.missing for job in jobs]
    dry, extend = master.sweep.dry, master.sweep.extend or optimises
    for name, values in _values_by_name(jobs).items():
        register_sweep(Path(master.results_dir), name, values, extend, write=not dry)
    if dry:
        _list(jobs, missing)
        if optimises:
            print("these alone: what follows depends on what they find")
        return Launch([skipped(job) for job in jobs], exit_code=0 if optimises else None)
    for job, wanted in zip(jobs, missing, strict=True):
        for folder in () if wanted else job.folders:
            lock.clear_dead(folder)
    busy = [not m and job.state == "running" for job, m in zip(jobs, missing, strict=True)]
    # Those that others are making come last: their owners may yet die.
    order = [k for flags in (missing, busy) for k, flag in enumerate(flags) if flag]
    launcher = _wrapped(context, task, master, wraps)
    try:
        returns = _launch_all(launcher, jobs, order, master, wraps, first)
    finally:  # a worker that is killed may take the launcher with it
        # Sweepers write there, and locks clear an empty folder away.
        Path(master.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        failed = [job for job in jobs if job.failed]
        if failed:
            _print_failures(failed)
    plain = master.hydra.sweeper._target_.endswith("BasicSweeper")
    # Other sweepers decide for themselves what a failure means.
    return Launch(
        [returns.get(k) or skipped(job) for k, job in enumerate(jobs)],
        exit_code=1 if failed and plain else None,
    )


def _jobs(context, master: DictConfig, overrides) -> list[SweepJob]:
    if "sweep" not in master:
        raise SettingError(NO_SWEEP)
    composed = configurations(context.config_loader, master, overrides)
    return [job(cfg, own) for cfg, own in zip(composed, overrides, strict=True)]


def _check_optimiser(master: DictConfig) -> bool:
    """Whether the sweeper optimises; SettingError where it has nothing to."""
    optimises = "direction" in master.hydra.sweeper
    if optimises and master.sweep.objective is None:
        sweeper = master.hydra.runtime.choices["hydra/sweeper"]
        raise SettingError(
            f"sweep.objective=null: expected what hydra/sweeper={sweeper} is to optimise, a number "
            "of summary.json such as metrics.average_accuracy"
        )
    return optimises


def _launch_all(launcher, jobs, order, master, wraps, first) -> dict[int, JobReturn]:
    """Hydra's returns by the job's place; all at once, or as many as `sweep.workers` says where the
    launcher starts every job at the same time."""
    folders = list(dict.fromkeys(itertools.chain.from_iterable(job.folders for job in jobs)))
    all_at_once = wraps.endswith(".LocalLauncher")
    size = max(1, machine.workers(master.sweep.workers) if all_at_once else len(order))
    returns: dict[int, JobReturn] = {}
    with progress_lines(folders) if len(folders) > 1 else nullcontext():
        for at in range(0, len(order), size):
            part = order[at : at + size]
            some = launcher.launch([jobs[k].overrides for k in part], first + at)
            returns |= dict(zip(part, some, strict=True))
    return returns


def check_sweeper(sweeper: DictConfig) -> None:
    """SettingError for a number of jobs at once of which Hydra's sweepers make an empty assertion,
    or go on for ever."""
    for key in ("max_batch_size", "n_jobs"):
        if sweeper.get(key) is not None:
            whole(f"hydra.sweeper.{key}", sweeper[key])


def job(cfg: DictConfig, overrides: Sequence[str]) -> SweepJob:
    """SettingError for a configuration that cannot be, as far as that is known without data."""
    wanted = config.resolve(cfg)
    named = parts.without_data(wanted.requests[0].nodes)
    named["network"](outputs=2)  # whatever the data have
    return SweepJob(overrides, cfg, wanted.requests)


def configurations(
    loader, master: DictConfig, jobs: Iterable[Sequence[str]]
) -> Iterator[DictConfig]:
    """Each job's configuration as Hydra composes it. Jobs that differ in plain values alone share
    one composition: it takes longest."""
    parser, composed = OverridesParser.create(), {}
    for overrides in jobs:
        parsed = parser.parse_overrides(list(overrides))
        plain = [o for o in parsed if _is_plain(o, master)]
        structure = tuple(o.input_line for o in parsed if not _is_plain(o, master))
        if structure not in composed:
            composed[structure] = loader.load_sweep_config(master, list(structure))
        cfg = composed[structure].copy()
        try:
            for o in plain:
                OmegaConf.update(cfg, o.key_or_group, o.value(), merge=True)
        except Exception:  # Hydra says in its own words what is wrong
            cfg = loader.load_sweep_config(master, list(overrides))
        with open_dict(cfg):
            cfg.pop("hydra", None)
        yield cfg


def _is_plain(override, master: DictConfig) -> bool:
    """Whether it sets the value of a key that is there, and not which part is composed."""
    key = override.key_or_group
    composes = key in master.hydra.runtime.choices or "/" in key or override.package is not None
    return not (composes or override.is_add() or override.is_delete() or override.is_force_add())


def _wrapped(context, task, master: DictConfig, wraps: str):
    """The launcher that ours stands before."""
    inner = master.copy()
    with open_dict(inner):
        inner.hydra.launcher._target_ = wraps
    try:
        return Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task, config=inner
        )
    except (RuntimeError, ImportError) as error:
        name = master.hydra.runtime.choices["hydra/launcher"]
        raise SettingError(
            f"hydra/launcher={name}: not installed; it comes with an extra: pip install -e "
            "'.[launchers]' in a checkout of ntkcl"
        ) from error


def skipped(job: SweepJob) -> JobReturn:
    """What a job that was not launched returns: what it returned when it was."""
    back = JobReturn(overrides=list(job.overrides), cfg=job.cfg, status=JobStatus.COMPLETED)
    back.return_value = objective.value(job.requests[0].objective, job.folders)
    return back


def _values_by_name(jobs: Sequence[SweepJob]) -> dict[str, dict[str, list]]:
    """For each experiment's name, each setting's values over the jobs, by dotted name."""
    by_name: dict[str, dict[str, list]] = {}
    for run in (job.requests[0].run for job in jobs):
        settings = by_name.setdefault(run.experiment, {})
        for key, value in identity.flat(run.settings).items():
            values = settings.setdefault(key, [])
            if value not in values:
                values.append(value)
    return by_name


def _list(jobs: Sequence[SweepJob], missing: Sequence[bool]) -> None:
    """Prints what would be launched and what would not, each job with its command."""
    for job, would in zip(jobs, missing, strict=True):
        print(f"{job.state:9}{'launch' if would else 'leave':8}{job.command}")
    print(f"{sum(missing)} of {len(jobs)} jobs would be launched")


def _print_failures(failed: Sequence[SweepJob]) -> None:
    """Every failed run, the first line of its error, and the command that makes it alone."""
    print(
        f"ntkcl: {len(failed)} failed; the same command tries them again, sweep.retry=none leaves "
        "them",
        file=sys.stderr,
    )
    for job in failed:
        for folder in job.folders:
            failure = lock.failure(folder) if lock.outcome(folder) == "failed" else None
            if failure is not None:
                print(f"  {folder.name}: {failure['error']}\n    {job.command}", file=sys.stderr)
