"""A Gram matrix taken apart, so that functions of it act on vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Decomposed(NamedTuple):
    """`filtered(rule, v)` = g(K) v for a rule g(lam, r), r the coefficients of v in the eigenbasis; `eigenvalues`, ascending, as they
    came, or those that are known, the largest among them; `scaled(s)` the same for s K."""

    filtered: Callable[..., Any]
    eigenvalues: Float[Array, " k"]
    scaled: Callable[[float], "Decomposed"]


def eigendecomposed(gram: Float[Array, "k k"], scale: float = 1.0, known=None) -> Decomposed:
    """By all eigenvalues and eigenvectors; those below zero are rounding and count as zero to the rule."""
    lam, modes = jnp.linalg.eigh(gram) if known is None else known

    def filtered(rule, v):
        r = modes.T @ v
        return modes @ (rule(scale * jnp.maximum(lam, 0.0), r) * r)

    return Decomposed(filtered, scale * lam, lambda s: eigendecomposed(gram, s * scale, (lam, modes)))
