"""What kind of rule an optimizer is: found from what a few of its steps do, since Optax does not
say."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from ntkcl.compilation import once
from ntkcl.types import Optimizer
from ntkcl.validation import SettingError

RATE = 1e-2  # learning rate at which an optimizer is probed
SCALES = (1e-3, 1.0, 1e3)  # of the gradients: clipping shows at one of them
SMALL, LARGE = (8, 4), (128, 128)  # matrices; only large ones are factored, as by Adafactor


@once
def is_linear(optimizer: Optimizer) -> bool:
    """Whether steps are linear in gradients and the same for every parameter: found from what eight
    of them do to a matrix and a vector, and to the same numbers in one array and turned. Decay of
    matrices alone, clipping of single numbers, and noise are not."""
    rule, (start, a, b) = optimizer.transform(RATE), _probe(SMALL)
    square = np.random.default_rng(1).standard_normal((38, 38))
    turn = jnp.asarray(np.linalg.qr(square)[0])

    def moved(gradients):
        return _taken(rule, start, gradients) - start

    error = jnp.linalg.norm(moved(a) + moved(b) - moved(a + b) - moved(0 * a))
    if not error <= 1e-4 * jnp.linalg.norm(moved(a + b)):
        return False
    for scale in SCALES:
        g = scale * a
        whole = _taken(rule, _tree(start, SMALL), [_tree(one, SMALL) for one in g])
        way = turn @ (whole - start)
        turned = _taken(rule, turn @ start, g @ turn.T)
        if not jnp.linalg.norm(turned - turn @ start - way) <= 1e-3 * jnp.linalg.norm(way):
            return False
    return True


@once
def is_elementwise(optimizer: Optimizer) -> bool:
    """Whether each parameter is updated from its own gradients and value alone: found from what
    eight steps do to a matrix and a vector, and to some of the same numbers alone."""
    rule, (start, a, _) = optimizer.transform(RATE), _probe(LARGE)
    some = np.arange(0, len(start), 3)
    for scale in SCALES:
        g = scale * a
        whole = _taken(rule, _tree(start, LARGE), [_tree(one, LARGE) for one in g])
        way = (whole - start)[some]
        alone = _taken(rule, start[some], g[:, some]) - start[some]
        if not jnp.linalg.norm(alone - way) <= 1e-3 * jnp.linalg.norm(way):
            return False
    return True


def check_elementwise(optimizer: Optimizer) -> None:
    """SettingError for one that sketches cannot follow."""
    if not is_elementwise(optimizer):
        raise SettingError(
            "whatif.keep=sketch: the optimizer does not update each parameter from its own "
            "gradients and value alone; expected one such as sgd, adam or adamw, or "
            "whatif.keep=gradients or passes"
        )


def _probe(shape):
    """Parameters of a matrix and a vector of six, flat, and two times eight gradients of them."""
    size = math.prod(shape) + 6
    theta, a, b = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8, size)))
    return theta[0], a, b


def _tree(flat, shape) -> dict[str, Any]:
    return {"matrix": flat[:-6].reshape(shape), "vector": flat[-6:]}


def _taken(rule: optax.GradientTransformation, theta, gradients):
    """theta after steps of these gradients, flat."""
    state = rule.init(theta)
    for g in gradients:
        updates, state = rule.update(g, state, theta)
        theta = optax.apply_updates(theta, updates)
    return ravel_pytree(theta)[0]
