"""A Gram matrix taken apart, so that functions of it act on vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Decomposed(NamedTuple):
    """`filtered(rule, v)` = g(K) v for a rule g(lam, r), r the coefficients of v in the eigenbasis; `eigenvalues`, ascending, as they
    came, or those that are known, the largest among them; `scaled(s)` the same for s K. Rules are `jax.tree_util.Partial`s."""

    filtered: Callable[..., Any]
    eigenvalues: Float[Array, " k"]
    scaled: Callable[[float], "Decomposed"]


def eigendecomposed(gram: Float[Array | np.ndarray, "k k"]) -> Decomposed:
    """By all eigenvalues and eigenvectors; those below zero are rounding and count as zero to the rule."""
    lam, modes = _eigh(gram)
    return _by_modes(lam, modes, 1.0)


_eigh = jax.jit(jnp.linalg.eigh)


def _by_modes(lam, modes, scale) -> Decomposed:
    return Decomposed(lambda rule, v: _filtered(scale * lam, modes, rule, v), scale * lam, lambda s: _by_modes(lam, modes, s * scale))


@jax.jit
def _filtered(lam, modes, rule, v):
    r = modes.T @ v
    return modes @ (rule(jnp.maximum(lam, 0.0), r) * r)
