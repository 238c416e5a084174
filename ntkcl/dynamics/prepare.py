"""The Gram matrix of the rows of a step, decomposed once and shared by steps on the same rows."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ntkcl.dynamics.rules import Rule
from ntkcl.dynamics.spectral import Arrow, Decomposed, eigendecomposed, rotated
from ntkcl.dynamics.steps import Columns, Places, Removed, Step, as_places
from ntkcl.validation import shape_is

# Directions of a memory whose share of the largest is below this are dependent up to rounding, and
# are not divided by.
DEPENDENT = 1e-10


class Removal(NamedTuple):
    """Directions that training is kept out of, whitened: V W with W^T K(V, V) W = 1.

    own: [k, d], K(X, V) W of the step's rows, without their weights.
    change: `change(v) -> K(x, V) W v` [N, c].
    """

    own: Float[np.ndarray, "k d"]
    change: Callable[..., Any]


class Prepared(NamedTuple):
    """What of a `Step` depends on inputs and weights alone: steps on the same rows can share it.

    change: `change(alpha) -> K(x, X) alpha` [N, c] for alpha [m, c], X in the step's order.
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
        self, rule: Rule, residual: Float[Array | np.ndarray, "m c"]
    ) -> Float[np.ndarray, "m c"]:
        """alpha = root g(root K root) (root residual), by which theta moves by J^T alpha.

        Zero for outputs of weight zero.
        """
        residual = np.asarray(residual)
        weighted = self.root * residual[self.rows, self.outputs]
        alpha = np.zeros_like(residual)
        alpha[self.rows, self.outputs] = self.root * self.decomposed.filtered(
            as_partial(rule), weighted
        )
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
        return base.change(alpha[:seen]) + places.change(more, alpha[seen:])

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
    inputs = step.removed.inputs
    whitened = _whitened(places, step.removed, dtype)  # [q c, d]
    across = np.asarray(places.block(step.inputs, inputs), dtype)
    own = across[rows, outputs].reshape(len(rows), -1) @ whitened
    c = step.targets.shape[1]
    return Removal(own, lambda v: places.change(inputs, (whitened @ v).reshape(-1, c)))


def _whitened(places: Places, removed: Removed, dtype) -> np.ndarray:
    """V W in the coordinates of the Jacobian rows [q c, d], W W^T = K(V, V)^+."""
    gram = np.asarray(places.block(removed.inputs, removed.inputs), dtype)
    size = gram.shape[0] * gram.shape[1]
    basis = np.eye(size) if removed.basis is None else np.asarray(removed.basis, dtype)
    basis = basis.reshape(-1, size)
    lam, modes = np.linalg.eigh(basis @ gram.reshape(size, size) @ basis.T)
    kept = lam > DEPENDENT * np.max(lam)
    return basis.T @ (modes * np.where(kept, 1.0 / np.sqrt(np.where(kept, lam, 1.0)), 0.0)[None])
