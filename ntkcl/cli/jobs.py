"""One job of the command: runs, or a plan, from a configuration to folders."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ntkcl import compilation, experiment, planning, sources, whatif
from ntkcl.cli import ahead, config, objective
from ntkcl.cli.config import Request
from ntkcl.cli.overrides import typed
from ntkcl.cli.work import Work, build, description, inputs, sharing
from ntkcl.experiment import record
from ntkcl.experiment.events import Baselines, Event
from ntkcl.experiment.record import Record
from ntkcl.reporting import console, final_table
from ntkcl.resources import Meter
from ntkcl.runs import files, lock, machine, reference_cache
from ntkcl.runs import rows as run_rows
from ntkcl.runs.identity import RUN_JOBS, Run
from ntkcl.runs.summary import environment, summarise
from ntkcl.validation import SettingError

# What only some commands need is imported where they do: W&B, matplotlib, plotly, orbax.
FIGURES, WANDB = "ntkcl.reporting.figures", "ntkcl.reporting.wandb_runs"

# Launchers whose processes share this machine: among how many.
SHARED = {
    "Joblib": lambda launcher, sweep: machine.workers(max(launcher.n_jobs, 0) or None),
    "SubmititLocal": lambda launcher, sweep: machine.workers(sweep.workers),
}


def job(cfg: DictConfig) -> float | None:
    """A job as Hydra starts it: one alone, or one of a sweep's on its share of this machine."""
    about = HydraConfig.get()
    in_sweep = about.mode == RunMode.MULTIRUN
    if in_sweep and (shares := SHARED.get(about.launcher._target_.rsplit(".", 1)[-1])):
        machine.take_share(shares(about.launcher, cfg.sweep))
    return run(cfg, in_sweep)


def run(cfg: DictConfig, in_sweep: bool = False) -> float | None:
    """One run, several that differ in their seeds, or one plan, from a configuration to folders;
    returns the number that `sweep.objective` names."""
    jax.config.update("jax_enable_x64", True)  # forecasts are solved in float64
    wanted = config.resolve(cfg)
    compilation.stored(cfg.compilation_cache)
    for batch in wanted.batches:
        with ExitStack() as locks:
            missing = [one for one in batch if _claim(one, in_sweep, locks)]
            if missing:
                make = _make_runs if missing[0].run.job in RUN_JOBS else _make_plan
                make(missing, in_sweep)
    return objective.value(wanted.requests[0].objective, wanted.folders)


def _claim(request: Request, in_sweep: bool, locks: ExitStack) -> bool:
    """Whether this process is to make a run, which is then its own until `locks` are closed; says
    why, if it is not."""
    run, terminal = request.run, console.terminal()
    before = lock.outcome(run.folder)
    complete = before in ("complete", "diverged")
    if complete and not _holds(run):
        return True  # another's folder, which is said when this run is to be written there
    wanted = lock.wanted(before, request.retry)
    if wanted or (complete and files.unlogged(run)):
        holder = locks.enter_context(lock.claimed(run.folder, remember=in_sweep))
        if holder is not None and not in_sweep:
            raise SettingError(f"{run.folder}: {holder} is making this run; wait for it")
        if holder is not None:
            console.print_path(f"{holder} is making it", run.folder, terminal)
            return False
        if wanted and lock.outcome(run.folder) == before:  # else another process has just made it
            return True
        if _track(run):
            console.print_path("logged, which was missing", run.folder, terminal)
    lock.clear_dead(run.folder)
    if not in_sweep:
        again = "all" if before == "complete" else before
        message = f"{before} before, sweep.retry={again} makes it again"
        console.print_path(message, run.folder, terminal)
        if run.job == whatif.JOB:
            console.print_path("its answers", report_command(run), terminal)
    return False


def _holds(run: Run) -> bool:
    """Whether a run's folder holds its own configuration."""
    stored = run.folder / "config.yaml"
    return stored.is_file() and stored.read_text() == run.config


