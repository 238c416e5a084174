"""What the constructors of this package have in common: settings that every network checks."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from ntkcl.networks.layers import ACTIVATIONS
from ntkcl.networks.linen import network
from ntkcl.networks.parametrization import scales
from ntkcl.types import Network
from ntkcl.validation import flag, one_of, whole


def construct(
    kind: Callable[..., nn.Module],
    *,
    outputs: int,
    width: int,
    activation: str,
    centred: bool,
    scaling: Mapping[str, Any],
    infinite: Callable | None = None,
    **own: Any,
) -> Network:
    """The network of `kind(outputs, width, activation, layers, output_scale, **own)`.

    Arguments:
      outputs, width, activation, centred, scaling: as in `networks.mlp`, checked here.
      infinite: the kernel of infinite width, see `ntkcl.types.Network`.
      own: the fields that only this kind has, checked already.

    Raises ValueError for a setting out of range, named as it is in a configuration.
    """
    scaled = scales(width=width, **scaling)
    module = kind(
        outputs=whole("network.outputs", outputs),
        width=whole("network.width", width),
        activation=one_of("network.activation", activation, ACTIVATIONS),
        layers=scaled.layers,
        output_scale=scaled.output,
        **own,
    )
    centred = flag("network.centred", centred)
    return network(module, centred=centred, rate_scale=scaled.rate, infinite=infinite)
