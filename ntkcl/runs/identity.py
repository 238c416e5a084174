"""What a run is called and where it goes, from its resolved configuration alone: the same configuration is the same run everywhere."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ntkcl.runs.stored import GROUPS

ELSEWHERE = (
    "results_dir", "tracking", "kernel", "checkpoints", "references", "seeds", "seeds_by", "sweep", "figures", "size",
)  # fmt: skip  # makes no run another run
YOUNGER: dict[str, dict[str, Any]] = {  # settings that runs once had no other value of
    "stream": {"interpolation": "bilinear"},
    "network": {"parametrization": "ntk", "init": "normal", "gamma0": 1.0},
    "training": {
        "epochs": None,
        "optimizer_state": "reset",
        "evaluate_every": None,
        "schedule": None,
        "compute": None,
    },
}


def seeds_of(cfg: DictConfig) -> list[DictConfig]:
    """One configuration a run: a job with several `seeds` is as many runs, each the one that its `seed` alone would make."""
    return [_seeded(cfg, seed) for seed in cfg.seeds] or [cfg]


def _seeded(cfg, seed):
    one = cfg.copy()
    one.seed, one.seeds = seed, []
    return one


def place(cfg: DictConfig) -> tuple[Path, str]:
    """The folder of a run or a plan, and the configuration written there."""
    identity = identify(cfg)
    kind, name = (
        ("runs", identity["name"])
        if cfg.job == "run"
        else ("plans", f"{cfg.job}-{identity['name']}")
    )
    folder = Path(cfg.results_dir) / kind / cfg.experiment_name / f"{name}-{identity['id'][:8]}"
    return folder, OmegaConf.to_yaml(OmegaConf.create(coordinates(cfg)), sort_keys=True)


def coordinates(cfg: DictConfig) -> dict:
    """What makes a run this run: its resolved configuration without logging, where things lie, how and where it is computed, and what
    the run is held against.

    Settings that there have not always been are left out at the value that runs had without them, so that these keep their names.
    """
    resolved: dict[str, Any] = dict(
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[arg-type]
    )
    for group, keys in (("source", ("data_dir", "download")), ("training", ("devices",))):
        resolved[group] = {key: value for key, value in resolved[group].items() if key not in keys}
    for group, old in YOUNGER.items():
        resolved[group] = {
            key: value
            for key, value in resolved[group].items()
            if key not in old or value != old[key]
        }
    elsewhere = (*ELSEWHERE, *(("job", "plan") if cfg.job == "run" else ()))
    return {key: value for key, value in resolved.items() if key not in elsewhere}


def flat(nested: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    told: dict[str, Any] = {}
    for key, value in nested.items():
        told |= (
            flat(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return told


def names(cfg: DictConfig) -> dict[str, str]:
    """What was chosen of each group: the name of its target, of the optimizer Optax's where it is one of those."""
    told = {group: cfg[group]["_target_"].rsplit(".", 1)[-1] for group in GROUPS}
    return told | {"optimizer": cfg.optimizer.get("name", told["optimizer"])}


def identify(cfg: DictConfig) -> dict:
    """Name, id, group and tags, from the coordinates alone: the same configuration is the same run, in any process."""
    chosen = names(cfg)
    optimizer, method, stream = (chosen[key] for key in ("optimizer", "method", "stream"))
    width = OmegaConf.select(cfg, "network.width")
    name = "-".join(
        [
            str(optimizer),
            method,
            stream,
            *([f"w{width}"] if width is not None else []),
            f"s{cfg.seed}",
        ]
    )
    seedless = OmegaConf.create(OmegaConf.to_container(cfg) | {"seed": None})  # type: ignore[operator]
    return {
        "id": digest(coordinates(cfg)),
        "name": name,
        "group": f"{cfg.experiment_name}/{digest(coordinates(seedless))[:8]}",
        "job_type": "run",
        "tags": [
            cfg.experiment_name,
            method,
            stream,
            *(chosen[key] for key in ("source", "network", "loss")),
        ],
    }


def digest(content: Mapping) -> str:
    """16 hexadecimal digits of plain settings, whatever their order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def labels(cfg, identity) -> dict:
    """The columns that tell a run's rows from another's."""
    named = {"experiment": cfg.experiment_name, "run": identity["id"], "name": identity["name"]}
    return named | {"width": OmegaConf.select(cfg, "network.width"), "seed": cfg.seed}
