"""One anchor's forecast beside the measurement: the numbers of `summary.json` under an anchor.

`compare` puts five parts together: scores, agreement of drifts and losses, baselines, the verdict,
and forgetting. Drift is the change of an old task's outputs from just after it was learned to the
end of the stream.
"""

from typing import NamedTuple

import numpy as np

from ntkcl import metrics
from ntkcl.experiment.events import AHEAD
from ntkcl.experiment.record import Record
from ntkcl.experiment.scores import sample_losses, score_matrices
from ntkcl.metrics import baselines
from ntkcl.types import Loss, Rows, Stream, Task

NAN = float("nan")
SIDES = ("measured", "predicted")
# Fields of a record: the forecast, and the same changes predicted or read in other ways.
CHECKS = ("changes", "trials", "halves", "coarser", "resegmented", "lower_orders")


def compare(record: Record, anchor: str, stream: Stream, part: str, loss: Loss) -> dict:
    """The numbers of one anchor's forecast.

    Arguments:
      record: of one run.  anchor: one of its forecasts.
      part: "train" or "test", the inputs on which the two are compared.
    Returns: the keys of `ntkcl.runs.schema` under `forecast.<anchor>`, R and b included.
    """
    rows = getattr(Rows.of(stream), part)
    active = [np.flatnonzero(task.head) for task in stream]
    case = _Case(record, anchor, stream, part, rows, active)
    measured = score_matrices(record.measured, stream, part, loss)
    predicted = score_matrices(record.outputs(anchor), stream, part, loss)
    pairs = _old_tasks(case, loss)
    return (
        predicted
        | _scores(predicted)
        | _agreement(case, measured, predicted, pairs)
        | _baselines(case, pairs)
        | _verdict(case, loss)
        | _forgetting(pairs)
    )


class _Case(NamedTuple):
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


class _Pair(NamedTuple):
    """An old task at the end of the stream, measured and predicted.

    Drift [n, a] of active outputs; change of the loss and flips of right and wrong [n].
    """

    drift_measured: np.ndarray
    drift_predicted: np.ndarray
    loss_change_measured: np.ndarray
    loss_change_predicted: np.ndarray
    flip_measured: np.ndarray
    flip_predicted: np.ndarray

    @property
    def finite(self) -> bool:
        return all(np.isfinite(values).all() for values in self)


def _old_tasks(case: _Case, loss: Loss) -> list[_Pair]:
    """Both sides of every old task S.

    The predicted side starts from the outputs that the anchor knows: for `boundary` and `path` the
    measured f_S, known when the task after S begins; for others their own prediction of f_S.
    """
    starts = case.record.outputs("measured" if case.anchor in AHEAD else case.anchor)
    last = len(case.stream) - 1
    pairs = []
    for s, rows in enumerate(case.rows[:-1]):
        before = case.record.measured[s + 1, rows], starts[s + 1, rows]
        drifts = [case.record.drift(what, s, last, rows) for what in ("measured", case.anchor)]
        after = [f + drift for f, drift in zip(before, drifts, strict=True)]
        changes = [
            _sample_changes(f, g, case.stream[s], case.part, loss)
            for f, g in zip(before, after, strict=True)
        ]
        losses, flips = zip(*changes, strict=True)
        pairs.append(_Pair(*(drift[:, case.active[s]] for drift in drifts), *losses, *flips))
    return pairs


def _sample_changes(
    before: np.ndarray, after: np.ndarray, task: Task, part: str, loss: Loss
) -> tuple[np.ndarray, np.ndarray]:
    """Change of each sample's loss [n], and its flip [n]: -1 right to wrong, +1 wrong to right."""
    y, head = np.asarray(getattr(task, part).y), np.asarray(task.head)
    rise = sample_losses(after, y, head, loss) - sample_losses(before, y, head, loss)
    return rise, np.sign(metrics.correct(after, y, head) - metrics.correct(before, y, head))


def _scores(predicted: dict) -> dict:
    """The metrics of the predicted R and b."""
    return {
        "metrics": metrics.summary(predicted["R"], predicted["b"]),
        "metrics_loss": metrics.loss_summary(predicted["R_loss"], predicted["b_loss"]),
    }


def _agreement(case: _Case, measured: dict, predicted: dict, pairs: list[_Pair]) -> dict:
    """How near predicted drifts, changes, losses and flips are; NaN where one is not finite."""
    finite = bool(pairs) and all(pair.finite for pair in pairs)
    starts = measured if case.anchor in AHEAD else predicted
    drifts = [[getattr(pair, f"drift_{side}") for pair in pairs] for side in SIDES]
    return metrics.agreement(*drifts) | {
        "change_r2": _change_r2(case) if finite else NAN,
        "spearman_offdiagonal": _off_diagonal(measured, predicted, starts),
        "spearman_samples": metrics.spearman(*_pooled(pairs, "loss_change")) if finite else NAN,
        "flip_f1": metrics.flip_f1(*_pooled(pairs, "flip")) if finite else NAN,
    }


