"""What scripts of figures that read images share: from the composed preset to table, figure and exit code."""

import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from ntkcl import results
from ntkcl.types import Source

NOT_SETTINGS = ("draw", "results_dir", "source")  # where files lie is no part of what was computed


def settings_of(cfg: DictConfig) -> dict:
    """The settings of a preset as plain values."""
    told = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return {key: value for key, value in told.items() if key not in NOT_SETTINGS}


def increasing(name: str, values: list, least: int = 1) -> None:
    """ValueError for numbers that do not increase, or are fewer than `least`."""
    if len(values) < least or values != sorted(set(values)):
        raise ValueError(f"{name}={values}: expected at least {least}, increasing")


def standardised(source: Source) -> Source:
    """The source with the mean and standard deviation of its own train pixels, whatever they are."""
    x = source.train.x
    return source._replace(mean=float(x.mean(dtype=np.float64)), sd=float(x.std(dtype=np.float64)))


def publish(
    cfg: DictConfig,
    name: str,
    check: Callable[[DictConfig], dict],
    compute: Callable[[dict, Source], dict],
    markdown: Callable[[dict], str],
    draw: Callable[[dict], Figure],
) -> None:
    """Compute tables/`name`.json or, with draw=true, read it; from it tables/`name`.md and figures/`name`.png.

    Exit code 1 if a claim fails.
    """
    root = Path(cfg.results_dir)
    table = root / "tables" / f"{name}.json"
    for folder in ("tables", "figures"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if cfg.draw:
        if not table.exists():
            sys.exit(f"{table} does not exist: run without draw=true first")
        stored = json.loads(table.read_text())
    else:
        settings = check(cfg)
        stored = _made(settings, cfg.source, compute)
        text = json.dumps(results.plain(stored), indent=1, allow_nan=False)
        text = re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", lambda row: "[" + re.sub(r"\s+", " ", row[1]) + "]", text)  # a curve a line
        stored = json.loads(text)
        table.write_text(text + "\n")
    show(root, name, stored, markdown, draw)


def show(root: Path, name: str, stored: dict, markdown: Callable[[dict], str], draw: Callable[[dict], Figure]) -> None:
    """tables/`name`.md and figures/`name`.png of what is stored, the table on the terminal too; exit code 1 if a claim fails."""
    (root / "tables" / f"{name}.md").write_text(markdown(stored))
    draw(stored).savefig(root / "figures" / f"{name}.png", dpi=150)
    print(markdown(stored))
    if not all(claim["holds"] for claim in stored["claims"]):
        sys.exit(1)


def claims_list(claims: list[dict]) -> list[str]:
    """A line of markdown each."""
    return [f"- {'holds' if claim['holds'] else 'FAILS'}: {claim['claim']}" for claim in claims]


def _made(settings, node, compute) -> dict:
    try:
        source = instantiate(node)
    except InstantiationException as error:
        sys.exit(f"{error.__cause__ or error}; source=digits needs no files")
    jax.config.update("jax_enable_x64", True)  # solves are in float64; networks keep the type of the images
    start = time.perf_counter()
    made = compute(settings, source)
    return {
        "settings": settings,
        "images": {
            "source": node["_target_"].rsplit(".", 1)[-1],
            "train set": len(source.train.x),
            "sha256": hashlib.sha256(np.ascontiguousarray(source.train.x).tobytes()).hexdigest()[:16],
        },
        **made,
        "seconds": round(time.perf_counter() - start, 1),
        "made with": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "backend": jax.default_backend(),
            "cpus": os.cpu_count(),
        },
    }
