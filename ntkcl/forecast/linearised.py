"""The linearised network is trained, by the trainer itself with any loss, rule and method.

No kernel is held. It costs about one training; with k steps taken as one (`Effort.coarsen`) it
takes 1.5 / k of the steps, a third of them to see what that changes.
"""

import numpy as np

from ntkcl import networks
from ntkcl.forecast.outcome import Effort, Outcome
from ntkcl.training.problem import (
    Anchor,
    Problem,
    carried_optimizer_state,
    consolidate,
    train,
)
from ntkcl.types import Network


def linearised(kernel_fn, effort: Effort):
    """`(problem, anchor, count) -> outcomes`, by training the network linearised at the anchor."""

    def forecast(problem: Problem, anchor: Anchor, count: int) -> list[Outcome]:
        network, k = networks.linearised(problem.network, anchor.theta), effort.coarsen
        outcomes = train_model(problem.coarsened(k), network, anchor, count)
        if k == 1:
            return outcomes
        coarser = train_model(problem.coarsened(2 * k), network, anchor, count)
        return [
            one._replace(coarser=two.change) for one, two in zip(outcomes, coarser, strict=True)
        ]

    return forecast


def train_model(problem: Problem, network: Network, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, by training this network in place of the problem's."""
    theta, memory, state = anchor.theta, anchor.memory, anchor.optimizer_state
    f, outcomes = networks.forward(network.apply, theta, problem.x), []
    for t in anchor.ahead(count):
        fitted = train(problem, t, network, theta, memory, state)
        if t + 1 in anchor.ahead(count):
            memory = consolidate(problem, t, network, fitted)
        theta, state = fitted.theta, carried_optimizer_state(problem, fitted)
        before, f = f, networks.forward(network.apply, theta, problem.x)
        change = np.asarray(f, np.float64) - np.asarray(before, np.float64)
        outcomes.append(Outcome(change, float("nan"), float("nan")))
    return outcomes
