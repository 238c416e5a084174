"""The signs of a forecast's error that exist before training, and the verdict on them.

A sign sets the forecast beside a check: the same changes, predicted or read off the network in
another way. Checks are NaN at inputs that they were not made for, infinite where they diverged.
"""

from typing import NamedTuple

import numpy as np

from ntkcl import metrics
from ntkcl.experiment.events import AHEAD
from ntkcl.experiment.record import Record
from ntkcl.experiment.scores import sample_losses
from ntkcl.types import Loss, Stream

NAN = float("nan")
# Fields of a record: the forecast, and the same changes predicted or read in other ways.
CHECKS = ("changes", "trials", "halves", "coarser", "resegmented", "lower_orders")


class Case(NamedTuple):
    """What is compared: one anchor of a record, on the train or test inputs of a stream."""

    record: Record
    anchor: str
    stream: Stream
    part: str
    rows: tuple[slice, ...]  # where each task's inputs stand among all N
    active: list[np.ndarray]  # the active outputs of each task

    def change(self, what: str, s: int, t: int) -> np.ndarray:
        """Change [n, a] of task s's active outputs by training task t."""
        return self.record.drift(what, t - 1, t, self.rows[s])[:, self.active[s]]


def verdict(case: Case, loss: Loss) -> dict:
    """The verdict before training, its reasons, and the signs on which it stands.

    `trial_r2` compares the predicted drift with that of the network at the predicted parameters,
    `halved_r2` the latter with the drift of the network predicted in two halves of the steps,
    `coarse_r2` the predicted drift with that predicted with half as many steps, `segments_r2` with
    that by half as many segments, `lower_order_r2` with that by the method of lower order within
    the forecast. `own_r2` is the least of the R² of the trial and the lower order on the inputs of
    the tasks in training, `forgetting_miss` the most by which a check's forgetting is elsewhere.
    """
    record, anchor = case.record, case.anchor
    changes = {kind: _filled(record, kind, anchor) for kind in CHECKS}
    drift = {kind: _drifts(case, change) for kind, change in changes.items()}
    predicted, trial = drift["changes"], drift["trials"]
    r2 = {
        "trial_r2": _r2(trial, predicted),
        "halved_r2": _r2(drift["halves"], trial),
        "coarse_r2": _r2(drift["coarser"], predicted),
        "segments_r2": _r2(predicted, drift["resegmented"]),
        "lower_order_r2": _r2(predicted, drift["lower_orders"]),
    }
    own = {kind: _own_drifts(case, change) for kind, change in changes.items()}
    own_r2 = [_r2(own["trials"], own["changes"]), _r2(own["changes"], own["lower_orders"])]
    misses = [_forgetting_miss(case, loss, changes[kind]) for kind in CHECKS[1:]]
    signs = r2 | {"own_r2": _least(own_r2), "forgetting_miss": -_least([-one for one in misses])}
    signs["balance"] = _balance(case, loss)
    numerics = record.numerics[anchor]
    grade, reasons = metrics.verdict(
        **signs,
        negative_mass=numerics["negative_mass"],
        condition=numerics["condition"],
        limit_share=numerics["limit_share"],
        stable=[one is not False for one in numerics["stable"]],
        segments=_segments(drift, numerics),
        better=_better_baseline(case, drift, r2),
    )
    return signs | {"verdict": grade, "reasons": list(reasons)}


def _filled(record: Record, kind: str, anchor: str) -> np.ndarray:
    """Changes [T, N, c] by a check; of tasks that had others alone, the predicted ones."""
    check, predicted = getattr(record, kind)[anchor], record.changes[anchor]
    missing = np.isnan(check).all((1, 2))
    return check if missing.all() else np.where(missing[:, None, None], predicted, check)


def _segments(drift: dict, numerics: dict) -> list:
    """Of each task, of a forecast in segments: it holds no kernel."""
    by_tangents = not np.isnan(drift["lower_orders"]).all()
    is_held = not np.isnan(numerics["rate_times_eigenvalue"]).all()
    return numerics["kernels"] if by_tangents and not is_held else []


def _least(values: list[float]) -> float:
    """The least of those that are known."""
    return min((one for one in values if not np.isnan(one)), default=NAN)


