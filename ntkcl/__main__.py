"""The command `ntkcl`, and `python -m ntkcl`: compose a configuration, build what it names, run, write. The one door to Hydra."""

import difflib
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ntkcl import (
    checkpoints,
    console,
    experiment,
    figures,
    jobs,
    kernels,
    methods,
    optimizers,
    predict,
    record,
    references,
    results,
    settings,
    tracking,
)
from ntkcl.meter import Cost, Meter
from ntkcl.settings import one_of, text
from ntkcl.types import Stream

PACKAGE = Path(__file__).parent
CONF = next(str(folder) for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())  # wheel, or checkout


METHODS = tuple(methods.__all__)
KEYS = (
    "source", "stream", "network", "loss", "method", "optimizer", "training", "kernel", "checkpoints", "forecast",
    "references", "job", "plan", "experiment_name", "seed", "seeds", "seeds_by", "precision", "results_dir", "tracking",
)  # fmt: skip
ELSEWHERE = ("results_dir", "tracking", "kernel", "checkpoints", "references", "seeds", "seeds_by")  # makes no run another run
YOUNGER: dict[str, dict[str, Any]] = {  # settings that runs once had no other value of
    "stream": {"interpolation": "bilinear"},
    "network": {"parametrization": "ntk", "init": "normal", "gamma0": 1.0},
    "training": {"epochs": None, "optimizer_state": "reset", "evaluate_every": None, "schedule": None, "compute": None},
}


def main() -> None:
    """One clear line and exit code 2 for what the user can mend; HYDRA_FULL_ERROR=1 shows the traceback instead."""
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"

    def job(cfg):
        # Hydra announces every exception that leaves a job, so a single run ends here. In a sweep the other jobs go on.
        if full:
            run(cfg)
        else:
            _told(run, cfg, stop=HydraConfig.get().mode != RunMode.MULTIRUN)

    command = hydra.main(version_base="1.3", config_path=CONF, config_name="config")(job)
    if full:
        return command()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors through to us
    try:
        return _told(command, composing=True)
    except KeyboardInterrupt:
        print("ntkcl: interrupted; the run at work left nothing, the same command starts it again", file=sys.stderr)
        sys.exit(130)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def _told(action, *arguments, stop=True, composing=False):
    """Run an action; an error that the user can mend is told in one line, once, and ends the process with code 2 if `stop`.

    `composing`: an error that no job has seen comes from the configuration itself, whatever its type.
    """
    try:
        return action(*arguments)
    except Exception as error:
        if not hasattr(error, "line"):
            error.line = _one_line(error) or (_flat(error) if composing else None)  # type: ignore[attr-defined]
            if error.line is not None:  # type: ignore[attr-defined]
                print(f"ntkcl: {error.line}", file=sys.stderr)  # type: ignore[attr-defined]
        if error.line is None or not stop:  # type: ignore[attr-defined]
            raise
        sys.exit(2)


def run(cfg: DictConfig) -> None:
    """One run, or one plan, from its configuration to its folder."""
    jax.config.update("jax_enable_x64", True)  # forecasts are solved in float64; networks keep `precision`
    check(cfg)
    seeds = [_seeded(cfg, seed) for seed in cfg.seeds] or [cfg]
    batches = [seeds] if cfg.job == "run" and cfg.seeds_by == "vmap" else [[one] for one in seeds]
    for batch in batches:
        _run(batch) if cfg.job == "run" else _plan(*batch)


def _seeded(cfg, seed):
    one = cfg.copy()
    one.seed, one.seeds = seed, []
    return one


def _place(cfg, identity) -> tuple[Path, str]:
    """The folder of a run or a plan, and the configuration written there."""
    kind, name = ("runs", identity["name"]) if cfg.job == "run" else ("plans", f"{cfg.job}-{identity['name']}")
    folder = Path(cfg.results_dir) / kind / cfg.experiment_name / f"{name}-{identity['id'][:8]}"
    return folder, OmegaConf.to_yaml(OmegaConf.create(coordinates(cfg)), sort_keys=True)


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
    meter, identity = Meter(), identify(cfg)
    return Work(cfg, identity, *_place(cfg, identity), build(cfg), meter.read())


