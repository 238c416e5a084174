"""Measures of kernels: alignment, change in time, fit to targets, overlap of two tasks.

Kernels come as Gram matrices [N1, N2] or as blocks [n1, c, n2, c], which are the same with N = n c.
Every measure takes arrays and gives arrays, and may be jitted; one that is wanted by layer is
mapped over the dictionaries that `kernels.layers` returns:

    jax.tree.map(geometry.relative_change, layers_now, layers_before)

At zero: whatever has no direction, such as a kernel of zeros or, to `cka`, a constant one, has
cosine 0 with everything, also itself.
NaN goes through: it is never taken for zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl.validation import SettingError, finite

Gram = Float[Array | np.ndarray, "..."]
Scalar = Float[Array, ""]

# What centring leaves of a constant matrix is rounding, which must not be taken for a direction.
CONSTANT = 10.0


class Modes(NamedTuple):
    """A vector in the eigenbasis of a kernel, largest eigenvalue first, all [N]: eigenvalues, each
    one's share of |d|^2, their sums."""

    eigenvalues: Any
    energies: Any
    cumulative: Any


def alignment(K1: Gram, K2: Gram) -> Scalar:
    """A = <K1, K2>_F / (|K1|_F |K2|_F), uncentred. Both kernels on the same inputs; ValueError for
    two shapes.

    Source: Cristianini et al. 2001; theory section 9.
    """
    A, B = _pair("alignment", K1, K2)
    return _cosine(A, B)


def cka(K1: Gram, K2: Gram) -> Scalar:
    """Centred kernel alignment: A(H K1 H, H K2 H) with H = I - 11^T/N over all N rows, (sample,
    output) pairs in a block.

    Source: Cortes, Mohri, Rostamizadeh 2012; Kornblith et al. 2019 (for linear kernels of
      features).
    """
    A, B = _pair("cka", K1, K2)
    return _cosine(_centred(A), _centred(B))


def target_alignment(K: Gram, y: Float[Array | np.ndarray, "n ..."]) -> Scalar:
    """CKA(K, y y^T): how much of the kernel points where the targets do.

    Arguments: K [n, n] with y [n] or [n, c], whose columns count as c targets; or a block
      [n, c, n, c] with y [n, c], then one target.
    Raises ValueError where they do not belong together.
    Source: Cristianini et al. 2001, centred as in Cortes, Mohri, Rostamizadeh 2012.
    """
    A = _square("target_alignment", K)
    one = K.ndim == 4 or y.ndim == 1
    fits = y.ndim > 0 and (y.size if one else len(y)) == len(A)
    if not fits or (K.ndim == 4 and y.shape != K.shape[:2]):
        raise SettingError(
            f"target_alignment: targets of shape {y.shape} for a kernel of shape {K.shape}; "
            "expected [n] or [n, c] as K has"
        )
    Y = y.reshape(len(A), -1)
    return cka(A, jnp.dot(Y, Y.T, precision="highest"))


def relative_change(K_t: Gram, K_0: Gram) -> Scalar:
    """|K_t - K_0|_F / |K_0|_F, 0 where nothing changed and infinite for a change from a kernel of
    zeros. Blocks of any two sides."""
    A, B = _pair("relative_change", K_t, K_0)
    return _ratio(jnp.linalg.norm(A - B), jnp.linalg.norm(B))


def drift_change(K_t: Gram, K_0: Gram, alpha: Float[Array | np.ndarray, "..."]) -> Scalar:
    """|(K_t - K_0) alpha| / |K_0 alpha|: the part of a kernel's change that reaches the drift K_Sk
    alpha_k.

    Arguments: K_t, K_0 = K_Sk now and before, [N_S, N_k] or blocks; alpha, [N_k] or [n_k, c].
    Limits as in `relative_change`.
    """
    A, B = _pair("drift_change", K_t, K_0)
    a = _vector("drift_change: alpha", alpha, A.shape[1])
    return _ratio(*(jnp.linalg.norm(jnp.dot(M, a, precision="highest")) for M in (A - B, B)))


def kernel_distance(K_t: Gram, K_s: Gram) -> Scalar:
    """1 - CKA(K_t, K_s), in [0, 1] for positive semi-definite kernels. Source: Fort et al. 2020,
    who do not centre."""
    return 1 - cka(K_t, K_s)


def velocity(K_t: Gram, K_s: Gram, *, dt: float) -> Scalar:
    """kernel_distance / dt, `dt` > 0 the time between the two in whatever unit the rate is wanted
    per. Source: Fort et al. 2020."""
    return kernel_distance(K_t, K_s) / finite("dt", dt, above=0.0)


@jax.default_matmul_precision("highest")
def overlap_cosines(
    K_SS: Gram, K_Sk: Gram, K_kk: Gram, *, cut: float | None = None
) -> Float[Array, " r"]:
    """Cosines of the principal angles between two tasks' tangent spaces, the row spaces of J_S and
    J_k, from kernels alone.

        cosines = singular values of K_SS^(-1/2) K_Sk K_kk^(-1/2)

    Arguments:
      K_SS, K_Sk, K_kk: [N_S, N_S], [N_S, N_k], [N_k, N_k], or blocks.
      cut: eigenvalues at most `cut` times the largest count as zero, their directions as no part of
        the space. A root divides the rounding eps lam_max by its eigenvalue, so that a cosine is
        off by about eps/cut: the default, root of eps, balances the two.
    Returns: [min(N_S, N_k)] in [0, 1], descending; directions that one of the spaces lacks have
      cosine 0.
    Raises ValueError for shapes that do not belong together and a cut outside of [0, 1).
    Source: Björck, Golub 1973 (principal angles); Doan et al. 2021 (as a bound of forgetting).
    """
    S, M, k = _three("overlap_cosines", K_SS, K_Sk, K_kk)
    cut = float(jnp.finfo(M.dtype).eps) ** 0.5 if cut is None else finite("cut", cut, least=0.0)
    if cut >= 1:
        raise SettingError(
            f"cut={cut}: expected a number of at least 0 and below 1, relative to the largest "
            "eigenvalue"
        )
    return jnp.minimum(
        jnp.linalg.svd(_inverse_root(S, cut) @ M @ _inverse_root(k, cut), compute_uv=False), 1
    )


