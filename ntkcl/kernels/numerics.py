"""How far a kernel's solve can be trusted: a report in NumPy, in float64 whatever JAX is set to."""

from typing import NamedTuple

import numpy as np

from ntkcl.validation import SettingError, finite


class Numerics(NamedTuple):
    """What `numerics` found; every entry a float, good when small.

    condition: |K + ridge I| |(K + ridge I)^-1| in the spectral norm, infinite where it is singular
      to the last digit.
    jitter: ridge / lam_max.
    negative: sum of |lam| over lam < 0 by the sum over all; beyond rounding it says that the kernel
      is wrong.
    asymmetry: |K - K^T|_F / |K|_F.
    gap: |x32 - x64| / |x64| for x = (K + ridge I)^-1 b solved in float32 and in float64, infinite
      where one of them cannot be.
    """

    condition: float
    jitter: float
    negative: float
    asymmetry: float
    gap: float


def numerics(K, *, ridge: float = 0.0, b=None) -> Numerics:
    """The report on solving (K + ridge I) x = b.

    Arguments:
      K: [N, N] or a block [n, c, n, c], any floating type.
      ridge: absolute, in units of K.
      b: the right-hand side, [N] or [n, c]; without one, a fixed draw of N standard normals.
    Returns: `Numerics`. A kernel of zeros has jitter 0 without a ridge and infinity with one; it is
      neither negative nor asymmetric.
    Cost: one eigendecomposition and two solves, N^3; four float64 copies of K.
    Raises ValueError for a K that is not square or not finite, another size of b, a negative ridge.
    """
    finite("ridge", ridge, least=0.0)
    K = np.asarray(K, np.float64)
    half = K.ndim // 2
    if K.ndim not in (2, 4) or K.size == 0 or K.shape[:half] != K.shape[half:]:
        raise SettingError(
            f"numerics: a kernel of shape {K.shape}; expected [N, N] or [n, c, n, c]"
        )
    side = int(np.prod(K.shape[:half]))
    A = K.reshape(side, side)
    b = (
        np.random.default_rng(0).standard_normal(side)
        if b is None
        else np.asarray(b, np.float64).reshape(-1)
    )
    if b.size != side:
        raise SettingError(f"numerics: b has {b.size} entries; expected {side}")
    if not (np.isfinite(A).all() and np.isfinite(b).all()):
        raise SettingError(
            "numerics: NaN or infinite values; expected a finite kernel and right-hand side"
        )
    lam = np.linalg.eigvalsh((A + A.T) / 2)
    shifted = np.abs(lam + ridge)
    return Numerics(
        condition=_ratio(shifted.max(), shifted.min(), nothing=np.inf),
        jitter=_ratio(ridge, max(lam[-1], 0.0)),
        negative=_ratio(-lam[lam < 0].sum(), np.abs(lam).sum()),
        asymmetry=_ratio(np.linalg.norm(A - A.T), np.linalg.norm(A)),
        gap=_gap(A + ridge * np.eye(side), b),
    )


def _gap(A, b):
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            double = np.linalg.solve(A, b)
            single = np.linalg.solve(A.astype(np.float32), b.astype(np.float32))
        except np.linalg.LinAlgError:
            return np.inf
        gap = _ratio(np.linalg.norm(single - double), np.linalg.norm(double))
    return gap if np.isfinite(gap) else np.inf


def _ratio(a, b, nothing=0.0):
    """a / b as a float; over zero, infinite, and `nothing` where a is zero too."""
    return float(a / b) if b > 0 else float("inf") if a > 0 else nothing
