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

from ntkcl.forecast import checks
from ntkcl.forecast.decomposition import Arrow, Decomposed, eigendecomposed, rotated
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


class Prepared(NamedTuple):
    """What of a `Step` depends on inputs and weights alone, so that steps on the same rows can share it.

    blocks: K(x, X) in parts [N, c, m_i, c], X along them in the step's order.  rows, outputs: [k], where the weights are not zero.
    root: [k], sqrt(weight).  decomposed: the weighted Gram matrix of those rows.  kept_out: [N, c, d] K(x, V) of removed directions,
    whitened; None for none.
    """

    blocks: tuple
    rows: np.ndarray
    outputs: np.ndarray
    root: Any
    decomposed: Decomposed
    kept_out: Any

    def coefficients(self, rule: Rule, residual: Float[Array, "m c"]) -> Float[Array, "m c"]:
        """alpha = root g(root K root) (root residual), zero for outputs of weight zero: how theta moves by J^T alpha."""
        entries = self.root * self.decomposed.filtered(_leaf(rule), self.root * residual[self.rows, self.outputs])
        return jnp.zeros_like(residual).at[self.rows, self.outputs].set(entries)

    def scaled(self, factor: float) -> "Prepared":
        """Of all weights `factor` times as large."""
        return self._replace(root=self.root * factor**0.5, decomposed=self.decomposed.scaled(factor))


def prepared(columns: Columns, step: Step, dtype=jnp.float64, decompose: Callable[..., Decomposed] = eigendecomposed) -> Prepared:
    """The Gram matrix of a step's rows, decomposed.

    Arguments:
      columns: `columns(inputs) -> K(x, x[inputs])` [N, c, m, c], of any floating type; the solve is in `dtype`.
      decompose: from the Gram matrix [k, k] to functions of it.
    """
    block = np.asarray((step.columns or columns)(step.inputs))  # cut by NumPy: XLA would compile each cut for each shape
    m, c = step.targets.shape
    checks.shape("K(x, x[inputs])", block, (len(block), c, m, c))
    checks.places("Step.inputs", step.inputs, len(block))
    rows, outputs, root = _rows(step, dtype)
    gram = block[step.inputs].reshape(m * c, m * c)
    if len(rows) < m * c:
        gram = gram[np.ix_(rows * c + outputs, rows * c + outputs)]
    gram = root[:, None] * gram.astype(dtype) * root[None]
    kept_out, own = _removed(columns, step, dtype, rows, outputs, root)
    if own is not None:
        gram = gram - own @ own.T
    return Prepared((jnp.asarray(block),), rows, outputs, root, decompose(gram), kept_out)


def extended(base: Prepared, columns: Columns, step: Step, dtype, decompose: Callable[[Arrow], Decomposed]) -> Prepared:
    """`prepared` of a step that begins with the rows of `base`, all eigenvectors of which are known, at the weights they have there.

    In those eigenvectors the Gram matrix of k + q rows, d directions of them removed, is an `Arrow`: q more rows cost a product k q in
    place of k^2.
    Arguments: as of `prepared`; decompose: from the arrow to functions of it.
    """
    k, seen = len(base.rows), sum(block.shape[2] for block in base.blocks)
    rows, outputs, root = _rows(step, dtype)
    block = np.asarray(columns(step.inputs[seen:]))
    across = block[:, :, rows[k:] - seen, outputs[k:]][np.asarray(step.inputs)[rows], outputs]
    across = root[:, None] * across.astype(dtype) * root[None, k:]
    kept_out, own = _removed(columns, step, dtype, rows, outputs, root)
    modes = base.decomposed.modes

    def turned(columns):
        return np.concatenate([modes.T @ columns[:k], columns[k:]])

    arrow = Arrow(base.decomposed.eigenvalues, turned(across)[:k], across[k:], None if own is None else turned(own))
    blocks = (*base.blocks, jnp.asarray(block)) if block.shape[2] else base.blocks
    return Prepared(blocks, rows, outputs, root, rotated(decompose(arrow), modes), kept_out)


