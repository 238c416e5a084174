"""From a configuration to what it names: its settings checked, its parts built."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ntkcl import forecast, methods, optimizers, planning, validation
from ntkcl.experiment import references
from ntkcl.experiment.events import ANCHORS
from ntkcl.runs import lock, machine
from ntkcl.training.settings import Training
from ntkcl.types import Loss, Method, Network, Optimizer, Source, Stream, Task
from ntkcl.validation import one_of, text

PACKAGE = Path(__file__).parents[1]
CONF = next(
    str(folder) for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir()
)  # wheel, or checkout
# Our launchers bear the names of those that they wrap, and Hydra warns whenever it checks the settings of one against the other.
warnings.filterwarnings(
    "ignore", r"\s*.hydra/launcher.* is validated against ConfigStore schema", UserWarning
)
OmegaConf.register_new_resolver(
    "sized", lambda full, small, *, _root_: small if _root_.size == "small" else full, replace=True
)
OmegaConf.register_new_resolver(
    "workers", machine.workers, replace=True
)  # ${workers:2}, ${workers:null}
METHODS = tuple(methods.__all__)
KEYS = (
    "source", "stream", "network", "loss", "method", "optimizer", "training", "kernel", "checkpoints", "forecast",
    "references", "job", "plan", "experiment_name", "seed", "seeds", "seeds_by", "precision", "results_dir", "tracking",
    "sweep", "figures", "size",
)  # fmt: skip


def grid_of(grid) -> Iterator[tuple[dict, Any]]:
    """Every cell of a grid {method: {setting: value or list of values}}, as coordinates and method."""
    for name, values in grid.items():
        one_of("plan.methods", name, METHODS)
        if not isinstance(values, dict | None):
            raise ValueError(
                f"plan.methods.{name}={values}: expected settings and their values, such as {{penalty: [0.1, 1.0]}}, or {{}}"
            )
        lists = {
            key: value if isinstance(value, list) else [value]
            for key, value in (values or {}).items()
        }
        for key, several in lists.items():
            if not several:
                raise ValueError(f"plan.methods.{name}.{key}=[]: expected at least one value")
        for combination in itertools.product(*lists.values()):
            chosen = dict(zip(lists, combination, strict=True))
            yield (
                {"method": name, **chosen},
                instantiate({"_target_": f"ntkcl.methods.{name}", **chosen}),
            )


def check(cfg: DictConfig) -> None:
    """ValueError for what no group's own function sees: the top level, and the form of groups and lists."""
    unknown = [key for key in cfg if key not in KEYS]
    if unknown:
        raise ValueError(
            f"{unknown[0]!s}={cfg[unknown[0]]}: no such setting; expected one of {', '.join(KEYS)}"
        )
    validation.line("results_dir", cfg.results_dir)
    name = validation.line("experiment_name", cfg.experiment_name)
    if name != Path(name).name or name.startswith("."):
        raise ValueError(
            f"experiment_name={cfg.experiment_name}: expected a plain name without slashes, not beginning with a dot"
        )
    validation.seed("seed", cfg.seed)
    if not OmegaConf.is_list(cfg.seeds) or len(set(cfg.seeds)) < len(cfg.seeds):
        raise ValueError(
            f"seeds={cfg.seeds}: expected a list of different seeds, such as [0,1,2], or [] for the one of `seed`"
        )
    for seed in cfg.seeds:
        validation.seed("seeds", seed)
    one_of("seeds_by", cfg.seeds_by, ("vmap", "loop"))
    for group in ("kernel", "checkpoints", "forecast", "tracking", "sweep"):
        if not OmegaConf.is_dict(cfg[group]):
            raise ValueError(f"{group}={cfg[group]}: expected the settings of that group")
    if cfg.checkpoints.every is not None:
        validation.whole("checkpoints.every", cfg.checkpoints.every)
        if len(cfg.seeds) > 1 and cfg.seeds_by == "vmap":
            raise ValueError(
                f"checkpoints.every={cfg.checkpoints.every}: expected null where seeds are trained as one, or seeds_by=loop"
            )
    for key in ("fallback", "artifacts"):
        validation.flag(f"tracking.{key}", cfg.tracking[key])
    validation.line("tracking.project", cfg.tracking.project)
    if cfg.tracking.entity is not None:
        validation.line("tracking.entity", cfg.tracking.entity)
    if not OmegaConf.is_list(cfg.forecast.anchors):
        raise ValueError(
            f"forecast.anchors={cfg.forecast.anchors}: expected a list, such as [init,boundary] or []"
        )
    if not OmegaConf.is_list(cfg.references):
        raise ValueError(
            f"references={cfg.references}: expected a list, such as [single,joint] or []"
        )
    for kind in cfg.references:
        one_of("references", kind, references.TRAINED)
    if cfg.references and cfg.job != "run":
        raise ValueError(
            f"references={cfg.references}: job={cfg.job} measures no run to hold against them; expected []"
        )
    if not OmegaConf.is_dict(cfg.training):
        raise ValueError(f"training={cfg.training}: expected the settings of conf/config.yaml")
    schedule = cfg.training.get("schedule")
    if schedule is not None and not (OmegaConf.is_dict(schedule) and "name" in schedule):
        raise ValueError(
            f"training.schedule={schedule}: expected null, or an Optax schedule's name and settings, such as "
            "{name: cosine_decay_schedule, decay_steps: 500}"
        )
    if one_of("job", cfg.job, ("run", *planning.JOBS)) != "run":
        if not OmegaConf.is_dict(cfg.plan):
            raise ValueError(f"plan={cfg.plan}: expected the settings of conf/config.yaml")
        for group in planning.JOBS:
            if not OmegaConf.is_dict(OmegaConf.select(cfg.plan, group)):
                raise ValueError(
                    f"plan.{group}={OmegaConf.select(cfg.plan, group)}: expected the settings of that job"
                )
        if "init" not in cfg.forecast.anchors:
            raise ValueError(
                f"forecast.anchors={cfg.forecast.anchors}: job={cfg.job} trains nothing before it plans, and forecasts from init; "
                "expected init among them"
            )
        if cfg.forecast.form != "auto":
            raise ValueError(
                f"forecast.form={cfg.forecast.form}: job={cfg.job} takes the first form that is exact; expected auto"
            )
    for anchor in cfg.forecast.anchors:
        one_of("forecast.anchors", anchor, ANCHORS)
    one_of("size", cfg.size, ("full", "small"))
    one_of("figures", cfg.figures, ("auto", "true", "false"))
    one_of("sweep.retry", cfg.sweep.retry, lock.RETRY)
    for key in ("dry", "extend"):
        validation.flag(f"sweep.{key}", cfg.sweep[key])
    if cfg.sweep.workers is not None:
        validation.whole("sweep.workers", cfg.sweep.workers)
    if cfg.sweep.objective is not None:
        text("sweep.objective", cfg.sweep.objective)
    one_of("precision", cfg.precision, ("float32", "float64"))
    if one_of("tracking.mode", cfg.tracking.mode, ("online", "offline", "disabled")) == "online":
        from ntkcl.reporting import wandb_runs

        wandb_runs.check(cfg.tracking.fallback)


