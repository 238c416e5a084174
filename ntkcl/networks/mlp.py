"""The multilayer perceptron."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ntkcl import kernels
from ntkcl.compilation import once
from ntkcl.networks.constructor import construct
from ntkcl.networks.layers import ACTIVATIONS, Dense, real
from ntkcl.networks.parametrization import Layers
from ntkcl.types import Network
from ntkcl.validation import whole


class MLP(nn.Module):
    """f = output_scale z^{depth+1}: `depth` hidden layers of `width` units, so L = depth + 1 affine
    maps."""

    outputs: int
    width: int
    depth: int
    activation: str
    layers: Layers
    output_scale: float

    @nn.compact
    def __call__(self, x):
        x = jnp.ravel(real(x))
        for layer in range(self.depth):
            z = Dense(self.width, self.layers, name=f"hidden_{layer}")(x)
            x = ACTIVATIONS[self.activation](z)
        return self.output_scale * Dense(self.outputs, self.layers, name="readout")(x)


@once
def mlp(
    *,
    outputs: int,
    width: int = 256,
    depth: int = 1,
    activation: str = "relu",
    centred: bool = True,
    **scaling: float | int | str,
) -> Network:
    """The multilayer perceptron, with W, b ~ N(0, 1).

        x^0 = x,  z^{l+1} = w_std/sqrt(n_l) W^l x^l + b_std b^l,  x^l = activation(z^l),
        f = output_scale z^L

    Arguments:
      outputs: c, the number of outputs over all heads.
      width, depth: units of each hidden layer, number of hidden layers (L = depth + 1).
      activation: relu, erf, tanh or gelu (the tanh approximation).
      w_std, b_std: the factors sigma_w and beta of theory and of neural-tangents; b_std = 0 leaves
        the biases out.
      parametrization, init, gamma0: ntk (as above), standard (z^{l+1} = W^l x^l + b^l, drawn as
        `init` says: normal, torch or flax) or mup (f divided by gamma0 sqrt(width/64)); see
        `ntkcl.networks.parametrization`.
      output_scale: alpha of Chizat, Oyallon, Bach 2019; large is lazy.
      centred: train and forecast f - f_0, which starts at zero.

    The scaling is w_std, b_std, parametrization, init, gamma0 and output_scale, by default 1, 0,
    ntk, normal, 1 and 1.
    Raises ValueError for sizes below 1, scales that are not finite and positive, an unknown
    activation or parametrization, and for settings that the parametrization has no use for.
    Source: Jacot, Gabriel, Hongler 2018, section 2.
    """
    factors: dict[str, Any] = {
        key: scaling[key] for key in ("w_std", "b_std", "output_scale") if key in scaling
    }

    def limit(x1, x2=None):
        return kernels.infinite(depth=depth, activation=activation, **factors).ntk(x1, x2)

    return construct(
        MLP,
        outputs=outputs,
        width=width,
        activation=activation,
        centred=centred,
        scaling=scaling,
        infinite=limit if scaling.get("parametrization", "ntk") == "ntk" else None,
        depth=whole("network.depth", depth),
    )
