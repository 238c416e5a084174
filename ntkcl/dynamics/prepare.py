"""The Gram matrix of the rows of a step, decomposed once and shared by steps on the same rows."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.tree_util import Partial
from jaxtyping import Array, Float
from scipy.sparse import csr_array

from ntkcl.dynamics.rules import Rule
from ntkcl.dynamics.spectral import Arrow, Decomposed, eigendecomposed, rotated
from ntkcl.dynamics.steps import Columns, Places, Removed, Step, as_places
from ntkcl.validation import shape_is

# Directions of a memory whose share of the largest is below this are dependent up to rounding, and
# are not divided by.
DEPENDENT = 1e-10
NEARLY_DEPENDENT = 1e-6  # squared pivots whose share is below this call for all eigenvalues


class Removal(NamedTuple):
    """Directions that training is kept out of, whitened: V W with W^T K(V, V) W = 1.

    own: [k, d], K(X, V) W of the step's rows, without their weights.
    change: `change(v) -> K(x, V) W v` [N, c].
    """

    own: Float[np.ndarray, "k d"]
    change: Callable[..., Any]


class Prepared(NamedTuple):
    """What of a `Step` depends on inputs and weights alone: steps on the same rows can share it.

    change: `change(alpha) -> K(x, X) alpha` [N, c] for alpha [m, c], X in the step's order; of
      several alphas [b, m, c] where the kernel's own takes them.
    size: m.
    rows, outputs: [k], where the weights are not zero.  root: [k], sqrt(weight).
    decomposed: the weighted Gram matrix of those rows.
    removal: what is removed; None for nothing.
    """

    change: Any
    size: int
    rows: np.ndarray
    outputs: np.ndarray
    root: Any
    decomposed: Decomposed
    removal: Removal | None = None

    def coefficients(
        self, rule: Rule, residual: Float[Array | np.ndarray, "*b m c"]
    ) -> Float[np.ndarray, "*b m c"]:
        """alpha = root g(root K root) (root residual), by which theta moves by J^T alpha.

        Zero for outputs of weight zero. Of one residual, or of each of several.
        """
        residual, rule = np.asarray(residual), as_partial(rule)
        weighted = self.root * residual[..., self.rows, self.outputs]
        if weighted.ndim == 1 or self.decomposed.modes is not None:
            entries = self.decomposed.filtered(rule, weighted)
        else:
            entries = np.stack([self.decomposed.filtered(rule, one) for one in weighted])
        alpha = np.zeros_like(residual)
        alpha[..., self.rows, self.outputs] = self.root * np.asarray(entries)
        return alpha

    def scaled(self, factor: float) -> "Prepared":
        """The same of weights `factor` times as large."""
        root, decomposed = self.root * factor**0.5, self.decomposed.scaled(factor)
        return self._replace(root=root, decomposed=decomposed)


def prepared(
    kernel: Places | Columns,
    step: Step,
    dtype=jnp.float64,
    decompose: Callable[..., Decomposed] = eigendecomposed,
) -> Prepared:
    """The Gram matrix of a step's rows, decomposed.

    Arguments:
      kernel: `Places`, or `columns(inputs) -> K(x, x[inputs])` [N, c, m, c], of any floating type;
        the solve is in `dtype`.
      decompose: from the Gram matrix [k, k], in the kernel's type or a wider one, and `dtype` to
        functions of it.
    """
    places = as_places(step.kernel or kernel)
    # Cut by NumPy: XLA would compile each cut for each shape.
    block = np.asarray(places.block(step.inputs, step.inputs))
    m, c = step.targets.shape
    shape_is("K(x[inputs], x[inputs])", block, (m, c, m, c))
    rows, outputs, root = _rows(step, dtype)
    gram = block.reshape(m * c, m * c)
    if len(rows) < m * c:
        gram = gram[np.ix_(rows * c + outputs, rows * c + outputs)]
    if (root != 1).any():
        narrow = root.astype(gram.dtype)
        gram = narrow[:, None] * gram * narrow[None]
    removal = _removal(as_places(kernel), step, dtype, rows, outputs)
    if removal is not None:
        own = root[:, None] * removal.own
        gram = gram - own @ own.T
    change = partial(places.change, step.inputs)
    return Prepared(change, m, rows, outputs, root, decompose(gram, dtype), removal)


def prepared_by_products(
    places: Places,
    matvec: Callable[..., Any],
    step: Step,
    dtype,
    decompose: Callable[..., Decomposed],
) -> Prepared:
    """`prepared` of a step that removes nothing, without its Gram matrix.

    Arguments:
      places: the step's kernel.  matvec: v [m, c] -> K v of the step's inputs.
      decompose: from that, the root of the weights [m, c] and the entries [k] of it that are not
        zero to functions of the Gram matrix.
    """
    assert step.removed is None
    rows, outputs, root = _rows(step, dtype)
    m, c = step.targets.shape
    whole = np.sqrt(np.asarray(step.weights, dtype))
    decomposed = decompose(matvec, whole, rows * c + outputs)
    return Prepared(partial(places.change, step.inputs), m, rows, outputs, root, decomposed)


def extended(
    base: Prepared,
    kernel: Places | Columns,
    step: Step,
    dtype,
    decompose: Callable[[Arrow], Decomposed],
) -> Prepared:
    """`prepared` of a step that begins with the rows of `base`, at the weights they have there.

    All eigenvectors of `base` must be known.

    In those eigenvectors the Gram matrix of k + q rows, d directions of them removed, is an
    `Arrow`: q more rows cost a product k q in place of k^2.
    Arguments: as of `prepared`; decompose: from the arrow to functions of it.
    """
    k, seen, places = len(base.rows), base.size, as_places(kernel)
    rows, outputs, root = _rows(step, dtype)
    more = step.inputs[seen:]
    block = np.asarray(places.block(step.inputs, more))
    across = block[:, :, rows[k:] - seen, outputs[k:]][rows, outputs]
    across = root[:, None] * across.astype(dtype) * root[None, k:]
    removal = _removal(places, step, dtype, rows, outputs)
    modes = base.decomposed.modes

    def turned(columns):
        return np.concatenate([modes.T @ columns[:k], columns[k:]])

    def change(alpha):
        return base.change(alpha[..., :seen, :]) + places.change(more, alpha[..., seen:, :])

    removed = None if removal is None else turned(root[:, None] * removal.own)
    arrow = Arrow(base.decomposed.eigenvalues(), turned(across)[:k], across[k:], removed)
    decomposed = rotated(decompose(arrow), modes)
    whole = change if len(more) else base.change
    return Prepared(whole, len(step.inputs), rows, outputs, root, decomposed, removal)


def _rows(step, dtype):
    """Rows and outputs [k] of weights that are not zero, and the weights' roots."""
    rows, outputs = np.nonzero(step.weights)
    return rows, outputs, np.sqrt(np.asarray(step.weights[rows, outputs], dtype))


