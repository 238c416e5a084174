"""A small vision transformer: attention between the patches of an image."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ntkcl.compilation import once
from ntkcl.networks.constructor import construct
from ntkcl.networks.layers import ACTIVATIONS, Dense, image
from ntkcl.networks.parametrization import BASE_WIDTH, Layers
from ntkcl.types import Network
from ntkcl.validation import SettingError, divisor, finite, whole


class ViT(nn.Module):
    """Patches as tokens of `width` numbers, blocks x + attention(norm(x)), x + mlp(norm(x)), and a
    mean over tokens."""

    outputs: int
    width: int
    depth: int
    patch: int
    heads: int
    expansion: int
    position_std: float
    activation: str
    layers: Layers
    output_scale: float

    @nn.compact
    def __call__(self, x):
        x = self.dense(self.width, "embedding")(self.patches(image(x)))
        if self.position_std:
            x = x + self.position(x)
        for block in range(self.depth):
            x = x + self.attention(normalised(x), f"block_{block}")
            h = self.dense(self.expansion * self.width, f"block_{block}_expand")(normalised(x))
            x = x + self.dense(self.width, f"block_{block}_contract")(
                ACTIVATIONS[self.activation](h)
            )
        return self.output_scale * self.dense(self.outputs, "readout")(normalised(x).mean(0))

    def dense(self, features, name):
        return Dense(features, self.layers, name=name)

    def patches(self, x):
        p, (h, w, c) = self.patch, x.shape
        if h % p or w % p:
            raise SettingError(
                f"network.patch={p}: an image has {h} x {w} pixels; expected a divisor of both"
            )
        return x.reshape(h // p, p, w // p, p, c).swapaxes(1, 2).reshape(-1, p * p * c)

    def position(self, x):
        """A number for each token and unit, with the factor in front or in the initialiser, as
        biases have it."""
        standard = self.layers.parametrization == "standard"
        inside, front = (self.position_std, 1.0) if standard else (1.0, self.position_std)
        return front * self.param("position", nn.initializers.normal(inside), x.shape, x.dtype)

    def attention(self, x, name):
        q, k, v = (
            self.dense(self.width, f"{name}_{part}")(x).reshape(len(x), self.heads, -1)
            for part in ("query", "key", "value")
        )
        score = jnp.einsum("thd,shd->hts", q, k) / q.shape[-1] ** 0.5
        # 1/d in place of 1/sqrt(d): queries and keys that learn are no longer independent.
        if self.layers.parametrization == "mup":
            score = score * (BASE_WIDTH / self.width) ** 0.5
        mixed = jnp.einsum("hts,shd->thd", jax.nn.softmax(score), v)
        return self.dense(self.width, f"{name}_mix")(mixed.reshape(len(x), -1))


def normalised(x):
    return nn.LayerNorm(use_bias=False, use_scale=False, parent=None).apply({}, x)


@once
def vit(
    *,
    outputs: int,
    width: int = 64,
    depth: int = 2,
    patch: int = 4,
    heads: int = 4,
    expansion: int = 2,
    position_std: float | int = 0.1,
    **common: float | int | str | bool,
) -> Network:
    """Pre-norm transformer blocks on the patches of one image [h, w] or [h, w, c], without a class
    token.

    Norms have no scales and shifts of their own. Scores are q.k / sqrt(d), d = width / heads; in
    mup they are q.k / d times sqrt(64 / heads), the same at width 64.

    Arguments:
      outputs: c, the number of outputs over all heads of the stream.
      width, depth: numbers in a token, number of blocks.
      patch: side of the square patches, a divisor of the image's sides.
      heads: of the attention, a divisor of the width.
      expansion: hidden units of a block's MLP, in widths.
      position_std: of what is learned for each position and added to its token; 0 leaves it out.
      common: activation (gelu), centred, w_std, b_std, parametrization, init, gamma0,
        output_scale, as in `mlp`.

    Raises ValueError as `mlp`, for inputs that are no image, and for patches and heads that do not
      divide.
    Source: Dosovitskiy et al. 2021; scores in mup: Yang, Hu et al. 2021 (Tensor Programs V).
    """
    return construct(
        ViT,
        outputs=outputs,
        width=width,
        activation=common.pop("activation", "gelu"),  # type: ignore[arg-type]
        centred=common.pop("centred", True),  # type: ignore[arg-type]
        scaling=common,
        depth=whole("network.depth", depth),
        patch=whole("network.patch", patch),
        heads=divisor("network.heads", heads, "network.width", width),
        expansion=whole("network.expansion", expansion),
        position_std=finite("network.position_std", position_std, least=0.0),
    )