def _pooled(pairs: list[_Pair], quantity: str) -> list[np.ndarray]:
    """A quantity of all old tasks together, measured and predicted."""
    return [np.concatenate([getattr(p, f"{quantity}_{side}") for p in pairs]) for side in SIDES]


def _change_r2(case: _Case) -> float:
    """R² over the changes of old tasks' active outputs by each later task, one task at a time."""
    later = [(s, t) for t in range(1, len(case.stream)) for s in range(t)]
    measured, predicted = (
        np.concatenate([case.change(what, s, t).ravel() for s, t in later])
        for what in ("measured", case.anchor)
    )
    return metrics.r2(measured, predicted)


def _off_diagonal(measured: dict, predicted: dict, starts: dict) -> float:
    """Rank correlation, over i != j, of the change of the loss on task j by training task i.

    `starts` holds the scores from which each task's prediction starts.
    """
    m, p = _loss_changes(measured, measured), _loss_changes(predicted, starts)
    finite = len(m) and np.isfinite(m).all() and np.isfinite(p).all()
    return metrics.spearman(m, p) if finite else NAN


def _loss_changes(after: dict, before: dict) -> np.ndarray:
    """R_loss[i, j] after task i less that before it, for i != j, in one vector."""
    previous = np.concatenate([before["b_loss"][None], before["R_loss"][:-1]])
    change = after["R_loss"] - previous
    return change[~np.eye(len(change), dtype=bool)]


def _baselines(case: _Case, pairs: list[_Pair]) -> dict:
    """`spearman_pairs` of the forecast, and `baselines`.

    A baseline with units has the forecast's `skill` over it and its own `r2`. One that gives a
    number for each pair of an old task S and a later task t has `spearman_pairs`, its rank
    correlation with the mean squared change of S's active outputs by training t.
    """
    measured, predicted = ([getattr(p, f"drift_{side}") for p in pairs] for side in SIDES)
    compared: dict[str, dict[str, float]] = baselines.skills(
        measured, predicted, _drift_baselines(case, measured)
    )
    ranked = baselines.ranks(_squared_changes(case, "measured"), _pair_baselines(case))
    for name, value in ranked.items():
        if name != "forecast":
            compared.setdefault(name, {})["spearman_pairs"] = value
    return {"spearman_pairs": ranked["forecast"], "baselines": compared}


