"""The contents of `rows.parquet`, `curves.parquet` and `arrays.npz`."""

import numpy as np
import pandas as pd

from ntkcl.experiment.record import Record, curves
from ntkcl.experiment.scores import PARTS, sample_losses, score_matrices
from ntkcl.types import Loss, Rows, Stream

FORGOTTEN = 24  # samples of each run that are kept to be looked at


def rows(record: Record, stream: Stream, loss: Loss, coordinates: dict) -> pd.DataFrame:
    """One row for each (part, what, trained, evaluated): accuracy, loss, root mean square drift
    since `evaluated` was learned.

    `what` is `measured` or an anchor; `trained` = -1 is the untrained network. `coordinates` are
    repeated in every row.
    """
    table = []
    for part in PARTS:
        own = getattr(Rows.of(stream), part)
        for what in ("measured", *record.changes):
            scores = score_matrices(record.outputs(what), stream, part, loss)
            accuracy, value = (
                np.vstack([scores[b], scores[R]]) for b, R in (("b", "R"), ("b_loss", "R_loss"))
            )
            for i in range(len(stream) + 1):
                for j, task in enumerate(stream):
                    drift = record.drift(what, j, i - 1, own[j])[:, np.flatnonzero(task.head)]
                    rms = float(np.sqrt(np.mean(drift**2))) if i > j else float("nan")
                    where = {"part": part, "what": what, "trained": i - 1, "evaluated": j}
                    table.append(
                        coordinates
                        | where
                        | {"accuracy": accuracy[i, j], "loss": value[i, j], "drift_rms": rms}
                    )
    return pd.DataFrame(table)


def within(record: Record, stream: Stream, loss: Loss, coordinates: dict) -> pd.DataFrame | None:
    """One row for each (step, evaluated), `step` since the stream began: accuracy and loss, test
    inputs; None where nobody looked."""
    if not record.looks:
        return None
    return pd.DataFrame([coordinates | row for row in curves(record, stream, loss)])


def arrays(record: Record, stream: Stream, loss: Loss) -> dict[str, np.ndarray]:
    """What the summary was made from: outputs and predicted changes of every input, targets, heads,
    losses of every step, NaN beyond a task's last.

    `start_train[j]`, `start_test[j]` tell where the inputs of task j begin among the N. `forgotten`
    are the rows among the N of the test inputs forgotten most, see there, and `forgotten_x` the
    inputs themselves.
    """
    parts = Rows.of(stream)
    targets = [task.train.y for task in stream] + [task.test.y for task in stream]
    rows, inputs = forgotten(record, stream, loss)
    return {
        "measured": record.measured,
        **{f"changes_{anchor}": values for anchor, values in record.changes.items()},
        "targets": np.concatenate(targets),
        "heads": np.stack([task.head for task in stream]),
        "losses": record.losses,
        "start_train": np.array([s.start for s in parts.train]),
        "start_test": np.array([s.start for s in parts.test]),
        "forgotten": rows,
        "forgotten_x": inputs,
    }


def forgotten(record: Record, stream: Stream, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """The `FORGOTTEN` test inputs of old tasks whose loss rose most from just after their task to
    the end, most first: their rows among the N [k], and themselves [k, *shape] in float32. k is 0
    where nothing is old, or training diverged."""
    rises, rows, inputs = [], [], []
    for s, own in enumerate(Rows.of(stream).test[:-1]):
        test, head = stream[s].test, stream[s].head
        if np.isfinite(record.measured[-1, own]).all():
            before, after = (
                sample_losses(record.measured[i, own], np.asarray(test.y), head, loss)
                for i in (s + 1, -1)
            )
            rises.append(after - before)
            rows.append(np.arange(own.start, own.stop))
            inputs.append(np.asarray(test.x, np.float32))
    if not rises:
        return np.empty(0, int), np.empty((0, *stream[0].test.x.shape[1:]), np.float32)
    order = np.argsort(-np.concatenate(rises), kind="stable")[:FORGOTTEN]
    return np.concatenate(rows)[order], np.concatenate(inputs)[order]
