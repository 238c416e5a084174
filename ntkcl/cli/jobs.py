"""One job of the command: runs or a plan, from a configuration to folders."""

import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ntkcl import experiment, planning
from ntkcl.cli import sweep as sweeps
from ntkcl.cli.config import build, check, grid_of
from ntkcl.experiment import record
from ntkcl.experiment.events import Event
from ntkcl.reporting import console
from ntkcl.resources import Cost, Meter
from ntkcl.runs import files, lock, machine, reference_cache
from ntkcl.runs import rows as run_rows
from ntkcl.runs.identity import coordinates, identify, labels, names, place, seeds_of
from ntkcl.runs.summary import summarise

SHARED = {  # launchers whose processes share this machine: among how many
    "Joblib": lambda launcher, sweep: machine.workers(
        launcher.n_jobs if launcher.n_jobs > 0 else None
    ),
    "SubmititLocal": lambda launcher, sweep: machine.workers(sweep.workers),
}


def _job(cfg):
    """A run, or one of a sweep's on its share of this machine."""
    about = HydraConfig.get()
    sweep = about.mode == RunMode.MULTIRUN
    if sweep and (shares := SHARED.get(about.launcher._target_.rsplit(".", 1)[-1])):
        machine.take_share(shares(about.launcher, cfg.sweep))
    return run(cfg, sweep)


def run(cfg: DictConfig, sweep: bool = False) -> float | None:
    """One run, several that differ in their seeds, or one plan, from a configuration to folders; returns `sweep.objective`."""
    jax.config.update(
        "jax_enable_x64", True
    )  # forecasts are solved in float64; networks keep `precision`
    check(cfg)
    sweeps.check_objective(cfg)
    seeds = seeds_of(cfg)
    batches = [seeds] if cfg.job == "run" and cfg.seeds_by == "vmap" else [[one] for one in seeds]
    for batch in batches:
        with ExitStack() as stack:
            if lacking := [one for one in batch if _claimed(one, sweep, stack)]:
                _run(lacking, sweep) if cfg.job == "run" else _plan(lacking[0], sweep)
    return sweeps.objective(cfg, [place(one)[0] for one in seeds])


def _claimed(cfg, sweep, stack) -> bool:
    """Whether this process is to make a run, which is then its own until the stack is closed; told, if it is not."""
    (folder, config), terminal = place(cfg), console.terminal()
    before = lock.outcome(folder)
    stored, complete = folder / "config.yaml", before in ("complete", "diverged")
    if complete and not (stored.is_file() and stored.read_text() == config):
        return True  # another's folder, which is told when this run is to be written there
    wanted = lock.wanted(before, cfg.sweep.retry)
    if wanted or (complete and sweeps.unlogged(cfg, folder)):
        holder = stack.enter_context(lock.claimed(folder, remember=sweep))
        if holder is not None and not sweep:
            raise ValueError(f"{folder}: {holder} is making this run; wait for it")
        if holder is not None:
            console.print_path(f"{holder} is making it", folder, terminal)
            return False
        if wanted and lock.outcome(folder) == before:  # else another process has just made it
            return True
        if _track(cfg, folder):
            console.print_path("logged, which was lacking", folder, terminal)
    if not sweep:
        again = "all" if before == "complete" else before
        console.print_path(f"{before} before, sweep.retry={again} makes it again", folder, terminal)
    return False


class Work(NamedTuple):
    """A run that is to be made: its configuration, what it is and where it goes, the parts it names, what building them cost."""

    cfg: DictConfig
    identity: dict
    folder: Path
    config: str
    named: dict[str, Any]
    setup: Cost

    @property
    def checkpoints(self) -> Path:
        return (
            Path(self.cfg.results_dir)
            / "checkpoints"
            / self.cfg.experiment_name
            / self.identity["id"]
        )


def _work(cfg) -> Work:
    meter = Meter()
    return Work(cfg, identify(cfg), *place(cfg), build(cfg), meter.read())


def _run(cfgs, sweep):
    """One run, or several that differ in their seeds and are trained as one. Of a sweep's, a line each."""
    terminal, works = console.terminal(quiet=sweep), [_work(cfg) for cfg in cfgs]
    if not sweep:
        console.printer(terminal)(_described(works[0].cfg, works[0].named))
    with (
        ExitStack() as all_stages,
        np.errstate(over="ignore", invalid="ignore"),
    ):  # divergence is data
        stages = [all_stages.enter_context(ExitStack()) for _ in works]
        opened = [
            stage.enter_context(files.staged(work.folder, work.config))
            for stage, work in zip(stages, works, strict=True)
        ]
        for work, stage, path, events in zip(
            works, stages, opened, _played(works, terminal), strict=True
        ):
            drawn = {"auto": not sweep}.get(work.cfg.figures, work.cfg.figures)
            summary = _written(work, path, events, drawn, terminal)
            stage.close()  # it is delivered, whatever becomes of the others
            shutil.rmtree(work.checkpoints, ignore_errors=True)  # the results are there
            console.show(summary, terminal)
            _made(f"{summary['status']} in {summary['seconds']['total']:.1f} s", work.folder)
            if drawn:
                console.print_path("figures", work.folder / "figures", terminal)
            _track(work.cfg, work.folder)


