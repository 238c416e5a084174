"""Rows that are linear combinations of Jacobian rows, as a kernel that is read by places."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ntkcl.types import Places


class Combined(NamedTuple):
    """k combinations u_i J(x[inputs]) of the Jacobian rows of some inputs.

    inputs: [q], places among all N.  basis: u [k, q, c], k at most q c.
    Combination i stands where output i % c of input i // c did. What carries combinations is no row
    of the same step itself.
    """

    inputs: Int[np.ndarray, " q"]
    basis: Float[np.ndarray, "k q c"]

    @property
    def carriers(self) -> Int[np.ndarray, " m"]:
        """The places that stand for combinations, k / c rounded up."""
        k, _, c = self.basis.shape
        return self.inputs[: -(-k // c)]

    def rows(self, f, targets, weight: float) -> tuple:
        """Rows (inputs, targets, weights) of a `Step` from the outputs f, by which u . f is trained
        on u . targets; both [N, c]."""
        here, there = (np.asarray(one)[self.inputs] for one in (f, targets))
        residual = self.spread(np.tensordot(self.basis, there - here, 2))
        weights = self.spread(np.full(len(self.basis), weight))
        return self.carriers, jnp.asarray(here[: len(residual)] + residual), weights

    def spread(self, values: Float[np.ndarray, "k ..."]) -> Float[np.ndarray, "m c ..."]:
        """Values of the combinations where these stand; zero beyond them."""
        c, more = self.basis.shape[2], values.shape[1:]
        whole = np.zeros((len(self.carriers) * c, *more))
        whole[: len(values)] = values
        return whole.reshape(-1, c, *more)


def combined(kernel: Places, several: Sequence[Combined]) -> Places:
    """The kernel after the Jacobian rows that carry combinations have been replaced by these.

    Outputs are still those of all inputs: `change` is J(x) J'^T alpha, `block` J' J'^T.
    Cost: a product with the kernel for each combination.
    """
    changes = np.concatenate([_changes(kernel, one) for one in several])  # [M, c, N, c]
    changes = np.moveaxis(changes, (2, 3), (0, 1))  # J J'^T
    across = changes.copy()  # J' J'^T
    for one in several:
        across[one.carriers] = one.spread(np.tensordot(one.basis, changes[one.inputs], 2))
    carried = np.full(len(changes), -1)
    carriers = np.concatenate([one.carriers for one in several])
    carried[carriers] = np.arange(len(carriers))

    def block(rows, inputs):
        whole = np.array(kernel.block(rows, inputs), changes.dtype)
        left, right = carried[rows], carried[inputs]
        whole[:, :, right >= 0] = across[rows][:, :, right[right >= 0]]
        mirrored = across[inputs][:, :, left[left >= 0]]
        whole[left >= 0] = np.moveaxis(mirrored, (2, 3), (0, 1))
        return whole

    def change(inputs, alpha):
        own, alpha = carried[inputs], np.asarray(alpha)
        plain = own < 0
        of_plain = kernel.change(np.asarray(inputs)[plain], alpha[plain])
        return of_plain + np.tensordot(changes[:, :, own[~plain]], alpha[~plain], 2)

    return Places(block, change)


def _changes(kernel: Places, one: Combined) -> Float[np.ndarray, "m c N c"]:
    """K(x, x[inputs]) u, at all inputs."""
    return one.spread(np.stack([np.asarray(kernel.change(one.inputs, u)) for u in one.basis]))
