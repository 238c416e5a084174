"""What a run is called and where it goes: resolved once from its configuration, then handed on.

The same configuration is the same run everywhere: its id is the hash of its settings.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ntkcl.runs.settings import GROUPS, SETTINGS, UNHASHED_DEFAULTS


class Tracking(NamedTuple):
    """How a run is logged to Weights & Biases, see `ntkcl.reporting.wandb_runs.track`."""

    mode: str
    project: str
    entity: str | None
    fallback: bool
    artifacts: bool


RUN_JOBS = ("run", "forecast")
"""The jobs that make a run, whole or its forecasts alone; the others make plans."""
FOREIGN = {
    "run": ("job", "plan", "whatif"),
    "forecast": ("plan", "whatif"),
    "whatif": ("plan",),
}
"""Settings that do not make such a job this one; of the other plans `whatif`."""


class Run(NamedTuple):
    """One run, or one plan.

    id: 16 hexadecimal digits, the hash of `settings`.  name: method, stream, width and seed, to be
      read.  job: one of `RUN_JOBS`, or a kind of plan.
    group: the runs that differ in their seeds alone.  tags: to be filtered by.
    results_dir, folder: where all results go, and this run's.
    settings: what makes it this run.  config: the same as YAML, as the folder keeps it.
    choices: the name of what was chosen of each group.
    """

    id: str
    name: str
    job: str
    experiment: str
    group: str
    tags: tuple[str, ...]
    results_dir: Path
    folder: Path
    settings: dict[str, Any]
    config: str
    choices: dict[str, str]
    width: int | None
    seed: int
    tracking: Tracking

    @property
    def checkpoints(self) -> Path:
        return self.results_dir / "checkpoints" / self.experiment / self.id

    @property
    def references(self) -> Path:
        return self.results_dir / "references"

    @property
    def labels(self) -> dict[str, Any]:
        """The columns that tell this run's rows from another's."""
        named = {"experiment": self.experiment, "run": self.id, "name": self.name}
        return named | {"width": self.width, "seed": self.seed}


def resolve(cfg: DictConfig) -> Run:
    """The run that a configuration describes."""
    settings, choices, experiment = _settings(cfg), _choices(cfg), cfg.experiment_name
    optimizer, method, stream = (choices[key] for key in ("optimizer", "method", "stream"))
    width, results_dir = OmegaConf.select(cfg, "network.width"), Path(cfg.results_dir)
    of_width = [f"w{width}"] if width is not None else []
    name = "-".join([optimizer, method, stream, *of_width, f"s{cfg.seed}"])
    kind = "runs" if cfg.job in RUN_JOBS else "plans"
    title = name if cfg.job == "run" else f"{cfg.job}-{name}"
    own_id = digest(settings)
    return Run(
        id=own_id,
        name=name,
        job=cfg.job,
        experiment=experiment,
        group=f"{experiment}/{digest(_settings(_with_seed(cfg, None)))[:8]}",
        tags=(experiment, method, stream, *(choices[k] for k in ("source", "network", "loss"))),
        results_dir=results_dir,
        folder=results_dir / kind / experiment / f"{title}-{own_id[:8]}",
        settings=settings,
        config=OmegaConf.to_yaml(OmegaConf.create(settings), sort_keys=True),
        choices=choices,
        width=width,
        seed=cfg.seed,
        tracking=Tracking(*(cfg.tracking[key] for key in Tracking._fields)),
    )


def seeds_of(cfg: DictConfig) -> list[DictConfig]:
    """One configuration a run: a job with several `seeds` is as many runs, each the one that its
    `seed` alone would make."""
    return [_with_seed(cfg, seed) for seed in cfg.seeds] or [cfg]


def _with_seed(cfg: DictConfig, seed: int | None) -> DictConfig:
    one = cfg.copy()
    one.seed, one.seeds = seed, []
    return one


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """What makes a run this run, `ntkcl.runs.settings`: the configuration, resolved, without what
    is not hashed."""
    resolved: dict[str, Any] = dict(
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[arg-type]
    )
    foreign = FOREIGN.get(cfg.job, ("whatif",))
    kept = {
        key: value for key, value in resolved.items() if SETTINGS[key].hashed and key not in foreign
    }
    for group, value in kept.items():
        left_out, defaults = SETTINGS[group].not_hashed, UNHASHED_DEFAULTS.get(group, {})
        if left_out or defaults:
            kept[group] = {
                key: one
                for key, one in value.items()
                if key not in left_out and not (key in defaults and one == defaults[key])
            }
    return kept


def _choices(cfg: DictConfig) -> dict[str, str]:
    """What was chosen of each group: the name of its target; of the optimizer Optax's, where it is
    one of those."""
    targets = {group: cfg[group]["_target_"].rsplit(".", 1)[-1] for group in GROUPS}
    return targets | {"optimizer": str(cfg.optimizer.get("name", targets["optimizer"]))}


def flat(nested: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    entries: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            entries |= flat(value, f"{prefix}{key}.")
        else:
            entries[f"{prefix}{key}"] = value
    return entries


def digest(content: Mapping) -> str:
    """16 hexadecimal digits of plain settings, whatever their order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
