"""The kernel by its definition: Jacobians contracted leaf by leaf. Any model; the oracle of every faster form."""

import jax
import jax.numpy as jnp

from ntkcl.types import Apply, Kernel


def contraction(apply: Apply) -> Kernel:
    """K[i, a, j, b] = sum over leaves of <df_a(x1_i)/dleaf, df_b(x2_j)/dleaf>.

    Arguments: `apply(theta, x) -> [c]` for one x.
    Returns: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]` in the parameters' floating type.
    Cost: (n1 + n2) c backward passes, n1 n2 c^2 p multiply-adds, and memory for (n1 + n2) c p numbers.
    Source: Novak, Sohl-Dickstein, Schoenholz 2022, section 3.1 (Jacobian contraction).
    """

    def jacobian(theta, x):
        return jax.vmap(jax.jacrev(apply), (None, 0))(theta, x)

    @jax.jit
    @jax.default_matmul_precision("highest")  # an accelerator's default (TF32, bfloat16) would cost four digits
    def kernel_fn(theta, x1, x2=None):
        j1 = jacobian(theta, x1)
        j2 = j1 if x2 is None else jacobian(theta, x2)
        return sum(_contract(a, b) for a, b in zip(jax.tree.leaves(j1), jax.tree.leaves(j2), strict=True))

    return kernel_fn


def _contract(j1, j2):
    flat1, flat2 = (j.reshape(*j.shape[:2], -1) for j in (j1, j2))
    return jnp.einsum("iap,jbp->iajb", flat1, flat2)
