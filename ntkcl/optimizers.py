"""Training rules with their twins in kernel space."""

from functools import partial

import optax

from ntkcl import forecast
from ntkcl.settings import finite, flag, share
from ntkcl.types import Optimizer


def sgd(momentum: float | int = 0.0, nesterov: bool = False) -> Optimizer:
    """(Stochastic) gradient descent theta <- theta - eta g, with heavy-ball or Nesterov momentum b, at rest at the start of a task.

    Stable for rate <= 2 / lam_max, with a heavy ball 2 (1 + b) / lam_max, with Nesterov 2 (1 + b) / ((1 + 2b) lam_max). With
    minibatches the rule is the mean path: the expected gradient of a batch is the full one.
    """
    b = share("optimizer.momentum", momentum)
    if flag("optimizer.nesterov", nesterov) and b == 0:
        raise ValueError("optimizer.nesterov=true with optimizer.momentum=0: expected a momentum above 0")
    rule = partial(forecast.nesterov if nesterov else forecast.heavy_ball, momentum=b) if b else forecast.gradient_descent
    top = 2.0 * (1.0 + b) / (1.0 + 2.0 * b if nesterov else 1.0)
    return Optimizer(
        partial(optax.sgd, momentum=b or None, nesterov=nesterov),
        rule,
        lambda lam_max: top / lam_max if lam_max > 0 else float("inf"),
    )


def adam(b1: float | int = 0.9, b2: float | int = 0.999, eps: float | int = 1e-8) -> Optimizer:
    """Adam. Its steps leave the span of the Jacobians, so it has no twin in kernel space; forecasts train the linearised network.

    No stability limit is known beforehand: give training.learning_rate.
    Source: Kingma, Ba 2015.
    """
    share("optimizer.b1", b1)
    share("optimizer.b2", b2)
    finite("optimizer.eps", eps, above=0.0)
    return Optimizer(partial(optax.adam, b1=b1, b2=b2, eps=eps), None, lambda lam_max: float("inf"))
