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
from ntkcl.experiment.signs import Case, verdict
from ntkcl.metrics import baselines
from ntkcl.types import Loss, Rows, Stream, Task

NAN = float("nan")
SIDES = ("measured", "predicted")


def compare(record: Record, anchor: str, stream: Stream, part: str, loss: Loss) -> dict:
    """The numbers of one anchor's forecast.

    Arguments:
      record: of one run.  anchor: one of its forecasts.
      part: "train" or "test", the inputs on which the two are compared.
    Returns: the keys of `ntkcl.runs.schema` under `forecast.<anchor>`, R and b included.
    """
    rows = getattr(Rows.of(stream), part)
    active = [np.flatnonzero(task.head) for task in stream]
    case = Case(record, anchor, stream, part, rows, active)
    measured = score_matrices(record.measured, stream, part, loss)
    predicted = score_matrices(record.outputs(anchor), stream, part, loss)
    pairs = _old_tasks(case, loss)
    return (
        predicted
        | _scores(predicted)
        | _agreement(case, measured, predicted, pairs)
        | _baselines(case, pairs)
        | verdict(case, loss)
        | _forgetting(pairs)
    )


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


def _old_tasks(case: Case, loss: Loss) -> list[_Pair]:
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


def _agreement(case: Case, measured: dict, predicted: dict, pairs: list[_Pair]) -> dict:
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


def _change_r2(case: Case) -> float:
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


def _baselines(case: Case, pairs: list[_Pair]) -> dict:
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


def _drift_baselines(case: Case, measured: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
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


def _pair_baselines(case: Case) -> dict[str, np.ndarray]:
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


def _squared_changes(case: Case, what: str) -> np.ndarray:
    """Mean squared change [S, t] of task S's active outputs by training task t; NaN for t = 0."""
    tasks = range(len(case.stream))
    changes = [[case.change(what, s, t) if t else np.nan for t in tasks] for s in tasks]
    return np.array([[np.mean(np.square(change)) for change in row] for row in changes])


def _own_changes(case: Case) -> list[np.floating]:
    """How far each task is predicted to move its own train outputs: mean squared change."""
    rows, changes = Rows.of(case.stream).train, case.record.changes[case.anchor]
    return [np.mean(changes[t, rows[t]][:, active] ** 2) for t, active in enumerate(case.active)]


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
