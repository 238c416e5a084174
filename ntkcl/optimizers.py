"""Training rules with their twins in kernel space."""

import optax

from ntkcl.forecast import gradient_descent
from ntkcl.types import Optimizer


def sgd() -> Optimizer:
    """Plain (stochastic) gradient descent, theta <- theta - eta g; stable for rate <= 2 / lam_max.

    With minibatches the filter is the mean path: the expected gradient of a batch is the full one.
    """
    return Optimizer(optax.sgd, gradient_descent, lambda lam_max: 2.0 / lam_max if lam_max > 0 else float("inf"))
