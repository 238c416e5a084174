"""The contents of `summary.json`."""

import difflib
import platform
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import jax
import numpy as np

from ntkcl import metrics
from ntkcl.experiment.compare import compare
from ntkcl.experiment.record import Record
from ntkcl.experiment.scores import PARTS, score_matrices
from ntkcl.runs import machine
from ntkcl.runs.files import SCHEMA
from ntkcl.types import Loss, Stream
from ntkcl.validation import SettingError

SCORES = ("metrics", "metrics_loss")


def summarise(
    record: Record, stream: Stream, loss: Loss, references: Mapping[str, Mapping] | None = None
) -> dict:
    """The contents of `summary.json`: R, b, metrics on test inputs; agreement of forecasts on train
    inputs, and under `test`.

    `references`: the scores of what `ntkcl.experiment.references` trains, by kind. Given, they are
    told beside those of the untrained network, and `metrics` and `metrics_loss` hold what can be
    said with them.
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
        matrices |= {
            key: matrices[key] | more for key, more in _referenced(test, references).items()
        }
        agreement = {
            key: value
            for key, value in train.items()
            if key not in ("R", "R_loss", "b", "b_loss", *SCORES)
        }
        forecasts[anchor] = (
            matrices
            | agreement
            | record.numerics[anchor]
            | {"test": {key: test[key] for key in agreement}}
        )
    seconds = {phase: sum(cost.seconds for cost in costs) for phase, costs in record.costs.items()}
    scores = {
        "metrics": metrics.summary(measured["test"]["R"], measured["test"]["b"]),
        "metrics_loss": metrics.loss_summary(
            measured["test"]["R_loss"], measured["test"]["b_loss"]
        ),
    }
    return {
        "schema": SCHEMA,
        "status": record.status,
        **measured["test"],
        **{f"{key}_train": value for key, value in measured["train"].items()},
        **{
            key: scores[key] | more
            for key, more in _referenced(measured["test"], references).items()
        },
        **({"reference": {"untrained": _untrained(measured), **references}} if references else {}),
        "forecast": forecasts,
        "kernel": _kernel(record),
        "learning_rate": record.plan.learning_rate,
        "learning_rate_limit": record.plan.limit,
        "seconds": seconds | {"total": sum(seconds.values())},
        "peak_mib": {
            phase: max(cost.peak_mib for cost in costs) for phase, costs in record.costs.items()
        },
        "environment": environment(),
    }


def check_number(
    setting: str, name: str, anchors: Sequence[str], references: Sequence[str]
) -> None:
    """ValueError for the dotted name of a number that no summary of such a run holds, as far as
    that is known before it is made."""
    R, b = np.zeros((2, 2)), np.zeros(2)
    more = _referenced(
        {"R": R, "b": b, "R_loss": R, "b_loss": b},
        {kind: {"accuracy": b, "loss": b} for kind in references},
    )
    told = zip(SCORES, (metrics.summary(R, b), metrics.loss_summary(R, b)), strict=True)
    known = {f"{head}.{key}" for head, scores in told for key in scores | more[head]} | {
        "learning_rate",
        "learning_rate_limit",
    }
    known |= {f"forecast.{anchor}.drift_r2" for anchor in anchors}
    known |= {"kernel.top_drift"} if {"init", "boundary"} <= set(anchors) else set()
    open_ended = (*(f"forecast.{anchor}." for anchor in anchors), "seconds.", "peak_mib.")
    if name not in known and (name in open_ended or not name.startswith(open_ended)):
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
        raise SettingError(
            f"{setting}={name}: no such number in summary.json; the nearest is {near}"
        )


def _kernel(record) -> dict:
    """`top_ratio`, lam_max(K_tt) of each task's kernel as the task begins over that at
    initialisation, and `top_drift`, the mean of |ratio - 1| over tasks 1, 2, ...; NaN where an
    anchor is lacking."""
    nothing = [float("nan")] * len(record.losses)
    own, first = (
        record.numerics.get(a, {}).get("rate_times_eigenvalue", nothing)
        for a in ("boundary", "init")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.array(own, float) / np.array(first, float)  # of one learning rate
    return {
        "top_ratio": ratio,
        "top_drift": float(np.mean(np.abs(ratio[1:] - 1))) if len(ratio) > 1 else float("nan"),
    }


def _referenced(scores, references) -> dict[str, dict[str, float]]:
    """By `SCORES`, the metrics of R and b that need references. Of losses, whose ratios mean
    nothing, the difference alone."""
    a_ind, a_joint = (
        references[kind]["accuracy"] if kind in references else None for kind in ("single", "joint")
    )
    minus = -references["single"]["loss"] if "single" in references else None
    told = metrics.referenced(scores["R"], scores["b"], a_ind, a_joint)
    return dict(
        zip(
            SCORES,
            (told, metrics.referenced(-scores["R_loss"], -scores["b_loss"], minus)),
            strict=True,
        )
    )


def _untrained(measured) -> dict:
    """b in the form of the other references."""
    named = {"accuracy": "b", "loss": "b_loss"}
    return {
        f"{name}{suffix}": measured[part][b]
        for suffix, part in (("", "test"), ("_train", "train"))
        for name, b in named.items()
    }


def environment() -> dict:
    """Where a run was made: versions, devices, cores; no setting of the run, and part of no
    name."""
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
