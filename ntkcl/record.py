"""A run as numbers: what was predicted and what was measured, gathered from the experiment's events and compared.

Everything follows from outputs: `measured[i]` [N, c] after i tasks, and each anchor's predicted `changes[t]` [N, c] by task t.
A prediction that starts from a measured network (`boundary`) gives row i of R one task ahead; its drift over several
tasks is the sum of its changes, so that both anchors predict the same quantity and differ in the kernel alone.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import metrics
from ntkcl.experiment import Forecast, Measurement, Plan, Rows
from ntkcl.forecast import agreement, flip_f1, spearman
from ntkcl.meter import Cost
from ntkcl.types import Loss, Stream

PARTS = ("train", "test")


class Record(NamedTuple):
    """One run. Entries that were not reached are NaN.

    measured [T+1, N, c], changes[anchor] [T, N, c], losses [T, S], rate_times_eigenvalue[anchor] [T], costs[phase]
    """

    plan: Plan
    measured: np.ndarray
    changes: dict[str, np.ndarray]
    losses: np.ndarray
    rate_times_eigenvalue: dict[str, np.ndarray]
    costs: dict[str, list]

    @property
    def status(self) -> str:
        return "completed" if np.isfinite(self.measured).all() and np.isfinite(self.losses).all() else "diverged"

    def predicted(self, anchor: str) -> np.ndarray:
        """Outputs [T+1, N, c] foretold from one anchor: from f_0 on for `init`, one task ahead for `boundary`."""
        changes = self.changes[anchor]
        if anchor == "init":
            steps = np.concatenate([self.measured[:1], changes])
            return np.cumsum(steps, axis=0)
        return np.concatenate([self.measured[:1], self.measured[:-1] + changes])


def gather(events: Iterable[Plan | Forecast | Measurement], stream: Stream, steps: int) -> Record:
    """Play an experiment to its end."""
    tasks, rows = len(stream), Rows.of(stream)
    shape = (rows.test[-1].stop, np.shape(stream[0].train.y)[1])
    nan = np.full((tasks, *shape), np.nan)
    record = Record(Plan(np.nan, np.nan, Cost(0, 0)), np.concatenate([nan[:1], nan]), {}, np.full((tasks, steps), np.nan), {}, {})
    for event in events:
        match event:
            case Plan():
                record = record._replace(plan=event)
                phase = "plan"
            case Forecast(anchor, first, changes, top, _):
                here = slice(first, first + len(changes))
                record.changes.setdefault(anchor, nan.copy())[here] = changes
                record.rate_times_eigenvalue.setdefault(anchor, np.full(tasks, np.nan))[here] = top
                phase = f"forecast_{anchor}"
            case Measurement(task, outputs, losses, _):
                record.measured[task] = outputs
                if task:
                    record.losses[task - 1] = losses
                phase = "train" if task else "initialise"
        record.costs.setdefault(phase, []).append(event.cost)
    return record


def score_matrices(outputs: np.ndarray, stream: Stream, part: str, loss: Loss) -> dict[str, np.ndarray]:
    """R, R_loss [T, T] and b, b_loss [T] of outputs [T+1, N, c] on the train or test inputs; NaN where outputs are not finite."""
    rows = getattr(Rows.of(stream), part)
    accuracy, value = (np.full((len(stream) + 1, len(stream)), np.nan) for _ in range(2))
    for j, task in enumerate(stream):
        f, y = outputs[:, rows[j]], np.asarray(getattr(task, part).y)
        seen = np.isfinite(f).all((1, 2))
        accuracy[seen, j] = metrics.correct(f[seen], y, task.head).mean(-1)
        value[seen, j] = sample_losses(f[seen], y, task.head, loss).mean(-1)
    return {"R": accuracy[1:], "b": accuracy[0], "R_loss": value[1:], "b_loss": value[0]}


def compare(record: Record, anchor: str, stream: Stream, part: str, loss: Loss) -> dict:
    """One anchor's forecast beside the measurement, on the train or the test inputs: the numbers of `summary.json`."""
    measured = score_matrices(record.measured, stream, part, loss)
    outputs = record.predicted(anchor)
    predicted = score_matrices(outputs, stream, part, loss)
    rows = getattr(Rows.of(stream), part)
    pairs = [
        _old_task(getattr(task, part).y, task.head, loss, *drift)
        for task, drift in zip(stream[:-1], _drifts(record, anchor, outputs, rows), strict=True)
    ]
    numbers = agreement([p.drift_measured for p in pairs], [p.drift_predicted for p in pairs])
    finite = bool(pairs) and all(np.isfinite(values).all() for pair in pairs for values in pair)
    forgetting = {side: [float(getattr(p, f"loss_change_{side}").mean()) for p in pairs] for side in ("predicted", "measured")}
    return predicted | {
        "metrics": metrics.summary(predicted["R"], predicted["b"]),
        **numbers,
        "spearman_offdiagonal": _off_diagonal(measured, predicted, predicted if anchor == "init" else measured),
        "spearman_samples": spearman(*_pooled(pairs, "loss_change")) if finite else float("nan"),
        "flip_f1": flip_f1(*_pooled(pairs, "flip")) if finite else float("nan"),
        "forgetting_predicted": forgetting["predicted"],
        "forgetting_measured": forgetting["measured"],
        "mean_forgetting_predicted": float(np.mean(forgetting["predicted"])) if pairs else float("nan"),
        "mean_forgetting_measured": float(np.mean(forgetting["measured"])) if pairs else float("nan"),
    }


