"""A finished run in Weights & Biases: the same numbers as in the files, on axes of our own. The one door to wandb.

Offline unless told otherwise; `wandb sync FOLDER` sends an offline run later.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import wandb

from ntkcl.record import Record


@contextlib.contextmanager
def opened(
    folder: Path,
    *,
    mode: Literal["online", "offline", "disabled"],
    project: str,
    entity: str | None,
    identity: Mapping,
    config: dict,
) -> Iterator:
    """A run of Weights & Biases to log to, or None where that is disabled.

    Arguments:
      folder: where wandb keeps its own folder.  mode: online, offline or disabled.
      identity: `id`, `name`, `group`, `job_type`, `tags` of the run.
    Raises ValueError where wandb cannot log, online without a login or a network.
    """
    if mode == "disabled":
        yield None
        return
    settings = wandb.Settings(silent=True, console="off")
    try:
        with wandb.init(
            project=project,
            entity=entity,
            dir=folder.absolute(),  # wandb's service process has a working directory of its own
            mode=mode,
            config=config,
            resume="allow",
            reinit="finish_previous",
            settings=settings,
            **identity,
        ) as run:
            yield run
    except (wandb.errors.Error, ValueError, OSError) as error:
        remedy = "run `wandb login`, or use tracking=offline" if mode == "online" else "see tracking.project, entity, and the disk"
        raise ValueError(f"tracking.mode={mode}: {error}; {remedy}; the run's own files are complete in {folder}") from error


def log(run, record: Record, summary: dict, inside, figures: Mapping[str, Path]) -> None:
    """One training run: history by task and by step, R matrices as tables, figures by name, the summary, its nesting as slashes.

    `inside`: what `results.within` tells, or None.
    """
    if run is None:
        return
    _declare_axes(run)
    _history(run, record, summary)
    _curves(run, inside)
    run.log({f"R_{name}": _table(R) for name, R in _matrices(summary).items()})
    _pictures(run, figures)
    run.summary.update(_by_path({key: summary[key] for key in summary if key not in _MATRICES}))


def log_plan(run, rows: Sequence[Mapping], summary: dict, figures: Mapping[str, Path]) -> None:
    """One plan: its candidates as a table, figures by name, the summary."""
    if run is None:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    run.log({"candidates": wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])})
    _pictures(run, figures)
    run.summary.update(_by_path(summary))


def _pictures(run, figures):
    run.log({f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()})


_MATRICES = {f"{name}{part}" for name in ("R", "R_loss", "b", "b_loss") for part in ("", "_train")}


def _declare_axes(run):
    run.define_metric("task")
    run.define_metric("step")
    for key in ("train/loss", "curve/*"):
        run.define_metric(key, step_metric="step")
    for key in ("acc/*", "loss/*", "forecast/*", "kernel/*"):
        run.define_metric(key, step_metric="task")


def _history(run, record, summary):
    tasks, begin = len(record.losses), 0
    for i, steps in enumerate(record.plan.steps):
        for step in range(0, steps, max(1, steps // 50)):
            run.log({"train/loss": record.losses[i, step], "step": begin + step})
        begin += steps
        row = {"task": i, "step": begin}
        if np.isfinite(ratio := float(summary["kernel"]["top_ratio"][i])):
            row[f"kernel/{i}_{i}/top_ratio"] = ratio
        for prefix, source in [("", summary)] + [(f"forecast/{a}/", s) for a, s in summary["forecast"].items()]:
            for key, R in (("acc", "R"), ("loss", "R_loss")):
                row |= {f"{prefix}{key}/{j}": float(np.asarray(source[R])[i, j]) for j in range(tasks)}
        run.log(row)


def _curves(run, inside):
    """`curve/acc/<j>` and `curve/loss/<j>` on test inputs, over `step`."""
    if inside is None:
        return
    for step, rows in inside.groupby("step"):
        each = rows.set_index("evaluated")
        row = {f"curve/{key}/{j}": each.at[j, name] for key, name in (("acc", "accuracy"), ("loss", "loss")) for j in each.index}
        run.log(row | {"step": int(step)})


def _matrices(summary):
    return {"measured": summary["R"]} | {f"forecast_{anchor}": numbers["R"] for anchor, numbers in summary["forecast"].items()}


def _table(R):
    columns = ["after task", *(f"task {j}" for j in range(len(R)))]
    return wandb.Table(columns=columns, data=[[i, *map(float, row)] for i, row in enumerate(np.asarray(R))])


def _by_path(nested, prefix=""):
    """Scalars, texts and short lists by path; matrices are tables of their own."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _by_path(value, f"{prefix}{key}/")
        elif key not in _MATRICES:
            flat[prefix + key] = np.asarray(value).tolist() if isinstance(value, (list, tuple, np.ndarray)) else value
    return flat
