"""The multilayer perceptron in NTK parametrization."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ntkcl.networks.layers import Dense
from ntkcl.networks.linen import network
from ntkcl.settings import finite, flag, one_of, whole
from ntkcl.types import Network

ACTIVATIONS = {"relu": jax.nn.relu, "erf": jax.lax.erf, "tanh": jnp.tanh, "gelu": jax.nn.gelu}


class MLP(nn.Module):
    """f = output_scale z^{depth+1}: `depth` hidden layers of `width` units, so L = depth + 1 affine maps."""

    outputs: int
    width: int
    depth: int
    activation: str
    w_std: float
    b_std: float
    output_scale: float

    @nn.compact
    def __call__(self, x):
        x = jnp.ravel(x)
        for layer in range(self.depth):
            z = Dense(self.width, self.w_std, self.b_std, name=f"hidden_{layer}")(x)
            x = ACTIVATIONS[self.activation](z)
        return self.output_scale * Dense(self.outputs, self.w_std, self.b_std, name="readout")(x)


def mlp(
    *,
    outputs: int,
    width: int = 256,
    depth: int = 1,
    activation: str = "relu",
    w_std: float = 1.0,
    b_std: float = 0.0,
    output_scale: float = 1.0,
    centred: bool = True,
) -> Network:
    """x^0 = x, z^{l+1} = w_std/sqrt(n_l) W^l x^l + b_std b^l, x^l = activation(z^l), f = output_scale z^L; W, b ~ N(0, 1).

    Arguments:
      outputs: c, the number of outputs over all heads.
      width, depth: units of each hidden layer, number of hidden layers (L = depth + 1).
      activation: relu, erf, tanh or gelu (the tanh approximation).
      w_std, b_std: the factors sigma_w and beta of theory and of neural-tangents; b_std = 0 leaves the biases out.
      output_scale: alpha of Chizat, Oyallon, Bach 2019; large is lazy.
      centred: train and forecast f - f_0, which starts at zero.

    Raises ValueError for sizes below 1, scales that are not finite and positive, an unknown activation.
    Source: Jacot, Gabriel, Hongler 2018, section 2.
    """
    module = MLP(
        whole("network.outputs", outputs),
        whole("network.width", width),
        whole("network.depth", depth),
        one_of("network.activation", activation, ACTIVATIONS),
        finite("network.w_std", w_std, above=0.0),
        finite("network.b_std", b_std, least=0.0),
        finite("network.output_scale", output_scale, above=0.0),
    )
    return network(module, centred=flag("network.centred", centred))
