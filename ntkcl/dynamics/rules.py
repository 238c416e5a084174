"""Training rules as filters: training on task t sets its coefficients to alpha_t = g(K_tt) r_t.

A rule is a function `g(lam, r)` of the eigenvalues lam of K_tt and of the residual's coefficients r
in their eigenbasis, element by element in lam; only a rule that stops early depends on r. All are
exact at lam = 0: g is built by recursion or with expm1, never as a difference divided by lam.

A rate is h = eta_eff, the learning rate times the normalisation of the loss; for
`losses.squared_error` eta / (n sum(m)). Losses are squared errors: the residual after training is
(1 - lam g) r.

The rules made here are `jax.tree_util.Partial`s whose numbers are leaves: one compiled program
serves all rates and numbers of steps. Any other function g(lam, r) is a rule too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ntkcl.dynamics import checks
from ntkcl.validation import MOST_STEPS, SettingError, finite, share, whole

Rule = Callable[[Float[Array, " k"], Float[Array, " k"]], Float[Array, " k"]]
"""g(lam, r): a filter of the eigenvalues lam [k] of K_tt and of the residual's coefficients r [k]
in their eigenbasis. Training on task t sets its coefficients to alpha_t = g(K_tt) r_t.
"""
Rate = float | int | Float[Array, ""] | Float[Array, " steps"]

BISECTIONS = 200  # of the time of a flow that stops early: float64 has no more digits


def gradient_flow(
    rate: float | int | Float[Array, ""], time: float | int, *, stop: float | int | None = None
) -> Rule:
    """d theta/dt = -gradient for t = `time`: g = (1 - exp(-h t lam)) / lam, h t at lam = 0.

    Time is in steps of plain gradient descent.

    Arguments:
      rate: h.  time: t >= 0.
      stop: ends training when (1/2) |residual|^2 has come down to it, at `time` at the latest.
    Source: Jacot, Gabriel, Hongler 2018; Lee et al. 2019.
    """
    finite("rule.time", time, least=0.0)
    return Partial(_flow, checks.rate(rate), time, _level(stop))


@jax.jit
def _flow(rate, time, level, lam, r=None):
    def at(t):
        x = rate * t * lam
        return jnp.where(x > 0, -jnp.expm1(-x) / jnp.where(x > 0, lam, 1.0), rate * t)

    if level is None:
        return at(time)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        over = _half_square(r * jnp.exp(-rate * middle * lam)) > level
        return jnp.where(over, middle, low), jnp.where(over, high, middle)

    bounds = jnp.zeros((), lam.dtype), jnp.asarray(time, lam.dtype)
    _, high = jax.lax.fori_loop(0, BISECTIONS, halve, bounds)
    already = _half_square(r) <= level
    return at(jnp.where(already, 0.0, high))


def gradient_descent(rate: Rate, steps: int, *, stop: float | int | None = None) -> Rule:
    """S steps of full-batch gradient descent: g = (1 - prod_s (1 - h_s lam)) / lam.

    For one rate (1 - (1 - h lam)^S) / lam.

    Arguments:
      rate: h, or the S rates of a learning-rate schedule.
      steps: S, a whole number of at least 1.
      stop: ends training before the first step that would find (1/2) |residual|^2 at or below it.
    Returns g in the units of h; its limit at lam = 0 is the sum of the rates.
    Raises ValueError for a number of steps below 1, a rate below 0 or not finite, and a schedule of
    another length.
    """
    if stop is not None or jnp.ndim(rate):
        return _recursion(rate, steps, 0.0, stop, _heavy_ball)
    return Partial(_descent, checks.rate(rate), _counted("rule.steps", steps))


@jax.jit
def _descent(rate, steps, lam, r=None):
    x = rate * lam
    # expm1 and log1p keep the digits where x is small; above a half the power loses none, and
    # beyond 1 its base is negative.
    near = -jnp.expm1(steps * jnp.log1p(-jnp.minimum(x, 0.5)))
    far = 1.0 - (1.0 - x) ** steps
    learned = jnp.where(x < 0.5, near, far)
    return jnp.where(lam > 0, learned / jnp.where(lam > 0, lam, 1.0), rate * steps)


def heavy_ball(
    rate: Rate, steps: int, momentum: float | int, *, stop: float | int | None = None
) -> Rule:
    """S steps with momentum b: v <- b v + (1 - lam a); a <- a + h v; g = a_S.

    At rest at the start. Optax: `sgd(momentum=b)`.

    Arguments and errors: as `gradient_descent`; 0 <= momentum < 1.
    """
    return _recursion(rate, steps, share("rule.momentum", momentum), stop, _heavy_ball)


def nesterov(
    rate: Rate, steps: int, momentum: float | int, *, stop: float | int | None = None
) -> Rule:
    """S steps of Nesterov's momentum b.

    v <- b v + (1 - lam a); a <- a + h (b v + 1 - lam a); g = a_S. Optax: `nesterov=True`.

    Arguments and errors: as `gradient_descent`; 0 <= momentum < 1.
    """
    return _recursion(rate, steps, share("rule.momentum", momentum), stop, _nesterov)


def converged(*, cut: float | int | None = None) -> Rule:
    """Training to the end: the pseudo-inverse.

    g = 1 / lam for lam above `cut` times the largest, and 0 below.

    Arguments:
      cut: by default the number of eigenvalues times the rounding unit, what rounding makes of a
        zero.
    Source: Evron et al. 2022. With a ridge in its `Step`, 1 / (lam + ridge): Bennani et al. 2020,
    Doan et al. 2021.
    """
    if cut is not None:
        finite("rule.cut", cut, least=0.0)

    return Partial(_inverse, cut)


@jax.jit
def _inverse(cut, lam, r=None):
    least = len(lam) * jnp.finfo(lam.dtype).eps if cut is None else cut
    kept = lam > least * jnp.max(lam)
    return jnp.where(kept, 1.0 / jnp.where(kept, lam, 1.0), 0.0)


def _heavy_ball(momentum, v, push):
    v = momentum * v + push
    return v, v


def _nesterov(momentum, v, push):
    v = momentum * v + push
    return v, momentum * v + push


def _recursion(rate, steps, momentum, stop, update) -> Rule:
    _counted("rule.steps", steps)
    checks.rate(rate)
    if jnp.ndim(rate) and jnp.shape(rate) != (steps,):
        raise SettingError(
            f"rule.rate has shape {jnp.shape(rate)}; expected one rate or a schedule of {steps}, "
            "one a step"
        )
    return Partial(_run, Partial(update, momentum), rate, steps, _level(stop))


@jax.jit
def _run(update, rate, steps, level, lam, r=None):
    """All rules with one velocity, by a recursion for a = g in which nothing is divided by lam."""
    rate = jnp.asarray(rate, lam.dtype)

    def more(carry):
        s, a, _ = carry
        return (s < steps) & (True if level is None else _half_square(r * (1.0 - lam * a)) > level)

    def step(carry):
        s, a, v = carry
        v, moved = update(v, 1.0 - lam * a)
        return s + 1, a + (rate[s] if rate.ndim else rate) * moved, v

    return jax.lax.while_loop(more, step, (0, jnp.zeros_like(lam), jnp.zeros_like(lam)))[1]


def _counted(name, steps):
    if whole(name, steps) > MOST_STEPS:
        raise SettingError(f"{name}={steps}: expected at most {MOST_STEPS}")
    return int(steps)


def _half_square(r):
    return 0.5 * jnp.sum(r * r)


def _level(stop):
    return None if stop is None else finite("rule.stop", stop, least=0.0)
