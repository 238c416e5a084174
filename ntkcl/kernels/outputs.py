"""The outputs of a block: averaged, taken one by one, or added to a kernel of scalars."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl.validation import whole


def with_outputs(k: Float[Array, "n1 n2"], c: int) -> Float[Array, "n1 c n2 c"]:
    """K[i, a, j, b] = k[i, j] delta_ab: c outputs at infinite width share one kernel and do not see
    each other."""
    return k[:, None, :, None] * jnp.eye(whole("outputs", c), dtype=k.dtype)[None, :, None, :]


def traced(K: Float[Array | np.ndarray, "n1 c n2 c"]) -> Float[Array, "n1 n2"]:
    """(1/c) sum_a K[i, a, j, a], the mean over outputs. In place of the block it is exact only
    where K = k (x) I, at infinite width."""
    return jnp.einsum("iaja->ij", K) / K.shape[1]


def diagonal(K: Float[Array | np.ndarray, "n1 c n2 c"]) -> Float[Array, "n1 n2 c"]:
    """K[i, a, j, a]: each output's kernel with itself."""
    return jnp.einsum("iaja->ija", K)
