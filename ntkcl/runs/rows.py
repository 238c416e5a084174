"""The contents of `rows.parquet`, `curves.parquet` and `arrays.npz`."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ntkcl.experiment.record import Record, curves
from ntkcl.experiment.scores import PARTS, sample_losses, score_matrices
from ntkcl.types import Loss, Rows, Stream
from ntkcl.validation import are_tokens

FORGOTTEN = 24  # samples of each run whose inputs are stored for the report


def rows(record: Record, stream: Stream, loss: Loss, coordinates: dict) -> pd.DataFrame:
    """One row for each (part, what, trained, evaluated).

    `what` is `measured` or an anchor; `trained` is the task trained last, -1 of the untrained
    network; `evaluated` the task of the inputs. Each has `accuracy`, `loss` and `drift_rms`, the
    root mean square drift since `evaluated` was learned. `coordinates` are repeated in every row.
    """
    whats = ("measured", *record.changes)
    return pd.DataFrame(
        [
            coordinates | {"part": part, "what": what} | row
            for part in PARTS
            for what in whats
            for row in _scored(record, stream, loss, part, what)
        ]
    )


def _scored(
    record: Record, stream: Stream, loss: Loss, part: str, what: str
) -> Iterator[dict[str, float]]:
    """The rows of one side on one part of the inputs."""
    scores = score_matrices(record.outputs(what), stream, part, loss)
    accuracy = np.vstack([scores["b"], scores["R"]])
    value = np.vstack([scores["b_loss"], scores["R_loss"]])
    inputs = getattr(Rows.of(stream), part)
    for i in range(len(stream) + 1):
        for j, task in enumerate(stream):
            drift = record.drift(what, j, i - 1, inputs[j])[:, np.flatnonzero(task.head)]
            yield {
                "trained": i - 1,
                "evaluated": j,
                "accuracy": accuracy[i, j],
                "loss": value[i, j],
                "drift_rms": float(np.sqrt(np.mean(drift**2))) if i > j else float("nan"),
            }


def within(record: Record, stream: Stream, loss: Loss, coordinates: dict) -> pd.DataFrame | None:
    """One row for each (step, evaluated): accuracy and loss on test inputs within training.

    `step` counts from the beginning of the stream. None where nothing was evaluated on the way.
    """
    if not record.evaluations:
        return None
    return pd.DataFrame([coordinates | row for row in curves(record, stream, loss)])


def arrays(record: Record, stream: Stream, loss: Loss) -> dict[str, np.ndarray]:
    """What the summary was made from.

    measured [T+1, N, c], changes_<anchor> [T, N, c]: outputs and predicted changes.
    targets [N, c], heads [T, c]; losses [T, S], NaN beyond a task's last step.
    start_train, start_test [T]: where the inputs of each task begin among the N.
    forgotten, forgotten_x: see `forgotten`, rows among the N and the inputs themselves.
    """
    inputs = Rows.of(stream)
    targets = [task.train.y for task in stream] + [task.test.y for task in stream]
    rows, inputs_forgotten = forgotten(record, stream, loss)
    return {
        "measured": record.measured,
        **{f"changes_{anchor}": values for anchor, values in record.changes.items()},
        "targets": np.concatenate(targets),
        "heads": np.stack([task.head for task in stream]),
        "losses": record.losses,
        "start_train": np.array([own.start for own in inputs.train]),
        "start_test": np.array([own.start for own in inputs.test]),
        "forgotten": rows,
        "forgotten_x": inputs_forgotten,
    }


def forgotten(record: Record, stream: Stream, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """The `FORGOTTEN` test inputs of old tasks whose loss rose most, the largest rise first.

    The rise is from just after the input's task to the end of the stream.
    Returns: their rows among the N [k], and the inputs [k, *shape] in float32, token ids as they
      are. k is 0 where there is no old task, or training diverged.
    """
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
            x = np.asarray(test.x)
            inputs.append(x if are_tokens(x) else np.asarray(x, np.float32))
    if not rises:
        return np.empty(0, int), np.empty((0, *stream[0].test.x.shape[1:]), np.float32)
    order = np.argsort(-np.concatenate(rises), kind="stable")[:FORGOTTEN]
    return np.concatenate(rows)[order], np.concatenate(inputs)[order]
