"""A network replaced by its first-order expansion, which every closed-form forecast assumes."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ntkcl.compilation import portable
from ntkcl.types import Network, Params, Taps


def linearised(network: Network, theta0: Params) -> Network:
    """f_lin(x; theta) = f(x; theta_0) + J(x; theta_0) (theta - theta_0), a network like any other,
    whose `init` gives theta_0.

    Trained with any Optax rule it is the forecast of that rule where no closed form exists (Adam,
    cross-entropy), and the check of those that have one. Its kernel is that of the network at
    theta_0, wherever theta goes.
    Cost: a forward pass about twice that of the network, nothing stored.
    Source: Lee et al. 2019.
    """

    apply = Partial(_expanded, portable(network.apply), theta0)
    return Network(
        init=lambda key, x: theta0,
        apply=apply,
        taps=network.taps and _taps(network, apply, theta0),
        centred=network.centred,
    )


def _expanded(apply, theta0, theta, x):
    away = jax.tree.map(jnp.subtract, theta, theta0)
    f, change = jax.jvp(lambda p: apply(p, x), (theta0,), (away,))
    return f + change


def _taps(network, apply, theta0):
    """Those of the network at theta_0, wherever theta is: what the parameters multiply, and what
    their signals are, does not move."""
    survey, read = map(portable, network.taps)
    start = portable(network.apply)
    return Taps(Partial(_survey, survey, theta0), Partial(_read, read, start, apply, theta0))


def _survey(survey, theta0, theta, x):
    return survey(theta0, x)


def _read(read, start, apply, theta0, layers, theta, probes, x):
    f, phi, z = read(layers, theta0, probes, x)
    return f + apply(theta, x) - start(theta0, x), phi, z
