"""Experience replay: every step also trains on a batch from a buffer of fixed size."""

import jax.numpy as jnp

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.methods.buffer import draw, keys, mean_loss_of, with_buffer
from ntkcl.methods.custom import custom
from ntkcl.types import Method


@once
def er(
    size: int = 200,
    batch_size: int = 10,
    weight: float | int | None = None,
    *,
    buffer: str = "reservoir",
    passes: str = "first",
    seed: int = 0,
) -> Method:
    """Minimises, at each step, the mean loss over the step's batch and one drawn from the buffer.

    Arguments:
      size: samples in the buffer, of all tasks together.
      batch_size: of them drawn at every step, without replacement; while the buffer holds fewer,
        all it holds.
      weight: None, the mean over both batches as one, so that a sample counts the same in both; or
        mu, the step's mean loss + mu x the mean loss of the drawn batch (0: plain training).
      buffer: "reservoir", every batch is offered to it after its step, so that it holds a uniform
        sample of the stream so far, the task in training included; "balanced", equal shares of the
        tasks before, drawn without replacement as each of them ends.
      passes: of a reservoir: "first", a sample is offered in the first pass over its task alone,
        once; "all", in every pass, so that it may be in the buffer several times. The same where
        there is one pass.
      seed: of what is kept and drawn.
    Kernel space: none known before training; forecasts train the linearised network, with the same
    draws.
    Source: Chaudhry et al. 2019 (reservoir, both batches as one); Vitter 1985. `replay` has a fixed
    buffer, all of it at every step.
    """
    if weight is not None:
        validation.finite("method.weight", weight, least=0.0)

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        rows, counts = draw(keys(memory)[0], memory, batch_size)
        replayed = mean_loss_of(loss, apply, theta, rows, counts)
        if weight is not None:
            return task_loss + weight * replayed
        share = jnp.sum(counts).astype(task_loss.dtype)
        return (len(batch.x) * task_loss + share * replayed) / (len(batch.x) + share)

    return with_buffer(custom(objective=objective), size, batch_size, buffer, passes, seed)