def _rows(step, dtype):
    """Rows and outputs [k] of weights that are not zero, and the weights' roots."""
    rows, outputs = np.nonzero(step.weights)
    return rows, outputs, np.sqrt(np.asarray(step.weights[rows, outputs], dtype))


def _removed(columns, step, dtype, rows, outputs, root):
    """K(x, V) [N, c, d] of a step's removed directions, whitened, and of it the step's own weighted rows [k, d]; None for none."""
    if step.removed is None:
        return None, None
    kept_out = _directions(dtype, columns(step.removed.inputs), step.removed.inputs, step.removed.basis)
    return kept_out, root[:, None] * kept_out[np.asarray(step.inputs)[rows], outputs]


def remembered(
    prepare: Callable[..., Prepared] = prepared,
    extend: Callable[..., Prepared] | None = None,
    anew: Callable[..., Prepared] | None = None,
    most: int = 12,
) -> Callable[..., Prepared]:
    """`prepare` that does the work once for steps on the same rows, also where all weights are larger or smaller by one factor.

    For searches that train on the same tasks again and again; the `most` rows last used are remembered. A step that begins with rows
    whose eigenvectors are remembered is prepared by `extend(base, columns, step, dtype)`, one with columns of its own by `anew`.
    """
    known: dict[Any, tuple[np.ndarray, np.ndarray, Prepared]] = {}

    def recalled(key, scale):
        known[key] = known.pop(key)  # the last used
        return known[key][2].scaled(scale)

    def longest(inputs, shape):
        """Of what is remembered with eigenvectors, the most rows that a step begins with at the weights it gives them, or None."""
        found = []
        for key, (begin, weights, one) in known.items():
            n, scale = len(begin), float(np.max(shape[: len(begin)]))
            same = np.array_equal(begin, inputs[:n]) and np.allclose(shape[:n], scale * weights, rtol=1e-12, atol=0)
            if same and one.decomposed.modes is not None:
                found.append((n, key, scale))
        return max(found)[1:] if found else None

    def look_up(columns, step, *rest):
        if step.columns is not None:
            return (anew or prepare)(columns, step, *rest)
        scale, inputs = float(np.max(step.weights)), np.asarray(step.inputs)
        shape = np.asarray(step.weights) / scale
        key = inputs.tobytes(), np.round(shape, 12).tobytes()
        if step.removed is None and key in known:
            return recalled(key, scale)
        unit = step._replace(weights=shape)
        base = longest(inputs, shape) if extend else None
        one = extend(recalled(*base), columns, unit, *rest) if base else prepare(columns, unit, *rest)
        if step.removed is None:
            known[key] = inputs, shape, one
            if len(known) > most:
                del known[next(iter(known))]
        return one.scaled(scale)

    return look_up


def one_task(columns: Columns, f: Float[Array, "N c"], step: Step, rule: Rule, prepare: Callable[..., Prepared] = prepared) -> Solve:
    """Change of f at all N inputs by one `Step`: K(x, X) G (Y - f(X)), K the step's kernel, G its rule.

    Arguments:
      columns: `columns(inputs) -> K(x, x[inputs])` [N, c, m, c], of any floating type; the solve is in f's.
      f: outputs before the task is trained, at all N inputs.
      rule: g(lam, r), see `ntkcl.forecast.rules`.
      prepare: `prepared`, or one that remembers or decomposes in its own way.
    With a ridge towards the parameters as they are the rule sees lam + ridge. Towards another centre, u = f - origin being what the
    ridge takes away and e(lam) = 1 - lam g(lam) what a rule leaves of a residual (theory 4, weight decay),
        change(x) = (e(ridge) - 1) u(x) + K(x, X) [g(K + ridge) (Y - origin) - (e(ridge) - e(K + ridge)) K^-1 u(X)].
    Eigenvalues below zero are rounding and count as zero.
    Raises ValueError for a step whose shapes, places, weights or ridge do not fit.
    """
    checks.step(step, f.shape)
    blocks, rows, outputs, root, (filtered, lam, *_), kept_out = prepare(columns, step, f.dtype)
    places, ridge = np.asarray(step.inputs)[rows], step.ridge
    rule = _leaf(rule)
    ridged = Partial(_ridged, rule, ridge)
    target, before = np.asarray(step.targets)[rows, outputs], np.asarray(f)[places, outputs]
    if step.origin is None:
        entries = filtered(ridged, root * (target - before))
    else:
        origin = np.asarray(step.origin)[places, outputs]
        entries = filtered(ridged, root * (target - origin)) - filtered(Partial(_decay_gain, rule, ridge), root * (before - origin))
    alpha, change = _change(blocks, f, step.origin, rule, ridge, rows, outputs, places, root * entries, kept_out)
    return Solve(change, alpha, lam, lam[-1] + ridge)


