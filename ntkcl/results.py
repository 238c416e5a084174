"""From a record to files: `summary.json`, `rows.parquet`, `arrays.npz`, the resolved configuration, and back.

A run's files are written into a hidden folder beside their place and moved there as a whole, so that a folder that exists is a
folder that is complete.
"""

import contextlib
import difflib
import json
import math
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from ntkcl import machine, metrics, stored
from ntkcl.record import PARTS, Record, compare, curves, sample_losses, score_matrices
from ntkcl.types import Loss, Rows, Stream

SCHEMA = 2  # of a run's folder. 1, which named no schema, had neither `environment`, `kernel`, nor the samples forgotten most
LOGGED = Path("wandb", "complete")  # in a run's folder: all of it is in W&B
FORGOTTEN = 24  # samples of each run that are kept to be looked at
SCORES = ("metrics", "metrics_loss")


def summarise(record: Record, stream: Stream, loss: Loss, references: Mapping[str, Mapping] | None = None) -> dict:
    """The contents of `summary.json`: R, b, metrics on test inputs; agreement of forecasts on train inputs, and under `test`.

    `references`: the scores of what `ntkcl.references` trains, by kind. Given, they are told beside those of the untrained network, and
    `metrics` and `metrics_loss` hold what can be said with them.
    """
    references = references or {}
    measured = {part: score_matrices(record.measured, stream, part, loss) for part in PARTS}
    forecasts = {}
    for anchor in record.changes:
        train, test = (compare(record, anchor, stream, part, loss) for part in PARTS)
        matrices = {key: test[key] for key in ("R", "R_loss", *SCORES)} | {
            "R_train": train["R"],
            "R_loss_train": train["R_loss"],
        }
        matrices |= {key: matrices[key] | more for key, more in _referenced(test, references).items()}
        agreement = {key: value for key, value in train.items() if key not in ("R", "R_loss", "b", "b_loss", *SCORES)}
        forecasts[anchor] = matrices | agreement | record.numerics[anchor] | {"test": {key: test[key] for key in agreement}}
    seconds = {phase: sum(cost.seconds for cost in costs) for phase, costs in record.costs.items()}
    scores = {
        "metrics": metrics.summary(measured["test"]["R"], measured["test"]["b"]),
        "metrics_loss": metrics.loss_summary(measured["test"]["R_loss"], measured["test"]["b_loss"]),
    }
    return {
        "schema": SCHEMA,
        "status": record.status,
        **measured["test"],
        **{f"{key}_train": value for key, value in measured["train"].items()},
        **{key: scores[key] | more for key, more in _referenced(measured["test"], references).items()},
        **({"reference": {"untrained": _untrained(measured), **references}} if references else {}),
        "forecast": forecasts,
        "kernel": _kernel(record),
        "learning_rate": record.plan.learning_rate,
        "learning_rate_limit": record.plan.limit,
        "seconds": seconds | {"total": sum(seconds.values())},
        "peak_mib": {phase: max(cost.peak_mib for cost in costs) for phase, costs in record.costs.items()},
        "environment": environment(),
    }


def check_number(setting: str, name: str, anchors: Sequence[str], references: Sequence[str]) -> None:
    """ValueError for the dotted name of a number that no summary of such a run holds, as far as that is known before it is made."""
    R, b = np.zeros((2, 2)), np.zeros(2)
    more = _referenced({"R": R, "b": b, "R_loss": R, "b_loss": b}, {kind: {"accuracy": b, "loss": b} for kind in references})
    told = zip(SCORES, (metrics.summary(R, b), metrics.loss_summary(R, b)), strict=True)
    known = {f"{head}.{key}" for head, scores in told for key in scores | more[head]} | {"learning_rate", "learning_rate_limit"}
    known |= {f"forecast.{anchor}.drift_r2" for anchor in anchors}
    known |= {"kernel.top_drift"} if {"init", "boundary"} <= set(anchors) else set()
    open_ended = (*(f"forecast.{anchor}." for anchor in anchors), "seconds.", "peak_mib.")
    if name not in known and (name in open_ended or not name.startswith(open_ended)):
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
        raise ValueError(f"{setting}={name}: no such number in summary.json; the nearest is {near}")


def _kernel(record) -> dict:
    """`top_ratio`, lam_max(K_tt) of each task's kernel as the task begins over that at initialisation, and `top_drift`, the mean of
    |ratio - 1| over tasks 1, 2, ...; NaN where an anchor is lacking."""
    nothing = [float("nan")] * len(record.losses)
    own, first = (record.numerics.get(a, {}).get("rate_times_eigenvalue", nothing) for a in ("boundary", "init"))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.array(own, float) / np.array(first, float)  # of one learning rate
    return {"top_ratio": ratio, "top_drift": float(np.mean(np.abs(ratio[1:] - 1))) if len(ratio) > 1 else float("nan")}


