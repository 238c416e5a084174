"""How the Gram matrices of tasks are taken apart: by all eigenvalues where they are small or used again and again, else by Lanczos."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import dynamics, kernels
from ntkcl.dynamics import Arrow, Decomposed

# Rows up to which a Gram matrix is diagonalised. Measured on 2 cores at 2,000 rows: 1.7 s, and .5 s for the 100 products after
# which Lanczos differs from it by 1e-13; at 10,000 rows minutes, and 6 s.
DIAGONALISED = 1500
TAIL = 1e-11  # of a filtered vector on the last Krylov vector; more than that, and the space is doubled
PADDED = 256  # Gram matrices for Lanczos are padded to multiples of this
LARGEST = 30  # products for the largest eigenvalue alone


def prepare(krylov_order: int, diagonalised: int = DIAGONALISED, tail: float = TAIL):
    """`ntkcl.dynamics.prepared`; Gram matrices of more than `diagonalised` rows by Lanczos, `krylov_order` products at first, as many
    as are needed in the end."""

    def decompose(gram):
        if len(gram) <= diagonalised:
            return dynamics.eigendecomposed(gram)
        # Zero rows change nothing, and one compiled program serves all tasks of nearly one size.
        more = -len(gram) % PADDED
        return _by_lanczos(
            jnp.matmul, jnp.asarray(np.pad(gram, (0, more))), len(gram), more, krylov_order, tail
        )

    return lambda columns, step, dtype: dynamics.prepared(columns, step, dtype, decompose)


def extend(krylov_order: int, diagonalised: int = DIAGONALISED, tail: float = TAIL):
    """`ntkcl.dynamics.extended`, the arrow by Lanczos; matrices of few rows are not worth it and prepared anew, see `prepare`."""
    anew = prepare(krylov_order, diagonalised, tail)

    def decompose(arrow):
        size, more = len(arrow.lam) + len(arrow.corner), -len(arrow.corner) % PADDED
        removed = (
            arrow.removed
            if arrow.removed is None
            else np.pad(arrow.removed, ((0, more), (0, -arrow.removed.shape[1] % PADDED)))
        )
        border, corner = np.pad(arrow.border, ((0, 0), (0, more))), np.pad(arrow.corner, (0, more))
        padded = jax.tree.map(jnp.asarray, Arrow(arrow.lam, border, corner, removed))
        return _by_lanczos(Arrow.product, padded, size, more, krylov_order, tail)

    def extended(base, columns, step, dtype):
        if np.count_nonzero(step.weights) <= diagonalised:
            return anew(columns, step, dtype)
        return dynamics.extended(base, columns, step, dtype, decompose)

    return extended


def _by_lanczos(product, operand, size, more, order, tail) -> Decomposed:
    """Of the matrix [size, size] that `product(operand, v)` multiplies with, zero in `more` rows beyond it."""
    start = np.pad(np.random.default_rng(0).normal(size=size), (0, more))
    values = kernels.krylov.ritz_of(product, operand, jnp.asarray(start), order=LARGEST).values

    def scaled_by(scale):
        def filtered(rule, v):
            def scaled(lam, r):
                return rule(scale * lam, r)

            n, v = len(v), jnp.asarray(np.pad(v, (0, more)))
            k = min(order, n)
            ritz = kernels.krylov.ritz_of(product, operand, v, order=k)
            while k < n and ritz.tail(scaled) > tail:
                k = min(2 * k, n)
                ritz = kernels.krylov.ritz_of(product, operand, v, order=k)
            return np.asarray(ritz.filtered(scaled))[:n]

        return Decomposed(filtered, scale * values, lambda s: scaled_by(s * scale))

    return scaled_by(1.0)
