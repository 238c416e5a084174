"""The vision transformer as published, pretrained; `ntkcl.networks.vit` is one from scratch."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from flax import linen as nn

from ntkcl.compilation import once
from ntkcl.networks.adapt import adapt
from ntkcl.networks.layers import attention, rgb
from ntkcl.networks.weights import Layout, load
from ntkcl.types import Network
from ntkcl.validation import SettingError, text, whole


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    heads: int
    expansion: int

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        y = nn.LayerNorm(name="attention_norm")(x)
        parts = (self.heads, width // self.heads)
        q, k, v = (nn.DenseGeneral(parts, name=name)(y) for name in ("query", "key", "value"))
        x = x + nn.DenseGeneral(width, axis=(-2, -1), name="mix")(attention(q, k, v))
        y = nn.LayerNorm(name="mlp_norm")(x)
        h = jax.nn.gelu(nn.Dense(self.expansion * width, name="expand")(y))
        return x + nn.Dense(width, name="contract")(h)


class Encoder(nn.Module):
    """`depth` blocks in turn, and a norm."""

    depth: int
    heads: int
    expansion: int

    @nn.compact
    def __call__(self, x):
        for block in range(self.depth):
            x = Block(self.heads, self.expansion, name=f"block_{block}")(x)
        return nn.LayerNorm(name="norm")(x)


class VisionTransformer(nn.Module):
    """The head of a class token that goes through the encoder with an image's patches."""

    outputs: int
    width: int
    depth: int
    heads: int
    expansion: int
    patch: int
    side: int
    upsample: int

    @nn.compact
    def __call__(self, x):
        window = (self.patch, self.patch)
        x = nn.Conv(self.width, window, window, "VALID", name="embedding")(self.patched(x))
        token = self.param("token", nn.initializers.zeros, (1, self.width))
        x = jnp.concatenate([token, x.reshape(-1, self.width)]) + self.position(len(x))
        x = Encoder(self.depth, self.heads, self.expansion, name="encoder")(x)
        return nn.Dense(self.outputs, name="head")(x[0])

    def patched(self, x):
        x = rgb(x, self.upsample)
        h, w, _ = x.shape
        if h != w or h % self.patch:
            raise SettingError(
                f"network.patch={self.patch}: an image has {h} x {w} pixels; expected a square of "
                "a multiple of it, see also network.upsample"
            )
        return x

    def position(self, grid):
        """What is learned for the class token and for each patch, interpolated between patches
        where the image has another number of them, as where it was published."""
        trained = self.side // self.patch
        shape = (1 + trained**2, self.width)
        p = self.param("position", nn.initializers.normal(0.02), shape)
        if grid == trained:
            return p
        # Linear in p and along each axis: a matrix does what the zoom does.
        zoom = scipy.ndimage.zoom(np.eye(trained), (grid / trained, 1), order=1).astype(p.dtype)
        patches = p[1:].reshape(trained, trained, -1)
        moved = jnp.einsum("ai,bj,ijc->abc", zoom, zoom, patches)
        return jnp.concatenate([p[:1], moved.reshape(-1, self.width)])


NAMES = {
    "norm": "encoder_norm",
    "attention_norm": "LayerNorm_0",
    "query": "MultiHeadDotProductAttention/query",
    "key": "MultiHeadDotProductAttention/key",
    "value": "MultiHeadDotProductAttention/value",
    "mix": "MultiHeadDotProductAttention/out",
    "mlp_norm": "LayerNorm_1",
    "expand": "MlpBlock/Dense_0",
    "contract": "MlpBlock/Dense_1",
}
FOLDERS = {"encoder": "Transformer"}


def _place(path):
    if path in (("token",), ("position",)):
        key = {"token": "cls", "position": "Transformer/posembed_input/pos_embedding"}[path[0]]
        return key, lambda array: array[0]
    *folders, layer, leaf = path
    inside = (FOLDERS.get(name, name.replace("block_", "encoderblock_")) for name in folders)
    return "/".join([*inside, NAMES.get(layer, layer), leaf]), np.asarray


def _renamed(key):
    """Files count the layers of a block: those before Flax linen all of them (LayerNorm_0,
    MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3), later ones each kind."""
    key = re.sub(r"(MultiHeadDotProductAttention|MlpBlock)_\d", r"\1", key)
    return key.replace("LayerNorm_2", "LayerNorm_1")


LAYOUT = Layout(
    of="google-research/vision_transformer",
    place=_place,
    renamed=_renamed,
    ignored=re.compile(r"(head|pre_logits)/.*").fullmatch,
)


@once
def vit_b16(
    *,
    outputs: int,
    weights: str | None = None,
    trainable: str = "head",
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    expansion: int = 4,
    patch: int = 16,
    side: int = 224,
    upsample: int = 1,
    **adaptation: Any,
) -> Network:
    """A pretrained vision transformer, B/16 or one of another size, and a new head.

        f = W_head h_0(x) + b_head, h_0 the encoder's last layer at the class token

    The input is one square image [h, h] or [h, h, c], standardised as (255 x - 127.5) / 127.5 for
    pixels x in [0, 1]: source.mean=0.5, source.sd=0.5. The positions of images of other sizes than
    `side` are interpolated, as in the original.

    Arguments:
      outputs: c, the number of outputs over all heads of the stream.
      weights: the path of an npz file of google-research/vision_transformer.
      trainable, rank, alpha, targets, centred: as in `adapt`.
      width, depth, heads, expansion: numbers in a token, blocks, heads of the attention, hidden
        units of a block in widths.
      patch, side: of the square patches, and of the images that the weights were trained on.
      upsample: a whole number; images are made this many times as large, bilinearly.

    Raises ValueError for weights that are missing, unreadable or of another size, and for inputs
      that are no square image of whole patches.
    Source: Dosovitskiy et al. 2021.
    """
    for name, value, of, whole_of in (
        ("heads", heads, "width", width),
        ("patch", patch, "side", side),
    ):
        if whole(f"network.{of}", whole_of) % whole(f"network.{name}", value):
            raise SettingError(
                f"network.{name}={value}: expected a divisor of network.{of}={whole_of}"
            )
    if weights is None:
        raise SettingError(
            "network.weights=null: no package carries these weights; expected the path of an npz "
            "file of google-research/vision_transformer, such as ViT-B_16.npz"
        )
    module = VisionTransformer(
        outputs=whole("network.outputs", outputs),
        width=width,
        depth=whole("network.depth", depth),
        heads=heads,
        expansion=whole("network.expansion", expansion),
        patch=patch,
        side=side,
        upsample=whole("network.upsample", upsample),
    )
    one = jax.ShapeDtypeStruct((patch, patch, 3), jnp.float32)
    theta = load(module, one, text("network.weights", weights), LAYOUT)["params"]
    return adapt(module, theta, trainable=trainable, **adaptation)
