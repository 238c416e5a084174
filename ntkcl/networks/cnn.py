"""The convolutional network whose limit of infinitely many channels is
`ntkcl.kernels.infinite_conv`."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ntkcl import kernels
from ntkcl.compilation import once
from ntkcl.networks.constructor import construct
from ntkcl.networks.layers import ACTIVATIONS, Conv, Dense, image
from ntkcl.networks.parametrization import Layers
from ntkcl.types import Network
from ntkcl.validation import SettingError, one_of, whole


class CNN(nn.Module):
    """`depth` convolutional layers of `width` channels, then a dense layer on all of the last, or
    on its mean over positions."""

    outputs: int
    width: int
    depth: int
    kernel_size: int
    stride: int
    stride_every: int
    padding: str
    readout: str
    activation: str
    layers: Layers
    output_scale: float

    @nn.compact
    def __call__(self, x):
        x, k = image(x), self.kernel_size
        conv = partial(Conv, self.width, k, padding=self.padding, layers=self.layers)
        for layer in range(self.depth):
            if self.padding == "VALID" and min(x.shape[:2]) < k:
                raise SettingError(
                    f"network.kernel_size={k}: layer {layer + 1} sees {x.shape[0]} x {x.shape[1]}; "
                    "expected network.padding=SAME, or "
                    "fewer layers"
                )
            stride = self.stride if (layer + 1) % self.stride_every == 0 else 1
            x = ACTIVATIONS[self.activation](conv(strides=stride, name=f"conv_{layer}")(x))
        x = jnp.ravel(x) if self.readout == "flatten" else x.mean((0, 1))
        return self.output_scale * Dense(self.outputs, self.layers, name="readout")(x)


@once
def cnn(
    *,
    outputs: int,
    width: int = 64,
    depth: int = 2,
    kernel_size: int = 3,
    stride: int = 1,
    stride_every: int = 1,
    padding: str = "SAME",
    readout: str = "flatten",
    activation: str = "relu",
    centred: bool = True,
    **scaling: float | int | str,
) -> Network:
    """A convolutional network of one image [h, w] or [h, w, c], with W, b ~ N(0, 1).

        z = w_std/sqrt(k^2 c) W * h + b_std b in each layer, h = activation(z), and a dense readout

    Arguments:
      outputs: c, the number of outputs over all heads.
      width, depth: channels of each convolutional layer, number of them.
      kernel_size: k, the windows are k x k.
      stride, stride_every: every `stride_every`-th layer has the stride, the others 1: with 2 and
        2, layers 2, 4, ... halve the image.
      padding: SAME (zeros) or VALID.
      readout: flatten (all positions and channels) or mean (over positions).
      activation, centred, scaling (w_std, b_std, parametrization, init, gamma0, output_scale): as
        in `mlp`.

    Its kernel of infinite width is known in the parametrization ntk with stride_every=1.
    Raises ValueError as `mlp`, for inputs that are no image, and for images that a window without
      padding does not fit.
    """
    shape = dict(
        depth=whole("network.depth", depth),
        kernel_size=whole("network.kernel_size", kernel_size),
        stride=whole("network.stride", stride),
        padding=one_of("network.padding", padding, ("SAME", "VALID")),
        readout=one_of("network.readout", readout, ("flatten", "mean")),
    )
    same_stride = whole("network.stride_every", stride_every) == 1
    known = same_stride and scaling.get("parametrization", "ntk") == "ntk"
    return construct(
        CNN,
        outputs=outputs,
        width=width,
        activation=activation,
        centred=centred,
        scaling=scaling,
        infinite=_limit(activation=activation, **shape, **scaling) if known else None,
        stride_every=stride_every,
        **shape,
    )


def _limit(*, parametrization="ntk", init="normal", gamma0=1.0, **settings: Any):
    """The kernel of infinitely many channels; the parametrization ntk has no use for the three."""

    def ntk(x1, x2=None):
        return kernels.infinite_conv(**settings).ntk(_with_channels(x1), _with_channels(x2))

    return ntk


def _with_channels(x):
    """Images [n, h, w] or [n, h, w, c] as [n, h, w, c]; None stays None."""
    return x[..., None] if x is not None and x.ndim == 3 else x
