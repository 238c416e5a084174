"""A finished run in Weights & Biases, from its folder: the same numbers, over axes of our own.

Offline by default; `wandb sync FOLDER` sends an offline run later. A run is marked as logged once
all of it is: `track` starts again where a process has died. The one door to wandb.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import wandb
import wandb.apis.public  # which wandb.init would import: half of its time

from ntkcl.runs import schema, stored
from ntkcl.runs.files import LOGGED, load, load_plan, logged
from ntkcl.runs.identity import RUN_JOBS, Run
from ntkcl.runs.stored import Damaged
from ntkcl.validation import SettingError

ONLINE = (
    "run `wandb login`, or use tracking=offline, or tracking.fallback=true, which is offline where "
    "online fails"
)
# The summary says on which machine a run was made; W&B would log this one, which may be another.
SETTINGS: dict[str, Any] = dict(
    silent=True, console="off", x_disable_stats=True, x_disable_machine_info=True
)
FILES = (
    "config.yaml",
    "summary.json",
    "rows.parquet",
    "curves.parquet",
    "candidates.parquet",
    "slices.parquet",
    "arrays.npz",
)
# Keys of the summary that are logged as tables or within the history.
MATRICES = {
    f"{row.key}{part}" for row in (*schema.SCORES, *schema.UNTRAINED) for part in ("", "_train")
}


def check(fallback: bool = False) -> None:
    """ValueError where online runs have no key or a malformed one, and there is no fallback.

    Called before anything is computed.
    """
    if fallback:
        return
    try:
        logged_in = wandb.login(prompt=False)
    except (wandb.errors.Error, ValueError) as error:
        raise SettingError(f"tracking.mode=online: {error}; {ONLINE}") from error
    if not logged_in:
        raise SettingError(f"tracking.mode=online: no API key is configured; {ONLINE}")


def track(run: Run) -> bool:
    """Log a run or a plan from its folder, unless that has been done; whether it was done now.

    Raises ValueError where wandb cannot log, online without a login or a network; with
    `tracking.fallback` it is then logged offline.
    """
    folder, tracking = run.folder, run.tracking
    if tracking.mode == "disabled" or logged(folder):
        return False
    shutil.rmtree(folder / "wandb", ignore_errors=True)  # unfinished: a process died in the midst
    try:
        _log(run)
    except Damaged:
        raise
    except (wandb.errors.Error, ValueError, OSError) as error:
        if tracking.mode == "online" and tracking.fallback:
            shutil.rmtree(folder / "wandb", ignore_errors=True)
            offline = tracking._replace(mode="offline", fallback=False)
            return track(run._replace(tracking=offline))
        online = tracking.mode == "online"
        remedy = ONLINE if online else "see tracking.project, entity, and the disk"
        raise SettingError(
            f"tracking.mode={tracking.mode}: {error}; {remedy}; the run's own files are complete "
            f"in {folder}"
        ) from error
    (folder / LOGGED).touch()
    return True


def _log(run: Run) -> None:
    with _opened(run) as logger:
        if run.job in RUN_JOBS:
            _log_run(logger, run.folder)
        else:
            _log_plan(logger, run.folder)
        _log_figures(logger, run.folder)
        if run.tracking.artifacts:
            _log_files(logger, run.folder)


@contextlib.contextmanager
def _opened(run: Run) -> Iterator:
    tracking = run.tracking
    with wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        dir=run.folder.absolute(),  # wandb's service process has a working directory of its own
        mode=tracking.mode,  # type: ignore[arg-type]
        config=run.settings | {"chosen": run.choices},
        resume="allow",
        reinit="finish_previous",
        settings=wandb.Settings(**SETTINGS),
        id=run.id,
        name=run.name,
        group=run.group,
        job_type=run.job,
        tags=run.tags,
    ) as logger:
        yield logger


def _log_run(run: Any, folder: Path) -> None:
    """History by task and by step, R matrices as tables, the summary with slashes for dots."""
    summary, _, arrays = load(folder)
    _declare_axes(run)
    _log_history(run, arrays["losses"], summary)
    if (curves := folder / "curves.parquet").exists():
        _log_curves(run, pd.read_parquet(curves))
    # In the history W&B would draw a panel of each table's number of rows and columns.
    run.summary.update({f"R_{name}": _table(R) for name, R in _matrices(summary).items()})
    run.summary.update(_by_path(summary))


def _log_plan(run: Any, folder: Path) -> None:
    """Candidates as a table, of job=whatif slices as another, the summary."""
    summary, rows = load_plan(folder)
    run.summary.update({"candidates": _of_frame(rows)})
    if (slices := folder / "slices.parquet").exists():
        run.summary.update({"slices": _of_frame(stored.table(slices))})
    run.summary.update(_by_path(summary))


def _of_frame(rows: pd.DataFrame) -> wandb.Table:
    rows = rows.astype(object).where(rows.notna(), None)
    return wandb.Table(columns=list(rows.columns), data=rows.to_numpy().tolist())


def _log_figures(run: Any, folder: Path) -> None:
    paths = sorted((folder / "figures").glob("*.png"))
    run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in paths})


def _log_files(run: Any, folder: Path) -> None:
    artifact = wandb.Artifact(f"{run.id}-results", type="results")
    for path in (folder / name for name in FILES):
        if path.exists():
            # "immutable" makes no copy of the file: runs are never changed
            artifact.add_file(str(path.absolute()), policy="immutable")
    run.log_artifact(artifact)


def _declare_axes(run: Any) -> None:
    """Each key of the history over `task` or over `step`, as `ntkcl.runs.schema` has it."""
    for axis, rows in schema.HISTORY.items():
        run.define_metric(axis)
        patterns = dict.fromkeys(_glob(row.key) for row in rows)
        for pattern in patterns:
            run.define_metric(pattern, step_metric=axis)


def _glob(key: str) -> str:
    """W&B's pattern of a key: a star in place of its first placeholder and all that follows."""
    start, placeholder, _ = key.replace(".", "/").partition("<")
    return f"{start}*" if placeholder else start