def _played(works, terminal) -> Iterator[Iterable[Event]]:
    """The events of each, as they happen where it is one alone."""
    asked = [
        w.named | dict(anchors=list(w.cfg.forecast.anchors), form=w.cfg.forecast.form)
        for w in works
    ]
    if len(works) > 1:
        seeds = ", ".join(str(work.cfg.seed) for work in works)
        terminal.print(f"[dim]seeds {seeds} side by side[/dim]")
        with console.waiting(f"forecasting and training seeds {seeds}", terminal):
            told = experiment.run_seeds(asked)
        yield from (console.remarks(events, terminal) for events in told)
        return
    (work,), (arguments,), checkpointer = works, asked, None
    if (every := work.cfg.checkpoints.every) is not None:
        from ntkcl.runs import checkpoints

        checkpointer = checkpoints.checkpointer(
            work.checkpoints, work.identity["id"], every, console.printer(terminal)
        )
    events = experiment.run(**arguments, checkpointer=checkpointer)
    stream = arguments["stream"]
    yield console.progress(events, arguments["anchors"], len(stream), _inputs(stream), terminal)


def _inputs(stream) -> int:
    return sum(len(task.train.x) + len(task.test.x) for task in stream)


def _described(cfg, named) -> str:
    """One line: the data, the stream, the network, the method."""
    chosen, stream, network = names(cfg), named["stream"], named["network"]
    source = OmegaConf.select(cfg, "source.name") or chosen["source"]
    width = OmegaConf.select(cfg, "network.width")
    shape = f" of width {width}" if width is not None else ""
    with suppress(Exception):  # of a network of one's own that only takes numbers; it is but a line
        theta = jax.eval_shape(network.init, named["key"], stream[0].train.x[0])
        shape += f", {sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(theta)):,} parameters"
    return (
        f"{source}, {len(stream)} tasks ({chosen['stream']}), {_inputs(stream)} inputs; "
        f"{chosen['network']}{shape}; {chosen['loss']}; method {chosen['method']}"
    )


def _written(work, stage, events, drawn, terminal):
    """The files of a run in its stage, once its events have come -> the summary."""
    cfg, stream, loss = work.cfg, work.named["stream"], work.named["loss"]
    told = record.gather(events, stream)
    told.costs["setup"] = [work.setup]
    held = _references(cfg, work.named, told, console.printer(terminal))
    summary = summarise(told, stream, loss, held)
    if drawn:
        from ntkcl.reporting import figures

        files.save_figures(stage, figures.draw(told, summary, stream))
    rows, inside = (
        made(told, stream, loss, labels(cfg, work.identity))
        for made in (run_rows.rows, run_rows.within)
    )
    files.write(stage, work.config, summary, rows, run_rows.arrays(told, stream, loss), inside)
    return summary


def _references(cfg, named, told, say) -> dict:
    """The scores of the references asked for, once the run is over: no forecast can have seen them."""
    if not cfg.references:
        return {}
    meter = Meter()
    facts = reference_cache.facts_of(coordinates(cfg), told.plan.learning_rate, named["stream"])
    folder = Path(cfg.results_dir) / "references"
    held = reference_cache.known(
        cfg.references, folder, facts, lambda: experiment.initialise(**named), say
    )
    told.costs["references"] = [meter.read()]
    return held


def _plan(cfg, sweep):
    terminal, meter, identity = console.terminal(quiet=sweep), Meter(), identify(cfg)
    (folder, config), named = place(cfg), build(cfg)
    plan = dict(OmegaConf.to_container(cfg.plan, resolve=True))
    grid = list(grid_of(plan["methods"])) if cfg.job == "methods" else []
    from ntkcl.reporting import figures

    if not sweep:
        console.printer(terminal)(_described(cfg, named))
    with files.staged(folder, config) as stage, np.errstate(over="ignore", invalid="ignore"):
        with console.waiting(f"job={cfg.job}", terminal):
            ranking, summary = planning.plan(cfg.job, named, plan, grid, console.printer(terminal))
        summary["seconds"] = {"total": meter.read().seconds} | summary["seconds"]
        files.save_figures(stage, {cfg.job: figures.ranking(ranking.rows, summary)})
        files.write_plan(stage, config, summary, ranking.rows, labels(cfg, identity))
    console.show_ranking(ranking.rows, summary, terminal)
    _made(f"{len(ranking.rows)} candidates in {summary['seconds']['total']:.1f} s", folder)
    console.print_path("figures", folder / "figures", terminal)
    _track(cfg, folder)


def _made(what, folder):
    console.print_path(what, folder, console.terminal())


def _track(cfg, folder) -> bool:
    """Whether a complete run or plan has been logged now."""
    if cfg.tracking.mode == "disabled":
        return False
    from ntkcl.reporting import wandb_runs

    named = {
        key: cfg.tracking[key] for key in ("mode", "project", "entity", "fallback", "artifacts")
    }
    named |= {
        "identity": identify(cfg) | {"job_type": cfg.job},
        "config": coordinates(cfg) | {"chosen": names(cfg)},
    }
    return wandb_runs.track(folder, **named)
