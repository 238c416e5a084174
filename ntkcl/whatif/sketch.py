"""Gradients kept as sketches, for many parameters or little memory.

With v the second moment by whose root the base's optimizer has divided its gradients, D =
diag(1 / sqrt(v)), the metric, and S of random signs,

    z = S^T D^(-1/2) theta        J D^(1/2) S        S [p, d], one sign in each row, E S S^T = 1

stand in for parameters and gradients. A step with the metric frozen, m the mean of gradients that
momentum remembers,

    theta <- theta - eta (D m + w theta)

is one of z, with the sketched gradients in m and without D. Of rules that are linear in gradients D
is 1. What the sketch is wrong by on the base's own way is known, as what following it is.
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

RATE = 1e-2  # learning rate at which an optimizer is probed
# A parameter that the base has hardly moved may be moved by a candidate, in whose optimizer it will
# have a second moment: the least, in units of the mean over its array.
FLOOR = 1.0


class Sketch(NamedTuple):
    """See above.

    root: the diagonal of D^(1/2).
    signs: of S, -1 or 1: row i of S has signs[i // d, i % d], in column i % d.
    norm_ratio: of gradients over their sketches, for what clips them.
    """

    root: Float[Array, " p"]
    signs: Int8[Array, "q d"]
    norm_ratio: Any

    def place(self, theta: Params) -> Float[Array, " d"]:
        """z of parameters."""
        return self._times_S(ravel_pytree(theta)[0] / self.root)

    def rows(self, J: Float[Array, "k p"]) -> Float[Array, "k d"]:
        """J D^(1/2) S."""
        return jax.vmap(lambda row: self._times_S(row * self.root))(J)

    def _times_S(self, row):
        padded = jnp.pad(row, (0, self.signs.size - len(row))).reshape(self.signs.shape)
        # A product with ones is summed four times as fast as by `sum`.
        ones = jnp.ones(len(padded), row.dtype)
        return jnp.dot(ones, padded * self.signs, precision="highest")


def sketch(theta: Params, state: Any, J: Float[Array, "r k p"], d: int, b2_power: float) -> Sketch:
    """A sketch of d columns, in the metric of an optimizer's state.

    Arguments:
      theta, state: where the base has ended.
      J: gradients of some samples there.
      d: of `columns`.
      b2_power: b2^S, the share of the second moment that is still that of rest.
    """
    flat, _ = ravel_pytree(theta)
    root, second = jnp.ones_like(flat), _second_moment(state)
    if second is not None:
        floored = jax.tree.map(lambda v: jnp.maximum(v, FLOOR * jnp.mean(v)), second)
        mean = ravel_pytree(floored)[0] / (1 - b2_power)
        root = jnp.maximum(mean, jnp.finfo(mean.dtype).tiny) ** -0.25
    made = plain(flat.size, d)._replace(root=root)
    kept = jax.vmap(made.rows)(J)
    return made._replace(norm_ratio=jnp.linalg.norm(J) / jnp.linalg.norm(kept))


def plain(p: int, d: int) -> Sketch:
    """A sketch of d columns of p parameters, in no metric."""
    rows = -(-p // d)
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (rows, d))
    return Sketch(jnp.ones(p), jnp.asarray(signs), 1.0)


def columns(numbers: int, parameters: int) -> int:
    """d, of a sketch of so many numbers: odd, since widths are even and the parameters of one unit
    would share columns, and at most p."""
    return min(numbers - (numbers % 2 == 0), parameters)


class Frozen(NamedTuple):
    """An optimizer once its metric is frozen, and the memory b2 of its second moment; 0 for none,
    where it is the optimizer itself."""

    optimizer: Optimizer
    b2: float


@once
def frozen(optimizer: Optimizer) -> Frozen:
    """An optimizer with its metric frozen: found from what it does to single numbers, and checked
    against it.

    Raises SettingError for one that is neither `is_linear` nor, with its second moment frozen, a
    mean of gradients that momentum remembers.
    """
    rule = optimizer.transform(RATE)
    one, zero = jnp.ones(1), jnp.zeros(1)
    _, state = rule.update(one, rule.init(zero), zero)
    if is_linear(optimizer):
        return Frozen(optimizer, 0.0)
    moments = optax.tree.get(state, "mu", one), _second_moment(state)
    if any(np.shape(moment) != one.shape for moment in moments):
        raise _without_metric()
    b1, b2 = (1 - float(moment[0]) for moment in moments)
    decay = -float(rule.update(zero, rule.init(one), one)[0][0]) / RATE
    if not (0 <= b1 < 1 and 0 < b2 < 1):
        raise _without_metric()

    def transform(learning_rate):
        return optax.chain(
            optax.ema(b1),
            optax.add_decayed_weights(decay),
            optax.scale_by_learning_rate(learning_rate),
        )

    if not _same_steps(rule, transform(RATE), b2):
        raise _without_metric()
    return Frozen(optimizer._replace(transform=transform, rule=None), b2)


def _without_metric() -> SettingError:
    return SettingError(
        "whatif.keep=sketch: the optimizer is neither linear in gradients, the same for every "
        "parameter, nor does it divide their mean by the root of a second moment; expected one "
        "such as sgd, adam or adamw, or whatif.keep=gradients or passes"
    )


def _second_moment(state: Any) -> Any:
    return optax.tree.get(state, "nu", None)


def _taken(rule: optax.GradientTransformation, theta, gradients):
    """theta after steps of these gradients, and the state."""
    state = rule.init(theta)
    for g in gradients:
        updates, state = rule.update(g, state, theta)
        theta = optax.apply_updates(theta, updates)
    return theta, state


@once
def is_linear(optimizer: Optimizer) -> bool:
    """Whether steps are linear in gradients and the same for every parameter: found from what eight
    of them do to a matrix and a vector, and to the same numbers in one array and turned. Decay of
    matrices alone, clipping of single numbers, and noise are not."""
    rule, key = optimizer.transform(RATE), np.random.default_rng(0)
    turn = jnp.asarray(np.linalg.qr(key.standard_normal((38, 38)))[0])
    theta, a, b = jnp.asarray(key.standard_normal((3, 8, 38)))
    start = theta[0]

    def tree(flat):
        return {"matrix": flat[:32].reshape(8, 4), "vector": flat[32:]}

    def moved(gradients):
        return _taken(rule, start, gradients)[0] - start

    error = jnp.linalg.norm(moved(a) + moved(b) - moved(a + b) - moved(0 * a))
    if not error <= 1e-4 * jnp.linalg.norm(moved(a + b)):
        return False
    for scale in (1e-3, 1.0, 1e3):
        g = scale * a
        ends, _ = _taken(rule, tree(start), [tree(one) for one in g])
        turned, _ = _taken(rule, turn @ start, g @ turn.T)
        way = turn @ (ravel_pytree(ends)[0] - start)
        if not jnp.linalg.norm(turned - turn @ start - way) <= 1e-3 * jnp.linalg.norm(way):
            return False
    return True


def _same_steps(rule, of_mean, b2: float, steps: int = 5) -> bool:
    """Whether steps of one gradient are those of its mean in the metric that they end with."""
    theta, g = jnp.array([1.0, -2.0]), jnp.array([1.0, 3.0])
    ends, state = _taken(rule, theta, [g] * steps)
    root = (_second_moment(state) / (1 - b2**steps)) ** -0.25
    other, _ = _taken(of_mean, theta / root, [g * root] * steps)
    return bool(jnp.allclose(ends - theta, other * root - theta, rtol=0.05))


def sketched_recipe(recipe: Recipe, base: Recipe, kept: Sketch) -> Recipe:
    """The recipe whose steps act on z.

    Raises SettingError where the metric, frozen, is not that of the candidate's optimizer.
    """
    made, of_base = (frozen(one.optimizer) for one in (recipe, base))
    if recipe.optimizer is not base.optimizer and (made.b2 or of_base.b2):
        raise SettingError(
            "whatif.optimizer: sketches are in the metric of the base's optimizer; expected the "
            "same, or whatif.keep=gradients"
        )
    clip = None if recipe.clip is None else recipe.clip / float(kept.norm_ratio)
    return recipe._replace(optimizer=made.optimizer, clip=clip)
