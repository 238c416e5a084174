"""Training on a stream of tasks, in function space: one block lower-triangular solve.

With all blocks at one anchor, G_t the rule of task t and r0 = Y - f_0, training in turn gives (I + G SL) alpha = G r0, SL the strictly
lower blocks of K. Forward substitution is `sequence`: task t sees the residual that the tasks before it left.

What a continual-learning method does to one task's training is a `Step`: which rows it trains on and with which weights and targets,
which directions it takes away, what it pulls the parameters towards. `one_task` solves any of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from ntkcl.forecast.rules import Rule

Columns = Callable[[Int[np.ndarray, " m"]], Any]  # inputs, by their place among all N -> K(x, x[inputs]) [N, c, m, c]

# Directions of a memory whose share of the largest is below this are dependent up to rounding, and are not divided by.
DEPENDENT = 1e-10


class Removed(NamedTuple):
    """Directions v = basis J(x[inputs]) of parameter space that a projection keeps training out of.

    inputs [q]; basis [d, q, c], or None for all q c Jacobian rows themselves.
    """

    inputs: Int[np.ndarray, " q"]
    basis: Any = None


class Step(NamedTuple):
    """One task's training in kernel space, on the loss (1/2) sum over rows and outputs of weight (target - f)^2.

    inputs: [m], places among all N inputs; an input may come twice, with two targets.
    targets, weights: [m, c]; an output of weight 0 does not count.
    ridge: lambda of a penalty lambda/2 |theta - centre|^2, relative to the (1/2) sum.
    origin: [N, c], the linearised outputs at the centre; None for the outputs before this task, the centre being where they are.
    removed: directions kept out of, for methods that project the gradient.
    columns: K(x, x[inputs]) in a metric of the method's own; None for the kernel of the stream.
    """

    inputs: Int[np.ndarray, " m"]
    targets: Float[Array, "m c"]
    weights: Float[np.ndarray, "m c"]
    ridge: float | int = 0.0
    origin: Float[Array, "N c"] | None = None
    removed: Removed | None = None
    columns: Columns | None = None


class Solve(NamedTuple):
    """One task's training: the change [N, c] of the outputs, the coefficients alpha [m, c] of the Jacobian rows it trained on (zero for
    outputs that do not count), the eigenvalues, ascending, of the weighted Gram matrix as they came, before clipping at zero, and
    `top`, the largest that the rule saw, the ridge added."""

    change: Float[Array, "N c"]
    alpha: Float[Array, "m c"]
    eigenvalues: Float[Array, " k"]
    top: Float[Array, ""]


def one_task(columns: Columns, f: Float[Array, "N c"], step: Step, rule: Rule) -> Solve:
    """Change of f at all N inputs by one `Step`: K(x, X) G (Y - f(X)), K the step's kernel, G its rule.

    Arguments:
      columns: `columns(inputs) -> K(x, x[inputs])` [N, c, m, c], of any floating type; the solve is in f's.
      f: outputs before the task is trained, at all N inputs.
      rule: g(lam, r), see `ntkcl.forecast.rules`.
    With a ridge towards the parameters as they are the rule sees lam + ridge. Towards another centre, u = f - origin being what the
    ridge takes away and e(lam) = 1 - lam g(lam) what a rule leaves of a residual (theory 4, weight decay),
        change(x) = (e(ridge) - 1) u(x) + K(x, X) [g(K + ridge) (Y - origin) - (e(ridge) - e(K + ridge)) K^-1 u(X)].
    Eigenvalues below zero are rounding and count as zero.
    """
    block = (step.columns or columns)(step.inputs)  # [N, c, m, c]
    rows, outputs = np.nonzero(step.weights)
    root = np.sqrt(np.asarray(step.weights, float)[rows, outputs])
    removed = None
    if step.removed is not None:
        removed = columns(step.removed.inputs), step.removed.inputs, step.removed.basis
    rule = rule if isinstance(rule, Partial) else Partial(rule)
    return _solve(block, f, step.inputs, step.targets, rows, outputs, root, step.ridge, step.origin, removed, rule)


@jax.jit
def _solve(block, f, inputs, targets, rows, outputs, root, ridge, origin, removed, rule) -> Solve:
    """`one_task` of arrays: the trained entries are (inputs[rows], outputs), `root` the roots of their weights."""
    m, c = targets.shape
    root = jnp.asarray(root, f.dtype)
    places = inputs[rows]
    gram = block[inputs].reshape(m * c, m * c)
    if len(rows) < m * c:
        gram = gram[rows * c + outputs][:, rows * c + outputs]
    gram = root[:, None] * gram.astype(f.dtype) * root[None]
    if removed is not None:
        directions, whitened = _directions(f.dtype, *removed)
        kept_out = root[:, None] * directions[places, outputs] @ whitened
        gram = gram - kept_out @ kept_out.T
    lam, modes = jnp.linalg.eigh(gram)
    clipped = jnp.maximum(lam, 0.0)
    target, before = targets[rows, outputs], f[places, outputs]
    if origin is None:
        r = modes.T @ (root * (target - before))
        entries = modes @ (rule(clipped + ridge, r) * r)
        shrunk = jnp.zeros(())
    else:
        centre = origin[places, outputs]
        z, u = (modes.T @ (root * side) for side in (target - centre, before - centre))
        entries = modes @ (rule(clipped + ridge, z) * z - _decay_gain(rule, clipped, ridge) * u)
        shrunk = -ridge * rule(jnp.full(1, ridge, f.dtype), z[:1])[0] * (f - origin)
    alpha = jnp.zeros((m, c), f.dtype).at[rows, outputs].set(root * entries)
    change = read_out(block, alpha) + shrunk
    if removed is not None:
        change = change - jnp.einsum("ncd,d->nc", directions, whitened @ (kept_out.T @ entries))
    return Solve(change, alpha, lam, lam[-1] + ridge)


def sequence(columns: Columns, f0: Float[Array, "N c"], steps: Sequence[Callable[..., Step]], rules: Sequence[Rule]) -> list[Solve]:
    """Every task's `one_task` in turn, all blocks at one anchor; f after task t is f0 plus the first t + 1 changes.

    `steps[t](fs) -> Step` is given the outputs before and after each of the tasks so far, [f_0, ..., f_t]: what a method remembers.
    Source: Bennani et al. 2020, Doan et al. 2021.
    """
    fs, solves = [f0], []
    for step, rule in zip(steps, rules, strict=True):
        solves.append(one_task(columns, fs[-1], step(fs), rule))
        fs.append(fs[-1] + solves[-1].change)
    return solves


def largest_eigenvalue(block: Float[Array | np.ndarray, "m c m c"], weights: Float[np.ndarray, "m c"]) -> float:
    """lam_max of the Gram matrix of a `Step`'s rows and weights; a rule is stable up to limit(lam_max + ridge)."""
    rows, outputs = np.nonzero(weights)
    root = np.sqrt(weights[rows, outputs])
    gram = root[:, None] * np.asarray(block, np.float64)[rows, outputs][:, rows, outputs] * root
    top = len(gram) - 1
    return float(scipy.linalg.eigh(gram, eigvals_only=True, subset_by_index=[top, top])[0])


