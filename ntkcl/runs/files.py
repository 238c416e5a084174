"""From a record to files: `summary.json`, `rows.parquet`, `arrays.npz`, the resolved configuration,
and back.

A run's files are written into a hidden folder beside their place and moved there as a whole, so
that a folder that exists is a folder that is complete.
"""

import contextlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntkcl.runs import stored
from ntkcl.runs.identity import Run
from ntkcl.validation import SettingError

# Of a run's folder. 1, which named no schema, had neither `environment`, `kernel`, nor the samples
# forgotten most.
SCHEMA = 2
LOGGED = Path("wandb", "complete")  # in a run's folder: all of it is in W&B


def write(
    folder: Path,
    config: str,
    summary: dict,
    table: pd.DataFrame,
    named: dict[str, np.ndarray],
    inside: pd.DataFrame | None = None,
) -> None:
    """The four files of a run, and `curves.parquet` where there are any; NaN is null in JSON."""
    if inside is not None:
        inside.to_parquet(folder / "curves.parquet", index=False)
    (folder / "config.yaml").write_text(config)
    np.savez_compressed(folder / "arrays.npz", **named)  # type: ignore[arg-type]
    table.to_parquet(folder / "rows.parquet", index=False)
    (folder / "summary.json").write_text(
        json.dumps(plain(summary), indent=1, allow_nan=False) + "\n"
    )


def write_plan(
    folder: Path,
    config: str,
    summary: dict,
    candidates: Sequence[dict],
    coordinates: dict,
    named: Mapping[str, np.ndarray],
    slices: Sequence[dict] = (),
) -> None:
    """The files of a plan: `config.yaml`, `summary.json`, `candidates.parquet`, a row each, and
    `arrays.npz` and `slices.parquet` where there are any."""
    if slices:
        pd.DataFrame([coordinates | row for row in slices]).to_parquet(
            folder / "slices.parquet", index=False
        )
    if named:
        np.savez_compressed(folder / "arrays.npz", **named)  # type: ignore[arg-type]
    (folder / "config.yaml").write_text(config)
    pd.DataFrame([coordinates | row for row in candidates]).to_parquet(
        folder / "candidates.parquet", index=False
    )
    (folder / "summary.json").write_text(
        json.dumps(plain(summary), indent=1, allow_nan=False) + "\n"
    )


def save_figures(folder: Path, figures: Mapping[str, Any]) -> list[Path]:
    """PNG files `figures/<name>.png` of matplotlib's figures."""
    (folder / "figures").mkdir()
    paths = [folder / "figures" / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path, dpi=150, bbox_inches="tight")  # equal aspects outgrow the canvas
    return paths


def load(folder: Path | str) -> tuple[dict, pd.DataFrame, dict[str, np.ndarray]]:
    """The summary, rows and arrays of a run's folder; `ntkcl.runs.stored.Damaged` if one is
    damaged."""
    folder = Path(folder)
    return read_summary(folder), stored.table(folder / "rows.parquet"), stored.arrays(folder)


def read_summary(folder: Path) -> dict:
    """The contents of `summary.json`, in the schema of today: what an older one lacks is None.

    Raises ValueError for a folder of a newer schema, and `ntkcl.runs.stored.Damaged` for one whose
    numbers cannot be found.
    """
    summary, path = stored.summary(folder), folder / "summary.json"
    schema = summary.get("schema", 1)
    if not isinstance(schema, int):
        raise stored.Damaged(path, f"its schema is {schema!r}")
    if schema > SCHEMA:
        raise SettingError(
            f"{folder}: its schema is {schema}, and this ntkcl reads up to {SCHEMA}; install a "
            "newer one"
        )
    if not {"status", "metrics", "forecast"} <= summary.keys():
        raise stored.Damaged(path, "written before summaries had a schema")
    forecasts = summary["forecast"] if isinstance(summary["forecast"], dict) else {"": None}
    right = {"status": isinstance(summary["status"], str)}
    right["metrics"] = isinstance(summary["metrics"], dict)
    right["forecast"] = all(isinstance(one, dict) for one in forecasts.values())
    if wrong := [name for name, fits in right.items() if not fits]:
        raise stored.Damaged(path, f"its {wrong[0]} is not what a run writes")
    nothing = {"top_ratio": [None] * len(summary.get("R", ())), "top_drift": None}
    return {"environment": None, "kernel": nothing} | summary


def logged(folder: Path) -> bool:
    """Whether a complete run is in W&B's files as a whole; one of schema 1, which had no mark for
    that, is taken to be."""
    if (folder / LOGGED).exists():
        return True
    with contextlib.suppress(OSError, ValueError):
        return (folder / LOGGED).parent.is_dir() and "schema" not in stored.summary(folder)
    return False


def unlogged(run: Run) -> bool:
    """Whether a complete run is still to be logged to W&B."""
    return run.tracking.mode != "disabled" and run.folder.exists() and not logged(run.folder)


def load_plan(folder: Path | str) -> tuple[dict, pd.DataFrame]:
    """The summary and the candidates of a plan's folder; `ntkcl.runs.stored.Damaged` of a damaged
    one."""
    folder = Path(folder)
    return stored.summary(folder), stored.table(folder / "candidates.parquet")


def plain(value):
    """Arrays to lists, numbers to Python's, what is not finite to None."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _deliver(stage: Path, folder: Path) -> None:
    """Put the new run in the place of the old one, which goes only when the new one stands."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if folder.exists():
            folder.rename(aside / "old")
        try:
            stage.rename(folder)
        except OSError:
            if not folder.exists():  # else another process has just delivered the same run
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _another(folder, config) -> str | None:
    """What a folder holds that is not to be overwritten; None of the same configuration, whole or
    cut short, and of one that is no text of settings."""
    if not (folder / "config.yaml").is_file():
        return "something that is not a run"
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    return "another configuration" if stored.begins(text) and not config.startswith(text) else None


@contextlib.contextmanager
def staged(folder: Path, config: str) -> Iterator[Path]:
    """A hidden folder that becomes `folder` when the block ends well and is removed when it does
    not.

    Raises ValueError where `folder` cannot be written, and where it holds another configuration:
    nothing is overwritten then. A finished run of the same configuration is replaced, and one whose
    configuration is damaged.
    """
    if folder.exists() and (held := _another(folder, config)) is not None:
        raise SettingError(
            f"results_dir: {folder} holds {held}; move it away, or set another results_dir or "
            "experiment_name"
        )
    opened = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise SettingError(
            f"results_dir: {folder.parent} cannot be written ({error.strerror}); set "
            "results_dir=PATH"
        ) from error
    try:
        stage.chmod(0o755)
        yield stage
        _deliver(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        with contextlib.suppress(OSError):  # what was opened for this run and stayed empty
            for parent in opened:
                parent.rmdir()