def _run(cfgs):
    """One run, or several that differ in their seeds and are trained as one."""
    terminal, works = console.terminal(), [_work(cfg) for cfg in cfgs]
    with ExitStack() as all_stages, np.errstate(over="ignore", invalid="ignore"):  # divergence is data
        stages = [all_stages.enter_context(ExitStack()) for _ in works]
        opened = [stage.enter_context(results.staged(work.folder, work.config)) for stage, work in zip(stages, works, strict=True)]
        for work, stage, path, events in zip(works, stages, opened, _played(works, terminal), strict=True):
            told, summary, inside, pictures = _written(work, path, events, terminal)
            stage.close()  # it is delivered, whatever becomes of the others
            shutil.rmtree(work.checkpoints, ignore_errors=True)  # the results are there
            console.show(summary, terminal)
            terminal.print(f"[dim]{summary['status']} in {summary['seconds']['total']:.1f} s ->[/dim] {work.folder}", soft_wrap=True)
            with tracking.opened(work.folder, **_tracked(work.cfg, work.identity)) as remote:
                shown = {path.stem: work.folder / "figures" / path.name for path in pictures}
                tracking.log(remote, told, summary, inside, shown)


def _played(works, terminal) -> Iterator[Iterable[experiment.Event]]:
    """The events of each, as they happen where it is one alone."""
    asked = [w.named | dict(anchors=list(w.cfg.forecast.anchors), form=w.cfg.forecast.form, limit=limit_of(w.cfg)) for w in works]
    if len(works) > 1:
        terminal.print(f"[dim]seeds {', '.join(str(work.cfg.seed) for work in works)} side by side[/dim]")
        yield from (console.remarks(events, terminal) for events in experiment.together(asked))
        return
    (work,), (arguments,), keeper = works, asked, None
    if (every := work.cfg.checkpoints.every) is not None:
        keeper = checkpoints.keeper(work.checkpoints, work.identity["id"], every, console.told(terminal))
    events = experiment.run(**arguments, keeper=keeper)
    yield console.progress(events, arguments["anchors"], len(arguments["stream"]), terminal)


def _written(work, stage, events, terminal):
    """The files of a run in its stage, once its events have come -> record, summary, curves within tasks, paths of figures."""
    cfg, stream, loss = work.cfg, work.named["stream"], work.named["loss"]
    told = record.gather(events, stream)
    told.costs["setup"] = [work.setup]
    held = _references(cfg, work.named, told, console.told(terminal))
    summary = results.summarise(told, stream, loss, held)
    pictures = results.save_figures(stage, figures.draw(told, summary, stream))
    table, inside = (made(told, stream, loss, _labels(cfg, work.identity)) for made in (results.rows, results.within))
    results.write(stage, work.config, summary, table, results.arrays(told, stream), inside)
    return told, summary, inside, pictures


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


def _plan(cfg):
    terminal, meter, identity = console.terminal(), Meter(), identify(cfg)
    (folder, config), named = _place(cfg, identity), build(cfg)
    plan = dict(OmegaConf.to_container(cfg.plan, resolve=True))
    grid = list(grid_of(plan["methods"])) if cfg.job == "methods" else []
    with results.staged(folder, config) as stage, np.errstate(over="ignore", invalid="ignore"):
        ranking, summary = jobs.plan(cfg.job, named, plan, grid, console.told(terminal))
        summary["seconds"] = {"total": meter.read().seconds} | summary["seconds"]
        pictures = results.save_figures(stage, {cfg.job: figures.ranking(ranking.rows, summary)})
        results.write_plan(stage, config, summary, ranking.rows, _labels(cfg, identity))
    console.show_ranking(ranking.rows, summary, terminal)
    terminal.print(f"[dim]{len(ranking.rows)} candidates in {summary['seconds']['total']:.1f} s ->[/dim] {folder}", soft_wrap=True)
    with tracking.opened(folder, **_tracked(cfg, identity)) as remote:
        tracking.log_plan(remote, ranking.rows, summary, {path.stem: folder / "figures" / path.name for path in pictures})


def _tracked(cfg, identity) -> dict:
    named = {key: cfg.tracking[key] for key in ("mode", "project", "entity")}
    return named | {"identity": identity | {"job_type": cfg.job}, "config": coordinates(cfg)}


def grid_of(grid) -> Iterator[tuple[dict, Any]]:
    """Every cell of a grid {method: {setting: value or list of values}}, as coordinates and method."""
    for name, values in grid.items():
        one_of("plan.methods", name, METHODS)
        if not isinstance(values, dict | None):
            raise ValueError(
                f"plan.methods.{name}={values}: expected settings and their values, such as {{penalty: [0.1, 1.0]}}, or {{}}"
            )
        lists = {key: value if isinstance(value, list) else [value] for key, value in (values or {}).items()}
        for key, several in lists.items():
            if not several:
                raise ValueError(f"plan.methods.{name}.{key}=[]: expected at least one value")
        for combination in itertools.product(*lists.values()):
            chosen = dict(zip(lists, combination, strict=True))
            yield {"method": name, **chosen}, instantiate({"_target_": f"ntkcl.methods.{name}", **chosen})


