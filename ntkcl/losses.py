"""Losses of one prediction and one target; means over samples are taken by whoever calls them.

The head mask is an argument: outputs outside it neither count nor divide. The normalisation of a
loss decides what a learning rate means in function space, so a loss carries its own.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl.compilation import once
from ntkcl.types import Loss


def takes(loss: Loss, y, head) -> bool:
    """Whether targets [n, c] are what a loss is of: any for squared error, else distributions over
    the active outputs."""
    active = np.asarray(y)[:, np.flatnonzero(head)]
    return loss.quadratic or bool((active >= 0).all() and (abs(active.sum(1) - 1) <= 1e-6).all())


@once
def squared_error() -> Loss:
    """Half the mean squared error over the active outputs: 1/(2 sum(m)) sum_a m_a (f_a - y_a)^2.

    The mean over n samples has the output gradient (f - y)/(n sum(m)), hence rate = learning_rate /
    (n sum(m)): the convention of neural-tangents, theory's default.
    """

    def value(f, y, head):
        return 0.5 * jnp.sum(head * (f - y) ** 2) / jnp.sum(head)

    def rate(learning_rate, n, head):
        return learning_rate / (n * float(np.sum(np.asarray(head))))

    return Loss(value, rate)


@once
def cross_entropy() -> Loss:
    """Cross-entropy of the softmax over the active outputs: -sum_a m_a y_a log softmax(f)_a.

    y is a distribution over them.

    The mean over n samples has the output gradient (softmax(f) - y)/n, hence rate = learning_rate /
    n. No second derivative exceeds 1/2. Not quadratic: logits grow without end, and forecasts
    follow the training steps one by one.
    """

    def value(f, y, head):
        return jnp.sum(head * y) * jax.nn.logsumexp(f, where=head > 0) - jnp.sum(head * y * f)

    def rate(learning_rate, n, head):
        return learning_rate / n

    return Loss(value, rate, curvature=0.5, quadratic=False)
