"""Flax linen modules in NTK parametrization, and the one door to Flax.

Outside this folder everything sees `Network(init, apply, taps)`. A model from anywhere else works on the generic path: any
`apply(theta, x) -> [c]` for one x can be given to `ntkcl.kernels.contraction`.
"""

from ntkcl.networks.layers import Dense
from ntkcl.networks.linearised import linearised
from ntkcl.networks.linen import centred, network, taps
from ntkcl.networks.mlp import MLP, mlp

__all__ = ["MLP", "Dense", "centred", "linearised", "mlp", "network", "taps"]
