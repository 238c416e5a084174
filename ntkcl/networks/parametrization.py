"""Parametrizations: where the powers of width stand.

They stand in front of the weights, in their initial size, in front of the output, or in the
learning rate.

With n the fan-in of a layer, N the width of the network, N_0 = 64 and gamma = gamma_0 sqrt(N/N_0):

| setting          | layer                       | W ~                 | b ~           | f, rate |
|------------------|-----------------------------|---------------------|---------------|---------|
| ntk              | w_std/sqrt(n) W x + b_std b | N(0, 1)             | N(0, 1)       | 1       |
| mup              | the same                    | N(0, 1)             | N(0, 1)       | gamma   |
| standard, normal | W x + b                     | N(0, w_std^2/n)     | N(0, b_std^2) | 1       |
| standard, torch  | W x + b                     | U(-u, u)            | U(-u, u)      | 1       |
| standard, flax   | W x + b                     | N(0, 1/n), cut 2 sd | 0             | 1       |

where u = 1/sqrt(n), `cut 2 sd` is cut at 2 standard deviations, and g in the last column means
f = z^L / g, trained with the learning rate eta_0 g^2.

`torch` is what nn.Linear and nn.Conv2d of PyTorch do by default, `flax` what nn.Dense and nn.Conv
of Flax do. In `standard` one learning rate trains wider networks faster, for their kernel grows
with n; `ntk` with the rate eta is `standard` with eta w_std^2/n for the weights and eta b_std^2 for
the biases. `mup` at gamma_0 = 1 and N = 64 is `ntk`; larger gamma_0 is richer, smaller is lazier,
at every width.
Source: Jacot, Gabriel, Hongler 2018; Graldi et al. 2025, Table 1.
"""

from collections.abc import Callable
from typing import NamedTuple

from flax import linen as nn

from ntkcl.validation import SettingError, finite, one_of, whole

PARAMETRIZATIONS = ("ntk", "standard", "mup")
INITS = ("normal", "torch", "flax")
BASE_WIDTH = 64  # N_0 of Graldi et al. 2025


class Layers(NamedTuple):
    """What the layers of a network have in common, as validated by `scales`."""

    w_std: float = 1.0
    b_std: float = 0.0
    parametrization: str = "ntk"
    init: str = "normal"


class Scales(NamedTuple):
    """`layers`; `output`, the factor in front of the last layer; `rate`, that of a learning rate
    that is given as a number."""

    layers: Layers
    output: float
    rate: float


class Terms(NamedTuple):
    """z = factor x W + shift b with initialisers of W and b; no b where shift is 0."""

    factor: float
    shift: float
    kernel: Callable
    bias: Callable


def terms(layers: Layers, n: int) -> Terms:
    """What a layer of fan-in n computes and starts from."""
    normal = nn.initializers.normal
    if layers.parametrization != "standard":
        return Terms(layers.w_std / n**0.5, layers.b_std, normal(1.0), normal(1.0))
    if layers.init == "torch":
        return Terms(1.0, 1.0, uniform(n**-0.5), uniform(n**-0.5))
    if layers.init == "flax":
        return Terms(1.0, 1.0, nn.initializers.lecun_normal(), nn.initializers.zeros)
    return Terms(1.0, float(layers.b_std > 0), normal(layers.w_std / n**0.5), normal(layers.b_std))


def uniform(bound: float) -> Callable:
    """U(-bound, bound); Flax's own `uniform` begins at 0."""
    return lambda key, shape, dtype: nn.initializers.uniform(2 * bound)(key, shape, dtype) - bound


def scales(
    *,
    width,
    w_std=1.0,
    b_std=0.0,
    parametrization="ntk",
    init="normal",
    gamma0=1.0,
    output_scale=1.0,
) -> Scales:
    """The scales of a network of N = width; ValueError for settings out of range, and for those
    that would have no effect."""
    width = whole("network.width", width)
    layers = Layers(
        finite("network.w_std", w_std, above=0.0),
        finite("network.b_std", b_std, least=0.0),
        one_of("network.parametrization", parametrization, PARAMETRIZATIONS),
        one_of("network.init", init, INITS),
    )
    output = finite("network.output_scale", output_scale, above=0.0)
    gamma0 = finite("network.gamma0", gamma0, above=0.0)
    if init != "normal" and parametrization != "standard":
        raise SettingError(
            f"network.init={init}: {parametrization} starts from N(0, 1); expected "
            "network.parametrization=standard, or normal"
        )
    if init != "normal" and (layers.w_std, layers.b_std) != (1.0, 0.0):
        raise SettingError(
            f"network.init={init}: it sets the size of weights and biases itself; expected "
            "network.w_std=1 and network.b_std=0, which "
            f"came as {layers.w_std:g} and {layers.b_std:g}"
        )
    if parametrization != "mup" and gamma0 != 1:
        raise SettingError(
            f"network.gamma0={gamma0:g}: only mup has it; expected "
            "network.parametrization=mup, or 1"
        )
    gamma = gamma0 * (width / BASE_WIDTH) ** 0.5 if parametrization == "mup" else 1.0
    return Scales(layers, output / gamma, gamma**2)
