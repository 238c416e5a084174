"""Dark experience replay: the network's own outputs on old samples are stored during training, and
later outputs are held to them."""

import jax
import jax.numpy as jnp

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.methods.buffer import draw, keys, mean_loss_of, mean_of, with_buffer
from ntkcl.methods.custom import custom
from ntkcl.types import Method


@once
def der(
    alpha: float | int = 0.5,
    size: int = 200,
    batch_size: int = 32,
    *,
    passes: str = "all",
    seed: int = 0,
) -> Method:
    """Minimises the step's mean loss + alpha x the mean over a batch from the buffer of |f - z|^2.

    The distance is over the active outputs.
    z are the outputs of the sample when it was inserted: those of the step it was trained on,
    before the update. The sum of squares over outputs, as in the paper; implementations that take
    their mean have an alpha larger by the number of outputs.

    Arguments:
      alpha: 0 is plain training.
      size: samples in the buffer, a reservoir that every batch is offered to after its step.
      batch_size: of them drawn at every step, without replacement; while the buffer holds fewer,
        all it holds.
      passes: "all", a sample is offered in every pass over its task, so that the buffer holds
        outputs from all along the way; "first", in the first alone.
      seed: of what is kept and drawn.
    Kernel space: none known before training; forecasts train the linearised network, with the same
    draws.
    Source: Buzzega et al. 2020, equation 6, algorithm 1.
    """
    return _dark(alpha, 0.0, size, batch_size, passes, seed)


@once
def der_plus_plus(
    alpha: float | int = 0.1,
    beta: float | int = 0.5,
    size: int = 200,
    batch_size: int = 32,
    *,
    passes: str = "all",
    seed: int = 0,
) -> Method:
    """DER with beta x the mean loss by true targets, over a second batch drawn from the buffer.

    The two batches are drawn independently.
    Source: Buzzega et al. 2020, equation 7, algorithm 2.
    """
    validation.finite("method.beta", beta, least=0.0)
    return _dark(alpha, beta, size, batch_size, passes, seed)


def _dark(alpha, beta, size, batch_size, passes, seed) -> Method:
    validation.finite("method.alpha", alpha, least=0.0)

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        def distance(x, z, head):
            return jnp.sum(head * (apply(theta, x) - z) ** 2)

        first_key, second_key, *_ = keys(memory)
        rows, counts = draw(first_key, memory, batch_size)
        distances = jax.vmap(distance)(rows.x, rows.outputs, rows.head)
        total = task_loss + alpha * mean_of(distances, counts)
        if not beta:
            return total
        rows, counts = draw(second_key, memory, batch_size)
        return total + beta * mean_loss_of(loss, apply, theta, rows, counts)

    base, kind = custom(objective=objective), "reservoir"
    return with_buffer(base, size, batch_size, kind, passes, seed, stores_outputs=True)
