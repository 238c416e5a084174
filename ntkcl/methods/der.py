"""Dark experience replay: the network's own outputs on old samples are kept as it goes, and held."""

import jax
import jax.numpy as jnp

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.methods.buffer import draw, keys, mean_loss_of, mean_of, remembering
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
    """Minimises the step's mean loss + alpha x the mean over a batch from the buffer of |f - z|^2 over the active outputs.

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
    """DER whose objective also has beta x the mean loss, by true targets, over a second batch drawn from the buffer on its own.

    Source: Buzzega et al. 2020, equation 7, algorithm 2.
    """
    return _dark(
        alpha, validation.finite("method.beta", beta, least=0.0), size, batch_size, passes, seed
    )


def _dark(alpha, beta, size, batch_size, passes, seed) -> Method:
    validation.finite("method.alpha", alpha, least=0.0)

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        own, other, *_ = keys(memory)
        rows, counts = draw(own, memory, batch_size)
        apart = jax.vmap(lambda x, z, head: jnp.sum(head * (apply(theta, x) - z) ** 2))(
            rows.x, rows.told, rows.head
        )
        total = task_loss + alpha * mean_of(apart, counts)
        return (
            total + beta * mean_loss_of(loss, apply, theta, *draw(other, memory, batch_size))
            if beta
            else total
        )

    return remembering(
        custom(objective=objective), size, batch_size, "reservoir", passes, seed, tells=True
    )
