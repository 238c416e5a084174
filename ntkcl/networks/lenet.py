"""LeNet-5, of any width: two convolutions with pooling, two hidden dense layers (LeCun, Bottou,
Bengio, Haffner 1998)."""

import jax.numpy as jnp
from flax import linen as nn

from ntkcl.compilation import once
from ntkcl.networks.constructor import construct
from ntkcl.networks.layers import ACTIVATIONS, Conv, Dense, image
from ntkcl.networks.parametrization import Layers
from ntkcl.types import Network
from ntkcl.validation import SettingError, one_of

CHANNELS, HIDDEN = (6, 16), (120, 84)  # at width 6


class LeNet(nn.Module):
    """5 x 5 convolutions of width and 16/6 width channels, means over 2 x 2 pixels after each, 20
    width and 14 width hidden units."""

    outputs: int
    width: int
    padding: str
    activation: str
    layers: Layers
    output_scale: float

    @nn.compact
    def __call__(self, x):
        x, act, least = image(x), ACTIVATIONS[self.activation], 12 if self.padding == "VALID" else 4
        if min(x.shape[:2]) < least:
            also = ", or network.padding=SAME" if self.padding == "VALID" else ""
            raise SettingError(
                f"network: lenet got an image of {x.shape[0]} x {x.shape[1]}; expected {least} x "
                f"{least} or larger{also}"
            )
        for k, (channels, padding) in enumerate(zip(CHANNELS, ("SAME", self.padding), strict=True)):
            x = Conv(
                self.units(channels), 5, padding=padding, layers=self.layers, name=f"conv_{k}"
            )(x)
            x = nn.avg_pool(act(x), (2, 2), (2, 2))
        x = jnp.ravel(x)
        for k, hidden in enumerate(HIDDEN):
            x = act(Dense(self.units(hidden), self.layers, name=f"hidden_{k}")(x))
        return self.output_scale * Dense(self.outputs, self.layers, name="readout")(x)

    def units(self, at_six):
        return round(at_six * self.width / 6)


@once
def lenet(
    *,
    outputs: int,
    width: int = 6,
    padding: str = "VALID",
    activation: str = "tanh",
    centred: bool = True,
    **scaling: float | int | str,
) -> Network:
    """LeNet-5 where width = 6: 6 and 16 channels, 120 and 84 hidden units.

    The input is one image [h, w] or [h, w, c], 28 x 28 in the original.

    As today's libraries have it: the second convolution sees all channels of the first, and the
    readout is a dense layer.

    Arguments:
      outputs: c, the number of outputs over all heads.
      width: channels of the first convolution; all other layers are as many times wider as in the
        original.
      padding: of the second convolution, VALID as in the original or SAME; that of the first is
        SAME.
      activation, centred, scaling (w_std, b_std, parametrization, init, gamma0, output_scale): as
        in `mlp`.

    Raises ValueError as `mlp`, for inputs that are no image, and for images that are too small.
    """
    return construct(
        LeNet,
        outputs=outputs,
        width=width,
        activation=activation,
        centred=centred,
        scaling=scaling,
        padding=one_of("network.padding", padding, ("SAME", "VALID")),
    )
