"""From a linen module to the pure functions the rest of the house works with."""

from collections import defaultdict
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ntkcl.compilation import portable
from ntkcl.networks import strided
from ntkcl.networks.affine import features
from ntkcl.networks.layers import Conv
from ntkcl.types import Apply, Network, Params, Survey, Taps
from ntkcl.validation import SettingError


def network(
    module: nn.Module,
    *,
    constants: dict | None = None,
    batched: bool = False,
    centred: bool = False,
    rate_scale: float = 1.0,
    infinite=None,
) -> Network:
    """The `Network` of any linen module.

    Arguments:
      module: maps one input to [c] outputs or, with `batched=True`, inputs [n, ...] to [n, c].
      constants: collections beside "params" that the module reads, such as {"batch_stats": ...};
        they are not trained.
      centred: train and forecast f - f_0.
      rate_scale: what a learning rate given as a number is multiplied by.
      infinite: the kernel of infinite width, see `ntkcl.types.Network`.

    Raises ValueError, when it is first applied, for a module that writes collections (batch norm in
      training mode) or reads
    collections that `constants` lacks.
    """
    constants = constants or {}
    # Arguments of programs, like theta, and not written into them.
    held = jax.tree.map(jnp.asarray, constants)

    def init(key, x):
        variables = _initial(module, key, x[None] if batched else x)
        missing = sorted(set(variables) - {"params"} - set(constants))
        if missing:
            raise SettingError(
                f"network: the module keeps {', '.join(missing)} beside its parameters; expected "
                f"networks.network(module, constants={{{missing[0]!r}: ...}})"
                + ", and use_running_average=True"
                * ("batch_stats" in missing)
            )
        return variables.get("params", {})

    def on_module(constants, theta, x):
        try:
            return module.apply({"params": theta} | constants, x)
        except errors.ModifyScopeVariableError as error:
            raise SettingError(
                "network: the module writes state while it runs, so its samples interact (batch "
                "norm in training mode?); "
                "use use_running_average=True and networks.network(constants=...)"
            ) from error

    def on_one(constants, theta, x):
        return on_module(constants, theta, x[None])[0]

    on_batch = Partial(on_module, held)
    apply = Partial(on_one, held) if batched else on_batch
    together = on_batch if batched else None
    return Network(init, apply, taps(apply), centred, together, rate_scale, infinite)


@partial(jax.jit, static_argnums=0)  # op by op, a deep network is hundreds of small compilations
def _initial(module, key, x):
    return module.init(key, x)


def taps(apply: Apply) -> Taps:
    """What the structured kernel sees of a linen model from outside, through
    `nn.intercept_methods`.

    A layer is seen if it is affine in its parameters (`ntkcl.networks.affine`), runs in the model's
    own trace (not inside `nn.scan`, `jax.checkpoint`, ...), and its parameters are used by nothing
    else. It may run several times.

    theta is the module's own "params", or a part of them where `apply` holds the others: a nest of
    dictionaries of arrays. A layer is seen if all of its parameters are in theta. Raises ValueError
    for boxed ones (`nn.with_partitioning`).
    """

    apply = portable(apply)
    return Taps(Partial(_survey, apply), Partial(_read, apply))


def _survey(apply, theta, x) -> Survey:
    if any(not hasattr(key, "key") for path, _ in _leaves(theta) for key in path):
        raise SettingError(
            "structured kernel: theta is not a nest of dictionaries of arrays; "
            "flax.linen.unbox(params) takes boxes off"
        )
    paths = [tuple(key.key for key in path) for path, _ in _leaves(theta)]
    called, outside = _called(apply, theta, x, paths)
    layers = tuple(layer for layer in called if not any(path[:-1] == layer for path in outside))
    if not _in_own_trace(apply, theta, x, layers):
        layers = tuple(layer for layer in layers if _in_own_trace(apply, theta, x, (layer,)))
    seen = [path[:-1] in layers for path in paths]
    used = [path in outside or path[:-1] in called for path in paths]
    return Survey(layers, tuple(i for i in range(len(paths)) if used[i] and not seen[i]))


_leaves = jax.tree.leaves_with_path