def check(cfg: DictConfig) -> None:
    """ValueError for what no group's own function sees: the top level, and the form of groups and lists."""
    unknown = [key for key in cfg if key not in KEYS]
    if unknown:
        raise ValueError(f"{unknown[0]!s}={cfg[unknown[0]]}: no such setting; expected one of {', '.join(KEYS)}")
    text("results_dir", cfg.results_dir)
    if text("experiment_name", cfg.experiment_name) != Path(cfg.experiment_name).name or cfg.experiment_name.startswith("."):
        raise ValueError(f"experiment_name={cfg.experiment_name}: expected a plain name without slashes, not beginning with a dot")
    settings.seed("seed", cfg.seed)
    if not OmegaConf.is_list(cfg.seeds) or len(set(cfg.seeds)) < len(cfg.seeds):
        raise ValueError(f"seeds={cfg.seeds}: expected a list of different seeds, such as [0,1,2], or [] for the one of `seed`")
    for seed in cfg.seeds:
        settings.seed("seeds", seed)
    one_of("seeds_by", cfg.seeds_by, ("vmap", "loop"))
    for group in ("kernel", "checkpoints", "forecast", "tracking"):
        if not OmegaConf.is_dict(cfg[group]):
            raise ValueError(f"{group}={cfg[group]}: expected the settings of that group")
    if cfg.checkpoints.every is not None:
        settings.whole("checkpoints.every", cfg.checkpoints.every)
        if len(cfg.seeds) > 1 and cfg.seeds_by == "vmap":
            raise ValueError(
                f"checkpoints.every={cfg.checkpoints.every}: expected null where seeds are trained as one, or seeds_by=loop"
            )
    text("tracking.project", cfg.tracking.project)
    if cfg.tracking.entity is not None:
        text("tracking.entity", cfg.tracking.entity)
    if not OmegaConf.is_list(cfg.forecast.anchors):
        raise ValueError(f"forecast.anchors={cfg.forecast.anchors}: expected a list, such as [init,boundary] or []")
    if not OmegaConf.is_list(cfg.references):
        raise ValueError(f"references={cfg.references}: expected a list, such as [single,joint] or []")
    for kind in cfg.references:
        one_of("references", kind, references.TRAINED)
    if cfg.references and cfg.job != "run":
        raise ValueError(f"references={cfg.references}: job={cfg.job} measures no run to hold against them; expected []")
    if not OmegaConf.is_dict(cfg.training):
        raise ValueError(f"training={cfg.training}: expected the settings of conf/config.yaml")
    schedule = cfg.training.get("schedule")
    if schedule is not None and not (OmegaConf.is_dict(schedule) and "name" in schedule):
        raise ValueError(
            f"training.schedule={schedule}: expected null, or an Optax schedule's name and settings, such as "
            "{name: cosine_decay_schedule, decay_steps: 500}"
        )
    if one_of("job", cfg.job, ("run", *jobs.JOBS)) != "run":
        if not OmegaConf.is_dict(cfg.plan):
            raise ValueError(f"plan={cfg.plan}: expected the settings of conf/config.yaml")
        for group in jobs.JOBS:
            if not OmegaConf.is_dict(OmegaConf.select(cfg.plan, group)):
                raise ValueError(f"plan.{group}={OmegaConf.select(cfg.plan, group)}: expected the settings of that job")
        if "init" not in cfg.forecast.anchors:
            raise ValueError(
                f"forecast.anchors={cfg.forecast.anchors}: job={cfg.job} trains nothing before it plans, and forecasts from init; "
                "expected init among them"
            )
        for anchor in cfg.forecast.anchors:
            one_of("forecast.anchors", anchor, experiment.ANCHORS)
        if cfg.forecast.form != "auto":
            raise ValueError(f"forecast.form={cfg.forecast.form}: job={cfg.job} takes the first form that is exact; expected auto")
    one_of("precision", cfg.precision, ("float32", "float64"))
    one_of("tracking.mode", cfg.tracking.mode, ("online", "offline", "disabled"))


