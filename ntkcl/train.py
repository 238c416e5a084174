"""Training on one task: Optax inside one `lax.scan`."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ntkcl.types import Apply, Dataset, Key, Loss, Method, Params


class Fit(NamedTuple):
    """Parameters, and the optimizer's state, after training; the task's own loss before each of the S steps (of the step's batch)."""

    theta: Params
    losses: Float[Array, " steps"]
    state: Any


def batches(key: Key, n: int, batch_size: int, steps: int) -> Int[Array, "steps batch_size"]:
    """The batch of each step: fresh permutations of the n samples laid end to end, one an epoch, and cut into batches.

    Every sample is drawn once an epoch; where batch_size does not divide n, a batch may straddle two epochs.
    """
    epochs = -(-steps * batch_size // n)
    order = jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, epochs))
    return order.ravel()[: steps * batch_size].reshape(steps, batch_size)


@partial(jax.jit, static_argnames=("apply", "loss", "transform", "steps", "batch_size", "method"))
def fit(
    key: Key,
    theta: Params,
    dataset: Dataset,
    head: Float[Array, " c"],
    *,
    apply: Apply,
    loss: Loss,
    transform: optax.GradientTransformation,
    steps: int,
    batch_size: int | None = None,
    method: Method | None = None,
    memory: Any = (),
) -> Fit:
    """S = `steps` updates of theta on the mean loss over a batch; the whole task is the batch where batch_size is None.

    A method puts its objective, made of that loss and its memory, in the loss's place, and projects the gradients. The optimizer
    starts afresh. Divergence is data: losses and parameters that are not finite are returned as they are.
    """

    def objective(theta, batch):
        f = jax.vmap(apply, (None, 0))(theta, batch.x)
        task_loss = jnp.mean(jax.vmap(loss.value, (0, 0, None))(f, batch.y, head))
        if method is None:
            return task_loss, task_loss
        return method.objective(memory, apply, loss, theta, batch, head, task_loss), task_loss

    def step(carry, index):
        theta, state = carry
        batch = dataset if index is None else jax.tree.map(lambda a: a[index], dataset)
        (_, value), gradient = jax.value_and_grad(objective, has_aux=True)(theta, batch)
        if method is not None:
            gradient = method.project(memory, gradient)
        updates, state = transform.update(gradient, state, theta)
        return (optax.apply_updates(theta, updates), state), value

    order = None if batch_size is None else batches(key, dataset.x.shape[0], batch_size, steps)
    (theta, state), losses = jax.lax.scan(step, (theta, transform.init(theta)), order, length=steps)
    return Fit(theta, losses, state)