def parts(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of `experiment.run` and `experiment.initialise` for which no data are needed, the network still without its outputs."""
    return dict(
        network=_to_call("network", cfg.network),
        loss=_made("loss", cfg.loss, instantiate(cfg.loss), Loss),
        optimizer=_made("optimizer", cfg.optimizer, instantiate(cfg.optimizer), Optimizer),
        training=_training(cfg.training),
        method=_made("method", cfg.method, instantiate(cfg.method), Method),
        effort=forecast.Effort(*(cfg.forecast[key] for key in forecast.Effort._fields)),
        kernel=_to_call("kernel", cfg.kernel),
    )


def _made(group: str, chosen, what: Any, kind: type) -> Any:
    """What a group's function has returned; ValueError, naming it, for anything but a `kind`."""
    if isinstance(what, kind):
        return what
    raise ValueError(
        f"{_named(group, chosen)} returned {_short(what)}; expected an ntkcl.types.{kind.__name__}"
    )


def _to_call(group: str, chosen) -> Callable[..., Any]:
    """The function of a group that is called later, with what is not known yet."""
    what = instantiate(chosen)
    if callable(what):
        return what
    raise ValueError(
        f"{_named(group, chosen)} returned {_short(what)}; expected {group}._partial_=true, so that it is called later"
    )


def _named(group, chosen) -> str:
    return (
        f"{group}._target_={chosen['_target_']}"
        if OmegaConf.is_dict(chosen) and "_target_" in chosen
        else group
    )


def _short(what) -> str:
    """What came, in a few words of one line."""
    lines = repr(what).splitlines() or [""]
    more = " ..." if len(lines) > 1 or len(lines[0]) > 60 else ""
    return f"{type(what).__name__}: {lines[0][:60]}{more}"


def _checked_stream(chosen, what) -> Stream:
    """A tuple or list of tasks, at least one, as a tuple."""
    if not isinstance(what, tuple | list) or isinstance(what, Task) or not what:
        raise ValueError(
            f"{_named('stream', chosen)} returned {_short(what)}; expected a tuple of ntkcl.types.Task, at least one"
        )
    for t, task in enumerate(what):
        if not isinstance(task, Task):
            raise ValueError(
                f"{_named('stream', chosen)} returned as task {t} a {_short(task)}; expected an ntkcl.types.Task"
            )
    return tuple(what)


def build(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of `experiment.run` and `experiment.initialise` that a configuration names, by their names."""
    stream = _stream(
        *(OmegaConf.to_yaml(cfg[group], resolve=True) for group in ("source", "stream")),
        cfg.precision,
    )
    named = parts(cfg)
    network = _made(
        "network", cfg.network, named["network"](outputs=stream[0].train.y.shape[1]), Network
    )
    if not callable(named["kernel"](network)):
        raise ValueError(
            f"{_named('kernel', cfg.kernel)} returned no function of (theta, x1, x2) for a network; see ntkcl.kernels"
        )
    return dict(key=jax.random.key(cfg.seed), stream=stream) | named | dict(network=network)


@lru_cache(maxsize=1)  # runs of a sweep that differ in other things come one after the other
def _stream(source: str, stream: str, precision: str) -> Stream:
    nodes = {"source": OmegaConf.create(source), "stream": OmegaConf.create(stream)}
    make = _to_call("stream", nodes["stream"])
    images = _made("source", nodes["source"], instantiate(nodes["source"]), Source)
    return jax.tree.map(
        lambda a: jnp.asarray(a, precision), _checked_stream(nodes["stream"], make(images))
    )


def _training(chosen) -> Training:
    named = dict(OmegaConf.to_container(chosen, resolve=True))  # type: ignore[arg-type]
    schedule = named.pop("schedule", None)
    return Training(**named, schedule=None if schedule is None else optimizers.schedule(**schedule))
