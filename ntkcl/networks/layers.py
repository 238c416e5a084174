"""Layers in the parametrizations of `ntkcl.networks.parametrization`."""

import jax.numpy as jnp
from flax import linen as nn

from ntkcl.networks.parametrization import Layers, terms


class Dense(nn.Module):
    """z = w_std/sqrt(n) x W + b_std b with W, b ~ N(0, 1) and n the size of x; no bias parameter where b_std = 0.

    The factor 1/sqrt(n) stands in the forward pass and only there: the initialiser must not hold it a second time. That is the
    parametrization `ntk`; with other `layers` the terms are those of their row in the table of `ntkcl.networks.parametrization`.
    """

    features: int
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x):
        n = x.shape[-1]
        factor, shift, kernel, bias = terms(self.layers, n)
        z = jnp.dot(x, self.param("kernel", kernel, (n, self.features), x.dtype)) * factor
        if shift:
            z = z + shift * self.param("bias", bias, (self.features,), x.dtype)
        return z

    def features_of(self, x):
        """phi [..., n + 1 or n], what the leaves multiply: z = phi . [kernel; bias], so dz/d[kernel; bias] = phi (x) I."""
        factor, shift, *_ = terms(self.layers, x.shape[-1])
        phi = x * factor
        return jnp.concatenate([phi, jnp.full_like(phi[..., :1], shift)], axis=-1) if shift else phi
