"""The models that the laws of kernels run over: ours, plain linen of every kind, other libraries',
plain functions."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from ntkcl import networks
from ntkcl.types import Network


class PlainMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, use_bias=False)(nn.tanh(nn.Dense(5)(nn.relu(nn.Dense(6)(x)))))


class CNN(nn.Module):
    """Strides, three kinds of padding, groups, both dilations, one layer without bias."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 2), strides=(2, 1))(x))
        x = nn.gelu(
            nn.Conv(
                6, (2, 3), padding=((1, 0), (2, 1)), feature_group_count=2, kernel_dilation=(1, 2)
            )(x)
        )
        x = nn.relu(
            nn.Conv(4, (2, 2), padding=1, input_dilation=(2, 1), strides=2, use_bias=False)(x)
        )
        x = nn.tanh(nn.Conv(4, 2, padding="VALID")(x.reshape(-1, 4)))
        return nn.Dense(2)(x.ravel())


class OddPadding(nn.Module):
    """Paddings and wrappers that no rule covers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3,), padding="CIRCULAR")(x))
        x = nn.relu(
            nn.Conv(3, (2,), padding="CAUSAL", mask=np.arange(18.0).reshape(2, 3, 3) % 5)(x)
        )
        x = nn.relu(nn.ConvTranspose(3, (2,), strides=(2,))(x))
        return nn.WeightNorm(nn.Dense(2))(x.mean(0))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(6)(x)
        for _ in range(2):
            h = h + nn.Dense(6)(nn.relu(nn.LayerNorm()(h)))
        h = nn.GroupNorm(num_groups=2)(h)
        return nn.Dense(3)(h) * self.param("scale", nn.initializers.ones, ())


class Transformer(nn.Module):
    """An embedding used twice (looked up, and as the readout), attention, norms, residuals."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, 8)
        h = embed(tokens) + self.param("position", nn.initializers.normal(0.1), (4, 8))
        h = h + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(h))
        h = h + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(h))))
        return embed.attend(h).mean(0)[:3]


class Shared(nn.Module):
    """One layer, run three times, on two and on one position."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(4)
        h = layer(jnp.tanh(layer(jnp.stack([x, 2 * x]))))
        return nn.Dense(2)(jnp.tanh(layer(h.mean(0))))


class Tied(nn.Module):
    """A kernel used by its layer and, transposed, by hand."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(5)
        return jnp.tanh(layer(x)) @ layer.variables["params"]["kernel"].T


