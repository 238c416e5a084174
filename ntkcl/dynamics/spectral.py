"""Decompositions of a Gram matrix, so that functions of it act on vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Decomposed(NamedTuple):
    """A symmetric matrix K [k, k], by functions of it.

    filtered: `filtered(rule, v)` = g(K) v for a rule g(lam, r), r the coefficients of v in the
      eigenbasis; rules are `jax.tree_util.Partial`s. With `modes` also of each of several v [b, k].
    eigenvalues: `eigenvalues()`, ascending, as they came, or those that are known, the largest
      among them.
    scaled: `scaled(s)` is the same for s K.
    modes: [k, k], all eigenvectors; None where they are not known.
    roughly: the same, faster and to three digits; None where there is nothing to be gained.
    """

    filtered: Callable[..., Any]
    eigenvalues: Callable[[], Float[Array | np.ndarray, " k"]]
    scaled: Callable[[float], "Decomposed"]
    modes: Any = None
    roughly: "Decomposed | None" = None


class Arrow(NamedTuple):
    """[[Lam, B], [B^T, C]] - D D^T.

    lam [k], border B [k, q], corner C [q, q], removed D [k + q, d] or None.
    """

    lam: Any
    border: Any
    corner: Any
    removed: Any

    def product(self, v):
        """The matrix times v [k + q]."""
        u, w = v[: len(self.lam)], v[len(self.lam) :]
        whole = jnp.concatenate([self.lam * u + self.border @ w, u @ self.border + self.corner @ w])
        return whole if self.removed is None else whole - self.removed @ (v @ self.removed)


def eigendecomposed(gram: Float[Array | np.ndarray, "k k"], dtype=jnp.float64) -> Decomposed:
    """By all eigenvalues and eigenvectors, in `dtype`.

    Eigenvalues below zero are rounding and count as zero to the rule.
    """
    lam, modes = _eigh(np.asarray(gram, dtype))
    return _by_modes(lam, modes, 1.0)


_eigh = jax.jit(jnp.linalg.eigh)


def _by_modes(lam, modes, scale) -> Decomposed:
    return Decomposed(
        lambda rule, v: _filtered(scale * lam, modes, rule, v),
        lambda: scale * lam,
        lambda s: _by_modes(lam, modes, s * scale),
        modes,
    )


def rotated(decomposed: Decomposed, modes: Float[Array, "k k"]) -> Decomposed:
    """A matrix whose first k rows and columns are in the basis `modes`, in the original basis."""
    k = len(modes)

    def filtered(rule, v):
        there = decomposed.filtered(rule, jnp.concatenate([v[:k] @ modes, v[k:]]))
        return jnp.concatenate([modes @ there[:k], there[k:]])

    def scaled(factor):
        return rotated(decomposed.scaled(factor), modes)

    return Decomposed(filtered, decomposed.eigenvalues, scaled)


@jax.jit
def _filtered(lam, modes, rule, v):
    r = v @ modes  # of several v the eigenvectors are read once

    def filtered(r):
        return rule(jnp.maximum(lam, 0.0), r) * r

    return (filtered(r) if r.ndim == 1 else jax.vmap(filtered)(r)) @ modes.T
