"""From a linen module to the pure functions the rest of the house works with."""

import jax
from flax import linen as nn

from ntkcl.networks.layers import Dense
from ntkcl.types import Apply, Network, Params


def network(module: nn.Module, *, centred: bool = False, structured: bool = True) -> Network:
    """The `Network` of a linen module that maps one input to [c] outputs.

    `structured=False` for a module with parameters outside `ntkcl.networks.Dense`: its kernel is contracted from Jacobians.
    """

    def init(key, x):
        return module.init(key, x)["params"]

    def apply(theta, x):
        return module.apply({"params": theta}, x)

    return Network(init, apply, taps(module) if structured else None, centred)


def taps(module: nn.Module):
    """What the structured kernel reads off one forward pass, seen from outside through `nn.intercept_methods`.

    Returns `tapped(theta, probes, x) -> (f, features, signals)`: for each layer `features[layer][leaf]` is the vector phi that
    the leaf multiplies, `signals[layer]` the layer's output z. `probes[layer]`, where given, is added to z, so that the
    derivative of f with respect to it is the back-propagated signal delta = df/dz.

    Raises ValueError where one layer runs twice in a pass: its kernel is then not a single product.
    """

    def tapped(theta, probes, x):
        features, signals = {}, {}

        def intercept(call, args, kwargs, context):
            z = call(*args, **kwargs)
            if context.method_name != "__call__" or not isinstance(context.module, Dense):
                return z
            layer = "/".join(context.module.path)
            if layer in signals:
                raise ValueError(f"layer {layer} runs more than once in a forward pass: use kernels.contraction(apply)")
            features[layer] = context.module.leaf_features(args[0])
            signals[layer] = z = z + probes[layer] if layer in probes else z
            return z

        with nn.intercept_methods(intercept):
            f = module.apply({"params": theta}, x)
        return f, features, signals

    return tapped


def centred(apply: Apply, theta0: Params) -> Apply:
    """f(x; theta) - f(x; theta0): the output starts at zero and the tangent kernel is unchanged."""
    return lambda theta, x: apply(theta, x) - apply(jax.lax.stop_gradient(theta0), x)
