"""The kernel by its definition: Jacobians contracted leaf by leaf.

It works for any model, and every faster form is tested against it.
"""

import jax
import jax.numpy as jnp

from ntkcl.compilation import portable
from ntkcl.kernels.kernel import Factors, Kernel, Work, factored, forward_work, network_of
from ntkcl.types import Apply, Network


def contraction(model: Network | Apply) -> Kernel:
    """K[i, a, j, b] = sum over leaves of <df_a(x1_i)/dleaf, df_b(x2_j)/dleaf>.

    Arguments: a network, or `apply(theta, x) -> [c]` for one x.
    Returns: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]` in the parameters' floating type.
    Cost: (n1 + n2) c backward passes, n1 n2 c^2 p multiply-adds, and memory for (n1 + n2) c p
      numbers.
    Raises ValueError as `ntkcl.kernels.checks.check` does.
    Source: Novak, Sohl-Dickstein, Schoenholz 2022, section 3.1 (Jacobian contraction).
    """
    network = network_of(model)

    def factors(apply, theta, x):
        jacobian = jax.vmap(jax.jacrev(apply), (None, 0))(theta, x)
        leaves = [j for j in jax.tree.leaves(jacobian) if j.size]
        return Factors([j.reshape(*j.shape[:2], -1) for j in leaves], ())

    def pair(a, b):
        return sum(signals_gram(j1, j2) for j1, j2 in zip(a.samples, b.samples, strict=True))

    def work(theta, x):
        forward, c, p = forward_work(network, theta, x)
        return Work((1 + 2 * c) * forward, c**2 * p)

    return factored("contraction", network, portable(network.apply), factors, pair, work)


def signals_gram(u, v):
    """[n1, c1, s], [n2, c2, s] -> [n1, c1, n2, c2], the inner products over s as one matrix
    product."""
    s = u.shape[-1]
    return jnp.dot(u.reshape(-1, s), v.reshape(-1, s).T).reshape(*u.shape[:2], *v.shape[:2])
