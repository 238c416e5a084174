"""The Gram matrix of the rows of a step, decomposed once and shared by steps on the same rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ntkcl.dynamics import checks
from ntkcl.dynamics.rules import Rule
from ntkcl.dynamics.spectral import Arrow, Decomposed, eigendecomposed, rotated
from ntkcl.dynamics.steps import Columns, Step
from ntkcl.validation import shape_is

# Directions of a memory whose share of the largest is below this are dependent up to rounding, and
# are not divided by.
DEPENDENT = 1e-10


class Prepared(NamedTuple):
    """What of a `Step` depends on inputs and weights alone: steps on the same rows can share it.

    blocks: K(x, X) in parts [N, c, m_i, c], X along them in the step's order.
    rows, outputs: [k], where the weights are not zero.  root: [k], sqrt(weight).
    decomposed: the weighted Gram matrix of those rows.
    kept_out: [N, c, d], K(x, V) of removed directions, whitened; None for none.
    """

    blocks: tuple
    rows: np.ndarray
    outputs: np.ndarray
    root: Any
    decomposed: Decomposed
    kept_out: Any

    def coefficients(self, rule: Rule, residual: Float[Array, "m c"]) -> Float[Array, "m c"]:
        """alpha = root g(root K root) (root residual), by which theta moves by J^T alpha.

        Zero for outputs of weight zero.
        """
        weighted = self.root * residual[self.rows, self.outputs]
        entries = self.root * self.decomposed.filtered(as_partial(rule), weighted)
        return jnp.zeros_like(residual).at[self.rows, self.outputs].set(entries)

    def scaled(self, factor: float) -> "Prepared":
        """The same of weights `factor` times as large."""
        root, decomposed = self.root * factor**0.5, self.decomposed.scaled(factor)
        return self._replace(root=root, decomposed=decomposed)


def prepared(
    columns: Columns,
    step: Step,
    dtype=jnp.float64,
    decompose: Callable[..., Decomposed] = eigendecomposed,
) -> Prepared:
    """The Gram matrix of a step's rows, decomposed.

    Arguments:
      columns: `columns(inputs) -> K(x, x[inputs])` [N, c, m, c], of any floating type; the solve is
        in `dtype`.
      decompose: from the Gram matrix [k, k] to functions of it.
    """
    # Cut by NumPy: XLA would compile each cut for each shape.
    block = np.asarray((step.columns or columns)(step.inputs))
    m, c = step.targets.shape
    shape_is("K(x, x[inputs])", block, (len(block), c, m, c))
    checks.places("Step.inputs", step.inputs, len(block))
    rows, outputs, root = _rows(step, dtype)
    gram = block[step.inputs].reshape(m * c, m * c)
    if len(rows) < m * c:
        gram = gram[np.ix_(rows * c + outputs, rows * c + outputs)]
    gram = root[:, None] * gram.astype(dtype) * root[None]
    kept_out, own = _removed(columns, step, dtype, rows, outputs, root)
    if own is not None:
        gram = gram - own @ own.T
    return Prepared((jnp.asarray(block),), rows, outputs, root, decompose(gram), kept_out)


def extended(
    base: Prepared, columns: Columns, step: Step, dtype, decompose: Callable[[Arrow], Decomposed]
) -> Prepared:
    """`prepared` of a step that begins with the rows of `base`, at the weights they have there.

    All eigenvectors of `base` must be known.

    In those eigenvectors the Gram matrix of k + q rows, d directions of them removed, is an
    `Arrow`: q more rows cost a product k q in place of k^2.
    Arguments: as of `prepared`; decompose: from the arrow to functions of it.
    """
    k, seen = len(base.rows), sum(block.shape[2] for block in base.blocks)
    rows, outputs, root = _rows(step, dtype)
    block = np.asarray(columns(step.inputs[seen:]))
    across = block[:, :, rows[k:] - seen, outputs[k:]][np.asarray(step.inputs)[rows], outputs]
    across = root[:, None] * across.astype(dtype) * root[None, k:]
    kept_out, own = _removed(columns, step, dtype, rows, outputs, root)
    modes = base.decomposed.modes

    def turned(columns):
        return np.concatenate([modes.T @ columns[:k], columns[k:]])

    removed = None if own is None else turned(own)
    arrow = Arrow(base.decomposed.eigenvalues, turned(across)[:k], across[k:], removed)
    blocks = (*base.blocks, jnp.asarray(block)) if block.shape[2] else base.blocks
    return Prepared(blocks, rows, outputs, root, rotated(decompose(arrow), modes), kept_out)


def _rows(step, dtype):
    """Rows and outputs [k] of weights that are not zero, and the weights' roots."""
    rows, outputs = np.nonzero(step.weights)
    return rows, outputs, np.sqrt(np.asarray(step.weights[rows, outputs], dtype))


def _removed(columns, step, dtype, rows, outputs, root):
    """K(x, V) [N, c, d] of a step's removed directions, whitened, and the step's own weighted rows
    [k, d] of it; None for none."""
    if step.removed is None:
        return None, None
    inputs, basis = step.removed
    kept_out = _directions(dtype, columns(inputs), inputs, basis)
    return kept_out, root[:, None] * kept_out[np.asarray(step.inputs)[rows], outputs]


def as_partial(rule: Rule) -> Partial:
    """The rule as jitted functions take it."""
    return rule if isinstance(rule, Partial) else Partial(rule)


def _directions(dtype, block, inputs, basis):
    """K(x, V) W [N, c, d] of the removed directions V, W W^T = K(V, V)^+."""
    q, block = len(inputs), np.asarray(block, dtype)
    N, c = block.shape[:2]
    basis = None if basis is None else np.asarray(basis, dtype).reshape(-1, q * c)
    directions = block.reshape(N * c, q * c)
    directions = directions if basis is None else directions @ basis.T
    own = directions.reshape(N, c, -1)[inputs].reshape(q * c, -1)
    lam, modes = np.linalg.eigh(own if basis is None else basis @ own)
    kept = lam > DEPENDENT * np.max(lam)
    whitened = modes * np.where(kept, 1.0 / np.sqrt(np.where(kept, lam, 1.0)), 0.0)[None]
    return (directions @ whitened).reshape(N, c, -1)
