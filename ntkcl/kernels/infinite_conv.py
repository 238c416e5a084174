"""The limit of infinitely many channels: covariance and tangent kernel of `networks.cnn`.

A layer treats a pair of positions, one in each image, as `infinite` treats a pair of inputs, and a
convolution then takes the mean over the places of its window, the same place in both. A readout of
every position needs the pairs at one position only; a mean over positions correlates them all, and
needs every pair.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntkcl.compilation import once
from ntkcl.kernels.infinite import DEGREE, InfiniteWidth, check_inputs, cosine_of, moments_of
from ntkcl.validation import SettingError, finite, one_of, whole


@once
def infinite_conv(
    *,
    depth: int = 1,
    kernel_size: int = 3,
    stride: int = 1,
    padding: str = "SAME",
    readout: str = "flatten",
    activation: str | Callable = "relu",
    w_std: float = 1.0,
    b_std: float = 0.0,
    output_scale: float = 1.0,
    degree: int = DEGREE,
) -> InfiniteWidth:
    """Covariance and tangent kernel of `networks.cnn` as its channels become infinitely many.

    With A the mean over the k^2 places d of a window, and T = 0 in the padding,

        (A T)(p, p') = sum_d T(s p + d, s p' + d) / k^2,
        Sigma^1 = Theta^1 = w_std^2 A(x(p).x'(p')/c_0) + b_std^2,

    and with (u, v) ~ N(0, Sigma^l(p, p')), l = 1..depth - 1,

        Sigma^{l+1} = w_std^2 A(E[sigma(u) sigma(v)]) + b_std^2,
        Theta^{l+1} = Sigma^{l+1} + w_std^2 A(E[sigma'(u) sigma'(v)] Theta^l).

    The readout is one more such step, whose A is the mean over all positions p = p' (flatten) or
    over all pairs p, p' (mean). These are the limits, c_l -> infinity, of layers
    z = w_std / sqrt(k^2 c_{l-1}) W * h + b_std b, h = sigma(z), and of a dense layer on all of h,
    or on its mean over positions, with W, b ~ N(0, 1): the fan-in counts the padding. Both kernels
    are multiplied by output_scale^2; c outputs share them (`with_outputs`).

    Arguments:
      depth: number of convolutional layers, each followed by the activation.
      kernel_size, stride: k and s, the same in both directions and in every layer.
      padding: SAME (zeros, ceil(h / s) rows come out) or VALID.
      readout: flatten or mean.
      activation, degree: as in `infinite`.
      w_std, b_std, output_scale: of every layer, and of the output.

    Returns: `InfiniteWidth(nngp, ntk)` for inputs [n, h, w, c_0] of one floating type.
      One row of the kernel is made at a time: memory for some arrays [n2, h, w] (flatten) or
      [n2, h, w, h, w] (mean), with quadrature also for [n1 + n2, h, w, degree]. Operations are
      n1 n2 depth h w k, for mean times another h w, for quadrature `degree` in place of k where
      that is more.
    Raises ValueError as `infinite` does, for inputs that are not images, and for images that a
      window without padding does not fit.
    Source: Novak et al. 2019 (the covariance); Arora et al. 2019, section 4 (the tangent kernel,
      with mean as global average pooling).
    """
    layers = _Layers(
        whole("network.depth", depth),
        whole("network.kernel_size", kernel_size),
        whole("network.stride", stride),
        one_of("network.padding", padding, ("SAME", "VALID")),
        one_of("network.readout", readout, ("flatten", "mean")) == "mean",
        finite("network.w_std", w_std, above=0.0) ** 2,
        finite("network.b_std", b_std, least=0.0) ** 2,
        moments_of(activation, whole("degree", degree)),
    )
    scale2 = finite("network.output_scale", output_scale, above=0.0) ** 2

    @jax.jit
    @jax.default_matmul_precision("highest")
    def kernels(x1, x2=None):
        of_x1 = _variances(layers, x1)
        columns, of_columns = (x1, of_x1) if x2 is None else (x2, _variances(layers, x2))

        def row(one):
            k, theta = _row(layers, *one, columns, of_columns)
            return scale2 * k, scale2 * theta

        rows = jax.lax.map(row, (x1, of_x1))
        # Sums over positions in another order promise no symmetry in the last digit.
        return [(k + k.T) / 2 for k in rows] if x2 is None else rows

    def checked(x1, x2=None):
        check_inputs(x1, x2)
        _check_images(layers, x1)
        return kernels(x1, x2)

    return InfiniteWidth(
        lambda x1, x2=None: checked(x1, x2)[0], lambda x1, x2=None: checked(x1, x2)[1]
    )


class _Layers(NamedTuple):
    """What all layers share; `everywhere`: all pairs of positions are needed, not only p = p'."""

    depth: int
    size: int
    stride: int
    padding: str
    everywhere: bool
    w2: float
    b2: float
    moments: Callable

    def window(self, t):
        return _window_mean(t, self.size, self.stride, self.padding)


def _variances(layers: _Layers, x):
    """Sigma^l(p, p) of each image with itself, [n, h_l, w_l] for l = 1..depth."""
    w2, b2 = layers.w2, layers.b2
    variances = [w2 * layers.window(jnp.mean(x**2, -1)) + b2]
    for _ in range(layers.depth - 1):
        q = variances[-1]
        value = layers.moments(q, q, jnp.ones_like(q)).value
        variances.append(w2 * layers.window(value) + b2)
    return variances


def _row(layers: _Layers, x, of_x, columns, of_columns):
    """Sigma and Theta of one image x with all columns, [n2]."""
    w2, b2, everywhere = layers.w2, layers.b2, layers.everywhere
    places = "hwc,nuvc->nhwuv" if everywhere else "hwc,nhwc->nhw"
    theta = k = w2 * layers.window(jnp.einsum(places, x, columns) / x.shape[-1]) + b2
    averages = [layers.window] * (layers.depth - 1) + [_image_mean]
    for average, q1, q2 in zip(averages, of_x, of_columns, strict=True):
        q1 = q1[None, :, :, None, None] if everywhere else q1[None]
        q2 = q2[:, None, None] if everywhere else q2
        value, slope = layers.moments(q1, q2, cosine_of(q1, q2, k, False))
        k = w2 * average(value) + b2
        theta = k + w2 * average(slope * theta)
    return k, theta


def _image_mean(t):
    return jnp.mean(t, tuple(range(1, t.ndim)))


def _window_mean(t, size, stride, padding):
    """A t for t [n, h, w], pairs at one position, or [n, h, w, h, w], whose two positions move
    together: first down, then across."""
    for first in (1, 2):
        axes = range(first, t.ndim, 2)
        pad = jax.lax.padtype_to_pads(t.shape[first : first + 1], (size,), (stride,), padding)[0]
        t = jnp.pad(t, [pad if axis in axes else (0, 0) for axis in range(t.ndim)])
        stop = t.shape[first] - size + 1

        def moved(a, axis, axes=axes, stop=stop):
            return slice(a, a + stop, stride) if axis in axes else slice(None)

        t = sum(t[tuple(moved(a, axis) for axis in range(t.ndim))] for a in range(size))
    return t / size**2


def _check_images(layers: _Layers, x):
    depth, size, stride, padding = layers[:4]
    if x.ndim != 4:
        raise SettingError(
            f"infinite_conv: x1 has shape {x.shape}; expected images [n, h, w, channels]"
        )
    h, w = x.shape[1:3]
    for layer in range(1, depth + 1):
        if padding == "VALID" and min(h, w) < size:
            small = f"layer {layer} sees {h} x {w}, less than kernel_size={size}"
            raise SettingError(
                f"infinite_conv: {small}; expected larger images, padding=SAME or less depth"
            )
        h, w = (
            -(-extent // stride) if padding == "SAME" else (extent - size) // stride + 1
            for extent in (h, w)
        )
