"""One anchor's forecast beside the measurement."""

from typing import NamedTuple

import numpy as np

from ntkcl import metrics
from ntkcl.experiment.events import AHEAD
from ntkcl.experiment.record import Record
from ntkcl.experiment.scores import sample_losses, score_matrices
from ntkcl.metrics import agreement, baselines, flip_f1, r2, spearman, verdict
from ntkcl.types import Loss, Rows, Stream


def compare(record: Record, anchor: str, stream: Stream, part: str, loss: Loss) -> dict:
    """One anchor's forecast beside the measurement, on the train or the test inputs: the numbers of `summary.json`."""
    measured = score_matrices(record.measured, stream, part, loss)
    predicted = score_matrices(record.outputs(anchor), stream, part, loss)
    pairs = _old_tasks(record, anchor, stream, part, loss)
    finite = bool(pairs) and all(np.isfinite(values).all() for pair in pairs for values in pair)
    forgetting = {
        side: [float(getattr(p, f"loss_change_{side}").mean()) for p in pairs]
        for side in ("predicted", "measured")
    }
    return predicted | {
        "metrics": metrics.summary(predicted["R"], predicted["b"]),
        "metrics_loss": metrics.loss_summary(predicted["R_loss"], predicted["b_loss"]),
        **agreement([p.drift_measured for p in pairs], [p.drift_predicted for p in pairs]),
        "change_r2": _change_r2(record, anchor, stream, part) if finite else float("nan"),
        "spearman_offdiagonal": _off_diagonal(
            measured, predicted, measured if anchor in AHEAD else predicted
        ),
        "spearman_samples": spearman(*_pooled(pairs, "loss_change")) if finite else float("nan"),
        "flip_f1": flip_f1(*_pooled(pairs, "flip")) if finite else float("nan"),
        **_baselines(record, anchor, stream, part, pairs),
        **_trusted(record, anchor, stream, part),
        "forgetting_predicted": forgetting["predicted"],
        "forgetting_measured": forgetting["measured"],
        "mean_forgetting_predicted": float(np.mean(forgetting["predicted"]))
        if pairs
        else float("nan"),
        "mean_forgetting_measured": float(np.mean(forgetting["measured"]))
        if pairs
        else float("nan"),
    }


class _Pair(NamedTuple):
    """An old task at the end of the stream: drift [n, active], loss change and flips [n], on both sides."""

    drift_measured: np.ndarray
    drift_predicted: np.ndarray
    loss_change_measured: np.ndarray
    loss_change_predicted: np.ndarray
    flip_measured: np.ndarray
    flip_predicted: np.ndarray


def _old_tasks(record, anchor, stream, part, loss) -> list[_Pair]:
    """Both sides of every old task S. The drift foretold starts where the anchor stood: `boundary` at the measured f_S, which is known
    when the task after S begins, any other at its own."""
    starts = record.outputs("measured" if anchor in AHEAD else anchor)
    pairs = []
    for s, own in enumerate(getattr(Rows.of(stream), part)[:-1]):
        y, head = np.asarray(getattr(stream[s], part).y), np.asarray(stream[s].head)
        before = record.measured[s + 1, own], starts[s + 1, own]
        drifts = [record.drift(what, s, len(stream) - 1, own) for what in ("measured", anchor)]
        after = [f + d for f, d in zip(before, drifts, strict=True)]
        losses = [
            sample_losses(g, y, head, loss) - sample_losses(f, y, head, loss)
            for f, g in zip(before, after, strict=True)
        ]
        flips = [
            np.sign(metrics.correct(g, y, head) - metrics.correct(f, y, head))
            for f, g in zip(before, after, strict=True)
        ]
        active = np.flatnonzero(head)
        pairs.append(_Pair(*(d[:, active] for d in drifts), *losses, *flips))
    return pairs


