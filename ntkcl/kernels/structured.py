"""The kernel by layers: for a dense map the parameter Jacobian is an outer product, so its Gram matrix is a product of two.

With z = sum over leaves of phi . leaf and delta = df/dz, a leaf contributes (phi_i . phi_j)(delta_i^a . delta_j^b), and the
Jacobian over the parameters never exists. For an MLP of width n that saves a factor of about n over contraction.
"""

import jax
import jax.numpy as jnp

from ntkcl.types import Kernel, Network

REMEDY = "use kernels.contraction(network.apply); for a run, networks.network(module, structured=False)"


def structured(network: Network) -> Kernel:
    """K[i, a, j, b] = sum over layers (sum over leaves phi_i . phi_j) (delta_i^a . delta_j^b).

    Arguments: a network whose parameters all sit in layers that `network.taps` sees (the dense layers of
      `ntkcl.networks`); otherwise ValueError, with `kernels.contraction` as the remedy.
    Returns: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]` in the parameters' floating type.
    Cost: n1 n2 c^2 n multiply-adds a layer of width n, memory for the block and (n1 + n2) c n signals a layer.
    Source: Novak, Sohl-Dickstein, Schoenholz 2022, section 3.3 (structured derivatives), for the dense case.
    """

    taps = network.taps
    if taps is None:
        raise ValueError("this network has no taps for the structured kernel: use kernels.contraction(network.apply)")

    def factors(theta, x):
        return jax.vmap(lambda one: _factors(taps, theta, one))(x)

    @jax.jit
    @jax.default_matmul_precision("highest")  # an accelerator's default (TF32, bfloat16) would cost four digits
    def kernel_fn(theta, x1, x2=None):
        phi1, delta1 = factors(theta, x1)
        phi2, delta2 = (phi1, delta1) if x2 is None else factors(theta, x2)
        _check_covered(theta, phi1, delta1)
        return sum(_layer(phi1[k], delta1[k], phi2[k], delta2[k]) for k in phi1)

    return kernel_fn


def _factors(taps, theta, x):
    """phi by layer and leaf, and delta [c, width] by layer, for one input."""
    shapes = jax.eval_shape(lambda: taps(theta, {}, x)[2])
    if not shapes:
        raise ValueError(f"structured kernel sees none of the parameters: {REMEDY}")
    probes = jax.tree.map(lambda z: jnp.zeros(z.shape, z.dtype), shapes)

    def outputs(probes):
        f, features, _ = taps(theta, probes, x)
        return f, features

    delta, features = jax.jacrev(outputs, has_aux=True)(probes)
    return features, delta


def _layer(phi1, delta1, phi2, delta2):
    gram = sum(jnp.einsum("ip,jp->ij", phi1[leaf], phi2[leaf]) for leaf in phi1)
    signals = jnp.einsum("iaz,jbz->iajb", delta1, delta2)
    return gram[:, None, :, None] * signals


def _check_covered(theta, phi, delta):
    """Every parameter must be inside a tapped leaf, or the sum over layers would silently miss it."""
    seen = sum(v.shape[-1] * delta[layer].shape[-1] for layer, leaves in phi.items() for v in leaves.values())
    total = sum(leaf.size for leaf in jax.tree.leaves(theta))
    if seen != total:
        raise ValueError(f"structured kernel sees {seen} of {total} parameters: {REMEDY}")
