"""Losses of one prediction and one target; means over samples are taken by whoever calls them.

The head mask is an argument: outputs outside it neither count nor divide. The normalisation of a loss decides what a
learning rate means in function space, so a loss carries its own.
"""

import jax.numpy as jnp
import numpy as np

from ntkcl.types import Loss


def squared_error() -> Loss:
    """Half the mean squared error over the active outputs: 1/(2 sum(m)) sum_a m_a (f_a - y_a)^2.

    The mean over n samples has the output gradient (f - y)/(n sum(m)), hence rate = learning_rate / (n sum(m)): the convention of
    neural-tangents, theory's default.
    """

    def value(f, y, head):
        return 0.5 * jnp.sum(head * (f - y) ** 2) / jnp.sum(head)

    def rate(learning_rate, n, head):
        return learning_rate / (n * float(np.sum(head)))

    return Loss(value, rate)