class EmbeddingBag(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(2)(jnp.tanh(nn.Embed(9, 5)(tokens).sum(0)))


class Lifted(nn.Module):
    """Layers inside lifted transformations, whose inputs cannot be seen from outside, beside one
    that can."""

    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.remat(nn.Dense)(4)(x))
        h = nn.jit(nn.Dense)(4)(h)
        heads = nn.vmap(
            nn.Dense,
            in_axes=None,
            out_axes=0,
            axis_size=2,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        return nn.Dense(2)(heads(3)(h).ravel())


class RawTransforms(nn.Module):
    """Layers inside JAX's own transformations, called on bound modules."""

    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(jax.vmap(nn.Dense(4))(jnp.stack([x, x**2])))
        return nn.Dense(2)(h.ravel())


class General(nn.Module):
    """Several contracted axes, an axis that is not the last, several features, batch dimensions."""

    @nn.compact
    def __call__(self, x):  # [3, 4, 2]
        h = jnp.tanh(nn.DenseGeneral((2, 3), axis=(0, 2))(x))  # [4, 2, 3]
        h = jnp.tanh(nn.DenseGeneral(4, axis=-1, batch_dims=(0,))(h))
        return nn.DenseGeneral(2, axis=(-1, 0, 1))(h)


class Normalised(nn.Module):
    """Written for batches; batch norm with running averages."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=not self.train)(nn.Dense(5)(x)))
        return nn.Dense(2)(x.reshape(len(x), -1))


class TwoTokens(nn.Module):
    """Wide features at two positions: the form by positions is the cheaper one."""

    @nn.compact
    def __call__(self, x):  # [2, 30]
        h = nn.relu(nn.Dense(40)(x))
        return nn.Dense(1)(nn.Conv(20, (2,), padding="SAME")(h).ravel())


def nnx_model():
    graph, theta = nnx.split(
        nnx.Sequential(
            nnx.Linear(4, 5, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(5, 2, rngs=nnx.Rngs(1))
        )
    )
    return (lambda theta, x: nnx.merge(graph, theta)(x)), theta


def equinox_model():
    theta, static = eqx.partition(
        eqx.nn.MLP(4, 2, 5, 2, activation=jnp.tanh, key=jax.random.key(0)), eqx.is_array
    )
    return (lambda theta, x: eqx.combine(theta, static)(x)), theta


def plain(theta, x):
    """Rows of one matrix used as scale, shift and readout; `spare` is not used at all."""
    return jnp.tanh(x * theta["w"][0] + theta["w"][1]) @ theta["w"][2:].T


def _constants(module, x):
    return {
        "batch_stats": jax.tree.map(
            lambda a: a + 0.5, module.init(jax.random.key(5), x)["batch_stats"]
        )
    }


REAL, IMAGE, TOKENS = (4,), (5, 6, 2), (4,)
# name: (network or nothing, shape of one input, kind of input)
LINEN = {
    "ours, erf and biases": (
        networks.mlp(outputs=3, width=7, depth=2, activation="erf", w_std=1.5, b_std=0.3),
        REAL,
    ),
    "ours, one hidden layer": (networks.mlp(outputs=2, width=9, output_scale=0.7), (2, 3)),
    "plain linen MLP": (networks.network(PlainMLP()), REAL),
    "CNN": (networks.network(CNN()), IMAGE),
    "odd padding": (networks.network(OddPadding()), (5, 3)),
    "residual": (networks.network(Residual()), REAL),
    "transformer": (networks.network(Transformer()), TOKENS),
    "shared layer": (networks.network(Shared()), REAL),
    "tied weights": (networks.network(Tied()), REAL),
    "embedding": (networks.network(EmbeddingBag()), TOKENS),
    "lifted": (networks.network(Lifted()), REAL),
    "raw transformations": (networks.network(RawTransforms()), REAL),
    "dense general": (networks.network(General()), (3, 4, 2)),
    "batch norm, running": (
        networks.network(
            Normalised(), batched=True, constants=_constants(Normalised(), jnp.ones((1, 4)))
        ),
        REAL,
    ),
    "two positions": (networks.network(TwoTokens()), (2, 30)),
}
OTHERS = {
    "NNX": (*nnx_model(), REAL),
    "Equinox": (*equinox_model(), REAL),
    "plain function": (
        plain,
        {"w": jax.random.normal(jax.random.key(3), (4, 4)), "spare": jnp.ones(3)},
        REAL,
    ),
}
MODELS = (*LINEN, *OTHERS)


@cache
def model(name, n=5):
    """(network, theta, x) in float64, theta of the size of an initialisation but nowhere zero or
    one.

    Drawn by NumPy: a normal draw of a new shape is half a second of compiling.
    """
    if name in LINEN:
        network, shape = LINEN[name]
    else:
        apply, theta, shape = OTHERS[name]
        network = Network(None, apply)
    rng = np.random.default_rng(1)
    x = jnp.asarray(
        rng.integers(0, 7, (n, *shape))
        if name in ("transformer", "embedding")
        else rng.standard_normal((n, *shape))
    )
    if name in LINEN:
        theta = jax.eval_shape(network.init, jax.random.key(0), x[0])

    def drawn(path, leaf):
        scale = 0.1 if leaf.ndim < 2 else max(0.1, np.prod(leaf.shape[:-1]) ** -0.5)
        return jnp.asarray(
            (path[-1] == jax.tree_util.DictKey("scale")) + scale * rng.standard_normal(leaf.shape)
        )

    return network, jax.tree_util.tree_map_with_path(drawn, theta), x
