"""Training on a stream of tasks, in function space: one block lower-triangular solve.

With all blocks at one anchor, G_t the rule of task t and r0 = Y - f_0, training in turn gives
(I + G SL) alpha = G r0, SL the strictly lower blocks of K. Forward substitution is `sequence`:
task t sees the residual that the tasks before it have left.

What a continual-learning method does to one task's training is a `Step`: which rows it trains on
and with which weights and targets, which directions it removes, what it pulls the parameters
towards. `one_task` solves any of them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ntkcl.dynamics import checks
from ntkcl.dynamics.prepare import Prepared, as_partial, prepared
from ntkcl.dynamics.rules import Rule
from ntkcl.dynamics.steps import Columns, Places, Step
from ntkcl.validation import SettingError, shape_is


class Solve(NamedTuple):
    """One task's training.

    change: [N, c], of the outputs.
    alpha: [m, c], the coefficients of the Jacobian rows it trained on, zero for outputs that do
      not count.
    eigenvalues: of the weighted Gram matrix, ascending, as they came, before clipping at zero.
    top: the largest that the rule saw, the ridge added.
    """

    change: Float[Array, "N c"]
    alpha: Float[Array, "m c"]
    eigenvalues: Float[Array | np.ndarray, " k"]
    top: Float[Array, ""]


def one_task(
    kernel: Places | Columns,
    f: Float[Array, "N c"],
    step: Step,
    rule: Rule,
    prepare: Callable[..., Prepared] = prepared,
) -> Solve:
    """Change of f at all N inputs by one `Step`: K(x, X) G (Y - f(X)), K its kernel, G its rule.

    Arguments:
      kernel: `Places`, or `columns(inputs) -> K(x, x[inputs])` [N, c, m, c], of any floating type;
        the solve is in f's.
      f: outputs before the task is trained, at all N inputs.
      rule: g(lam, r), see `ntkcl.dynamics.rules`.
      prepare: `prepared`, or one that caches or decomposes in its own way.
    With a ridge towards the parameters as they are the rule sees lam + ridge. Towards another
    centre, u = f - origin being what the ridge takes away and e(lam) = 1 - lam g(lam) what a rule
    leaves of a residual (theory 4, weight decay),
        change(x) = (e(ridge) - 1) u(x)
            + K(x, X) [g(K + ridge) (Y - origin) - (e(ridge) - e(K + ridge)) K^-1 u(X)].
    Eigenvalues below zero are rounding and count as zero.
    Raises ValueError for a step whose shapes, places, weights or ridge do not fit.
    """
    checks.step(step, f.shape)
    ready, rule = prepare(kernel, step, f.dtype), as_partial(rule)
    entries = ready.root * _weighted_coefficients(ready, f, step, rule)
    alpha = np.zeros(step.targets.shape, f.dtype)
    alpha[ready.rows, ready.outputs] = entries
    change = jnp.asarray(ready.change(alpha), f.dtype)
    if step.origin is not None:
        change = change - _decay(rule, step.ridge, f, step.origin)
    if ready.removal is not None:
        change = change - ready.removal.change(entries @ ready.removal.own)
    lam = ready.decomposed.eigenvalues()
    return Solve(change, jnp.asarray(alpha), lam, lam[-1] + step.ridge)


def one_task_from_each(
    kernel: Places | Columns,
    outputs: Float[Array | np.ndarray, "b N c"],
    step: Step,
    rule: Rule,
    prepare: Callable[..., Prepared] = prepared,
) -> Float[np.ndarray, "b N c"]:
    """The changes K(x, X) g(K) (Y - f_b(X)) by one `Step` from each of several outputs f_b.

    As `one_task`, and matrices are read once for all.

    Arguments: as of `one_task`, but for
      kernel: one whose `change` takes several alphas [b, m, c] at once, as `ntkcl.kernels.held`.
      outputs: before the task is trained, at all N inputs.
    Raises ValueError as `one_task`, and for a step with a ridge, a centre or removed directions.
    """
    outputs = np.asarray(outputs)
    if outputs.ndim != 3 or not len(outputs):
        raise SettingError(
            f"outputs has shape {outputs.shape}; expected [b, N, c] with b of at least 1"
        )
    checks.step(step, outputs.shape[1:])
    if step.origin is not None or step.removed is not None or step.ridge != 0:
        raise SettingError(
            "Step: has a ridge, an origin or removed directions; expected one without, or one_task"
        )
    ready = prepare(kernel, step, outputs.dtype)
    residuals = np.asarray(step.targets) - outputs[:, np.asarray(step.inputs)]
    return np.asarray(ready.change(ready.coefficients(rule, residuals)))


def _weighted_coefficients(ready: Prepared, f, step: Step, rule: Partial):
    """The coefficients [k] in weighted rows, root K root being their Gram matrix."""
    filtered, root = ready.decomposed.filtered, ready.root
    places, outputs = np.asarray(step.inputs)[ready.rows], ready.outputs
    ridged = Partial(_ridged, rule, step.ridge)
    target, before = np.asarray(step.targets)[ready.rows, outputs], np.asarray(f)[places, outputs]
    if step.origin is None:
        return filtered(ridged, root * (target - before))
    origin = np.asarray(step.origin)[places, outputs]
    pulled = filtered(Partial(_decay_gain, rule, step.ridge), root * (before - origin))
    return filtered(ridged, root * (target - origin)) - pulled


@jax.jit
def _decay(rule, ridge, f, origin):
    """(1 - e(ridge)) (f - origin), what a ridge takes away where nothing is learned."""
    alone = jnp.full(1, ridge, f.dtype)
    return ridge * rule(alone, jnp.zeros_like(alone))[0] * (f - origin)


def sequence(
    kernel: Places | Columns,
    f0: Float[Array, "N c"],
    steps: Sequence[Callable[..., Step]],
    rules: Sequence[Rule],
    prepare: Callable[..., Prepared] = prepared,
) -> list[Solve]:
    """Every task's `one_task` in turn, all blocks at one anchor.

    f after task t is f0 plus the first t + 1 changes. `steps[t](fs) -> Step` is given the outputs
    [f_0, ..., f_t] before and after each of the tasks so far: what a method remembers.
    Source: Bennani et al. 2020, Doan et al. 2021.
    """
    fs, solves = [f0], []
    for step, rule in zip(steps, rules, strict=True):
        solves.append(one_task(kernel, fs[-1], step(fs), rule, prepare))
        fs.append(fs[-1] + solves[-1].change)
    return solves


def largest_eigenvalue(
    block: Float[Array | np.ndarray, "m c m c"], weights: Float[np.ndarray, "m c"]
) -> float:
    """lam_max of the Gram matrix of a `Step`'s rows and weights.

    A rule is stable up to limit(lam_max + ridge).
    """
    shape_is("block", block, (*np.shape(weights), *np.shape(weights)))
    rows, outputs = np.nonzero(weights)
    root = np.sqrt(weights[rows, outputs])
    gram = root[:, None] * np.asarray(block, np.float64)[rows, outputs][:, rows, outputs] * root
    top = len(gram) - 1
    return float(scipy.linalg.eigh(gram, eigvals_only=True, subset_by_index=[top, top])[0])


def negative_mass(eigenvalues: Float[Array | np.ndarray, " _"]) -> float:
    """sum of |lam| over lam < 0, as a share of the sum over all; 0 for a kernel of zeros."""
    lam = np.asarray(eigenvalues)
    total = float(np.sum(np.abs(lam)))
    return float(np.sum(np.maximum(-lam, 0.0))) / total if total > 0 else 0.0


def _ridged(rule, ridge, lam, r):
    return rule(lam + ridge, r)


def _decay_gain(rule, ridge, lam, _):
    """(e(ridge) - e(lam + ridge)) / lam with e(lam) = 1 - lam g(lam).

    At lam = 0 the derivative of lam g(lam) at the ridge.
    """

    def learned(shifted):
        return shifted * rule(shifted, jnp.zeros_like(shifted))

    shift = jnp.full_like(lam, ridge)
    floor, slope = jax.jvp(learned, (shift,), (jnp.ones_like(lam),))
    nothing = lam <= 1e-9 * jnp.maximum(jnp.max(lam), ridge)
    return jnp.where(nothing, slope, (learned(lam + ridge) - floor) / jnp.where(nothing, 1.0, lam))
