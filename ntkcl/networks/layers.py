"""Layers in NTK parametrization (Jacot, Gabriel, Hongler 2018)."""

import jax.numpy as jnp
from flax import linen as nn


class Dense(nn.Module):
    """z = w_std/sqrt(n) x W + b_std b with W, b ~ N(0, 1) and n the size of x; no bias parameter where b_std = 0.

    The factor 1/sqrt(n) stands in the forward pass and only there: the initialiser must not hold it a second time.
    """

    features: int
    w_std: float = 1.0
    b_std: float = 0.0

    @nn.compact
    def __call__(self, x):
        normal = nn.initializers.normal(1.0)
        n = x.shape[-1]
        kernel = self.param("kernel", normal, (n, self.features), x.dtype)
        z = jnp.dot(x, kernel) * (self.w_std / n**0.5)
        if self.b_std:
            z = z + self.b_std * self.param("bias", normal, (self.features,), x.dtype)
        return z

    def features_of(self, x):
        """phi [..., n + 1 or n], what the leaves multiply: z = phi . [kernel; bias], so dz/d[kernel; bias] = phi (x) I."""
        phi = x * (self.w_std / x.shape[-1] ** 0.5)
        return jnp.concatenate([phi, jnp.full_like(phi[..., :1], self.b_std)], axis=-1) if self.b_std else phi