def build(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of `experiment.run` and `experiment.begin` that a configuration names, by their names."""
    stream = _stream(*(OmegaConf.to_yaml(cfg[group], resolve=True) for group in ("source", "stream")), cfg.precision)
    return dict(
        key=jax.random.key(cfg.seed),
        stream=stream,
        network=instantiate(cfg.network)(outputs=stream[0].train.y.shape[1]),
        loss=instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        training=_training(cfg.training),
        method=instantiate(cfg.method),
        effort=predict.Effort(*(cfg.forecast[key] for key in predict.Effort._fields)),
        kernel=instantiate(cfg.kernel),
    )


@lru_cache(maxsize=1)  # runs of a sweep that differ in other things come one after the other
def _stream(source: str, stream: str, precision: str) -> Stream:
    made = instantiate(OmegaConf.create(stream))(instantiate(OmegaConf.create(source)))
    return jax.tree.map(lambda a: jnp.asarray(a, precision), made)


def _training(chosen) -> experiment.Training:
    named = dict(OmegaConf.to_container(chosen, resolve=True))  # type: ignore[arg-type]
    schedule = named.pop("schedule", None)
    return experiment.Training(**named, schedule=None if schedule is None else optimizers.schedule(**schedule))


def limit_of(cfg: DictConfig):
    """The kernel that the configured network tends to with its width, or None where none is known or asked for."""
    known = cfg.network["_target_"] == "ntkcl.networks.mlp" and cfg.network.get("parametrization", "ntk") == "ntk"
    if "infinite" not in cfg.forecast.anchors or not known:
        return None
    shape = ("depth", "activation", "w_std", "b_std", "output_scale")
    return kernels.infinite(**{key: cfg.network[key] for key in shape}).ntk


def coordinates(cfg: DictConfig) -> dict:
    """What makes a run this run: its resolved configuration without logging, where things lie, how and where it is computed, and what
    the run is held against.

    Settings that there have not always been are left out at the value that runs had without them, so that these keep their names.
    """
    resolved: dict[str, Any] = dict(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    for group, keys in (("source", ("data_dir", "download")), ("training", ("devices",))):
        resolved[group] = {key: value for key, value in resolved[group].items() if key not in keys}
    for group, old in YOUNGER.items():
        resolved[group] = {key: value for key, value in resolved[group].items() if key not in old or value != old[key]}
    elsewhere = (*ELSEWHERE, *(("job", "plan") if cfg.job == "run" else ()))
    return {key: value for key, value in resolved.items() if key not in elsewhere}


def identify(cfg: DictConfig) -> dict:
    """Name, id, group and tags, from the coordinates alone: the same configuration is the same run, in any process."""
    groups = ("optimizer", "method", "stream", "source", "network", "loss")
    optimizer, method, stream, *others = (cfg[key]["_target_"].rsplit(".", 1)[-1] for key in groups)
    width = OmegaConf.select(cfg, "network.width")
    name = "-".join(
        [cfg.optimizer.get("name", optimizer), method, stream, *([f"w{width}"] if width is not None else []), f"s{cfg.seed}"]
    )
    seedless = OmegaConf.create(OmegaConf.to_container(cfg) | {"seed": None})  # type: ignore[operator]
    return {
        "id": _digest(coordinates(cfg)),
        "name": name,
        "group": f"{cfg.experiment_name}/{_digest(coordinates(seedless))[:8]}",
        "job_type": "run",
        "tags": [cfg.experiment_name, method, stream, *others],
    }


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _labels(cfg, identity) -> dict:
    """The columns that tell a run's rows from another's."""
    named = {"experiment": cfg.experiment_name, "run": identity["id"], "name": identity["name"]}
    return named | {"width": OmegaConf.select(cfg, "network.width"), "seed": cfg.seed}


def _one_line(error: BaseException) -> str | None:
    """What to tell the user, or None for an error that is not of his making: a fault of the program keeps its traceback."""
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        own_fault = cause is not None and not isinstance(cause, ImportError | AttributeError | TypeError | ValueError)
        return None if own_fault else (cause and _one_line(cause)) or _flat(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _flat(error) + _nearest(error)
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
    return re.sub(r"\s*\n\s*", "; ", str(error).strip())


def _nearest(error) -> str:
    """`; did you mean ...?` for an override of a key that does not exist."""
    missing = re.search(r"Could not override '([^']*)'", str(error))
    if missing is None:
        return ""
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        known = _keys(OmegaConf.to_container(hydra.compose("config")))
    near = difflib.get_close_matches(missing.group(1), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _keys(nested, prefix="") -> list[str]:
    names = []
    for key, value in nested.items():
        names += [prefix + key, *(_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [])]
    return names


if __name__ == "__main__":
    main()
