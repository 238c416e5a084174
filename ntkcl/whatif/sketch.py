"""Gradients kept as sketches, for many parameters or little memory.

With D the diagonal by which the base's optimizer has divided its gradients, the metric, and S of
random signs,

    z = S^T D^(-1/2) theta        J D^(1/2) S        S [p, d], one sign in each row, E S S^T = 1

stand in for parameters and gradients: a step of the rule with its metric frozen,

    theta <- theta - eta (D m + w theta),   m the mean of the gradients that momentum remembers,

is one of z, and products of gradients keep their mean. Of rules that are linear in gradients D is
1. What the sketch is wrong by on the base's own way is known, as what following it is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int8

from ntkcl.compilation import once
from ntkcl.types import Optimizer, Params
from ntkcl.validation import SettingError
from ntkcl.whatif.recipe import Recipe

RATE = 1.0  # learning rate at which a rule is probed


class Sketch(NamedTuple):
    """See above.

    root: D^(1/2).
    signs: of S, -1 or 1; row i of S has its sign in column i mod d.
    like: [d], only its shape counts.
    longer: by how much gradients are longer than their sketches, for what clips them.
    """

    root: Float[Array, " p"]
    signs: Int8[Array, " p"]
    like: Float[Array, " d"]
    longer: Any

    def place(self, theta: Params) -> Float[Array, " d"]:
        """z of parameters."""
        return self._times_S(ravel_pytree(theta)[0] / self.root)

    def rows(self, J: Float[Array, "r k p"]) -> Float[Array, "r k d"]:
        """Of gradients."""
        return jax.vmap(jax.vmap(lambda row: self._times_S(row * self.root)))(J)

    def _times_S(self, row):
        d = len(self.like)
        return jnp.pad(row * self.signs, (0, -len(row) % d)).reshape(-1, d).sum(0)


def sketch(
    theta: Params, state: Any, J: Float[Array, "r k p"], numbers: int, forgotten: float
) -> Sketch:
    """Of so many numbers.

    Arguments:
      theta, state: where the base has ended, and of its optimizer the metric's second moment.
      J: gradients of some samples there.
      forgotten: b2^S, the share of the second moment that is still that of rest.
    """
    flat, _ = ravel_pytree(theta)
    root, seen = jnp.ones_like(flat), _second_moment(state)
    if seen is not None:
        mean = ravel_pytree(seen)[0] / (1 - forgotten)
        # A parameter without a gradient so far has no metric: the least that another has.
        least = jnp.min(jnp.where(mean > 0, mean, jnp.inf))
        root = jnp.maximum(mean, least) ** -0.25
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), flat.size)
    made = Sketch(root, jnp.asarray(signs), jnp.zeros(numbers, flat.dtype), 1.0)
    return made._replace(longer=jnp.linalg.norm(J) / jnp.linalg.norm(made.rows(J)))


class Rule(NamedTuple):
    """What an optimizer does once its metric is frozen: momentum and decay, and the memory of its
    second moment; `optimizer` does it."""

    optimizer: Optimizer
    b2: float


@once
def frozen(optimizer: Optimizer) -> Rule:
    """An optimizer with its metric frozen, told by what it does to single numbers.

    Raises SettingError for one that is neither linear in gradients nor divides them by the root of
    a second moment.
    """
    rule = optimizer.transform(RATE)
    one, zero = jnp.ones(()), jnp.zeros(())
    _, state = rule.update(one, rule.init(zero), zero)
    if _second_moment(state) is None:
        if not _linear(rule):
            raise SettingError(
                "whatif.keep=sketch: the optimizer is neither linear in gradients nor has it a "
                "second moment; expected one such as sgd or adamw, or keep=gradients"
            )
        return Rule(optimizer, 0.0)
    b1 = 1 - float(optax.tree.get(state, "mu", one))
    b2 = 1 - float(_second_moment(state))
    decay = -float(rule.update(zero, rule.init(one), one)[0]) / RATE

    def transform(learning_rate):
        return optax.chain(
            optax.ema(b1),
            optax.add_decayed_weights(decay),
            optax.scale_by_learning_rate(learning_rate),
        )

    return Rule(optimizer._replace(transform=transform, rule=None), b2)


def _second_moment(state: Any) -> Any:
    return optax.tree.get(state, "nu", None)


def _linear(rule: optax.GradientTransformation) -> bool:
    """Whether two steps from zero, of three numbers at once, are linear in their gradients."""

    def moved(first, second):
        state, theta = rule.init(jnp.zeros(3)), jnp.zeros(3)
        for g in (first, second):
            updates, state = rule.update(g, state, theta)
            theta = optax.apply_updates(theta, updates)
        return theta

    a, b = np.random.default_rng(0).standard_normal((2, 2, 3))
    both = moved(*map(jnp.asarray, a + b))
    apart = moved(*map(jnp.asarray, a)) + moved(*map(jnp.asarray, b))
    return bool(jnp.allclose(both, apart, rtol=1e-4, atol=1e-6))


def in_metric(recipe: Recipe, base: Recipe, kept: Sketch) -> Recipe:
    """A candidate as one of z.

    Raises SettingError for an optimizer that is not the base's, whose metric is frozen.
    """
    if recipe.optimizer is not base.optimizer:
        raise SettingError(
            "whatif.optimizer: sketches are in the metric of the base's optimizer; expected the "
            "same, or keep=gradients"
        )
    clip = None if recipe.clip is None else recipe.clip / float(kept.longer)
    return recipe._replace(optimizer=frozen(recipe.optimizer).optimizer, clip=clip)


sketched = jax.jit(Sketch.rows)
