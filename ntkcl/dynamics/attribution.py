"""The drift d_S = K_Sk alpha_k of an old task in parts: by new samples, by eigenmodes, by layers.

Every split is exact: parts add up to the drift of the linearised network, and those of the loss to
the change of a squared error. An attribution does not say what training without a new sample would
do: the other samples would then have its share of the residual, and other alpha.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkcl.dynamics.steps import read_out


def by_sample(block: Float[Array, "n c m c"], alpha: Float[Array, "m c"]) -> Float[Array, "n c m"]:
    """How far each new sample j moved each old output: sum_b K[i, a, j, b] alpha[j, b].

    The sum over j is the drift.

    Arguments: block K(X_S, X_k); alpha, the coefficients of the new task's rows (`Solve.alpha`). In
    alpha's floating type.
    """
    return jnp.sum(block * alpha[None, None], axis=-1)


def by_layer(
    blocks: Mapping[str, Float[Array, "n c m c"]], alpha: Float[Array, "m c"]
) -> dict[str, Float[Array, "n c"]]:
    """Each layer's part of the drift, K_layer alpha, from the kernel's terms.

    The sum is the drift. Blocks: `ntkcl.kernels.layers`.
    """
    return {layer: read_out(block, alpha) for layer, block in blocks.items()}


def shares(parts: Mapping[str, Float[Array, "n c"]]) -> dict[str, Float[Array, ""]]:
    """<d_part, d> / |d|^2 of parts of a drift d, their sum: how far each goes along the whole.

    They add up to 1, each of any sign.
    """
    whole = sum(parts.values())
    return {name: jnp.sum(part * whole) / jnp.sum(whole**2) for name, part in parts.items()}


def loss_change(
    contributions: Float[Array, "n c m"], residual: Float[Array, "n c"], head: Float[Array, " c"]
) -> Float[Array, "n m"]:
    """How much each new sample changed (1/2) |y - f|^2 of each old one.

    The sum over new samples is the whole change, exactly:

        -r . d + |d|^2 / 2 = sum_j (d/2 - r) . d_j,    d = sum_j d_j

    The first order belongs to each d_j; of the quadratic term every product d_j . d_k belongs half
    to j and half to k. Positive is harm.
    Arguments: contributions of `by_sample`; residual r = y - f before the new task; head, the old
      task's mask. Divide by n and the number of active outputs for the change of the mean loss.
    """
    pull = head[None] * (jnp.sum(contributions, -1) / 2 - residual)
    return jnp.einsum("na,nam->nm", pull, contributions, precision="highest")


@jax.default_matmul_precision("highest")
def mode_energies(gram: Float[Array, "..."], drift: Float[Array, "..."]) -> Float[Array, " k"]:
    """(u_i . d)^2 / |d|^2 in the eigenmodes of the old task's kernel K_SS = U Lam U^T.

    Largest eigenvalue first; zero for no drift.

    Arguments: gram [n c, n c] or a block [n, c, n, c]; drift [n, c] or [n c].
    Cumulative: `jnp.cumsum`. Within a repeated eigenvalue only the sum of the energies has a
    meaning.
    Source: Hidekel 2026; theory section 9.
    """
    d = drift.reshape(-1)
    K = gram.reshape(len(d), len(d))
    modes = jnp.linalg.eigh((K + K.T) / 2)[1]
    length = jnp.linalg.norm(d)
    return (modes.T @ (d / jnp.where(length > 0, length, 1)))[::-1] ** 2


def participation_rank(energies: Float[Array, " k"]) -> Float[Array, ""]:
    """(sum e)^2 / sum e^2, over how many modes a drift is spread.

    1 for a single one, k where all are equal, 0 for no drift.
    """
    squares = jnp.sum(energies**2)
    return jnp.where(squares > 0, jnp.sum(energies) ** 2 / jnp.where(squares > 0, squares, 1), 0)