def _referenced(scores, references) -> dict[str, dict[str, float]]:
    """By `SCORES`, the metrics of R and b that need references. Of losses, whose ratios mean nothing, the difference alone."""
    a_ind, a_joint = (references[kind]["accuracy"] if kind in references else None for kind in ("single", "joint"))
    minus = -references["single"]["loss"] if "single" in references else None
    told = metrics.referenced(scores["R"], scores["b"], a_ind, a_joint)
    return dict(zip(SCORES, (told, metrics.referenced(-scores["R_loss"], -scores["b_loss"], minus)), strict=True))


def _untrained(measured) -> dict:
    """b in the form of the other references."""
    named = {"accuracy": "b", "loss": "b_loss"}
    return {f"{name}{suffix}": measured[part][b] for suffix, part in (("", "test"), ("_train", "train")) for name, b in named.items()}


def rows(record: Record, stream: Stream, loss: Loss, coordinates: dict) -> pd.DataFrame:
    """One row for each (part, what, trained, evaluated): accuracy, loss, root mean square drift since `evaluated` was learned.

    `what` is `measured` or an anchor; `trained` = -1 is the untrained network. `coordinates` are repeated in every row.
    """
    table = []
    for part in PARTS:
        own = getattr(Rows.of(stream), part)
        for what in ("measured", *record.changes):
            scores = score_matrices(record.outputs(what), stream, part, loss)
            accuracy, value = (np.vstack([scores[b], scores[R]]) for b, R in (("b", "R"), ("b_loss", "R_loss")))
            for i in range(len(stream) + 1):
                for j, task in enumerate(stream):
                    drift = record.drift(what, j, i - 1, own[j])[:, np.flatnonzero(task.head)]
                    rms = float(np.sqrt(np.mean(drift**2))) if i > j else float("nan")
                    where = {"part": part, "what": what, "trained": i - 1, "evaluated": j}
                    table.append(coordinates | where | {"accuracy": accuracy[i, j], "loss": value[i, j], "drift_rms": rms})
    return pd.DataFrame(table)


def within(record: Record, stream: Stream, loss: Loss, coordinates: dict) -> pd.DataFrame | None:
    """One row for each (step, evaluated), `step` since the stream began: accuracy and loss, test inputs; None where nobody looked."""
    if not record.looks:
        return None
    return pd.DataFrame([coordinates | row for row in curves(record, stream, loss)])


def arrays(record: Record, stream: Stream, loss: Loss) -> dict[str, np.ndarray]:
    """What the summary was made from: outputs and predicted changes of every input, targets, heads, losses of every step, NaN beyond
    a task's last.

    `start_train[j]`, `start_test[j]` tell where the inputs of task j begin among the N. `forgotten` are the rows among the N of the
    test inputs forgotten most, see there, and `forgotten_x` the inputs themselves.
    """
    parts = Rows.of(stream)
    targets = [task.train.y for task in stream] + [task.test.y for task in stream]
    rows, inputs = forgotten(record, stream, loss)
    return {
        "measured": record.measured,
        **{f"changes_{anchor}": values for anchor, values in record.changes.items()},
        "targets": np.concatenate(targets),
        "heads": np.stack([task.head for task in stream]),
        "losses": record.losses,
        "start_train": np.array([s.start for s in parts.train]),
        "start_test": np.array([s.start for s in parts.test]),
        "forgotten": rows,
        "forgotten_x": inputs,
    }


