"""What of a pretrained network is trained: its head, low-rank additions to it, a part, or all.

Kernels, methods and forecasts see theta alone, so theta holds what is trained and nothing else. The
other parameters are carried by `apply`, as arguments of the programs that call it.
"""

import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.tree_util import Partial

from ntkcl.compilation import portable
from ntkcl.networks.layers import Conv, Dense
from ntkcl.networks.linen import network, taps
from ntkcl.types import Network, Params
from ntkcl.validation import SettingError, finite, text, whole

DOWN, UP = "lora_a", "lora_b"  # the factors A and B, beside the parameters of their layer
SHOWN = 4  # paths that an error lists


def adapt(
    module: nn.Module | Network,
    theta: Params,
    *,
    trainable: str,
    rank: int = 8,
    alpha: float | int = 16.0,
    targets: str = "query|value",
    head: str = "head|readout",
    head_std: float | int | None = 0.02,
    centred: bool = False,
    constants: dict | None = None,
    batched: bool = False,
) -> Network:
    """The network of a part of a model's parameters, the others frozen at `theta`.

        f(x; theta', frozen), and with trainable="lora" z = x W + (alpha / rank) (x A) B in place of
        z = x W in each layer that `targets` names

    A is drawn uniformly from +-1/sqrt(n), n the numbers that an output of the layer is made of, and
    B is 0, so training starts from the pretrained model. Of a convolution A has its window and
    `rank` channels, and B mixes them.

    Arguments:
      module: a linen module, as of `networks.network`, or a `Network` made of one (which keeps its
        own centred).
      theta: all of its parameters, a nest of dictionaries of arrays.
      trainable: "head"; "lora" (A and B, and the head); "all"; or a regular expression: the
        parameters in whose path, such as "encoder/layer_0/query/kernel", it is found.
      rank, alpha: of A and B.
      targets: a regular expression that is found in the paths of the layers to which "lora" adds:
        Dense, DenseGeneral or Conv.
      head: a regular expression that is the name of the last layer.
      head_std: where the head is trained, `init` draws its kernel from N(0, head_std^2), with
        biases 0; None starts from theta's.
      centred, constants, batched: as of `networks.network`.
    Returns: a Network whose theta is a nest of dictionaries, as the module has it, of the trained
      leaves, "lora_a" and "lora_b" beside the parameters of their layer. `init` draws A and the
      head from the key and takes everything else from theta.
    Raises ValueError where a name or a pattern matches nothing, for a rank below 1 or above the
      size of a layer and, from `init`, for a target of another kind of layer.
    Source: Hu et al. 2022 (LoRA); head and A as BERT's and PEFT's defaults.
    """
    base = module
    if isinstance(base, nn.Module):
        base = network(base, constants=constants, batched=batched, centred=centred)
    whole_theta = jax.tree.map(jnp.asarray, flatten_dict(unfreeze(nn.unbox(theta))))
    trained, fresh = _chosen(whole_theta, trainable, head)
    layers = _targets(whole_theta, targets, fresh) if trainable == "lora" else []
    frozen = {path: leaf for path, leaf in whole_theta.items() if path not in trained}
    run = _Run(whole("network.rank", rank), finite("network.alpha", alpha) / rank)
    apply = Partial(run, portable(base.apply), frozen)
    std = None if head_std is None else finite("network.head_std", head_std, least=0.0)

    def init(key, x):
        started = {path: whole_theta[path] for path in trained}
        if std is not None:
            started |= _fresh(jax.random.fold_in(key, 0), {p: started[p] for p in fresh}, std)
        pairs = _pairs(base.apply, unflatten_dict(whole_theta), x, layers, rank)
        return unflatten_dict(started | _drawn(jax.random.fold_in(key, 1), pairs))

    together = base.batched and Partial(run, portable(base.batched), frozen)
    return base._replace(init=init, apply=apply, taps=taps(apply), batched=together, infinite=None)


class _Run(NamedTuple):
    """The model with the low-rank terms, as `apply(theta, x)` once model and frozen leaves are
    bound: equal for equal settings, so that programs are shared."""

    rank: int
    scale: float

    def __call__(self, apply, frozen, theta, x):
        dtype = jnp.result_type(*jax.tree.leaves(theta))  # of the arithmetic, as without freezing
        held = {
            path: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            for path, leaf in frozen.items()
        }
        with nn.intercept_methods(self.add):
            return apply(unflatten_dict(held | flatten_dict(theta)), x)

    def add(self, call, args, kwargs, context):
        z, layer = call(*args, **kwargs), context.module
        if context.method_name != "__call__" or not layer.has_variable("params", DOWN):
            return z
        down, up = _pair(layer, self.rank, layer)
        return z + self.scale * up(down(*args, **kwargs))


