"""What a layer that is affine in its parameters multiplies them with.

This is the one fact that a structured kernel needs of a layer.

Such a layer computes z[p, g, :] = sum over its leaves of phi[p, g, :] . leaf[g, :, :] at every
position p (a token, a pixel) and in every group g (of a grouped convolution). So df/dleaf[g] =
sum_p phi[p, g, :] (x) df/dz[p, g, :], whatever surrounds the layer.
"""

import dataclasses
import math
from itertools import product

import jax
import jax.numpy as jnp
from flax import linen as nn

from ntkcl.networks.layers import Conv, Dense, scaled

# Fields through which a user replaces the arithmetic of a Flax layer; set, they make it something
# we cannot know.
REPLACED = {
    "dot_general",
    "dot_general_cls",
    "conv_general_dilated",
    "conv_general_dilated_cls",
    "promote_dtype",
    "mask",
}


def features(module: nn.Module, *inputs):
    """phi [P, G, k] of the leaves of one call, kernel and bias side by side, or None for a layer of
    another kind."""
    rule = RULES.get(type(module))
    if rule is None or len(inputs) != 1 or not _plain(module):
        return None
    phi = rule(module, jnp.asarray(inputs[0]))
    if phi is None or not getattr(module, "use_bias", False):
        return phi
    return jnp.concatenate([phi, jnp.ones_like(phi[..., :1])], axis=-1)


def _plain(module):
    return all(
        getattr(module, f.name) is f.default
        for f in dataclasses.fields(module)
        if f.name in REPLACED
    )


def _ours(module, x):
    phi = scaled(module.layers, x)
    return phi.reshape(-1, 1, phi.shape[-1])


def _our_conv(module, x):
    k = module.kernel_size
    same = nn.Conv(module.features, (k, k), module.strides, module.padding, parent=None)
    return scaled(module.layers, _conv(same, x))


def _dense(module, x):
    return x.reshape(-1, 1, x.shape[-1])


def _dense_general(module, x):
    if module.batch_dims not in ((), []):
        return None  # one kernel for each batch index: rare, and exact by contraction
    axes = [module.axis] if isinstance(module.axis, int) else module.axis
    axes = sorted(a % x.ndim for a in axes)  # as the kernel has them
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return x.reshape(-1, 1, math.prod(x.shape[-len(axes) :]))


def _conv(module, x):
    """Patches by slices of the padded input: position (o_1, ..., o_d), then channel group, then
    (offset, channel in the group)."""
    size = module.kernel_size
    size = (size,) if isinstance(size, int) else tuple(size)
    d = len(size)
    stride, dilation, spread = (
        (v or 1,) * d if v is None or isinstance(v, int) else tuple(v)
        for v in (module.strides, module.kernel_dilation, module.input_dilation)
    )
    x = x.reshape(-1, *x.shape[-d - 1 :])
    window = [(k - 1) * a + 1 for k, a in zip(size, dilation, strict=True)]
    padding = module.padding
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            return None  # circular, reflected and causal padding: exact by contraction
        padding = jax.lax.padtype_to_pads(x.shape[1:-1], window, stride, padding)
    elif isinstance(padding, int):
        padding = [padding] * d
    padding = [(p, p) if isinstance(p, int) else tuple(p) for p in padding]
    interior = [(low, high, a - 1) for (low, high), a in zip(padding, spread, strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *interior, (0, 0, 0)])
    out = [(n - w) // s + 1 for n, w, s in zip(x.shape[1:-1], window, stride, strict=True)]

    def patch(offset):
        ranges = [
            slice(o * a, o * a + (n - 1) * s + 1, s)
            for o, a, n, s in zip(offset, dilation, out, stride, strict=True)
        ]
        return x[(slice(None), *ranges)].reshape(
            -1, module.feature_group_count, x.shape[-1] // module.feature_group_count
        )

    return jnp.concatenate([patch(offset) for offset in product(*map(range, size))], axis=-1)


RULES = {
    Dense: _ours,
    Conv: _our_conv,
    nn.Dense: _dense,
    nn.DenseGeneral: _dense_general,
    nn.Conv: _conv,
}
