"""The command `ntkcl`: compose a configuration, build what it names, run, write; and what looks at what was run."""

import difflib
import math
import os
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import jax
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ntkcl import (
    claims,
    console,
    experiment,
    jobs,
    looks,
    machine,
    record,
    references,
    results,
    settings,
    sweeps,
)
from ntkcl.configuration import CONF, build, check, grid_of, limit_of
from ntkcl.events import Event
from ntkcl.identity import coordinates, identify, labels, names, place, seeds_of
from ntkcl.meter import Cost, Meter

# What only some commands need is imported where they do: W&B, matplotlib, plotly and orbax take a second together.
PACKAGE = Path(__file__).parent
SHARED = {  # launchers whose processes share this machine: among how many
    "Joblib": lambda launcher, sweep: machine.workers(launcher.n_jobs if launcher.n_jobs > 0 else None),
    "SubmititLocal": lambda launcher, sweep: machine.workers(sweep.workers),
}


def main() -> None:
    """`ntkcl OVERRIDES` runs, `ntkcl table OVERRIDES` and the other `COMMANDS` look at what was run.

    One clear line and exit code 2 for what the user can mend; HYDRA_FULL_ERROR=1 shows the traceback instead.
    """
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    sys.argv[1:] = _ordered(sys.argv[1:])
    first = sys.argv[1] if sys.argv[1:] else ""
    if first.isalpha() and first not in COMMANDS:
        print(f"ntkcl: {first}: no such command; expected {', '.join(COMMANDS)}, or settings such as network.width=64", file=sys.stderr)
        sys.exit(2)
    if first in COMMANDS and sys.argv[2:3] in (["-m"], ["--multirun"]):
        print(f"ntkcl: {sweeps.NO_SWEEP}", file=sys.stderr)  # before Hydra makes a folder for it
        sys.exit(2)
    name = sys.argv.pop(1) if first in COMMANDS else "config"
    action = COMMANDS.get(name, _job)

    def job(cfg):
        # Hydra announces every exception that leaves a job, so a single run ends here. In a sweep the other jobs go on.
        return action(cfg) if full else _told(action, cfg, stop=HydraConfig.get().mode != RunMode.MULTIRUN)

    command = hydra.main(version_base="1.3", config_path=CONF, config_name=name)(job)
    if full:
        return command()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors through to us
    try:
        return _told(command, composing=name)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def _ordered(arguments) -> list[str]:
    """The command, then `-m`, then all else: argparse takes `-m` for the end of the settings."""
    flags = [one for one in arguments if one in ("-m", "--multirun")]
    others = [one for one in arguments if one not in flags]
    commands = 1 if others and others[0] in COMMANDS else 0
    return [*others[:commands], *flags, *others[commands:]]


def _job(cfg):
    """A run, or one of a sweep's on its share of this machine."""
    about = HydraConfig.get()
    sweep = about.mode == RunMode.MULTIRUN
    if sweep and (shares := SHARED.get(about.launcher._target_.rsplit(".", 1)[-1])):
        machine.take_share(shares(about.launcher, cfg.sweep))
    return run(cfg, sweep)


COMMANDS = {"table": looks.table_of, "report": looks.report_of, "dashboard": looks.dashboard_of}


def _told(action, *arguments, stop=True, composing=None):
    """Run an action; an error that the user can mend is told in one line, once, and ends the process with code 2 if `stop`.

    `composing` the configuration of that name: an error that no job has seen comes from it itself, whatever its type.
    """
    try:
        return action(*arguments)
    except Exception as error:
        if not hasattr(error, "line"):
            error.line = _one_line(error, composing or "config") or (_flat(error) if composing else None)  # type: ignore[attr-defined]
            if error.line is not None:  # type: ignore[attr-defined]
                print(f"ntkcl: {error.line}", file=sys.stderr)  # type: ignore[attr-defined]
        if error.line is None or not stop:  # type: ignore[attr-defined]
            raise
        sys.exit(2)


