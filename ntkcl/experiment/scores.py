"""Accuracy and loss on every task after every task, from outputs."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from ntkcl import metrics
from ntkcl.types import Loss, Rows, Stream

PARTS = ("train", "test")


def score_matrices(
    outputs: np.ndarray, stream: Stream, part: str, loss: Loss
) -> dict[str, np.ndarray]:
    """R, R_loss [T, T] and b, b_loss [T] of outputs [T+1, N, c]: scores on every task's inputs.

    `part` is "train" or "test". Scores of outputs that are not finite are NaN.
    """
    accuracy, value = scores(outputs, stream, part, loss, getattr(Rows.of(stream), part))
    return {"R": accuracy[1:], "b": accuracy[0], "R_loss": value[1:], "b_loss": value[0]}


def scores(
    outputs: np.ndarray, stream: Stream, part: str, loss: Loss, rows: Sequence[slice]
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and loss [k, T] on every task of outputs [k, n, c]; task j has the `rows[j]`."""
    shape = len(outputs), len(stream)
    accuracy, value = np.full(shape, np.nan), np.full(shape, np.nan)
    for j, task in enumerate(stream):
        f, y = outputs[:, rows[j]], np.asarray(getattr(task, part).y)
        finite = np.isfinite(f).all((1, 2))
        accuracy[finite, j] = metrics.correct(f[finite], y, task.head).mean(-1)
        value[finite, j] = sample_losses(f[finite], y, task.head, loss).mean(-1)
    return accuracy, value


def sample_losses(f: np.ndarray, y: np.ndarray, head, loss: Loss) -> np.ndarray:
    """Loss of every sample: [..., n, c], [n, c], mask [c] -> [..., n] in float64."""
    flat = f.reshape(int(np.prod(f.shape[:-2])), *y.shape)
    values = _values(*(np.asarray(a, np.float64) for a in (flat, y, head)), loss)
    return np.asarray(values).reshape(f.shape[:-1])


@partial(jax.jit, static_argnums=3)
def _values(f, y, head, loss):
    of_samples = jax.vmap(loss.value, (0, 0, None))
    return jax.vmap(of_samples, (0, None, None))(f, y, head)