def as_partial(rule: Rule) -> Partial:
    """The rule as jitted functions take it."""
    return rule if isinstance(rule, Partial) else Partial(rule)


def _removal(places: Places, step, dtype, rows, outputs) -> Removal | None:
    """What a step removes, of its rows and of all inputs."""
    if step.removed is None:
        return None
    inputs, c = step.removed.inputs, step.targets.shape[1]
    combined, spread = _combinations(step.removed, c, dtype)
    gram = np.asarray(places.block(inputs, inputs), dtype).reshape(len(inputs) * c, -1)
    whitened, coloured = _inverse_root(combined(combined(gram).T))
    across = np.asarray(places.block(step.inputs, inputs), dtype)
    own = whitened(combined(across[rows, outputs].reshape(len(rows), -1)))

    def change(v):
        return places.change(inputs, spread(coloured(v)).reshape(-1, c))

    return Removal(own, change)


def _combinations(removed: Removed, c: int, dtype):
    """The map from Jacobian rows [_, q c] to the directions [_, d] that are combined of them, and
    its transpose from directions [d] to rows."""
    if removed.basis is None:
        return (lambda rows: rows), (lambda v: v)
    # Mostly zeros: the directions of a task are of its own inputs.
    basis = csr_array(np.asarray(removed.basis, dtype).reshape(-1, len(removed.inputs) * c))
    return (lambda rows: (basis @ rows.T).T), (lambda v: basis.T @ v)


def _inverse_root(gram: np.ndarray):
    """W with W W^T = gram^+, as the maps rows -> rows W and v -> W v.

    By Cholesky where no direction is near to depending on the others: of 2,000 directions it takes
    a twelfth of the time of all eigenvectors.
    """
    with suppress(np.linalg.LinAlgError):
        lower = scipy.linalg.cholesky(gram, lower=True)
        if np.min(np.diag(lower)) ** 2 > NEARLY_DEPENDENT * np.max(np.diag(gram)):
            solve = partial(scipy.linalg.solve_triangular, lower, lower=True)
            return (lambda rows: solve(rows.T).T), (lambda v: solve(v, trans="T"))
    lam, modes = np.linalg.eigh(gram)
    kept = lam > DEPENDENT * np.max(lam)
    root = modes * np.where(kept, 1.0 / np.sqrt(np.where(kept, lam, 1.0)), 0.0)[None]
    return (lambda rows: rows @ root), (lambda v: root @ v)
