"""The kernel column by column from vector products: no Jacobian is stored, whatever the model."""

import jax
import jax.numpy as jnp

from ntkcl.compilation import portable
from ntkcl.kernels.kernel import Factors, Kernel, Work, factored, forward_work, network_of
from ntkcl.types import Apply, Network


def vector_products(model: Network | Apply) -> Kernel:
    """K[:, :, j, b] = J(x1) J(x2_j)^T e_b: one vector-Jacobian product at x2_j, one Jacobian-vector
    product at all of x1.

    Arguments: a network, or `apply(theta, x) -> [c]` for one x.
    Returns: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]` in the parameters' floating type.
    Cost: n1 n2 c forward passes with tangents; memory for the block, the activations of a tile and
      one gradient.
    Raises ValueError as `ntkcl.kernels.checks.check` does.
    Source: Novak, Sohl-Dickstein, Schoenholz 2022, section 3.2 (NTK-vector products).
    """
    network = network_of(model)

    def factors(apply, theta, x):
        return Factors(x, (apply, theta))

    def pair(a, b):
        apply, theta = a.shared

        def columns(x):
            f, pull = jax.vjp(lambda theta: apply(theta, x), theta)

            def column(e):
                (gradient,) = pull(e)

                def along(x):
                    return jax.jvp(lambda theta: apply(theta, x), (theta,), (gradient,))[1]

                return jax.vmap(along)(a.samples)

            return jax.lax.map(column, jnp.eye(f.shape[0], dtype=f.dtype))

        dtype = jnp.result_type(*jax.tree.leaves(theta))
        return jax.lax.map(columns, b.samples).transpose(2, 3, 0, 1).astype(dtype)

    def work(theta, x):
        forward, c, _ = forward_work(network, theta, x)
        # A pass with tangents; the products at x2 are shared by all of x1.
        return Work(0.0, 2 * c * forward)

    return factored("vector_products", network, portable(network.apply), factors, pair, work)
