"""Flax linen modules in NTK, standard and muP parametrization, and the one door to Flax.

Outside this folder everything sees `Network(init, apply, taps)`. A model from anywhere else works
on the generic path: any `apply(theta, x) -> [c]` for one x can be given to
`ntkcl.kernels.contraction`.
"""

from ntkcl.networks.adapt import adapt
from ntkcl.networks.bert import BERT, minilm
from ntkcl.networks.cnn import CNN, cnn
from ntkcl.networks.efficientnet import EfficientNetLite, efficientnet_lite0
from ntkcl.networks.layers import Conv, Dense
from ntkcl.networks.lenet import LeNet, lenet
from ntkcl.networks.linearised import linearised
from ntkcl.networks.linen import centred, computed_in, forward, network, taps
from ntkcl.networks.mlp import MLP, mlp
from ntkcl.networks.parametrization import Layers
from ntkcl.networks.resnet import ResNet, resnet
from ntkcl.networks.vision_transformer import VisionTransformer, vit_b16
from ntkcl.networks.vit import ViT, vit

__all__ = [
    "BERT", "CNN", "MLP", "Conv", "Dense", "EfficientNetLite", "Layers", "LeNet", "ResNet", "ViT",
    "VisionTransformer", "adapt", "centred", "cnn", "computed_in", "efficientnet_lite0", "forward",
    "lenet", "linearised", "minilm", "mlp", "network", "resnet", "taps", "vit", "vit_b16",
]  # fmt: skip