def _make_runs(requests: Sequence[Request], in_sweep: bool) -> None:
    """One run, or several that differ in their seeds and are trained as one. Each of a sweep's is
    one line."""
    terminal, works = console.terminal(quiet=in_sweep), sharing([build(one) for one in requests])
    if not in_sweep:
        console.show_settings(description(works[0]), terminal)
    drawn = {"auto": not in_sweep}.get(requests[0].figures, requests[0].figures == "true")
    ahead.imported([FIGURES] * drawn + [WANDB] * (works[0].run.tracking.mode != "disabled"))
    with ExitStack() as all_stages, np.errstate(over="ignore", invalid="ignore"):
        stages = [all_stages.enter_context(ExitStack()) for _ in works]
        folders = [
            stage.enter_context(files.staged(work.run.folder, work.run.config))
            for stage, work in zip(stages, works, strict=True)
        ]
        each = zip(works, stages, folders, _events(works, terminal), strict=True)
        for work, stage, folder, events in each:
            summary = _write(work, folder, events, drawn, terminal)
            stage.close()  # it is delivered, whatever becomes of the others
            shutil.rmtree(work.run.checkpoints, ignore_errors=True)  # the results are there
            _show(work.run, summary, drawn, terminal)
            _track(work.run)


def _show(run: Run, summary: dict, drawn: bool, terminal) -> None:
    """The table, then where everything is: the folder, the first figure, how to make the report."""
    (final_table.show if run.job == "run" else final_table.show_forecast)(summary, terminal)
    line = f"{summary['status']} in {summary['seconds']['total']:.1f} s"
    console.print_path(line, run.folder, console.terminal())
    if drawn:
        folder, drift = run.folder / "figures", run.folder / "figures" / "drift.png"
        console.print_path("figures", drift if drift.exists() else folder, terminal)
    console.print_path("report", report_command(run), terminal)


def report_command(run: Run) -> str:
    """What makes the report of a run."""
    elsewhere = run.results_dir != Path("results")
    where = [typed("results_dir", str(run.results_dir))] if elsewhere else []
    return " ".join(["ntkcl report", typed("run", str(run.folder)), *where])


def _events(works: Sequence[Work], terminal) -> Iterator[Iterable[Event]]:
    """The events of each run, as they happen where it is one alone."""
    arguments = [
        work.parts | dict(anchors=list(work.request.anchors), form=work.request.form)
        for work in works
    ]
    if len(works) > 1:
        seeds = ", ".join(str(work.run.seed) for work in works)
        terminal.print(f"[dim]seeds {seeds} side by side[/dim]")
        with console.waiting(f"forecasting and training seeds {seeds}", terminal):
            all_events = experiment.run_seeds(arguments)
        yield from (console.remarks(events, terminal) for events in all_events)
        return
    (work,) = works
    if trains := work.run.job == "run":
        events = experiment.run(**arguments[0], checkpointer=_checkpointer(work, terminal))
        events = events if terminal.quiet else _announced(events, work, terminal)
    else:
        events = experiment.predict(**arguments[0])
    stream, anchors = work.stream, work.request.anchors
    yield console.progress(events, anchors, len(stream), inputs(stream), terminal, trains)


def _announced(events: Iterable[Event], work: Work, terminal) -> Iterator[Event]:
    """The events as they come. What is forecast for the whole stream is printed before it is
    trained, so that who sees it may stop there."""
    taken: list[Event] = []
    for event in events:
        taken.append(event)
        if isinstance(event, Baselines):
            known = summarise(record.gather(taken, work.stream), work.stream, work.parts["loss"])
            final_table.print_forecasts(known, terminal)
        yield event


def _checkpointer(work: Work, terminal):
    if (every := work.request.checkpoints_every) is None:
        return None
    from ntkcl.runs import checkpoints

    run = work.run
    return checkpoints.checkpointer(run.checkpoints, run.id, every, console.printer(terminal))


