"""One-task filters g(lam): training on task t sets its dual coefficients to alpha_t = g(K_tt) r_t."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def gradient_descent(lam: Float[Array, "..."], rate: float, steps: int) -> Float[Array, "..."]:
    """S steps of full-batch gradient descent: g = (1 - (1 - h lam)^S) / lam = h sum_{s<S} (1 - h lam)^s.

    Arguments:
      lam: eigenvalues of K_tt, >= 0.
      rate: h = eta_eff, the learning rate times the loss normalisation; for `losses.squared_error` eta / (n sum(m)).
      steps: S, a whole number.
    Returns g in the units of h; its limit at lam = 0 is h S, and no eigenvalue gives NaN.
    """
    x = rate * lam
    # expm1 and log1p keep the digits where x is small; above a half the power loses none, and beyond 1 its base is negative.
    small = jnp.minimum(x, 0.5)
    near = -jnp.expm1(steps * jnp.log1p(-small))
    far = 1.0 - (1.0 - x) ** steps
    positive = jnp.where(lam > 0, lam, 1.0)
    return jnp.where(lam > 0, jnp.where(x < 0.5, near, far) / positive, rate * steps)
