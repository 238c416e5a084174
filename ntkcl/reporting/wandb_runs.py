"""A finished run in Weights & Biases, from its folder: the same numbers, on axes of our own. The one door to wandb.

Offline unless told otherwise; `wandb sync FOLDER` sends an offline run later. A run is marked as logged when it is so as a whole:
`track` begins again what a process that died has left.
"""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import wandb

from ntkcl.runs.files import LOGGED, load, load_plan, logged
from ntkcl.runs.identity import Run
from ntkcl.runs.stored import Damaged

ONLINE = "run `wandb login`, or use tracking=offline, or tracking.fallback=true, which is offline where online fails"
# Of the machine that a run was made on its summary tells; it may be another than this one.
SETTINGS: dict[str, Any] = dict(
    silent=True, console="off", x_disable_stats=True, x_disable_machine_info=True
)
FILES = (
    "config.yaml",
    "summary.json",
    "rows.parquet",
    "curves.parquet",
    "candidates.parquet",
    "arrays.npz",
)


def check(fallback: bool = False) -> None:
    """ValueError where runs that are to go online have no key or a malformed one, and no fallback:
    raised before anything is computed."""
    if fallback:
        return
    try:
        there = wandb.login(prompt=False)
    except (wandb.errors.Error, ValueError) as error:
        raise ValueError(f"tracking.mode=online: {error}; {ONLINE}") from error
    if not there:
        raise ValueError(f"tracking.mode=online: no API key is configured; {ONLINE}")


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
        raise ValueError(
            f"tracking.mode={tracking.mode}: {error}; {remedy}; the run's own files are complete "
            f"in {folder}"
        ) from error
    (folder / LOGGED).touch()
    return True


def _log(run: Run) -> None:
    folder = run.folder
    with _opened(run) as logger:
        if run.job == "run":
            _run(logger, folder)
        else:
            _plan(logger, folder)
        _pictures(logger, folder)
        if run.tracking.artifacts:
            artifact = wandb.Artifact(f"{run.id}-results", type="results")
            for path in (folder / name for name in FILES):
                if path.exists():
                    # No copy of it: runs are never changed.
                    artifact.add_file(str(path.absolute()), policy="immutable")
            logger.log_artifact(artifact)


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


def _run(run, folder):
    """History by task and by step, R matrices as tables, the summary, its nesting as slashes."""
    summary, _, arrays = load(folder)
    _declare_axes(run)
    _history(run, arrays["losses"], summary)
    if (inside := folder / "curves.parquet").exists():
        _curves(run, pd.read_parquet(inside))
    # In the history W&B would draw a panel of each table's number of rows and columns.
    run.summary.update({f"R_{name}": _table(R) for name, R in _matrices(summary).items()})
    run.summary.update(_by_path({key: summary[key] for key in summary if key not in _MATRICES}))


def _plan(run, folder):
    """Candidates as a table, the summary."""
    summary, rows = load_plan(folder)
    rows = rows.astype(object).where(rows.notna(), None)
    told = wandb.Table(columns=list(rows.columns), data=rows.to_numpy().tolist())
    run.summary.update({"candidates": told})
    run.summary.update(_by_path(summary))


def _pictures(run, folder):
    run.log(
        {
            f"figures/{path.stem}": wandb.Image(str(path))
            for path in sorted((folder / "figures").glob("*.png"))
        }
    )


_MATRICES = {f"{name}{part}" for name in ("R", "R_loss", "b", "b_loss") for part in ("", "_train")}


def _declare_axes(run):
    run.define_metric("task")
    run.define_metric("step")
    for key in ("train/loss", "curve/*"):
        run.define_metric(key, step_metric="step")
    for key in ("acc/*", "loss/*", "forecast/*", "kernel/*"):
        run.define_metric(key, step_metric="task")


def _history(run, losses, summary):
    tasks, begin = len(losses), 0
    for i in range(tasks):
        own = losses[i][~np.isnan(losses[i])]
        for step in range(0, len(own), max(1, len(own) // 50)):
            run.log({"train/loss": own[step], "step": begin + step})
        begin += len(own)
        row = {"task": i, "step": begin}
        if (ratio := summary["kernel"]["top_ratio"][i]) is not None:
            row[f"kernel/{i}_{i}/top_ratio"] = ratio
        for prefix, source in [("", summary)] + [
            (f"forecast/{a}/", s) for a, s in summary["forecast"].items()
        ]:
            for key, R in (("acc", "R"), ("loss", "R_loss")):
                row |= {
                    f"{prefix}{key}/{j}": float(np.array(source[R], float)[i, j])
                    for j in range(tasks)
                }
        run.log(row)


def _curves(run, inside):
    """`curve/acc/<j>` and `curve/loss/<j>` on test inputs, over `step`."""
    for step, rows in inside.groupby("step"):
        each = rows.set_index("evaluated")
        row = {
            f"curve/{key}/{j}": each.at[j, name]
            for key, name in (("acc", "accuracy"), ("loss", "loss"))
            for j in each.index
        }
        run.log(row | {"step": int(step)})


def _matrices(summary):
    return {"measured": summary["R"]} | {
        f"forecast_{anchor}": numbers["R"] for anchor, numbers in summary["forecast"].items()
    }


def _table(R):
    columns = ["after task", *(f"task {j}" for j in range(len(R)))]
    return wandb.Table(
        columns=columns, data=[[i, *map(float, row)] for i, row in enumerate(np.array(R, float))]
    )


def _by_path(nested, prefix=""):
    """Scalars, texts and short lists by path; matrices are tables of their own."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _by_path(value, f"{prefix}{key}/")
        elif key not in _MATRICES:
            flat[prefix + key] = (
                np.asarray(value).tolist()
                if isinstance(value, (list, tuple, np.ndarray))
                else value
            )
    return flat