def _write(work: Work, folder: Path, events: Iterable[Event], drawn: bool, terminal) -> dict:
    """The files of a run in its stage, once its events have come; returns the summary."""
    stream, loss = work.stream, work.parts["loss"]
    gathered = record.gather(events, stream)
    gathered.costs["setup"] = [work.setup]
    references = _references(work, gathered, terminal)
    summary = summarise(gathered, stream, loss, references)
    if drawn:
        from ntkcl.reporting import figures

        files.save_figures(folder, figures.draw(gathered, summary, stream))
    labels = work.run.labels
    rows = run_rows.rows(gathered, stream, loss, labels)
    curves = run_rows.within(gathered, stream, loss, labels)
    arrays = run_rows.arrays(gathered, stream, loss)
    files.write(folder, work.run.config, summary, rows, arrays, curves)
    return summary


def _references(work: Work, gathered: Record, terminal) -> dict:
    """The scores of the references asked for, once the run is over: no forecast can have seen
    them."""
    kinds, run = work.request.references, work.run
    if not kinds:
        return {}
    meter = Meter()
    facts = reference_cache.facts_of(run.settings, gathered.plan.learning_rate, work.stream)
    initialise = partial(experiment.initialise, **work.parts)
    say = console.printer(terminal)
    scores = reference_cache.load_or_train(kinds, run.references, facts, initialise, say)
    gathered.costs["references"] = [meter.read()]
    return scores


def _make_plan(requests: Sequence[Request], in_sweep: bool) -> None:
    from ntkcl.reporting import figures

    terminal, meter, (request,) = console.terminal(quiet=in_sweep), Meter(), requests
    run, work = request.run, build(request)
    say = console.printer(terminal)
    if not in_sweep:
        console.show_settings(description(work), terminal)
    stage = files.staged(run.folder, run.config)
    with stage as folder, np.errstate(over="ignore", invalid="ignore"):
        with console.waiting(f"job={run.job}", terminal):
            rows, summary, arrays, slices = _planned(work, say)
        summary["seconds"] = {"total": meter.read().seconds} | summary["seconds"]
        summary["environment"] = environment()
        files.save_figures(folder, figures.plan(rows, summary, arrays, slices))
        files.write_plan(folder, run.config, summary, rows, run.labels, arrays, slices)
    final_table.show_plan(rows, summary, terminal)
    line = f"{len(rows)} candidates in {summary['seconds']['total']:.1f} s"
    console.print_path(line, run.folder, console.terminal())
    console.print_path("figures", run.folder / "figures", terminal)
    console.print_path("report", report_command(run), terminal)
    _track(run)


def _planned(
    work: Work, say: Callable[[str], None]
) -> tuple[Sequence[dict], dict, dict, Sequence[dict]]:
    """A row for each candidate, the summary, arrays, and a row for each slice of old samples."""
    request, job = work.request, work.run.job
    if job == whatif.JOB:
        settings = {key: value for key, value in request.plan.items() if key != "methods"}
        methods = request.grid() or whatif.NO_METHODS
        return whatif.run_job(work.parts, settings, say, _columns(request), methods)
    ranking, summary = planning.plan(job, work.parts, request.plan, request.grid(), say)
    return ranking.rows, summary, {}, ()


def _columns(request: Request) -> Mapping[str, Callable[[Any], Sequence]]:
    """The columns of the table by which old samples are grouped."""
    names, source = request.plan["slices"], request.run.settings["source"]
    if names is None or names == []:
        return {}
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingError(f"whatif.slices={names}: expected a list of columns, or null")
    if there := {"class", "task"} & set(names):
        raise SettingError(
            f"whatif.slices={names}: old samples are grouped by {there.pop()} anyway; rename "
            "the column"
        )
    if source["_target_"] != "ntkcl.sources.table":
        raise SettingError(
            f"whatif.slices={names}: source={request.source} has no columns; expected source=table"
        )
    given = {key: source[key] for key in ("text", "tokenizer", "length") if key in source}
    return sources.columns(source["path"], names, **given)


def _track(run: Run) -> bool:
    """Whether a complete run or plan has been logged now."""
    if run.tracking.mode == "disabled":
        return False
    from ntkcl.reporting import wandb_runs

    return wandb_runs.track(run)