def _called(apply, theta, x, paths) -> tuple[list, set]:
    """The layers that are called, and the paths of the parameters that are read outside of them."""
    calls: list[tuple[str, ...]] = []

    def cut(theta, own, x, apply):
        """The model with the candidates' parameters taken from `own`: what still reads `theta` lies
        outside of them."""

        def on_call(module, call, args, kwargs, phi):
            calls.append(module.path)
            parameters = {"params": _layer(own, module.path)}
            return module.clone(parent=None).apply(parameters, *args, **kwargs)

        return _intercepted(apply, on_call)(theta, x)

    jaxpr = jax.make_jaxpr(cut)(theta, theta, x, apply).jaxpr
    read = {id(v) for eqn in jaxpr.eqns for v in eqn.invars} | {id(v) for v in jaxpr.outvars}
    outside = {path for path, v in zip(paths, jaxpr.invars, strict=False) if id(v) in read}
    return list(dict.fromkeys(calls)), outside


def _in_own_trace(apply, theta, x, layers) -> bool:
    """Whether the layers run in the model's own trace: what is read off them can then be used."""

    def used(apply, theta, x):
        return jax.tree.map(lambda a: a * 1, _read(apply, layers, theta, {}, x))

    try:
        consts = jax.make_jaxpr(used)(apply, theta, x).consts
    except jax.errors.UnexpectedTracerError:  # one runs inside a jax.vmap, ... of the model's own
        return False
    # Inside of a jax.checkpoint, jax.jit, ... likewise, but nothing is raised.
    return not any(isinstance(const, jax.core.Tracer) for const in consts)


def _read(apply, layers, theta, probes, x):
    phis, signals = defaultdict(list), defaultdict(list)

    def on_call(module, call, args, kwargs, phi):
        if module.path not in layers:
            return call(*args, **kwargs)
        if type(module) in (nn.Conv, Conv):
            unstrided = module.clone(parent=None, conv_general_dilated=strided.convolution)
            call = partial(unstrided.apply, {"params": _layer(theta, module.path)})
        z = call(*args, **kwargs)
        signal = z.reshape(len(phi), phi.shape[1], -1)
        if module.path in probes:
            signal = signal + probes[module.path][len(signals[module.path])]
        phis[module.path].append(phi.astype(z.dtype))
        signals[module.path].append(signal)
        return signal.reshape(z.shape)

    f = _intercepted(apply, on_call)(theta, x)
    return f, dict(phis), dict(signals)


def _intercepted(apply, on_call):
    def intercepted(theta, x):
        root = None

        def intercept(call, args, kwargs, context):
            nonlocal root
            scope = context.module.scope
            root = scope.root if root is None else root
            # Another root: inside a lifted transformation, or a clone of ours.
            if context.method_name != "__call__" or scope.root is not root:
                return call(*args, **kwargs)
            if not _holds(theta, context.module):
                return call(*args, **kwargs)
            phi = features(context.module, *args, *kwargs.values())
            if phi is None:
                return call(*args, **kwargs)
            return on_call(context.module, call, args, kwargs, phi)

        with nn.intercept_methods(intercept):
            return apply(theta, x)

    return intercepted


def _holds(theta, module) -> bool:
    """Whether all parameters of a module that runs are in theta; in another model's are others."""
    own = flatten_dict(theta)
    held = {path[len(module.path) :] for path in own if path[: len(module.path)] == module.path}
    return held == set(flatten_dict(unfreeze(module.variables.get("params", {}))))


def _layer(theta, path):
    for name in path:
        theta = theta[name]
    return theta


def centred(apply: Apply, theta0: Params | None) -> Apply:
    """f(x; theta) - f(x; theta0): the output starts at zero and the tangent kernel is unchanged.
    With None, `apply` itself."""
    return apply if theta0 is None else Partial(_centred, portable(apply), theta0)


def _centred(apply, theta0, theta, x):
    return apply(theta, x) - apply(jax.lax.stop_gradient(theta0), x)


def computed_in(apply: Apply, dtype: str) -> Apply:
    """f(x; theta) computed in another floating type, such as "bfloat16": parameters and input are
    rounded to it, output and gradients are in that of theta again. Integers stay what they are."""
    return Partial(_ComputedIn(dtype), portable(apply))


class _ComputedIn(NamedTuple):
    dtype: str

    def __call__(self, apply, theta, x):
        def rounded(leaf):
            return leaf.astype(self.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return apply(jax.tree.map(rounded, theta), rounded(x)).astype(
            jnp.result_type(*jax.tree.leaves(theta))
        )


@jax.jit
def _forward(apply, theta, x):
    return jax.vmap(apply, (None, 0))(theta, x)


def forward(apply: Apply, theta: Params, x: Any) -> Float[Array, "n c"]:
    """f(x; theta) of all inputs x [n, ...]."""
    return _forward(portable(apply), theta, x)
