"""The span of rows that nobody holds, by the pseudo-inverse of their Gram matrix; in NumPy."""

from contextlib import suppress

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from ntkcl.dynamics.prepare import DEPENDENT, NEARLY_DEPENDENT


def grown(gram, more):
    """The Gram matrix [D, D] of all rows, from that of the old and `more` [D, k], the columns of
    the new."""
    old = len(gram)
    own = (more[old:] + more[old:].T) / 2
    return np.block([[gram, more[:old]], [more[:old].T, own]])


def spanning(gram, inverse, directions: int | None):
    """The pseudo-inverse [D, D] that spans the new rows, or their largest principal directions, as
    well as what the old `inverse` [D - k, D - k] does; NaN where training has diverged."""
    if not np.isfinite(gram).all():
        return np.full_like(gram, np.nan)
    old, k = len(inverse), len(gram) - len(inverse)
    own, longest = np.eye(k), np.max(np.diag(gram)[old:])
    if directions is not None:
        lam, modes = np.linalg.eigh(gram[old:, old:])
        own, longest = modes[:, -directions:], lam[-1]
    new, inverse = np.pad(own, ((old, 0), (0, 0))), np.pad(inverse, (0, k))
    rounding = max(DEPENDENT, k * float(jnp.finfo(jnp.result_type(float)).eps))
    sure = max(NEARLY_DEPENDENT, 10 * rounding)
    new = _beyond(gram, inverse, new, rounding * longest, sure * longest)
    # Again with unit vectors: the part of the old span that rounding has left in short rows goes.
    new = _beyond(gram, inverse, new, 0.5, 0.5)
    return inverse + new @ new.T


def _beyond(gram, inverse, new, least, sure):
    """What of the combinations `new` [D, k] the span lacks, made orthonormal, without directions
    whose square is at most `least`; by Cholesky where all pivots are above `sure`, which is ten
    times as fast."""
    if not new.shape[1]:
        return new
    products = gram @ new
    known = inverse @ products
    new, own = new - known, new.T @ products - products.T @ known
    with suppress(np.linalg.LinAlgError):
        lower = scipy.linalg.cholesky(own, lower=True)
        if np.min(np.diag(lower)) ** 2 > sure:
            return scipy.linalg.solve_triangular(lower, new.T, lower=True).T
    lam, modes = np.linalg.eigh(own)
    solid = lam > least
    return new @ (modes[:, solid] / np.sqrt(lam[solid]))
