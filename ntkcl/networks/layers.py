"""Layers in the parametrizations of `ntkcl.networks.parametrization`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ntkcl.networks.parametrization import Layers, terms
from ntkcl.validation import SettingError, are_tokens

ACTIVATIONS = {"relu": jax.nn.relu, "erf": jax.lax.erf, "tanh": jnp.tanh, "gelu": jax.nn.gelu}


class Dense(nn.Module):
    """z = w_std/sqrt(n) x W + b_std b with W, b ~ N(0, 1) and n the size of x; no bias parameter
    where b_std = 0.

    The factor 1/sqrt(n) stands in the forward pass and only there: the initialiser must not hold it
    a second time. That is the parametrization `ntk`; with other `layers` the terms are those of
    their row in the table of `ntkcl.networks.parametrization`.
    """

    features: int
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x):
        n = x.shape[-1]
        factor, shift, kernel, bias = terms(self.layers, n)
        z = jnp.dot(x, self.param("kernel", kernel, (n, self.features), x.dtype)) * factor
        return _shifted(z, shift, self, bias)


class Conv(nn.Module):
    """The `Dense` layer of each k x k window of an image [h, w, c], of fan-in n = k^2 c: the fan-in
    counts the padding.

    `padding`: SAME (zeros, ceil(h / s) rows come out) or VALID. `conv_general_dilated` takes the
      place of JAX's own.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: str = "SAME"
    layers: Layers = Layers()
    conv_general_dilated: Callable[..., Any] | None = None

    @nn.compact
    def __call__(self, x):
        k, c = self.kernel_size, x.shape[-1]
        factor, shift, kernel, bias = terms(self.layers, k * k * c)
        z = (self.conv_general_dilated or jax.lax.conv_general_dilated)(
            x[None],
            self.param("kernel", kernel, (k, k, c, self.features), x.dtype),
            (self.strides, self.strides),
            self.padding,
            lhs_dilation=(1, 1),
            rhs_dilation=(1, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        return _shifted(z * factor, shift, self, bias)


def scaled(layers, x):
    """phi [..., n + 1 or n], what the leaves of a layer multiply, from its inputs (or windows) x
    [..., n]: z = phi . [kernel; bias]."""
    factor, shift, *_ = terms(layers, x.shape[-1])
    phi = x * factor
    return jnp.concatenate([phi, jnp.full_like(phi[..., :1], shift)], axis=-1) if shift else phi


def _shifted(z, shift, layer, init):
    if not shift:
        return z
    b = layer.param("bias", init, z.shape[-1:], z.dtype)
    return z + shift * b.reshape((1,) * (z.ndim - 1) + b.shape)


def real(x):
    """One input of real numbers; ValueError for token ids."""
    if are_tokens(x):
        raise SettingError(
            f"network: inputs are token ids ({x.dtype}), and this network takes pixels; expected "
            "one that embeds tokens, such as network=minilm"
        )
    return x


def image(x):
    """One image [h, w, c], of one channel where it comes as [h, w]; ValueError for anything
    else."""
    real(x)
    if x.ndim not in (2, 3) or 0 in x.shape:
        raise SettingError(
            f"network: an input has shape {x.shape}; expected one image [h, w] or [h, w, c], or "
            "network=mlp"
        )
    return x if x.ndim == 3 else x[..., None]


def rgb(x, upsample: int = 1):
    """One image [h, w, 3] as models of ImageNet take it: grey is repeated, and each side is made
    `upsample` times as long, bilinearly. ValueError for anything else."""
    x = image(x)
    if x.shape[-1] not in (1, 3):
        raise SettingError(
            f"network: an input has shape {x.shape}; expected an image of 1 or 3 channels"
        )
    h, w = (upsample * side for side in x.shape[:2])
    return jax.image.resize(jnp.broadcast_to(x, (*x.shape[:2], 3)), (h, w, 3), "linear")


def attention(q, k, v, mask=None):
    """sum_s softmax_s(q_t.k_s / sqrt(d)) v_s of each head, q, k and v [tokens, heads, d]; the
    tokens s where `mask` is not set take no part."""
    score = jnp.einsum("thd,shd->hts", q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        score = jnp.where(mask, score, jnp.finfo(score.dtype).min)
    return jnp.einsum("hts,shd->thd", jax.nn.softmax(score), v)
