"""The command `ntkcl`, and `python -m ntkcl`: compose a configuration, build what it names, run, write. The one door to Hydra."""

import difflib
import hashlib
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

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
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ntkcl import experiment, figures, record, results, settings, tracking
from ntkcl.meter import Meter
from ntkcl.settings import one_of, text

PACKAGE = Path(__file__).parent
CONF = next(str(folder) for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())  # wheel, or checkout


KEYS = (
    "source", "stream", "network", "loss", "method", "optimizer", "training", "kernel", "forecast",
    "experiment_name", "seed", "precision", "results_dir", "tracking",
)  # fmt: skip


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
    """One run, from its configuration to its folder."""
    jax.config.update("jax_enable_x64", True)  # forecasts are solved in float64; networks keep `precision`
    console, meter = Console(), Meter()
    check(cfg)
    stream, events, loss = build(cfg)
    setup = meter.read()
    identity = identify(cfg)
    config = OmegaConf.to_yaml(OmegaConf.create(coordinates(cfg)), sort_keys=True)
    folder = Path(cfg.results_dir) / "runs" / cfg.experiment_name / f"{identity['name']}-{identity['id'][:8]}"
    with results.staged(folder, config) as stage, np.errstate(over="ignore", invalid="ignore"):  # divergence is data
        told = record.gather(_progress(events, cfg, len(stream), console), stream)
        told.costs["setup"] = [setup]
        summary = results.summarise(told, stream, loss)
        pictures = results.save_figures(stage, figures.draw(told, summary, stream))
        table = results.rows(told, stream, loss, _labels(cfg, identity))
        results.write(stage, config, summary, table, results.arrays(told, stream))
    _show(summary, console)
    console.print(f"[dim]{summary['status']} in {summary['seconds']['total']:.1f} s ->[/dim] {folder}", soft_wrap=True)
    tracking.log(
        folder,
        mode=cfg.tracking.mode,
        project=cfg.tracking.project,
        entity=cfg.tracking.entity,
        identity=identity,
        config=coordinates(cfg),
        record=told,
        summary=summary,
        figures={path.stem: folder / "figures" / path.name for path in pictures},
    )


def check(cfg: DictConfig) -> None:
    """ValueError for what no group's own function sees: the top level, and the form of groups and lists."""
    unknown = [key for key in cfg if key not in KEYS]
    if unknown:
        raise ValueError(f"{unknown[0]!s}={cfg[unknown[0]]}: no such setting; expected one of {', '.join(KEYS)}")
    text("results_dir", cfg.results_dir)
    if text("experiment_name", cfg.experiment_name) != Path(cfg.experiment_name).name or cfg.experiment_name.startswith("."):
        raise ValueError(f"experiment_name={cfg.experiment_name}: expected a plain name without slashes, not beginning with a dot")
    settings.seed("seed", cfg.seed)
    for group in ("kernel", "forecast", "tracking"):
        if not OmegaConf.is_dict(cfg[group]):
            raise ValueError(f"{group}={cfg[group]}: expected the settings of that group")
    text("tracking.project", cfg.tracking.project)
    if cfg.tracking.entity is not None:
        text("tracking.entity", cfg.tracking.entity)
    if not OmegaConf.is_list(cfg.forecast.anchors):
        raise ValueError(f"forecast.anchors={cfg.forecast.anchors}: expected a list, such as [init,boundary] or []")
    if not OmegaConf.is_dict(cfg.training):
        raise ValueError(f"training={cfg.training}: expected the settings of conf/config.yaml")
    one_of("precision", cfg.precision, ("float32", "float64"))
    one_of("tracking.mode", cfg.tracking.mode, ("online", "offline", "disabled"))


def build(cfg: DictConfig):
    """The stream, the experiment's events (not yet begun) and the loss that a configuration names."""
    stream = instantiate(cfg.stream)(instantiate(cfg.source))
    stream = jax.tree.map(lambda a: jnp.asarray(a, cfg.precision), stream)
    network = instantiate(cfg.network)(outputs=stream[0].train.y.shape[1])
    loss = instantiate(cfg.loss)
    events = experiment.run(
        jax.random.key(cfg.seed),
        stream,
        network,
        loss,
        instantiate(cfg.optimizer),
        experiment.Training(**cfg.training),
        method=instantiate(cfg.method),
        anchors=list(cfg.forecast.anchors),
        form=cfg.forecast.form,
        krylov_order=cfg.forecast.krylov_order,
        kernel=instantiate(cfg.kernel),
    )
    return stream, events, loss


