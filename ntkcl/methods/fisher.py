"""The Fisher information of a model's own distribution over targets.

F = mean over samples of E_y [g g^T], g = d log p(y | x) / dtheta. The model is a normal
distribution with variance 1 around the active outputs for squared error, the softmax of them for
cross-entropy. F is a sum over outputs where the loss is a mean, so that squared error's is J^T J
whatever the size of the head.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntkcl.compilation import portable
from ntkcl.methods.memory import mean_over
from ntkcl.types import Loss
from ntkcl.validation import SettingError

LABELS = ("all", "sampled", "predicted", "true")


def is_softmax(loss: Loss) -> bool:
    """Whether the loss is that of a softmax, and not squared error.

    Raises ValueError for a loss whose model is neither.
    """
    if loss.quadratic:
        return False
    with jax.ensure_compile_time_eval():
        f, y = jnp.array([0.3, -1.2, 0.5]), jnp.array([0.0, 0.7, 0.3])
        # Compared in here too: outside, even a constant is traced while a training is compiled.
        expected = jax.nn.softmax(f) - y
        apart = float(jnp.max(jnp.abs(jax.grad(loss.value)(f, y, jnp.ones(3)) - expected)))
    if not apart < 1e-4:
        raise SettingError(
            "loss: the Fisher information of this loss is not known; expected squared_error or "
            "cross_entropy"
        )
    return True


class _Model(NamedTuple):
    """p(y | x) of outputs f [c] for one sample: a softmax, or a normal distribution around f."""

    head: Any
    softmax: bool

    def mean(self, f):
        return jax.nn.softmax(f, where=self.head > 0) if self.softmax else f

    def score(self, f, y):
        """d log p(y | x) / df, of active outputs."""
        active = self.head > 0
        if self.softmax:
            slope = jnp.sum(y, where=active, keepdims=True) * -self.mean(f) + y
        else:
            slope = y - f
        return jnp.where(active, slope, 0.0)

    def label(self, labels, key, f, y):
        """The target that the expectation takes, by one of `LABELS` besides "all"."""
        if labels == "true":
            return y
        if not self.softmax:
            return f + jax.random.normal(key, f.shape, f.dtype)
        if labels == "sampled":
            place = jax.random.categorical(key, jnp.where(self.head > 0, f, -jnp.inf))
        else:
            place = jnp.argmax(self.mean(f))
        return jax.nn.one_hot(place, len(f), dtype=f.dtype)


def diagonal_fisher(apply, theta, key, x, y, head, *, softmax, labels, batch):
    """The diagonal of the Fisher information of samples x [n, ...], y [n, c], shaped as theta.

    Arguments:
      key: of sampled labels.  head: [c], the mask of the outputs.
      softmax: whether the model is a softmax, see `is_softmax`.
      labels: one of `LABELS`.  batch: gradients averaged before they are squared; see
        `ntkcl.methods.ewc_diagonal`.
    """
    static = dict(softmax=softmax, labels=labels, batch=batch)
    return _diagonal_fisher(portable(apply), theta, (x, y, key), head, **static)


@partial(jax.jit, static_argnames=("softmax", "labels", "batch"))
def _diagonal_fisher(apply, theta, data, head, *, softmax, labels, batch):
    model, (x, y, key) = _Model(head, softmax), data
    if labels == "all":
        return mean_over(partial(_over_all_labels, model, apply, theta), theta, (x,))
    n, groups = len(x), -(-len(x) // batch)
    filled = jnp.arange(groups * batch) % n  # the last group may be smaller
    counts = (jnp.arange(groups * batch) < n).astype(jnp.result_type(*jax.tree.leaves(theta)))
    samples = jax.tree.map(lambda a: a[filled], (x, y, jax.random.split(key, n)))
    grouped = jax.tree.map(lambda a: a.reshape(groups, batch, *a.shape[1:]), (*samples, counts))
    return mean_over(partial(_squared_mean, model, labels, apply, theta), theta, grouped)


def _over_all_labels(model, apply, theta, sample):
    """sum_a p_a (J^T (e_a - p))^2, or sum_a (J^T e_a)^2."""
    f, back = jax.vjp(lambda theta: apply(theta, sample[0]), theta)
    rows = jnp.eye(len(f), dtype=f.dtype)
    if model.softmax:
        weights, cotangents = model.mean(f), jax.vmap(model.score, (None, 0))(f, rows)
    else:
        weights, cotangents = model.head, rows
    jacobian = jax.vmap(lambda v: back(v)[0])(cotangents)
    return jax.tree.map(lambda j: jnp.tensordot(weights, j**2, 1), jacobian)


def _squared_mean(model, labels, apply, theta, samples):
    """The square of the mean gradient over those samples that count."""
    x, y, keys, counts = samples
    f, back = jax.vjp(lambda theta: jax.vmap(apply, (None, 0))(theta, x), theta)
    targets = jax.vmap(partial(model.label, labels))(keys, f, y)
    cotangents = counts[:, None] * jax.vmap(model.score)(f, targets) / jnp.sum(counts)
    return jax.tree.map(jnp.square, back(cotangents)[0])
