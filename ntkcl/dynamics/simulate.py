"""Training of the linearised network step by step, in its dual coefficients.

For losses and batch orders that have no closed form.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ntkcl.compilation import portable
from ntkcl.dynamics import checks
from ntkcl.types import Loss
from ntkcl.validation import shape_is


def simulate(
    k_tt: Float[Array, "n c n c"] | Float[Array, "n n"],
    f: Float[Array, "n c"],
    y: Float[Array, "n c"],
    head: Float[Array, " c"],
    *,
    loss: Loss,
    transform: optax.GradientTransformation,
    steps: int,
    order: Int[Array, "steps batch"] | None = None,
) -> Float[Array, "n c"]:
    """alpha [n, c] after S = `steps` updates.

    theta has then moved by J(X_t)^T alpha and f(x) by K(x, X_t) alpha:

        g_s = d(mean loss over the batch)/df, zero outside of it
        alpha <- alpha + update(g_s),  f = f_before + K_tt alpha

    A gradient in theta is J^T g, so an update that is linear in gradients, coordinate by coordinate
    alike (plain descent, momentum, schedules), does to alpha what it does to theta, and the Optax
    rule itself is run, in n c coordinates in place of p.

    Arguments:
      k_tt: of any floating type; the simulation is in f's. [n, n] is the kernel that all outputs
        share, as at infinite width: K (x) I_c, in c^2 times less memory.
      f: outputs before training, at the task's inputs.  y, head: its targets and the mask of its
        outputs.
      order: the batch of each step, such as `ntkcl.training.loop.batches` draws; None for full
        batches.
    Raises ValueError for shapes that do not fit, and batches with places beyond the n.
    Cost: |B| n c^2 multiply-adds a step, |B| n c for [n, n].
    Source: Lee et al. 2019.
    """
    n, c = f.shape
    shape_is("k_tt", k_tt, (n, n) if np.ndim(k_tt) == 2 else (n, c, n, c))
    shape_is("y", y, (n, c))
    shape_is("head", head, (c,))
    if order is not None:
        shape_is("order", order, (steps, *np.shape(order)[1:]))
        checks.places("order", order, n)
    k_tt, y, head = (jnp.asarray(a, f.dtype) for a in (k_tt, y, head))
    task = k_tt, f, y, head
    return _simulated(task, portable(transform), order, loss=loss, steps=steps)


@partial(jax.jit, static_argnames=("loss", "steps"))
def _simulated(task, transform, order, *, loss, steps):
    k_tt, f, y, head = task
    n, c = f.shape

    def step(carry, batch):
        alpha, state = carry
        batch = jnp.arange(n) if batch is None else batch
        now = f[batch] + jnp.tensordot(k_tt[batch], alpha, k_tt.ndim // 2)

        def mean_loss(now):
            return jnp.mean(jax.vmap(loss.value, (0, 0, None))(now, y[batch], head))

        gradient = jnp.zeros((n, c), f.dtype).at[batch].add(jax.grad(mean_loss)(now))
        updates, state = transform.update(gradient, state, alpha)
        return (optax.apply_updates(alpha, updates), state), None

    start = jnp.zeros((n, c), f.dtype)
    return jax.lax.scan(step, (start, transform.init(start)), order, length=steps)[0][0]