def coordinates(cfg: DictConfig) -> dict:
    """What makes a run this run: its resolved configuration without logging, where things lie, and how a kernel is computed."""
    resolved = dict(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    source = {key: value for key, value in resolved["source"].items() if key not in ("data_dir", "download")}
    return {key: value for key, value in resolved.items() if key not in ("results_dir", "tracking", "kernel")} | {"source": source}


def identify(cfg: DictConfig) -> dict:
    """Name, id, group and tags, from the coordinates alone: the same configuration is the same run, in any process."""
    groups = ("optimizer", "method", "stream", "source", "network", "loss")
    optimizer, method, stream, *others = (cfg[key]["_target_"].rsplit(".", 1)[-1] for key in groups)
    width = OmegaConf.select(cfg, "network.width")
    name = "-".join([optimizer, method, stream, *([f"w{width}"] if width is not None else []), f"s{cfg.seed}"])
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


def _progress(events: Iterator, cfg, tasks, console) -> Iterator:
    """The events as they come, with a line that says what is being waited for."""
    anchors = cfg.forecast.anchors
    one_task = [*(["forecasting task {}"] if "boundary" in anchors else []), "training task {}"]
    phases = ["learning rate", "untrained network", *(["forecasting the stream"] if "init" in anchors else [])]
    phases += ["baselines"] if anchors else []
    phases += [phase.format(t) for t in range(tasks) for phase in one_task]
    columns = SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(phases[0], total=len(phases))
        for upcoming, event in zip([*phases[1:], "comparing"], events, strict=False):
            if isinstance(event, experiment.Plan):
                share = event.learning_rate / event.limit
                console.print(f"learning rate {event.learning_rate:.6g}, {share:.3g} of the stability limit {event.limit:.6g}")
            elif isinstance(event, experiment.Forecast) and not all(event.stable):
                over = [event.first + k for k, stable in enumerate(event.stable) if not stable]
                console.print(f"[yellow]{event.anchor}: the learning rate is over the stability limit of tasks {over}[/yellow]")
            progress.update(bar, advance=1, description=upcoming)
            yield event


def _show(summary, console) -> None:
    """The compact table at the end: what was foretold beside what came."""
    table = Table(caption="drift, loss: train inputs; accuracies: test\ninputs, for boundary one task ahead", caption_justify="left")
    anchors = summary["forecast"]
    for heading in ("", "measured", *anchors):
        table.add_column(heading, justify="left" if not heading else "right")
    first: dict = next(iter(anchors.values()), {})
    for name in ("average_accuracy", "learning_accuracy", "forgetting_chaudhry", "bwt_gem", "fwt_gem"):
        table.add_row(name, _number(summary["metrics"][name]), *(_number(a["metrics"][name]) for a in anchors.values()))
    table.add_section()
    forgetting = "mean_forgetting_predicted"
    table.add_row(
        "forgetting (loss)", _number(first.get("mean_forgetting_measured")), *(_number(a[forgetting]) for a in anchors.values())
    )
    for name in (
        "drift_r2",
        "drift_cosine",
        "drift_slope",
        "skill",
        "change_r2",
        "spearman_offdiagonal",
        "spearman_samples",
        "flip_f1",
    ):
        table.add_row(name, "", *(_number(a[name]) for a in anchors.values()))
    table.add_section()
    table.add_row("skill over the best baseline", "", *(_best(a["baselines"], "skill", min) for a in anchors.values()))
    table.add_row("spearman_pairs", "", *(_number(a["spearman_pairs"]) for a in anchors.values()))
    table.add_row("of the best baseline", "", *(_best(a["baselines"], "spearman_pairs", max) for a in anchors.values()))
    table.add_section()
    seconds = summary["seconds"]
    table.add_row("seconds", f"{seconds.get('train', 0):.1f}", *(f"{seconds[f'forecast_{a}']:.1f}" for a in anchors))
    console.print(table)


def _best(baselines, key, choose) -> str:
    """The number of the baseline that is hardest to beat, by `choose`, and its name."""
    finite = {name: own[key] for name, own in baselines.items() if np.isfinite(own.get(key, np.nan))}
    if not finite:
        return "-"
    name = choose(finite, key=lambda name: abs(finite[name]) if choose is max else finite[name])
    return f"{_number(finite[name])}\n{name}"


def _number(value) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


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
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        return f"{_flat(error)}: no such setting"
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