def _pair(layer: nn.Module, rank: int, parent: nn.Module | None) -> tuple[nn.Module, nn.Module]:
    """The layers of A and B beside a layer."""
    plain = dict(use_bias=False, param_dtype=layer.variables["params"]["kernel"].dtype)
    drawn = dict(kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"))
    into = dict(features=rank, name=DOWN, parent=parent, **drawn, **plain)
    out = dict(features=layer.features, name=UP, parent=parent, kernel_init=nn.zeros, **plain)
    if isinstance(layer, Dense):
        return nn.Dense(**into), nn.Dense(**out)
    if isinstance(layer, Conv):
        window = (layer.kernel_size, layer.kernel_size)
        down = nn.Conv(kernel_size=window, strides=layer.strides, padding=layer.padding, **into)
        return down, nn.Dense(**out)
    if isinstance(layer, nn.DenseGeneral) and not layer.batch_dims:
        return layer.clone(**into), nn.DenseGeneral(**out)
    ungrouped = isinstance(layer, nn.Conv) and layer.feature_group_count == 1
    if isinstance(layer, nn.Dense) or ungrouped:
        return layer.clone(**into), nn.Dense(**out)
    raise SettingError(
        f"network.targets: {'/'.join(layer.path)} is a {type(layer).__name__}; expected patterns "
        "of Dense, DenseGeneral or Conv, without groups"
    )


def _chosen(theta: dict, trainable: str, head: str) -> tuple[list, list]:
    """The paths of what is trained of theta, and those of the head among them."""
    name = _pattern("network.head", head)
    last = [path for path in theta if any(name.fullmatch(part) for part in path[:-1])]
    if trainable == "all":
        return list(theta), last
    if trainable in ("head", "lora"):
        if not last:
            raise SettingError(
                f"network.head={head}: no layer has this name; there are {_shown(_layers(theta))}"
            )
        return last, last
    pattern = _pattern("network.trainable", trainable)
    found = [path for path in theta if pattern.search("/".join(path))]
    if not found:
        raise SettingError(
            f"network.trainable={trainable}: expected head, lora, all or a pattern found in the "
            f"path of a parameter; there are {_shown(theta)}"
        )
    return found, [path for path in found if path in last]


def _targets(theta: dict, targets: str, head: list) -> list:
    """The paths of the layers to which A and B are added."""
    pattern, layers = _pattern("network.targets", targets), _layers(theta)
    found = [path for path in layers if pattern.search("/".join(path))]
    found = [path for path in found if (*path, "kernel") not in head]
    if not found:
        raise SettingError(
            f"network.targets={targets}: found in the path of no layer; there are {_shown(layers)}"
        )
    return found


def _pattern(name: str, pattern: str) -> re.Pattern:
    try:
        return re.compile(text(name, pattern))
    except re.error as error:
        raise SettingError(f"{name}={pattern}: no regular expression, {error}") from None


def _layers(theta: dict) -> list:
    return [path[:-1] for path in theta if path[-1] == "kernel"]


def _shown(paths) -> str:
    names = ["/".join(path) for path in paths]
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)


def _pairs(apply, theta, x, layers, rank) -> dict:
    """{path: the layers of A and B, and the shape of what they are given}, by a trial run."""
    pairs = {}

    def note(call, args, kwargs, context):
        layer = context.module
        if context.method_name == "__call__" and layer.path in layers:
            given = [*args, *kwargs.values()][0]
            pair, kind = _pair(layer, rank, None), jax.ShapeDtypeStruct(given.shape, given.dtype)
            _check_rank(layer, rank)
            pairs[layer.path] = (*pair, kind)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda: apply(theta, x))
    return pairs


def _check_rank(layer: nn.Module, rank: int) -> None:
    outputs = math.prod(layer.features) if isinstance(layer.features, tuple) else layer.features
    most = min(outputs, layer.variables["params"]["kernel"].size // outputs)
    if rank > most:
        name = "/".join(layer.path)
        raise SettingError(
            f"network.rank={rank}: expected at most {most}, the rank of {name}, or other targets"
        )


def _drawn(key, pairs) -> dict:
    """{path: leaf} of A and B."""

    @jax.jit  # op by op, each would be compiled on its own
    def draw(key):
        leaves = {}
        for i, path in enumerate(sorted(pairs)):
            down, up, kind = pairs[path]
            zeros = jnp.zeros(kind.shape, kind.dtype)
            y, a = down.init_with_output(jax.random.fold_in(key, i), zeros)
            leaves[*path, DOWN, "kernel"] = a["params"]["kernel"]
            leaves[*path, UP, "kernel"] = up.init(key, y)["params"]["kernel"]
        return leaves

    return draw(key)


def _fresh(key, head: dict, std: float) -> dict:
    """The leaves of a new head."""

    def leaf(i, old):
        if old.ndim < 2:
            return jnp.zeros_like(old)
        return std * jax.random.normal(jax.random.fold_in(key, i), old.shape, old.dtype)

    return {path: leaf(i, old) for i, (path, old) in enumerate(sorted(head.items()))}
