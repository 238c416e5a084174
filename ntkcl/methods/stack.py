"""Rows of old tasks beside those of the new one: what replay, joint training and functional regularisation have in common."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl.forecast import Step
from ntkcl.losses import squared_error
from ntkcl.settings import whole

DISTANCE = squared_error()  # between outputs, whatever the task's own loss


def stacked(*parts) -> Step:
    """One step on the rows (inputs, targets, weights) of all parts."""
    inputs, targets, weights = zip(*parts, strict=True)
    return Step(np.concatenate(inputs), jnp.concatenate(targets), np.concatenate(weights))


def own(task, weight=1.0, pick=slice(None)):
    """The task's rows, or some of them, every active output with one weight."""
    targets = task.targets[pick]
    return np.asarray(task.inputs)[pick], targets, weight * np.broadcast_to(np.asarray(task.head, float), targets.shape)


def buffered(tasks, new, picks, weight):
    """Rows of old tasks, some of each, whose weights make `weight` x their mean loss beside that of the task `new`."""
    size = sum(map(len, picks))
    return [own(task, weight * new.scale / (size * np.sum(task.head)), pick) for task, pick in zip(tasks, picks, strict=True)]


def chosen(seed: int, t: int, n: int, per_task: int | None) -> np.ndarray:
    """Which of the n samples of task t a memory keeps: `per_task` drawn without replacement, or all of them."""
    if per_task is None:
        return np.arange(n)
    if whole("method.per_task", per_task) > n:
        raise ValueError(f"method.per_task={per_task}: expected at most {n}, the samples of task {t}, or null for all")
    return np.sort(np.asarray(jax.random.permutation(jax.random.fold_in(jax.random.key(seed), t), n))[:per_task])


def mean_loss(loss, apply, theta, kept):
    """Mean loss over all the samples (x, y, head) kept of old tasks, together."""
    total = sum(jnp.sum(jax.vmap(lambda x, y, h=h: loss.value(apply(theta, x), y, h))(x, y)) for x, y, h in kept)
    return total / sum(len(x) for x, _, _ in kept)


def outputs(apply, theta, x):
    """f at all x, [n, c]."""
    return jax.vmap(apply, (None, 0))(theta, x)


def mean_over(function, theta, samples):
    """The mean of function(sample), shaped as theta, over the samples; one at a time, so that only one is held."""

    def add(total, sample):
        return jax.tree.map(jnp.add, total, function(sample)), None

    total = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, theta), samples)[0]
    return jax.tree.map(lambda leaf: leaf / len(jax.tree.leaves(samples)[0]), total)
