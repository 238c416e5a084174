"""Averaged gradient episodic memory: gradients are projected so as not to raise old losses."""

import jax
import jax.numpy as jnp

from ntkcl.compilation import once
from ntkcl.methods.buffer import draw, keys, mean_loss_of, with_buffer
from ntkcl.methods.custom import custom
from ntkcl.types import Method


@once
def agem(
    size: int = 200,
    batch_size: int = 64,
    *,
    buffer: str = "balanced",
    passes: str = "first",
    seed: int = 0,
) -> Method:
    """Where g . r < 0, replaces the gradient g by g - (g . r / r . r) r.

    r is the gradient of the mean loss over a batch from the buffer.

    Arguments:
      size: samples in the buffer, of all tasks together.
      batch_size: of them drawn at every step, without replacement; while the buffer holds fewer,
        all it holds.
      buffer: "balanced", equal shares of the tasks before, drawn as each of them ends; "reservoir",
        every batch is offered after its step, see `er` for this and `passes`.
      seed: of what is kept and drawn.
    Kernel space: none, the projection depends on a sign; forecasts train the linearised network,
    with the same draws.
    Source: Chaudhry et al. 2019 (A-GEM), equation 11.
    """

    def project(memory, apply, loss, theta, gradient):
        rows, counts = draw(keys(memory)[0], memory, batch_size)
        reference = jax.grad(lambda theta: mean_loss_of(loss, apply, theta, rows, counts))(theta)
        against, squared = _dot(gradient, reference), _dot(reference, reference)
        ratio = against / jnp.where(squared > 0, squared, 1.0)
        part = jnp.where((against < 0) & (squared > 0), ratio, 0.0)
        return jax.tree.map(lambda g, r: g - part * r, gradient, reference)

    return with_buffer(custom(project=project), size, batch_size, buffer, passes, seed)


def _dot(a, b):
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)))
