"""Samples kept of old tasks, and means over them: what methods with a memory have in common."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl.losses import squared_error
from ntkcl.validation import SettingError, whole

DISTANCE = squared_error()  # between outputs, whatever the task's own loss


def draw_memory(seed: int, t: int, n: int, per_task: int | None) -> np.ndarray:
    """Which of the n samples of task t a memory keeps.

    `per_task` of them, drawn without replacement; None: all. ValueError for more than n.
    """
    if per_task is None:
        return np.arange(n)
    if whole("method.per_task", per_task) > n:
        raise SettingError(
            f"method.per_task={per_task}: expected at most {n}, the samples of task {t}, or null "
            "for all"
        )
    key = jax.random.fold_in(jax.random.key(seed), t)
    return np.sort(np.asarray(jax.random.permutation(key, n))[:per_task])


def mean_loss(loss, apply, theta, kept):
    """Mean loss over all the samples (x, y, head) kept of old tasks, together."""
    total = sum(
        jnp.sum(jax.vmap(lambda x, y, h=h: loss.value(apply(theta, x), y, h))(x, y))
        for x, y, h in kept
    )
    return total / sum(len(x) for x, _, _ in kept)


def outputs(apply, theta, x):
    """f at all x, [n, c]."""
    return jax.vmap(apply, (None, 0))(theta, x)


def mean_over(function, theta, samples):
    """The mean of function(sample), shaped as theta, over the samples.

    One at a time, so that only one is held.
    """

    def add(total, sample):
        return jax.tree.map(jnp.add, total, function(sample)), None

    total = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, theta), samples)[0]
    return jax.tree.map(lambda leaf: leaf / len(jax.tree.leaves(samples)[0]), total)
