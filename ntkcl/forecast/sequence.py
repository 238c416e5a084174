"""Training on a stream of tasks, in function space: one block lower-triangular solve.

With all blocks at one anchor, G_t the filter of task t and r0 = Y - f_0, training in turn gives
(I + G SL) alpha = G r0, SL the strictly lower blocks of K. Forward substitution is `sequence`: task t sees the residual that
the tasks before it left. The same step at a freshly measured network is the boundary forecast.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

Filter = Callable[[Float[Array, " k"]], Float[Array, " k"]]


class Solve(NamedTuple):
    """One task's training: the change [N, c] of the outputs, the dual coefficients alpha [n, active outputs], and the
    eigenvalues of K_tt as they came, before clipping at zero."""

    change: Float[Array, "_ _"]
    alpha: Float[Array, "_ _"]
    eigenvalues: Float[Array, " _"]


def one_task(
    column: Float[Array, "N c n c"],
    rows: slice,
    f: Float[Array, "N c"],
    y: Float[Array, "n c"],
    head: Float[np.ndarray, " c"],
    filter: Filter,
) -> Solve:
    """Change of f at all N inputs by training on task t: K(x, X_t) G_t (Y_t - f(X_t)).

    Arguments:
      column: K(x, X_t) for all N inputs x, the n inputs of the task among them; of any floating type, the solve is in f's.
      rows: where the task's own inputs stand among the N.
      f: outputs before the task is trained.  y: the task's targets.
      head: 0/1 mask of its active outputs (concrete, not traced); others get no gradient.
      filter: g(lam) of the training rule.
    Returns the solve, alpha [n, number of active outputs]. Eigenvalues below zero are rounding and count as zero.
    """
    active = np.flatnonzero(head)
    column = column if len(active) == len(head) else column[..., active]
    residual = (y - f[rows])[:, active]
    eigenvalues, modes = jnp.linalg.eigh(_gram(column[rows][:, active].astype(residual.dtype)))
    gain = filter(jnp.maximum(eigenvalues, 0.0))
    alpha = (modes @ (gain * (modes.T @ residual.ravel()))).reshape(residual.shape)
    return Solve(_read_out(column, alpha), alpha, eigenvalues)


def sequence(
    columns: Iterable[Float[Array, "N c _ c"]],
    rows: Sequence[slice],
    f0: Float[Array, "N c"],
    ys: Sequence[Float[Array, "_ c"]],
    heads: Sequence[Float[np.ndarray, " c"]],
    filters: Sequence[Filter],
) -> list[Solve]:
    """Every task's `one_task` in turn, all blocks at one anchor; f after task t is f0 plus the first t + 1 changes.

    `columns` may be a generator: one column block K(x, X_t) is alive at a time. Source: Bennani et al. 2020, Doan et al. 2021.
    """
    f, solves = f0, []
    for column, row, y, head, filter in zip(columns, rows, ys, heads, filters, strict=True):
        solves.append(one_task(column, row, f, y, head, filter))
        f = f + solves[-1].change
    return solves


def largest_eigenvalue(k_tt: Float[Array, "n c n c"], head: Float[np.ndarray, " c"]) -> float:
    """lam_max of the task's Gram matrix over its active outputs; a learning rate is stable up to limit(lam_max)."""
    active = np.flatnonzero(head)
    gram = np.asarray(_gram(k_tt[:, active][..., active]), np.float64)
    top = len(gram) - 1
    return float(scipy.linalg.eigh(gram, eigvals_only=True, subset_by_index=[top, top])[0])


def negative_mass(eigenvalues: Float[Array, " _"]) -> float:
    """sum of |lam| over lam < 0, as a share of the sum over all; 0 for a kernel of zeros."""
    total = float(jnp.sum(jnp.abs(eigenvalues)))
    return float(jnp.sum(jnp.maximum(-eigenvalues, 0.0))) / total if total > 0 else 0.0


def _gram(block):
    n, c = block.shape[:2]
    return block.reshape(n * c, n * c)


@jax.jit
def _read_out(column, alpha):
    """K alpha in alpha's type; as a product and a sum, XLA widens the block on the fly instead of copying it."""
    return jnp.sum(column * alpha[None, None], axis=(-2, -1))
