"""Accuracy and loss on every task after every task, from outputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import metrics
from ntkcl.types import Loss, Rows, Stream

PARTS = ("train", "test")


def score_matrices(
    outputs: np.ndarray, stream: Stream, part: str, loss: Loss
) -> dict[str, np.ndarray]:
    """R, R_loss [T, T] and b, b_loss [T] of outputs [T+1, N, c] on the train or test inputs; NaN where outputs are not finite."""
    accuracy, value = _scores(outputs, stream, part, loss, getattr(Rows.of(stream), part))
    return {"R": accuracy[1:], "b": accuracy[0], "R_loss": value[1:], "b_loss": value[0]}


def _scores(outputs, stream, part, loss, rows):
    """Accuracy and loss [k, T] on every task of outputs [k, n, c], in which task j has the `rows[j]`."""
    accuracy, value = (np.full((len(outputs), len(stream)), np.nan) for _ in range(2))
    for j, task in enumerate(stream):
        f, y = outputs[:, rows[j]], np.asarray(getattr(task, part).y)
        seen = np.isfinite(f).all((1, 2))
        accuracy[seen, j] = metrics.correct(f[seen], y, task.head).mean(-1)
        value[seen, j] = sample_losses(f[seen], y, task.head, loss).mean(-1)
    return accuracy, value


def sample_losses(f: np.ndarray, y: np.ndarray, head, loss: Loss) -> np.ndarray:
    """Loss of every sample: [..., n, c], [n, c], mask [c] -> [..., n] in float64."""
    flat = jnp.asarray(f.reshape(int(np.prod(f.shape[:-2])), *y.shape), jnp.float64)
    values = _values(flat, jnp.asarray(y, jnp.float64), jnp.asarray(head, jnp.float64), loss)
    return np.asarray(values).reshape(f.shape[:-1])


@partial(jax.jit, static_argnums=3)
def _values(f, y, head, loss):
    each = jax.vmap(loss.value, (0, 0, None))
    return jax.vmap(each, (0, None, None))(f, y, head)