def _baselines(record, anchor, stream, part, pairs) -> dict:
    """`spearman_pairs` of the forecast, and `baselines`: its skill over each that has units, and the rank correlation of each without.

    Pairs are an old task S and a later one t, ranked by the mean squared change of S's active outputs by training t.
    """
    rows, tasks = Rows.of(stream), len(stream)
    active = [np.flatnonzero(task.head) for task in stream]
    measured, predicted = (
        [getattr(p, f"drift_{side}") for p in pairs] for side in ("measured", "predicted")
    )
    guesses = {
        "zero_drift": baselines.zero_drift(measured),
        "constant_shift": baselines.constant_shift(measured),
    }
    nothing = np.full((tasks, tasks), np.nan)

    def squared(what):
        """Mean squared change [S, t] of task S's outputs by task t."""
        own = getattr(rows, part)
        change = [
            [
                record.drift(what, t - 1, t, own[s])[:, active[s]] if t else np.nan
                for t in range(tasks)
            ]
            for s in range(tasks)
        ]
        return np.array([[np.mean(np.square(d)) for d in row] for row in change])

    moved = [
        np.mean(record.changes[anchor][t, rows.train[t]][:, active[t]] ** 2) for t in range(tasks)
    ]
    every = {"forecast": squared(anchor), "new_task_kernel": np.broadcast_to(moved, (tasks, tasks))}
    every |= {
        "gradient": np.broadcast_to(record.slopes, (tasks, tasks)),
        "cka": nothing,
        "cross_energy": nothing,
    }
    if record.baselines is not None:
        last = tasks - 1
        drifts = [
            record.drift("input_cosine", s, last, own)[:, active[s]]
            for s, own in enumerate(getattr(rows, part)[:-1])
        ]
        guesses |= {"input_cosine": drifts}
        every |= {
            "input_cosine": squared("input_cosine"),
            "cka": record.baselines.cka,
            "cross_energy": record.baselines.cross_energy,
        }
    compared: dict[str, dict[str, float]] = baselines.skills(measured, predicted, guesses)
    ranked = baselines.ranks(squared("measured"), every)
    for name, value in ranked.items():
        if name != "forecast":
            compared.setdefault(name, {})["spearman_pairs"] = value
    return {"spearman_pairs": ranked["forecast"], "baselines": compared}


def _trusted(record, anchor, stream, part) -> dict:
    """`trial_r2`, of the predicted drift with that of the network moved as foretold, `halved_r2`, of that with the one moved in two
    strides, and the verdict that they allow."""
    rows, last = getattr(Rows.of(stream), part)[:-1], len(stream) - 1

    def drift(changes):
        each = [
            changes[s + 1 : last + 1, own].sum(0)[:, np.flatnonzero(stream[s].head)].ravel()
            for s, own in enumerate(rows)
        ]
        return np.concatenate(each) if each else np.empty(0)

    def agreed(moved, foretold):
        if np.isinf(moved).any():  # there was a trial, and it blew up
            return float("-inf")
        return (
            r2(moved, foretold)
            if len(moved) and np.isfinite(moved).all() and np.isfinite(foretold).all()
            else float("nan")
        )

    foretold, once, twice = (
        drift(told[anchor]) for told in (record.changes, record.trials, record.halves)
    )
    signs = {"trial_r2": agreed(once, foretold), "halved_r2": agreed(twice, once)}
    numerics = record.numerics[anchor]
    stable = [one is not False for one in numerics["stable"]]
    known = (numerics[key] for key in ("negative_mass", "condition", "limit_share"))
    told, reasons = verdict(signs["trial_r2"], signs["halved_r2"], stable, *known)
    return signs | {"verdict": told, "reasons": list(reasons)}


def _pooled(pairs, quantity):
    return [
        np.concatenate([getattr(p, f"{quantity}_{side}") for p in pairs])
        for side in ("measured", "predicted")
    ]


def _change_r2(record, anchor, stream, part) -> float:
    """R2 over the changes of old tasks' active outputs by each later task, one task at a time."""
    rows = getattr(Rows.of(stream), part)
    active = [np.flatnonzero(task.head) for task in stream]
    where = [(s, t) for t in range(1, len(stream)) for s in range(t)]
    sides = [
        np.concatenate(
            [record.drift(what, t - 1, t, rows[s])[:, active[s]].ravel() for s, t in where]
        )
        for what in ("measured", anchor)
    ]
    return r2(*sides)


def _off_diagonal(measured, predicted, starts) -> float:
    """Rank correlation, over i != j, of the change of the loss on task j by training task i; `starts` foretells from where."""
    both = (measured, measured), (predicted, starts)
    changes = [
        after["R_loss"] - np.concatenate([before["b_loss"][None], before["R_loss"][:-1]])
        for after, before in both
    ]
    m, p = (change[~np.eye(len(change), dtype=bool)] for change in changes)
    return (
        spearman(m, p) if len(m) and np.isfinite(m).all() and np.isfinite(p).all() else float("nan")
    )
