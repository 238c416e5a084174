"""The contents of `summary.json`."""

import platform
import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from ntkcl import metrics
from ntkcl.experiment.compare import compare
from ntkcl.experiment.record import Record
from ntkcl.experiment.scores import PARTS, score_matrices
from ntkcl.runs import machine
from ntkcl.runs.files import SCHEMA
from ntkcl.types import Loss, Stream

SCORES = ("metrics", "metrics_loss")
MATRICES = ("R", "R_loss", "b", "b_loss")
NAN = float("nan")
References = Mapping[str, Mapping]  # kind, such as single: accuracy and loss [T]


def summarise(
    record: Record, stream: Stream, loss: Loss, references: References | None = None
) -> dict[str, Any]:
    """The contents of `summary.json`; `ntkcl.runs.schema` says what each key means.

    R, b and metrics are those of test inputs. Forecasts agree on train inputs, and under `test` on
    test inputs.

    Arguments:
      references: the scores of what `ntkcl.experiment.references` trains, by kind. They are stored
        beside those of the untrained network, and the metrics that need them are added.
    """
    references = references or {}
    test, train = (
        score_matrices(record.measured, stream, part, loss) for part in ("test", "train")
    )
    seconds = {phase: sum(cost.seconds for cost in costs) for phase, costs in record.costs.items()}
    peaks = {phase: max(cost.peak_mib for cost in costs) for phase, costs in record.costs.items()}
    return {
        "schema": SCHEMA,
        "status": record.status,
        **test,
        **{f"{key}_train": value for key, value in train.items()},
        **_metrics(test, references),
        **_references(test, train, references),
        "forecast": {
            anchor: _forecast(record, anchor, stream, loss, references) for anchor in record.changes
        },
        "kernel": _kernel(record),
        "learning_rate": record.plan.learning_rate,
        "learning_rate_limit": record.plan.limit,
        "seconds": seconds | {"total": sum(seconds.values())},
        "peak_mib": peaks,
        "environment": environment(),
    }


def _metrics(scores: Mapping[str, np.ndarray], references: References) -> dict[str, dict]:
    """`metrics` and `metrics_loss` of R and b, with those that need references."""
    accuracies = metrics.summary(scores["R"], scores["b"])
    losses = metrics.loss_summary(scores["R_loss"], scores["b_loss"])
    return _with_references(accuracies, losses, scores, references)


def _with_references(
    accuracies: dict, losses: dict, scores: Mapping[str, np.ndarray], references: References
) -> dict[str, dict]:
    """Metrics and the ones that need references; of losses the difference, ratios mean nothing."""
    single = references.get("single", {})
    a_ind, a_joint = single.get("accuracy"), references.get("joint", {}).get("accuracy")
    l_ind = -single["loss"] if single else None
    more = metrics.referenced(scores["R"], scores["b"], a_ind, a_joint)
    more_loss = metrics.referenced(-scores["R_loss"], -scores["b_loss"], l_ind)
    return {"metrics": accuracies | more, "metrics_loss": losses | more_loss}


def _references(
    test: Mapping[str, np.ndarray], train: Mapping[str, np.ndarray], references: References
) -> dict[str, dict]:
    """`reference`, where any were trained; b and b_loss are the scores of the untrained network."""
    if not references:
        return {}
    untrained = {
        "accuracy": test["b"],
        "loss": test["b_loss"],
        "accuracy_train": train["b"],
        "loss_train": train["b_loss"],
    }
    return {"reference": {"untrained": untrained, **references}}


def _forecast(
    record: Record, anchor: str, stream: Stream, loss: Loss, references: References
) -> dict[str, Any]:
    """One anchor's scores on test inputs, its agreement on train and test inputs, its numerics."""
    train, test = (compare(record, anchor, stream, part, loss) for part in PARTS)
    scores = {key: test[key] for key in ("R", "R_loss")}
    scores |= _with_references(test["metrics"], test["metrics_loss"], test, references)
    scores |= {"R_train": train["R"], "R_loss_train": train["R_loss"]}
    agreement = {key: train[key] for key in train if key not in (*MATRICES, *SCORES)}
    on_test = {key: test[key] for key in agreement}
    if test["verdict"] == "unknown":  # checks at a few inputs are made at train inputs
        on_test |= {key: train[key] for key in ("verdict", "reasons")}
    return scores | agreement | record.numerics[anchor] | {"test": on_test}


def _kernel(record: Record) -> dict[str, Any]:
    """Each task's kernel as the task begins; NaN where an anchor is missing.

    `top_ratio` is lam_max(K_tt) over that at initialisation, `top_drift` the mean of |ratio - 1|
    over the tasks 1, 2, ... The slopes are those of the task's loss, of gradient flow and of the
    first step: it falls strictly where `smallest_eigenvalue` is above zero.
    """
    (boundary, smallest), (init, _) = (
        [_numeric(record, anchor, key) for key in ("rate_times_eigenvalue", "smallest_eigenvalue")]
        for anchor in ("boundary", "init")
    )
    predicted = -(record.slopes**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = boundary / init  # both times the same learning rate
        slope_ratios = record.loss_slopes / predicted
    drift = float(np.mean(np.abs(ratio[1:] - 1))) if len(ratio) > 1 else NAN
    return {
        "top_ratio": ratio,
        "top_drift": drift,
        "smallest_eigenvalue": smallest,
        "loss_slope_predicted": predicted,
        "loss_slope_measured": record.loss_slopes,
        "loss_slope_ratio": float(np.mean(slope_ratios)),
    }


def _numeric(record: Record, anchor: str, key: str) -> np.ndarray:
    """One of an anchor's numbers by task, NaN without that anchor."""
    unknown = [NAN] * len(record.losses)
    return np.array(record.numerics.get(anchor, {}).get(key, unknown), float)


def environment() -> dict[str, Any]:
    """Where a run was made: versions, devices, cores. None of it is a setting of the run."""
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
