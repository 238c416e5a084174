"""A residual network for small images, without batch norm, whose samples do not interact."""

from functools import partial

from flax import linen as nn

from ntkcl.compilation import once
from ntkcl.networks.constructor import construct
from ntkcl.networks.layers import ACTIVATIONS, Conv, Dense, image
from ntkcl.networks.parametrization import Layers
from ntkcl.types import Network
from ntkcl.validation import SettingError, one_of, whole


class ResNet(nn.Module):
    """Blocks x + conv(h(conv(h(x)))), h = activation(norm(.)), in stages of doubled channels and
    halved images; a mean over positions.

    Where a block changes the shape, x goes through a 1 x 1 convolution.
    """

    outputs: int
    width: int
    stages: int
    blocks: int
    groups: int
    activation: str
    layers: Layers
    output_scale: float

    @nn.compact
    def __call__(self, x):
        conv = partial(Conv, layers=self.layers)
        x = conv(self.width, name="stem")(image(x))
        for stage in range(self.stages):
            channels = self.width * 2**stage
            for block in range(self.blocks):
                name, stride = f"block_{stage}_{block}", 2 if stage and not block else 1
                h = conv(channels, strides=stride, name=f"{name}_first")(self.active(x))
                h = conv(channels, name=f"{name}_second")(self.active(h))
                x = h + (
                    x if x.shape == h.shape else conv(channels, 1, stride, name=f"{name}_short")(x)
                )
        return self.output_scale * Dense(self.outputs, self.layers, name="readout")(
            self.active(x).mean((0, 1))
        )

    def active(self, x):
        if self.groups:
            x = nn.GroupNorm(self.groups, use_bias=False, use_scale=False, parent=None).apply(
                {}, x[None]
            )[0]
        return ACTIVATIONS[self.activation](x)


@once
def resnet(
    *,
    outputs: int,
    width: int = 16,
    stages: int = 3,
    blocks: int = 1,
    norm: str = "none",
    groups: int = 4,
    **common: float | int | str | bool,
) -> Network:
    """A stem and stages of pre-activation blocks of two 3 x 3 convolutions.

    The input is one image [h, w] or [h, w, c].

    width = 16 and 3 stages of 3 blocks are the layers of the ResNet-20 of He et al. 2016, with 1 x
    1 convolutions for shortcuts.

    Arguments:
      outputs: c, the number of outputs over all heads.
      width: channels of the first stage, doubled from stage to stage.
      stages, blocks: number of stages, and of blocks in each.
      norm: none, or group: group normalisation by `groups`, without scales and shifts of its own.
      groups: in which the channels are normalised, where norm is group.
      common: activation (relu), centred, w_std, b_std, parametrization, init, gamma0,
        output_scale, as in `mlp`.

    Raises ValueError as `mlp`, for inputs that are no image, and for groups that do not divide the
      width.
    Source: He, Zhang, Ren, Sun 2016, Identity mappings in deep residual networks; Wu, He 2018.
    """
    groups = whole("network.groups", groups)
    normalised = one_of("network.norm", norm, ("none", "group")) == "group"
    if normalised and whole("network.width", width) % groups:
        raise SettingError(f"network.groups={groups}: expected a divisor of network.width={width}")
    return construct(
        ResNet,
        outputs=outputs,
        width=width,
        activation=common.pop("activation", "relu"),  # type: ignore[arg-type]
        centred=common.pop("centred", True),  # type: ignore[arg-type]
        scaling=common,
        stages=whole("network.stages", stages),
        blocks=whole("network.blocks", blocks),
        groups=groups if normalised else 0,
    )
