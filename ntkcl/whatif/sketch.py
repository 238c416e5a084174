"""Some of the numbers of each gradient, for many parameters or little memory.

Of the p parameters d are drawn, i with probability pi_i. With S [p, d] of columns e_i / sqrt(pi_i),

    z = S^T theta        J S        E S S^T = 1

stand in for parameters and gradients: inner products of them are right in the mean. An optimizer
that treats each parameter by its own gradients alone, such as Adam, takes the steps of the drawn
ones as it would among all. What is estimated is what the outputs make of them, a sum over all
parameters by one over the drawn, each divided by pi_i.

That sum varies least where pi_i is proportional to its terms. They are taken to be the root mean
square of a parameter's gradients times that of its movement along the base, to each of which its
mean over the array is added, since a candidate may move what the base has hardly moved.

Systematic sampling: W. G. Madow and L. H. Madow, On the theory of systematic sampling, 1944.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl.types import Params

FAINT = 1e-9  # the least weight, over their mean


class Sketch(NamedTuple):
    """See above.

    places: a pytree like theta, in each leaf the places of those drawn of its array, flattened.
    scale: 1 / sqrt(pi_i) of the drawn.
    """

    places: Any
    scale: Float[Array, " d"]

    def of(self, tree: Params) -> Float[Array, " d"]:
        """z of parameters, or a row of J S of a gradient."""
        drawn = jax.tree.map(lambda leaf, at: leaf.ravel()[at], tree, self.places)
        return jnp.concatenate(jax.tree.leaves(drawn)) * self.scale


def sketch(weights: Params, d: int) -> Sketch:
    """d parameters drawn, with probabilities proportional to their weights, at most 1.

    Arguments:
      weights: a pytree like theta, at least 0.
      d: at most as many as there are.
    """
    leaves, tree = jax.tree.flatten(weights)
    chances = probabilities(np.concatenate([np.ravel(leaf) for leaf in leaves]), d)
    # Evenly along all parameters, so that each array has its part.
    passed = np.floor(np.append(0.0, np.cumsum(chances)) + np.random.default_rng(0).random())
    drawn = np.flatnonzero(np.diff(passed))
    ends = np.cumsum([0] + [leaf.size for leaf in leaves])
    cuts = np.searchsorted(drawn, ends)
    each = zip(cuts, cuts[1:], ends, strict=False)
    places = [jnp.asarray(drawn[a:b] - first, jnp.int32) for a, b, first in each]
    scale = jnp.asarray(chances[drawn] ** -0.5, leaves[0].dtype)
    return Sketch(jax.tree.unflatten(tree, places), scale)


def probabilities(weights: Float[np.ndarray, " p"], d: int) -> Float[np.ndarray, " p"]:
    """min(1, c w_i), c such that their sum is d."""
    weights = weights.astype(np.float64)
    mean = weights.mean()
    weights = weights + FAINT * mean if mean > 0 else np.ones_like(weights)
    certain, chances = np.zeros(len(weights), bool), weights
    while True:
        left = d - certain.sum()
        chances = np.where(certain, 1.0, left * weights / max(weights[~certain].sum(), 1e-300))
        over = (chances >= 1) & ~certain
        if not over.any():
            return chances
        certain |= over


def weights(squares: Params, moved: Params) -> Params:
    """Of what each parameter has to do with the outputs, from the mean squares of its gradients and
    of its movements."""

    def one(g, m):
        root = jnp.sqrt(g) + jnp.sqrt(jnp.mean(g))
        return root * (jnp.sqrt(m) + jnp.sqrt(jnp.mean(m)))

    return jax.tree.map(one, squares, moved)