def cross_energy(K_SS: Gram, K_Sk: Gram, K_kk: Gram) -> Scalar:
    """Normalised cross energy |K_Sk|_F^2 / (|K_SS|_F |K_kk|_F), in [0, 1]: defined for different
    inputs, unlike CKA."""
    S, M, k = _three("cross_energy", K_SS, K_Sk, K_kk)
    product = jnp.linalg.norm(S) * jnp.linalg.norm(k)
    return jnp.where(product == 0, 0, jnp.linalg.norm(M) ** 2 / jnp.where(product == 0, 1, product))


def spectrum(K: Gram) -> Float[Array, " N"]:
    """Eigenvalues, descending; the first is the spectral norm. A dense decomposition: for N up to
    some ten thousand."""
    A = _square("spectrum", K)
    return jnp.linalg.eigvalsh((A + A.T) / 2)[::-1]


def participation(weights: Float[Array | np.ndarray, " N"]) -> Scalar:
    """(sum w)^2 / sum w^2, how many weights there are in effect: N where all are equal, 1 for a
    single one, 0 where all are zero.

    Of a spectrum it is the kernel's effective rank, of drift energies the number of modes the drift
    is spread over.
    """
    w = weights / jnp.where((largest := jnp.max(jnp.abs(weights))) > 0, largest, 1)
    squares = jnp.sum(w**2)
    return jnp.where(squares == 0, 0, jnp.sum(w) ** 2 / jnp.where(squares == 0, 1, squares))


@jax.default_matmul_precision("highest")
def drift_modes(K_SS: Gram, drift: Float[Array | np.ndarray, "..."]) -> Modes:
    """In which eigenmodes of its own kernel a task drifts: K_SS = U Lam U^T, energies (u_i . d)^2 /
    |d|^2; all zero for no drift.

    Arguments: K_SS [N, N] or a block; drift [N] or [n, c]. Within a repeated eigenvalue only the
      sum of the energies means anything.
    Source: Hidekel 2026; theory section 9.
    """
    A = _square("drift_modes", K_SS)
    d = _vector("drift_modes: drift", drift, len(A))
    lam, U = jnp.linalg.eigh((A + A.T) / 2)
    length = jnp.linalg.norm(d)
    energies = (U.T @ (d / jnp.where(length > 0, length, 1)))[::-1] ** 2
    return Modes(lam[::-1], energies, jnp.cumsum(energies))


def _matrix(name, K):
    if K.ndim == 4 and K.shape[1] == K.shape[3]:
        return K.reshape(K.shape[0] * K.shape[1], -1)
    if K.ndim != 2:
        raise SettingError(
            f"{name}: a kernel of shape {K.shape}; expected [N1, N2] or [n1, c, n2, c]"
        )
    return K


def _square(name, K):
    A = _matrix(name, K)
    if A.shape[0] != A.shape[1]:
        raise SettingError(
            f"{name}: a kernel of shape {K.shape}; expected the same inputs on both sides"
        )
    return A


def _pair(name, K1, K2):
    A, B = _matrix(name, K1), _matrix(name, K2)
    if A.shape != B.shape:
        raise SettingError(
            f"{name}: kernels of shape {K1.shape} and {K2.shape}; expected both on the same inputs"
        )
    return A, B


def _three(name, K_SS, K_Sk, K_kk):
    S, M, k = _square(name, K_SS), _matrix(name, K_Sk), _square(name, K_kk)
    if M.shape != (len(S), len(k)):
        raise SettingError(
            f"{name}: K_Sk has shape {K_Sk.shape} between kernels of shape {K_SS.shape} and "
            f"{K_kk.shape}"
        )
    return S, M, k


def _vector(name, v, n):
    if v.size != n or v.ndim not in (1, 2):
        raise SettingError(f"{name} has shape {v.shape}; expected {n} entries, [N] or [n, c]")
    return v.reshape(-1)


def _centred(A):
    centred = A - A.mean(0, keepdims=True) - A.mean(1, keepdims=True) + A.mean()
    floor = CONSTANT * jnp.finfo(A.dtype).eps * jnp.linalg.norm(A)
    return jnp.where(jnp.linalg.norm(centred) <= floor, 0, centred)


def _cosine(A, B):
    a, b = jnp.linalg.norm(A), jnp.linalg.norm(B)
    return jnp.sum((A / jnp.where(a > 0, a, 1)) * (B / jnp.where(b > 0, b, 1)))


def _ratio(a, b):
    return jnp.where(b == 0, jnp.where(a > 0, jnp.inf, a), a / jnp.where(b == 0, 1, b))


def _inverse_root(A, cut):
    lam, U = jnp.linalg.eigh((A + A.T) / 2)
    kept = lam > cut * jnp.maximum(lam[-1], 0)
    return (U * jnp.where(kept, jnp.where(kept, lam, 1) ** -0.5, 0)[None]) @ U.T