def negative_mass(eigenvalues: Float[Array, " _"]) -> float:
    """sum of |lam| over lam < 0, as a share of the sum over all; 0 for a kernel of zeros."""
    total = float(jnp.sum(jnp.abs(eigenvalues)))
    return float(jnp.sum(jnp.maximum(-eigenvalues, 0.0))) / total if total > 0 else 0.0


def _directions(dtype, block, inputs, basis):
    """K(x, V) [N, c, d] of the removed directions V, and W with W W^T = K(V, V)^+."""
    q, block = len(inputs), jnp.asarray(block, dtype)
    N, c = block.shape[:2]
    basis = jnp.eye(q * c, dtype=dtype) if basis is None else jnp.asarray(basis, dtype).reshape(-1, q * c)
    directions = (block.reshape(N * c, q * c) @ basis.T).reshape(N, c, -1)
    lam, modes = jnp.linalg.eigh(basis @ directions[inputs].reshape(q * c, -1))
    kept = lam > DEPENDENT * jnp.max(lam)
    return directions, modes * jnp.where(kept, 1.0 / jnp.sqrt(jnp.where(kept, lam, 1.0)), 0.0)[None]


def _decay_gain(rule, lam, ridge):
    """(e(ridge) - e(lam + ridge)) / lam with e(lam) = 1 - lam g(lam); at lam = 0 the derivative of lam g(lam) at the ridge."""

    def learned(shifted):
        return shifted * rule(shifted, jnp.zeros_like(shifted))

    shift = jnp.full_like(lam, ridge)
    floor, slope = jax.jvp(learned, (shift,), (jnp.ones_like(lam),))
    nothing = lam <= 1e-9 * jnp.maximum(jnp.max(lam), ridge)
    return jnp.where(nothing, slope, (learned(lam + ridge) - floor) / jnp.where(nothing, 1.0, lam))


@jax.jit
def read_out(column, alpha):
    """K alpha in alpha's type; as a product and a sum, XLA widens the block on the fly instead of copying it."""
    return jnp.sum(column * alpha[None, None], axis=(-2, -1))
