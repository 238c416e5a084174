"""A strided convolution whose derivative by its input has no stride.

The transpose of a convolution of stride s is one of stride 1 over a signal with s - 1 zeros between
its entries, which XLA multiplies on a CPU. With every s pixels of an axis moved into the channels,
x[s i + a] = X[i, a], and the taps of the kernel likewise,

    z[o] = sum_k x[s o + k] . w[k] = sum_t sum_a X[o + t, a] . w[s t + a],

the convolution has stride 1, and so has its transpose: never more multiply-adds, up to s per axis
less.
"""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp


def convolution(
    x, w, strides, padding, *, lhs_dilation, rhs_dilation, dimension_numbers, **settings
):
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it; where it has a stride, its tangents by
    x come from `space_to_depth`.

    The value is JAX's own, the derivative by w too, and all of a convolution with a dilation.
    """
    plain = partial(
        jax.lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        **settings,
    )
    if max(strides) == 1 or {*lhs_dilation, *rhs_dilation} != {1}:
        return plain(x, w)
    pads = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(x.shape[1:-1], w.shape[:-2], strides, padding)

    def tangent(primals, tangents):
        (x, w), (dx, dw) = primals, tangents
        z = plain(x, w)
        terms = []
        if not isinstance(dx, SymbolicZero):
            terms.append(space_to_depth(dx, w, strides, pads, dimension_numbers, **settings))
        if not isinstance(dw, SymbolicZero):
            terms.append(plain(x, dw))
        return z, sum(terms, jnp.zeros_like(z))

    convolve = jax.custom_jvp(plain)
    convolve.defjvp(tangent, symbolic_zeros=True)
    return convolve(x, w)


SymbolicZero = jax.custom_derivatives.SymbolicZero


def space_to_depth(x, w, strides, pads, dimension_numbers, feature_group_count=1, **settings):
    """The same convolution with stride 1: x [n, *pixels, channels], w [*taps, channels of a group,
    outputs] -> [n, *places, outputs].

    A place of X holds the s pixels of each axis, or only the first k where the kernel is shorter
    than the stride.
    """
    n, *pixels, _ = x.shape
    *taps, c, m = w.shape
    d, groups, no = len(pixels), feature_group_count, (0, 0, 0)
    axes = list(zip(pixels, taps, strides, pads, strict=True))
    blocks = [-(-k // s) for k, s in zip(taps, strides, strict=True)]
    kept = [min(k, s) for k, s in zip(taps, strides, strict=True)]
    places = [
        (p + low + high - k) // s + t
        for (p, k, s, (low, high)), t in zip(axes, blocks, strict=True)
    ]
    zero = jnp.zeros((), x.dtype)

    inside = zip(axes, places, strict=True)
    around = [(low, s * i - p - low, 0) for (p, _, s, (low, _)), i in inside]
    x = jax.lax.pad(x, zero, [no, *around, no])
    x = x.reshape(n, *(v for pair in zip(places, strides, strict=True) for v in pair), groups, c)
    for axis, k in enumerate(kept):
        x = jax.lax.slice_in_dim(x, 0, k, axis=2 * axis + 2)
    x = x.transpose(0, *range(1, 2 * d, 2), 2 * d + 1, *range(2, 2 * d + 1, 2), 2 * d + 2)
    x = x.reshape(n, *places, groups * prod(kept) * c)

    beyond = [(0, t * r - k, 0) for t, r, k in zip(blocks, kept, taps, strict=True)]
    w = jax.lax.pad(w, zero.astype(w.dtype), [*beyond, no, no])
    w = w.reshape(*(v for pair in zip(blocks, kept, strict=True) for v in pair), c, m)
    w = w.transpose(*range(0, 2 * d, 2), *range(1, 2 * d, 2), 2 * d, 2 * d + 1)
    w = w.reshape(*blocks, prod(kept) * c, m)
    return jax.lax.conv_general_dilated(
        x,
        w,
        (1,) * d,
        "VALID",
        dimension_numbers=dimension_numbers,
        feature_group_count=groups,
        **settings,
    )