def _leaf(rule) -> Partial:
    """As jitted functions take it."""
    return rule if isinstance(rule, Partial) else Partial(rule)


def _change(blocks, f, origin, rule, ridge, rows, outputs, places, entries, kept_out):
    """alpha [m, c], and the change [N, c] by it and by what a ridge towards `origin` takes away."""
    # In pieces: read out in the midst of a larger program, XLA's CPU sums on one core, ten times as long.
    ends = np.cumsum([block.shape[2] for block in blocks])
    alpha = np.zeros((ends[-1], f.shape[1]), f.dtype)
    alpha[rows, outputs] = entries
    change = sum(read_out(block, part) for block, part in zip(blocks, np.split(alpha, ends[:-1]), strict=True))
    if origin is not None:
        change = change - _decay(rule, ridge, f, origin)
    if kept_out is not None:
        change = change - kept_out @ (entries @ kept_out[places, outputs])
    return jnp.asarray(alpha), change


@jax.jit
def _decay(rule, ridge, f, origin):
    """What a ridge takes away of f - origin where nothing is learned: (1 - e(ridge)) (f - origin)."""
    alone = jnp.full(1, ridge, f.dtype)
    return ridge * rule(alone, jnp.zeros_like(alone))[0] * (f - origin)


def sequence(
    columns: Columns,
    f0: Float[Array, "N c"],
    steps: Sequence[Callable[..., Step]],
    rules: Sequence[Rule],
    prepare: Callable[..., Prepared] = prepared,
) -> list[Solve]:
    """Every task's `one_task` in turn, all blocks at one anchor; f after task t is f0 plus the first t + 1 changes.

    `steps[t](fs) -> Step` is given the outputs before and after each of the tasks so far, [f_0, ..., f_t]: what a method remembers.
    Source: Bennani et al. 2020, Doan et al. 2021.
    """
    fs, solves = [f0], []
    for step, rule in zip(steps, rules, strict=True):
        solves.append(one_task(columns, fs[-1], step(fs), rule, prepare))
        fs.append(fs[-1] + solves[-1].change)
    return solves


def largest_eigenvalue(block: Float[Array | np.ndarray, "m c m c"], weights: Float[np.ndarray, "m c"]) -> float:
    """lam_max of the Gram matrix of a `Step`'s rows and weights; a rule is stable up to limit(lam_max + ridge)."""
    checks.shape("block", block, (*np.shape(weights), *np.shape(weights)))
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
    """K(x, V) W [N, c, d] of the removed directions V, W W^T = K(V, V)^+."""
    q, block = len(inputs), np.asarray(block, dtype)
    N, c = block.shape[:2]
    basis = None if basis is None else np.asarray(basis, dtype).reshape(-1, q * c)
    directions = block.reshape(N * c, q * c)
    directions = directions if basis is None else directions @ basis.T
    own = directions.reshape(N, c, -1)[inputs].reshape(q * c, -1)
    lam, modes = np.linalg.eigh(own if basis is None else basis @ own)
    kept = lam > DEPENDENT * np.max(lam)
    whitened = modes * np.where(kept, 1.0 / np.sqrt(np.where(kept, lam, 1.0)), 0.0)[None]
    return (directions @ whitened).reshape(N, c, -1)


def _ridged(rule, ridge, lam, r):
    return rule(lam + ridge, r)


def _decay_gain(rule, ridge, lam, _):
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
    checks.shape("alpha", alpha, column.shape[-2:])
    return jnp.sum(column * alpha[None, None], axis=(-2, -1))