def _drift_baselines(case: _Case, measured: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Drifts [n, a] by old task, of each baseline with units."""
    drifts = {
        "zero_drift": baselines.zero_drift(measured),
        "constant_shift": baselines.constant_shift(measured),
    }
    if case.record.baselines is not None:
        last = len(case.stream) - 1
        drifts["input_cosine"] = [
            case.record.drift("input_cosine", s, last, rows)[:, case.active[s]]
            for s, rows in enumerate(case.rows[:-1])
        ]
    return drifts


def _pair_baselines(case: _Case) -> dict[str, np.ndarray]:
    """[T, T] numbers of each pair (S, t): of the forecast, and of each baseline."""
    square = (len(case.stream), len(case.stream))
    known = case.record.baselines
    unknown = np.full(square, np.nan)
    pairs = {
        "forecast": _squared_changes(case, case.anchor),
        "new_task_kernel": np.broadcast_to(_own_changes(case), square),
        "gradient": np.broadcast_to(case.record.slopes, square),
        "cka": known.cka if known else unknown,
        "cross_energy": known.cross_energy if known else unknown,
    }
    return pairs | ({"input_cosine": _squared_changes(case, "input_cosine")} if known else {})


def _squared_changes(case: _Case, what: str) -> np.ndarray:
    """Mean squared change [S, t] of task S's active outputs by training task t; NaN for t = 0."""
    tasks = range(len(case.stream))
    changes = [[case.change(what, s, t) if t else np.nan for t in tasks] for s in tasks]
    return np.array([[np.mean(np.square(change)) for change in row] for row in changes])


def _own_changes(case: _Case) -> list[np.floating]:
    """How far each task is predicted to move its own train outputs: mean squared change."""
    rows, changes = Rows.of(case.stream).train, case.record.changes[case.anchor]
    return [np.mean(changes[t, rows[t]][:, active] ** 2) for t, active in enumerate(case.active)]


def _verdict(case: _Case, loss: Loss) -> dict:
    """The verdict before training, its reasons, and the signs on which it stands.

    `trial_r2` compares the predicted drift with that of the network at the predicted parameters,
    `halved_r2` the latter with the drift of the network predicted in two halves of the steps,
    `coarse_r2` the predicted drift with that predicted with half as many steps, `segments_r2` with
    that by half as many segments, `lower_order_r2` with that by the method of lower order within
    the forecast. `own_r2` is the least of the R² of the trial and the lower order on the inputs of
    the tasks in training, `forgetting_miss` the most by which a check's forgetting is elsewhere.
    """
    record, anchor = case.record, case.anchor
    changes = {kind: getattr(record, kind)[anchor] for kind in CHECKS}
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
    numerics = record.numerics[anchor]
    grade, reasons = metrics.verdict(
        **signs,
        **{key: numerics[key] for key in ("negative_mass", "condition", "limit_share")},
        stable=[one is not False for one in numerics["stable"]],
        segments=_segments(drift, numerics),
        better=_better_baseline(case, drift, r2),
    )
    return signs | {"verdict": grade, "reasons": list(reasons)}


def _segments(drift: dict, numerics: dict) -> list:
    """Of each task, of a forecast in segments: it holds no kernel."""
    by_tangents = not np.isnan(drift["lower_orders"]).all()
    is_held = not np.isnan(numerics["rate_times_eigenvalue"]).all()
    return numerics["kernels"] if by_tangents and not is_held else []


def _least(values: list[float]) -> float:
    """The least of those that are known."""
    return min((one for one in values if not np.isnan(one)), default=NAN)


def _drifts(case: _Case, changes: np.ndarray) -> np.ndarray:
    """Drift of all old tasks' active outputs in one vector, from changes [T, N, c] by each task."""
    each = [
        changes[s + 1 :, rows].sum(0)[:, case.active[s]].ravel()
        for s, rows in enumerate(case.rows[:-1])
    ]
    return np.concatenate(each) if each else np.empty(0)


def _own_drifts(case: _Case, changes: np.ndarray) -> np.ndarray:
    """Changes of the active outputs of each later task by its own training, in one vector."""
    each = [changes[t, case.rows[t]][:, case.active[t]].ravel() for t in range(1, len(case.rows))]
    return np.concatenate(each) if each else np.empty(0)


def _r2(reference: np.ndarray, other: np.ndarray) -> float:
    """R² of `other` with `reference` where both are known; -inf where one diverged, NaN without."""
    if np.isinf(reference).any() or np.isinf(other).any():
        return float("-inf")
    known = ~(np.isnan(reference) | np.isnan(other))
    return metrics.r2(reference[known], other[known]) if known.any() else NAN


def _forgetting_miss(case: _Case, loss: Loss, check: np.ndarray) -> float:
    """How far the mean rise of old tasks' loss by a check is from the predicted, over the larger
    mean magnitude of the rises of samples; infinite where one diverged, NaN without a check.

    check: changes [T, N, c] by each task, NaN at inputs that were not looked at.
    """
    starts = case.record.outputs("measured" if case.anchor in AHEAD else case.anchor)
    means, sizes = [], []
    for s, rows in enumerate(case.rows[:-1]):
        drifts = [c[s + 1 :, rows].sum(0) for c in (case.record.changes[case.anchor], check)]
        known = ~np.isnan(np.stack(drifts)).any((0, 2))
        data, f = getattr(case.stream[s], case.part), starts[s + 1, rows][known]
        y, head = np.asarray(data.y)[known], np.asarray(case.stream[s].head)
        before = sample_losses(f, y, head, loss)
        rises = [sample_losses(f + drift[known], y, head, loss) - before for drift in drifts]
        if known.any():
            means.append([rise.mean() for rise in rises])
            sizes.append([np.abs(rise).mean() for rise in rises])
    if not means:
        return NAN
    (predicted, checked), size = np.mean(means, 0), np.mean(sizes, 0).max()
    miss = abs(predicted - checked) / size if size else 0.0
    return float(miss) if np.isfinite(miss) else float("inf")


def _better_baseline(case: _Case, drift: dict, r2: dict) -> str:
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


def _mean_drifts(case: _Case) -> np.ndarray:
    """The mean of the predicted drift over the inputs of each old task, in one vector."""
    changes, means = case.record.changes[case.anchor], []
    for s, rows in enumerate(case.rows[:-1]):
        drift = changes[s + 1 :, rows].sum(0)[:, case.active[s]]
        means.append(np.broadcast_to(drift.mean(0), drift.shape).ravel())
    return np.concatenate(means) if means else np.empty(0)


def _forgetting(pairs: list[_Pair]) -> dict:
    """Rise of each old task's mean loss, and its mean over old tasks, predicted and measured."""
    rises = {
        side: [float(getattr(pair, f"loss_change_{side}").mean()) for pair in pairs]
        for side in ("predicted", "measured")
    }
    means = {side: float(np.mean(rise)) if rise else NAN for side, rise in rises.items()}
    return {f"forgetting_{side}": rise for side, rise in rises.items()} | {
        f"mean_forgetting_{side}": mean for side, mean in means.items()
    }