class _Pair(NamedTuple):
    """An old task at the end of the stream: drift [n, active], loss change and flips [n], on both sides."""

    drift_measured: np.ndarray
    drift_predicted: np.ndarray
    loss_change_measured: np.ndarray
    loss_change_predicted: np.ndarray
    flip_measured: np.ndarray
    flip_predicted: np.ndarray


def _pooled(pairs, quantity):
    return [np.concatenate([getattr(p, f"{quantity}_{side}") for p in pairs]) for side in ("measured", "predicted")]


def _drifts(record, anchor, outputs, rows):
    """For each old task S: f_S and d_S as measured, then as predicted, each [n, c]."""
    for s, own in enumerate(rows[:-1]):
        measured = record.measured[s + 1, own], record.measured[-1, own] - record.measured[s + 1, own]
        yield *measured, outputs[s + 1, own], record.changes[anchor][s + 1 :, own].sum(0)


def _old_task(y, head, loss, f_measured, d_measured, f_predicted, d_predicted) -> _Pair:
    active = np.flatnonzero(head)
    sides = (f_measured, f_measured + d_measured), (f_predicted, f_predicted + d_predicted)
    losses = [sample_losses(after, y, head, loss) - sample_losses(before, y, head, loss) for before, after in sides]
    right = [[metrics.correct(f, y, head).astype(int) for f in side] for side in sides]
    return _Pair(d_measured[:, active], d_predicted[:, active], *losses, *(after - before for before, after in right))


def _off_diagonal(measured, predicted, starts) -> float:
    """Rank correlation, over i != j, of the change of the loss on task j by training task i; `starts` foretells from where."""
    both = (measured, measured), (predicted, starts)
    changes = [after["R_loss"] - np.concatenate([before["b_loss"][None], before["R_loss"][:-1]]) for after, before in both]
    m, p = (change[~np.eye(len(change), dtype=bool)] for change in changes)
    return spearman(m, p) if len(m) and np.isfinite(m).all() and np.isfinite(p).all() else float("nan")


def sample_losses(f, y, head, loss: Loss) -> np.ndarray:
    """Loss of every sample: [..., n, c], [n, c], mask [c] -> [..., n] in float64."""
    each = jax.vmap(loss, (0, 0, None))
    flat = jnp.asarray(f.reshape(-1, *y.shape), jnp.float64)
    values = jax.vmap(each, (0, None, None))(flat, jnp.asarray(y, jnp.float64), jnp.asarray(head, jnp.float64))
    return np.asarray(values).reshape(f.shape[:-1])
