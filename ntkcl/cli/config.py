"""From a configuration to what is to be made: settings checked, parts built, runs resolved.

`resolve` is the one reader of a run's configuration: it hands on a `Request` for each run, and
nobody asks the configuration again.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ntkcl import planning, validation, whatif
from ntkcl.cli import parts
from ntkcl.experiment import references
from ntkcl.experiment.events import AHEAD, ANCHORS
from ntkcl.runs import identity, lock, machine
from ntkcl.runs.identity import RUN_JOBS, Run
from ntkcl.runs.schema import check_number
from ntkcl.runs.settings import SETTINGS
from ntkcl.validation import SettingError, one_of, text

PACKAGE = Path(__file__).parents[1]
# In a wheel, or in a checkout.
CONF = next(
    str(folder) for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir()
)
# Our launchers bear the names of those that they wrap, and Hydra warns whenever it checks the
# settings of one against the other.
warnings.filterwarnings(
    "ignore", r"\s*.hydra/launcher.* is validated against ConfigStore schema", UserWarning
)


def _warning(message, category, filename, *place, **line) -> str:
    """Ours in one line; those of others with their place in the code."""
    if category is UserWarning and filename.startswith(str(PACKAGE)):
        return f"ntkcl: {message}\n"
    return WARNING(message, category, filename, *place, **line)


WARNING, warnings.formatwarning = warnings.formatwarning, _warning
OmegaConf.register_new_resolver(
    "sized", lambda full, small, *, _root_: small if _root_.size == "small" else full, replace=True
)
# ${workers:2}, ${workers:null}
OmegaConf.register_new_resolver("workers", machine.workers, replace=True)


class Request(NamedTuple):
    """One run, or one plan, that is asked for: what it is, and how it is to be made.

    anchors, form: of its forecasts.  references: kinds of reference networks.
    checkpoints_every: steps between checkpoints, or None.  plan: settings of a plan, else empty.
    figures: true, false or auto.  retry: which runs are made again.  objective: the number of
    `summary.json` that a sweep optimises, or None.  source: the data set's name.
    """

    run: Run
    nodes: parts.Nodes
    anchors: tuple[str, ...]
    form: str
    references: tuple[str, ...]
    checkpoints_every: int | None
    plan: dict[str, Any]
    figures: str
    retry: str
    objective: str | None
    source: str

    def build(self) -> dict[str, Any]:
        """The arguments of `experiment.run` and `experiment.initialise`, data included."""
        return parts.build(self.nodes)

    def grid(self) -> list[tuple[dict, Any]]:
        """The methods of job=methods, and of job=whatif if it has any, as coordinates and
        method."""
        job = self.run.job
        if job == whatif.JOB and self.plan["methods"] is not None:
            return list(parts.grid_of("whatif.methods", self.plan["methods"]))
        return list(parts.grid_of("plan.methods", self.plan["methods"])) if job == "methods" else []


class Job(NamedTuple):
    """What one command asks for: a request for each seed; whether they are trained as one."""

    requests: tuple[Request, ...]
    together: bool

    @property
    def batches(self) -> list[tuple[Request, ...]]:
        """Requests that are made at once."""
        return [self.requests] if self.together else [(one,) for one in self.requests]

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(one.run.folder for one in self.requests)


def resolve(cfg: DictConfig) -> Job:
    """The runs, or the plan, that a configuration asks for; SettingError for settings that cannot
    be, as far as that is known without data."""
    for check in CHECKS:
        check(cfg)
    requests = tuple(_request(one) for one in identity.seeds_of(cfg))
    return Job(requests, together=cfg.job == "run" and cfg.seeds_by == "vmap")


def _request(cfg: DictConfig) -> Request:
    run = identity.resolve(cfg)
    group = cfg.whatif if cfg.job == whatif.JOB else cfg.plan
    plan = {} if cfg.job in RUN_JOBS else OmegaConf.to_container(group, resolve=True)
    return Request(
        run=run,
        nodes=parts.nodes(cfg),
        anchors=_anchors(cfg),
        form=cfg.forecast.form,
        references=tuple(cfg.references),
        checkpoints_every=cfg.checkpoints.every,
        plan=dict(plan),  # type: ignore[arg-type]
        figures=str(cfg.figures).lower(),
        retry=cfg.sweep.retry,
        objective=cfg.sweep.objective,
        source=OmegaConf.select(cfg, "source.name") or run.choices["source"],
    )


def _anchors(cfg: DictConfig) -> tuple[str, ...]:
    """Those that are asked for, and that the job has: what looks one task ahead waits for training,
    which job=forecast does not do."""
    trains = cfg.job != "forecast"
    return tuple(anchor for anchor in cfg.forecast.anchors if trains or anchor not in AHEAD)


# What no group's own function sees: the top level, and the form of groups and lists.


def _check_top_level(cfg: DictConfig) -> None:
    unknown = [key for key in cfg if key not in SETTINGS]
    if unknown:
        expected = ", ".join(SETTINGS)
        raise SettingError(
            f"{unknown[0]!s}={cfg[unknown[0]]}: no such setting; expected one of {expected}"
        )
    validation.line("results_dir", cfg.results_dir)
    name = validation.line("experiment_name", cfg.experiment_name)
    if name != Path(name).name or name.startswith("."):
        raise SettingError(
            f"experiment_name={cfg.experiment_name}: expected a plain name without slashes, not "
            "beginning with a dot"
        )
    for group in ("kernel", "checkpoints", "forecast", "tracking", "sweep", "whatif"):
        if not OmegaConf.is_dict(cfg[group]):
            raise SettingError(f"{group}={cfg[group]}: expected the settings of that group")
    one_of("size", cfg.size, ("full", "small"))
    one_of("figures", cfg.figures, ("auto", "true", "false"))
    validation.flag("compilation_cache", cfg.compilation_cache)
    one_of("precision", cfg.precision, ("float32", "float64"))


def _check_seeds(cfg: DictConfig) -> None:
    validation.seed("seed", cfg.seed)
    if not OmegaConf.is_list(cfg.seeds) or len(set(cfg.seeds)) < len(cfg.seeds):
        raise SettingError(
            f"seeds={cfg.seeds}: expected a list of different seeds, such as [0,1,2], or [] for "
            "the one of `seed`"
        )
    for seed in cfg.seeds:
        validation.seed("seeds", seed)
    one_of("seeds_by", cfg.seeds_by, ("vmap", "loop"))
    every = cfg.checkpoints.every
    if every is None:
        return
    validation.whole("checkpoints.every", every)
    if len(cfg.seeds) > 1 and cfg.seeds_by == "vmap":
        raise SettingError(
            f"checkpoints.every={every}: expected null where seeds are trained as one, or "
            "seeds_by=loop"
        )


def _check_training(cfg: DictConfig) -> None:
    if not OmegaConf.is_dict(cfg.training):
        raise SettingError(f"training={cfg.training}: expected the settings of conf/config.yaml")
    schedule = cfg.training.get("schedule")
    if schedule is not None and not (OmegaConf.is_dict(schedule) and "name" in schedule):
        raise SettingError(
            f"training.schedule={schedule}: expected null, or an Optax schedule's name and "
            "settings, such as {name: cosine_decay_schedule, decay_steps: 500}"
        )


def _check_forecast(cfg: DictConfig) -> None:
    if not OmegaConf.is_list(cfg.forecast.anchors):
        raise SettingError(
            f"forecast.anchors={cfg.forecast.anchors}: expected a list, such as [init,boundary] "
            "or []"
        )
    for anchor in cfg.forecast.anchors:
        one_of("forecast.anchors", anchor, ANCHORS)


def _check_references(cfg: DictConfig) -> None:
    if not OmegaConf.is_list(cfg.references):
        raise SettingError(
            f"references={cfg.references}: expected a list, such as [single,joint] or []"
        )
    for kind in cfg.references:
        one_of("references", kind, references.TRAINED)
    if cfg.references and cfg.job != "run":
        raise SettingError(
            f"references={cfg.references}: job={cfg.job} measures no run to hold against them; "
            "expected []"
        )


def _check_plan(cfg: DictConfig) -> None:
    if one_of("job", cfg.job, (*RUN_JOBS, *planning.JOBS, whatif.JOB)) in ("run", whatif.JOB):
        return
    if cfg.job == "forecast":
        if not _anchors(cfg):
            raise SettingError(
                f"forecast.anchors={cfg.forecast.anchors}: job=forecast trains nothing; expected "
                "init or infinite among them"
            )
        return
    if not OmegaConf.is_dict(cfg.plan):
        raise SettingError(f"plan={cfg.plan}: expected the settings of conf/config.yaml")
    for group in planning.JOBS:
        own = OmegaConf.select(cfg.plan, group)
        if not OmegaConf.is_dict(own):
            raise SettingError(f"plan.{group}={own}: expected the settings of that job")
    if "init" not in cfg.forecast.anchors:
        raise SettingError(
            f"forecast.anchors={cfg.forecast.anchors}: job={cfg.job} trains nothing before it "
            "plans, and forecasts from init; expected init among them"
        )
    if cfg.forecast.form != "auto":
        raise SettingError(
            f"forecast.form={cfg.forecast.form}: job={cfg.job} takes the first form that is "
            "exact; expected auto"
        )


def _check_sweep(cfg: DictConfig) -> None:
    one_of("sweep.retry", cfg.sweep.retry, lock.RETRY)
    for key in ("dry", "extend"):
        validation.flag(f"sweep.{key}", cfg.sweep[key])
    if cfg.sweep.workers is not None:
        validation.whole("sweep.workers", cfg.sweep.workers)
    if cfg.sweep.objective is not None:
        text("sweep.objective", cfg.sweep.objective)
        if cfg.job in RUN_JOBS:
            anchors, kinds = list(_anchors(cfg)), list(cfg.references)
            check_number("sweep.objective", cfg.sweep.objective, anchors, kinds)


def _check_tracking(cfg: DictConfig) -> None:
    for key in ("fallback", "artifacts"):
        validation.flag(f"tracking.{key}", cfg.tracking[key])
    validation.line("tracking.project", cfg.tracking.project)
    if cfg.tracking.entity is not None:
        validation.line("tracking.entity", cfg.tracking.entity)
    if one_of("tracking.mode", cfg.tracking.mode, ("online", "offline", "disabled")) == "online":
        from ntkcl.reporting import wandb_runs

        wandb_runs.check(cfg.tracking.fallback)


CHECKS = (
    _check_top_level,
    _check_seeds,
    _check_training,
    _check_forecast,
    _check_references,
    _check_plan,
    _check_sweep,
    _check_tracking,
)