def run(cfg: DictConfig, sweep: bool = False) -> float | None:
    """One run, several that differ in their seeds, or one plan, from a configuration to folders; returns `sweep.objective`."""
    jax.config.update("jax_enable_x64", True)  # forecasts are solved in float64; networks keep `precision`
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
    before = claims.outcome(folder)
    stored, complete = folder / "config.yaml", before in ("complete", "diverged")
    if complete and not (stored.is_file() and stored.read_text() == config):
        return True  # another's folder, which is told when this run is to be written there
    wanted = claims.wanted(before, cfg.sweep.retry)
    if wanted or (complete and sweeps.unlogged(cfg, folder)):
        holder = stack.enter_context(claims.claimed(folder, remember=sweep))
        if holder is not None and not sweep:
            raise ValueError(f"{folder}: {holder} is making this run; wait for it")
        if holder is not None:
            console.pointed(f"{holder} is making it", folder, terminal)
            return False
        if wanted and claims.outcome(folder) == before:  # else another process has just made it
            return True
        if _track(cfg, folder):
            console.pointed("logged, which was lacking", folder, terminal)
    if not sweep:
        again = "all" if before == "complete" else before
        console.pointed(f"{before} before, sweep.retry={again} makes it again", folder, terminal)
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
        return Path(self.cfg.results_dir) / "checkpoints" / self.cfg.experiment_name / self.identity["id"]


def _work(cfg) -> Work:
    meter = Meter()
    return Work(cfg, identify(cfg), *place(cfg), build(cfg), meter.read())


def _run(cfgs, sweep):
    """One run, or several that differ in their seeds and are trained as one. Of a sweep's, a line each."""
    terminal, works = console.terminal(quiet=sweep), [_work(cfg) for cfg in cfgs]
    if not sweep:
        console.told(terminal)(_described(works[0].cfg, works[0].named))
    with ExitStack() as all_stages, np.errstate(over="ignore", invalid="ignore"):  # divergence is data
        stages = [all_stages.enter_context(ExitStack()) for _ in works]
        opened = [stage.enter_context(results.staged(work.folder, work.config)) for stage, work in zip(stages, works, strict=True)]
        for work, stage, path, events in zip(works, stages, opened, _played(works, terminal), strict=True):
            drawn = {"auto": not sweep}.get(work.cfg.figures, work.cfg.figures)
            summary = _written(work, path, events, drawn, terminal)
            stage.close()  # it is delivered, whatever becomes of the others
            shutil.rmtree(work.checkpoints, ignore_errors=True)  # the results are there
            console.show(summary, terminal)
            _made(f"{summary['status']} in {summary['seconds']['total']:.1f} s", work.folder)
            if drawn:
                console.pointed("figures", work.folder / "figures", terminal)
            _track(work.cfg, work.folder)


def _played(works, terminal) -> Iterator[Iterable[Event]]:
    """The events of each, as they happen where it is one alone."""
    asked = [w.named | dict(anchors=list(w.cfg.forecast.anchors), form=w.cfg.forecast.form, limit=limit_of(w.cfg)) for w in works]
    if len(works) > 1:
        seeds = ", ".join(str(work.cfg.seed) for work in works)
        terminal.print(f"[dim]seeds {seeds} side by side[/dim]")
        with console.waiting(f"forecasting and training seeds {seeds}", terminal):
            told = experiment.together(asked)
        yield from (console.remarks(events, terminal) for events in told)
        return
    (work,), (arguments,), keeper = works, asked, None
    if (every := work.cfg.checkpoints.every) is not None:
        from ntkcl import checkpoints

        keeper = checkpoints.keeper(work.checkpoints, work.identity["id"], every, console.told(terminal))
    events = experiment.run(**arguments, keeper=keeper)
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
    held = _references(cfg, work.named, told, console.told(terminal))
    summary = results.summarise(told, stream, loss, held)
    if drawn:
        from ntkcl import figures

        results.save_figures(stage, figures.draw(told, summary, stream))
    rows, inside = (made(told, stream, loss, labels(cfg, work.identity)) for made in (results.rows, results.within))
    results.write(stage, work.config, summary, rows, results.arrays(told, stream, loss), inside)
    return summary


def _references(cfg, named, told, say) -> dict:
    """The scores of the references asked for, once the run is over: no forecast can have seen them."""
    if not cfg.references:
        return {}
    meter = Meter()
    facts = references.facts_of(coordinates(cfg), told.plan.learning_rate, named["stream"])
    folder = Path(cfg.results_dir) / "references"
    held = references.known(cfg.references, folder, facts, lambda: experiment.begin(**named), say)
    told.costs["references"] = [meter.read()]
    return held


