"""The linearised network is trained, by the trainer itself with any loss, rule and method; no kernel is held."""

import jax.numpy as jnp

from ntkcl import networks
from ntkcl.forecast.outcome import Outcome
from ntkcl.training.problem import Anchor, Setting, consolidated, fit, left
from ntkcl.types import Network


def linearised(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, by training the network linearised at the anchor."""
    return follow(setting, networks.linearised(setting.network, anchor.theta), anchor, count)


def follow(setting: Setting, network: Network, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, by training this network in place of the setting's."""
    theta, memory, optimizer, outcomes = anchor.theta, anchor.memory, anchor.optimizer, []
    f = networks.forward(network.apply, theta, setting.x)
    for t in anchor.ahead(count):
        fitted = fit(setting, t, network, theta, memory, optimizer)
        memory = consolidated(setting, t, network, fitted)
        theta, optimizer, before = fitted.theta, left(setting, fitted), f
        f = networks.forward(network.apply, theta, setting.x)
        outcomes.append(
            Outcome(f.astype(jnp.float64) - before.astype(jnp.float64), float("nan"), float("nan"))
        )
    return outcomes
