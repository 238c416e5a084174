"""A sample of the parameters in the place of all, where there are many or little memory.

Of the p parameters d are sampled without replacement, parameter i with inclusion probability pi_i.
With S [p, d] of the columns e_i / sqrt(pi_i),

    z = S^T theta        J S        E S S^T = 1

stand in for parameters and gradients. An element-wise optimizer, such as SGD or Adam, updates each
parameter from its own gradients and value alone: so, given the gradients of the loss with respect
to the outputs, it moves the sampled ones as it would among all. Only the outputs are estimated: of
their sum over all parameters the terms of the sampled ones are taken, each divided by pi_i (Horvitz
and Thompson, 1952).

That estimate varies least where pi_i is proportional to the size of its term. Taken for it is the
root mean square of a parameter's gradients times that of its movement along the base, to each of
which the root mean square over its array is added, since a candidate may move what the base has
hardly moved. The sampling is systematic (Madow and Madow, 1944), so that each array has its part.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl.types import Params

FAINT = 1e-9  # added to each weight, over their mean: no parameter is left out for certain


class Sketch(NamedTuple):
    """The sampled parameters.

    places: a pytree like theta, in each leaf the indices of those sampled of its array, flattened.
    scale: 1 / sqrt(pi_i) of them.
    """

    places: Any
    scale: Float[Array, " d"]

    @jax.jit
    def of(self, tree: Params) -> Float[Array, " d"]:
        """z of parameters, or the row of J S of a gradient."""
        some = jax.tree.map(lambda leaf, at: leaf.ravel()[at], tree, self.places)
        return jnp.concatenate(jax.tree.leaves(some)) * self.scale


def sketch(weights: Params, d: int) -> Sketch:
    """d parameters sampled, with probabilities proportional to their weights, at most 1.

    Arguments:
      weights: a pytree like theta, at least 0, such as of `importance`.
      d: at most as many as there are.
    """
    leaves, tree = jax.tree.flatten(weights)
    chances = probabilities(np.concatenate([np.ravel(leaf) for leaf in leaves]), d)
    # Evenly along the sum of all probabilities.
    drawn = np.searchsorted(np.cumsum(chances), np.arange(d) + np.random.default_rng(0).random())
    ends = np.cumsum([0] + [leaf.size for leaf in leaves])
    cuts = np.searchsorted(drawn, ends)
    each = zip(cuts, cuts[1:], ends, strict=False)
    places = [jnp.asarray(drawn[a:b] - first, jnp.int32) for a, b, first in each]
    scale = jnp.asarray(chances[drawn] ** -0.5, leaves[0].dtype)
    return Sketch(jax.tree.unflatten(tree, places), scale)


def probabilities(weights: Float[np.ndarray, " p"], d: int) -> Float[np.ndarray, " p"]:
    """min(1, c w_i) of weights w_i, with c such that their sum is d; the same for all where
    these are 0 or not finite."""
    mean = weights.mean(dtype=np.float64)
    usable = np.isfinite(mean) and mean > 0
    w = weights.astype(np.float64) + FAINT * mean if usable else np.ones(len(weights))
    certain = np.zeros(len(w), bool)
    while True:
        left = d - certain.sum()
        chances = np.where(certain, 1.0, left * w / max(w[~certain].sum(), 1e-300))
        over = (chances >= 1) & ~certain
        if not over.any():
            return chances
        certain |= over


def importance(squares: Params, moved: Params) -> Params:
    """How much each parameter matters to the outputs: the root of the mean square of its gradients
    times that of its movement, to each of which the root mean square over its array is added.

    squares, moved: pytrees like theta; of movements the sum of squares is as good, since only the
      proportions count.
    """

    def one(g, m):
        root = jnp.sqrt(g) + jnp.sqrt(jnp.mean(g))
        return root * (jnp.sqrt(m) + jnp.sqrt(jnp.mean(m)))

    return jax.tree.map(one, squares, moved)