def _plan(cfg, sweep):
    terminal, meter, identity = console.terminal(quiet=sweep), Meter(), identify(cfg)
    (folder, config), named = place(cfg), build(cfg)
    plan = dict(OmegaConf.to_container(cfg.plan, resolve=True))
    grid = list(grid_of(plan["methods"])) if cfg.job == "methods" else []
    from ntkcl import figures

    if not sweep:
        console.told(terminal)(_described(cfg, named))
    with results.staged(folder, config) as stage, np.errstate(over="ignore", invalid="ignore"):
        with console.waiting(f"job={cfg.job}", terminal):
            ranking, summary = jobs.plan(cfg.job, named, plan, grid, console.told(terminal))
        summary["seconds"] = {"total": meter.read().seconds} | summary["seconds"]
        results.save_figures(stage, {cfg.job: figures.ranking(ranking.rows, summary)})
        results.write_plan(stage, config, summary, ranking.rows, labels(cfg, identity))
    console.show_ranking(ranking.rows, summary, terminal)
    _made(f"{len(ranking.rows)} candidates in {summary['seconds']['total']:.1f} s", folder)
    console.pointed("figures", folder / "figures", terminal)
    _track(cfg, folder)


def _made(what, folder):
    console.pointed(what, folder, console.terminal())


def _track(cfg, folder) -> bool:
    """Whether a complete run or plan has been logged now."""
    if cfg.tracking.mode == "disabled":
        return False
    from ntkcl import tracking

    named = {key: cfg.tracking[key] for key in ("mode", "project", "entity", "fallback", "artifacts")}
    named |= {"identity": identify(cfg) | {"job_type": cfg.job}, "config": coordinates(cfg) | {"chosen": names(cfg)}}
    return tracking.track(folder, **named)


def _one_line(error: BaseException, composed: str = "config") -> str | None:
    """What to tell the user, or None for an error that is not of his making: a fault of the program keeps its traceback."""
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory allocating")):
        return f"out of memory ({_flat(error)[:160]}); make network.width, the data, batches or a method's memory smaller"
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        own_fault = cause is not None and not isinstance(cause, ImportError | AttributeError | TypeError | ValueError)
        if own_fault:
            return None
        return (cause and _one_line(cause, composed)) or _flat(error) + _importable(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _flat(error) + _quoting(error) + _nearest(error, composed)
    if "Config group override" in str(error):
        return f"{_flat(error)}; a group such as network=mlp takes the name of a file in conf/network"
    if isinstance(error, TypeError) and re.search(r"unexpected keyword|multiple values for|missing (a|\d+) required", str(error)):
        return f"{_flat(error)}; expected the settings named in conf, no more and no fewer"
    ours = str(PACKAGE) in traceback.extract_tb(error.__traceback__)[-1].filename
    if isinstance(error, ValueError) and ours:
        return _flat(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.filename or 'results_dir'}: {error.strerror}; is results_dir a folder that can be written?"
    return None


def _flat(error) -> str:
    flat = re.sub(r"\s*\n\s*", "; ", str(error).strip()) or type(error).__name__
    return "".join(c if settings.printable(c) else repr(c)[1:-1] for c in flat)


def _importable(error) -> str:
    """How to make a module of one's own importable, where one was not found."""
    while error is not None:
        name = getattr(error, "name", None) or "ntkcl"
        if isinstance(error, ModuleNotFoundError) and name.split(".")[0] != "ntkcl":
            return (
                f"; no module named {error.name}: with PYTHONPATH=. before the command, "
                "the modules of the current folder are importable"
            )
        error = error.__cause__
    return ""


def _quoting(error) -> str:
    """How to quote a text that Hydra's grammar does not take as it is."""
    comma = re.search(r"Ambiguous value for argument '(.*)'", str(error))
    override = getattr(error, "override", None) or (comma.group(1) if comma else "")
    key, sign, value = override.partition("=")
    if not sign:
        return ""
    if not settings.printable(value):
        return f"; {key}={value!r}: expected one line without control characters"
    bare = value.strip(value[0]) if value[:1] in ("'", '"') else value
    quoted = bare.replace('"', '\\"')
    shown = shlex.quote(f'{key}="{quoted}"')
    return (
        "; a text with spaces, commas, or any of = ( ) [ ] { } ~ # and quotes is quoted for Hydra "
        f"within quotes for the shell: {shown}"
    )


def _nearest(error, name) -> str:
    """`; did you mean ...?` for an override of a key that does not exist."""
    missing = re.search(r"Could not override '([^']*)'", str(error))
    if missing is None:
        return ""
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        known = _keys(OmegaConf.to_container(hydra.compose(name)))
    near = difflib.get_close_matches(missing.group(1), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _keys(nested, prefix="") -> list[str]:
    names = []
    for key, value in nested.items():
        names += [prefix + key, *(_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [])]
    return names