def _drifts(case: Case, changes: np.ndarray) -> np.ndarray:
    """Drift of all old tasks' active outputs in one vector, from changes [T, N, c] by each task."""
    each = [
        changes[s + 1 :, rows].sum(0)[:, case.active[s]].ravel()
        for s, rows in enumerate(case.rows[:-1])
    ]
    return np.concatenate(each) if each else np.empty(0)


def _own_drifts(case: Case, changes: np.ndarray) -> np.ndarray:
    """Changes of the active outputs of each later task by its own training, in one vector."""
    each = [changes[t, case.rows[t]][:, case.active[t]].ravel() for t in range(1, len(case.rows))]
    return np.concatenate(each) if each else np.empty(0)


def _r2(reference: np.ndarray, other: np.ndarray) -> float:
    """R² of `other` with `reference` where both are known; -inf where one diverged, NaN without."""
    if np.isinf(reference).any() or np.isinf(other).any():
        return float("-inf")
    known = ~(np.isnan(reference) | np.isnan(other))
    return metrics.r2(reference[known], other[known]) if known.any() else NAN


def _forgetting_miss(case: Case, loss: Loss, check: np.ndarray) -> float:
    """How far the mean rise of old tasks' loss by a check is from the predicted, over the larger
    mean magnitude of the rises of samples; infinite where one diverged, NaN without a check.

    check: changes [T, N, c] by each task, NaN at inputs that were not looked at.
    """
    rises = _rises(case, loss, [case.record.changes[case.anchor], check])
    if not rises:
        return NAN
    means, sizes = (np.mean([f(rise).mean(1) for rise in rises], 0) for f in (np.copy, np.abs))
    miss = abs(means[0] - means[1]) / sizes.max() if sizes.max() else 0.0
    return float(miss) if np.isfinite(miss) else float("inf")


def _balance(case: Case, loss: Loss) -> float:
    """|mean| over mean magnitude of the predicted rise of old tasks' losses."""
    rises = _rises(case, loss, [case.record.changes[case.anchor]])
    if not rises:
        return NAN
    mean, size = (np.mean([f(rise).mean() for rise in rises]) for f in (np.copy, np.abs))
    return float(abs(mean) / size) if size else 1.0


def _rises(case: Case, loss: Loss, each: list[np.ndarray]) -> list[np.ndarray]:
    """Of each old task, the rise of samples' losses [k, m] by k changes [T, N, c], at the inputs
    that all of them know."""
    starts = case.record.outputs("measured" if case.anchor in AHEAD else case.anchor)
    rises = []
    for s, rows in enumerate(case.rows[:-1]):
        drifts = np.stack([changes[s + 1 :, rows].sum(0) for changes in each])
        known = ~np.isnan(drifts).any((0, 2))
        if known.any():  # all inputs are taken, in shapes that are compiled already
            y, f = np.asarray(getattr(case.stream[s], case.part).y), starts[s + 1, rows]
            head = np.asarray(case.stream[s].head)
            before, *after = (
                sample_losses(one, y, head, loss) for one in (f, *(f + drift for drift in drifts))
            )
            rises.append((np.stack(after) - before)[:, known])
    return rises


def _better_baseline(case: Case, drift: dict, r2: dict) -> str:
    """What is nearer than the forecast to the network at the predicted parameters, with both R²."""
    trial, known = drift["trials"], ~np.isnan(drift["trials"])
    if not known.any() or not np.isfinite(trial[known]).all():
        return ""
    guesses = {"no change": np.zeros_like(trial), "the predicted mean drift": _mean_drifts(case)}
    if case.record.baselines is not None:
        guesses["input_cosine"] = _drifts(case, case.record.baselines.input_cosine)
    values = {name: _r2(trial, guess) for name, guess in guesses.items()}
    best = max(values, key=lambda name: -np.inf if np.isnan(values[name]) else values[name])
    if not values[best] > r2["trial_r2"]:
        return ""
    return f"{best} is nearer to it, R2 {values[best]:.2f}"


def _mean_drifts(case: Case) -> np.ndarray:
    """The mean of the predicted drift over the inputs of each old task, in one vector."""
    changes, means = case.record.changes[case.anchor], []
    for s, rows in enumerate(case.rows[:-1]):
        drift = changes[s + 1 :, rows].sum(0)[:, case.active[s]]
        means.append(np.broadcast_to(drift.mean(0), drift.shape).ravel())
    return np.concatenate(means) if means else np.empty(0)