def _log_history(run: Any, losses: np.ndarray, summary: Mapping) -> None:
    """`train/loss` over `step`, about 50 points a task, and after each task the scores."""
    begin = 0
    for task, padded in enumerate(losses):
        own = padded[~np.isnan(padded)]
        for step in range(0, len(own), max(1, len(own) // 50)):
            run.log({"train/loss": own[step], "step": begin + step})
        begin += len(own)
        run.log({"task": task, "step": begin} | _after_task(task, summary))


def _after_task(task: int, summary: Mapping) -> dict[str, float]:
    """Accuracy and loss on each task, measured and predicted, and the drift of the kernel."""
    row: dict[str, float] = {}
    if (ratio := summary["kernel"]["top_ratio"][task]) is not None:
        row[f"kernel/{task}_{task}/top_ratio"] = ratio
    sides = {"": summary} | {f"forecast/{a}/": one for a, one in summary["forecast"].items()}
    for prefix, side in sides.items():
        for key, name in (("acc", "R"), ("loss", "R_loss")):
            scores = np.array(side[name], float)[task]
            row |= {f"{prefix}{key}/{j}": float(score) for j, score in enumerate(scores)}
    return row


def _log_curves(run: Any, curves: pd.DataFrame) -> None:
    """`curve/acc/<task>` and `curve/loss/<task>` on test inputs, over `step`."""
    for step, rows in curves.groupby("step"):
        scores = rows.set_index("evaluated")
        row: dict[str, Any] = {"step": int(step)}
        for key, name in (("acc", "accuracy"), ("loss", "loss")):
            row |= {f"curve/{key}/{j}": scores.at[j, name] for j in scores.index}
        run.log(row)


def _matrices(summary: Mapping) -> dict[str, Any]:
    forecasts = {f"forecast_{anchor}": one["R"] for anchor, one in summary["forecast"].items()}
    return {"measured": summary["R"]} | forecasts


def _table(R: Any) -> wandb.Table:
    columns: list[str | int] = ["after task", *(f"task {j}" for j in range(len(R)))]
    rows = [[i, *map(float, row)] for i, row in enumerate(np.array(R, float))]
    return wandb.Table(columns=columns, data=rows)


def _by_path(nested: Mapping, prefix: str = "") -> dict[str, Any]:
    """Numbers, texts and lists by path; matrices are left out, they are tables of their own."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _by_path(value, f"{prefix}{key}/")
        elif key not in MATRICES:
            is_list = isinstance(value, (list, tuple, np.ndarray))
            flat[prefix + key] = np.asarray(value).tolist() if is_list else value
    return flat