def forgotten(record: Record, stream: Stream, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """The `FORGOTTEN` test inputs of old tasks whose loss rose most from just after their task to the end, most first: their rows among
    the N [k], and themselves [k, *shape] in float32. k is 0 where nothing is old, or training diverged."""
    rises, rows, inputs = [], [], []
    for s, own in enumerate(Rows.of(stream).test[:-1]):
        test, head = stream[s].test, stream[s].head
        if np.isfinite(record.measured[-1, own]).all():
            before, after = (sample_losses(record.measured[i, own], np.asarray(test.y), head, loss) for i in (s + 1, -1))
            rises.append(after - before)
            rows.append(np.arange(own.start, own.stop))
            inputs.append(np.asarray(test.x, np.float32))
    if not rises:
        return np.empty(0, int), np.empty((0, *stream[0].test.x.shape[1:]), np.float32)
    order = np.argsort(-np.concatenate(rises), kind="stable")[:FORGOTTEN]
    return np.concatenate(rows)[order], np.concatenate(inputs)[order]


def environment() -> dict:
    """Where a run was made: versions, devices, cores; no setting of the run, and part of no name."""
    devices = jax.devices()
    libraries = ("ntkcl", "jax", "flax", "optax", "numpy")
    return {
        **{library: version(library) for library in libraries},
        "python": platform.python_version(),
        "system": platform.platform(),
        "host": socket.gethostname(),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "cores": len(machine.cores()),
    }


def write(
    folder: Path, config: str, summary: dict, table: pd.DataFrame, named: dict[str, np.ndarray], inside: pd.DataFrame | None = None
) -> None:
    """The four files of a run, and `curves.parquet` where there are any; NaN is null in JSON."""
    if inside is not None:
        inside.to_parquet(folder / "curves.parquet", index=False)
    (folder / "config.yaml").write_text(config)
    np.savez_compressed(folder / "arrays.npz", **named)  # type: ignore[arg-type]
    table.to_parquet(folder / "rows.parquet", index=False)
    (folder / "summary.json").write_text(json.dumps(plain(summary), indent=1, allow_nan=False) + "\n")


def write_plan(folder: Path, config: str, summary: dict, candidates: Sequence[dict], coordinates: dict) -> None:
    """The three files of a plan: `config.yaml`, `summary.json`, and `candidates.parquet`, a row each, best foretold first."""
    (folder / "config.yaml").write_text(config)
    pd.DataFrame([coordinates | row for row in candidates]).to_parquet(folder / "candidates.parquet", index=False)
    (folder / "summary.json").write_text(json.dumps(plain(summary), indent=1, allow_nan=False) + "\n")


def save_figures(folder: Path, figures: Mapping[str, Any]) -> list[Path]:
    """PNG files `figures/<name>.png` of matplotlib's figures."""
    (folder / "figures").mkdir()
    paths = [folder / "figures" / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path, dpi=150, bbox_inches="tight")  # equal aspects outgrow the canvas
    return paths


def load(folder: Path | str) -> tuple[dict, pd.DataFrame, dict[str, np.ndarray]]:
    """The summary, rows and arrays of a run's folder; `ntkcl.stored.Damaged` if one is damaged."""
    folder = Path(folder)
    return read_summary(folder), stored.table(folder / "rows.parquet"), stored.arrays(folder)


def read_summary(folder: Path) -> dict:
    """The contents of `summary.json`, in the schema of today: what an older one lacks is None.

    Raises ValueError for a folder of a newer schema, and `ntkcl.stored.Damaged` for one whose
    numbers cannot be found.
    """
    told, path = stored.summary(folder), folder / "summary.json"
    schema = told.get("schema", 1)
    if not isinstance(schema, int):
        raise stored.Damaged(path, f"its schema is {schema!r}")
    if schema > SCHEMA:
        raise ValueError(f"{folder}: its schema is {schema}, and this ntkcl reads up to {SCHEMA}; install a newer one")
    if not {"status", "metrics", "forecast"} <= told.keys():
        raise stored.Damaged(path, "written before summaries had a schema")
    forecasts = told["forecast"] if isinstance(told["forecast"], dict) else {"": None}
    right = {"status": isinstance(told["status"], str)}
    right["metrics"] = isinstance(told["metrics"], dict)
    right["forecast"] = all(isinstance(one, dict) for one in forecasts.values())
    if wrong := [name for name, fits in right.items() if not fits]:
        raise stored.Damaged(path, f"its {wrong[0]} is not what a run writes")
    nothing = {"top_ratio": [None] * len(told.get("R", ())), "top_drift": None}
    return {"environment": None, "kernel": nothing} | told


def logged(folder: Path) -> bool:
    """Whether a complete run is in W&B's files as a whole; one of schema 1, which had no mark for that, is taken to be."""
    if (folder / LOGGED).exists():
        return True
    with contextlib.suppress(OSError, ValueError):
        return (folder / LOGGED).parent.is_dir() and "schema" not in stored.summary(folder)
    return False


def load_plan(folder: Path | str) -> tuple[dict, pd.DataFrame]:
    """The summary and the candidates of a plan's folder; `ntkcl.stored.Damaged` of a damaged one."""
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
    """A hidden folder that becomes `folder` when the block ends well and is removed when it does not.

    Raises ValueError where `folder` cannot be written, and where it holds another configuration: nothing is overwritten then. A
    finished run of the same configuration is replaced, and one whose configuration is damaged.
    """
    if folder.exists() and (held := _another(folder, config)) is not None:
        raise ValueError(f"results_dir: {folder} holds {held}; move it away, or set another results_dir or experiment_name")
    opened = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ValueError(f"results_dir: {folder.parent} cannot be written ({error.strerror}); set results_dir=PATH") from error
    try:
        stage.chmod(0o755)
        yield stage
        _deliver(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        with contextlib.suppress(OSError):  # what was opened for this run and stayed empty
            for parent in opened:
                parent.rmdir()
