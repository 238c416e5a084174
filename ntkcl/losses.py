"""Losses of one prediction and one target; means over samples are taken by whoever calls them.

The head mask is an argument: outputs outside it neither count nor divide. The normalisation of a loss decides what a
learning rate means in function space, so each loss states its own.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def squared_error(f: Float[Array, " c"], y: Float[Array, " c"], head: Float[Array, " c"]) -> Float[Array, ""]:
    """Half the mean squared error over the active outputs.

    1/(2 sum(m)) sum_a m_a (f_a - y_a)^2. The mean over n samples then has the output gradient (f - y)/(n sum(m)), so that
    the filters of `ntkcl.forecast` take rate = learning_rate / (n sum(m)), the convention of neural-tangents.
    """
    return 0.5 * jnp.sum(head * (f - y) ** 2) / jnp.sum(head)
