"""Scores of a stream: the accuracy matrix and the numbers that are lines given it, each dialect under its own name.

R[i, j] is the score on task j after training task i, b[j] that of the untrained network; tasks count from 0, fractions in
[0, 1], the full square j > i included. A predicted R goes through the same functions as a measured one. An entry that was not
measured is NaN, and a function that needs it raises ValueError naming it. With one task transfer and forgetting are NaN.
Forgetting above 0 is worse than before, transfer above 0 better; losses go through the same functions as -R_loss and -b_loss,
except through ratios and levels, which mean nothing there.
"""

from collections.abc import Callable

import numpy as np


def correct(f, y, head):
    """Per sample: is the prediction right? [..., n, c], [n, c], mask [c] -> [..., n], 1 right, 0 wrong, NaN where f is.

    With several active outputs the largest one decides; with a single one its sign does. A tie counts as breaking it at random would
    on average, 1/k among k equals: a centred network that was not trained is at chance, not at class 0.
    """
    active = np.flatnonzero(head)
    f, y = f[..., active], y[..., active]
    if len(active) == 1:
        return 0.5 * (1 + np.sign(f[..., 0] * y[..., 0]))
    best = f == f.max(-1, keepdims=True)
    right = np.take_along_axis(
        best, np.broadcast_to(y.argmax(-1)[..., None], (*f.shape[:-1], 1)), -1
    )[..., 0]
    with np.errstate(invalid="ignore"):  # 0 / 0, no equals: NaN where f is
        return right / best.sum(-1)


def flip_lost(before, after):
    """Per sample, right before and wrong after: max(before - after, 0) of what `correct` says, [..., n] -> [..., n].

    For a task S, before = after training S and after = at the end: mean(lost) - mean(gained) = R[S, S] - R[T-1, S] exactly, ties too.
    """
    return np.maximum(np.asarray(before, float) - np.asarray(after, float), 0)


def flip_gained(before, after):
    """Per sample, wrong before and right after: max(after - before, 0). The reverse of `flip_lost`."""
    return flip_lost(after, before)


def forgetting_events(right, learned):
    """Per sample of task `learned`: how often it went from right after task i-1 to wrong after task i, i > learned (Toneva et al. 2019,
    counted by task). `right` [T, n] is what `correct` says after each task -> [n]."""
    return flip_lost(right[learned:-1], right[learned + 1 :]).sum(0)


def margin(f, y, head):
    """Per sample, f_y - max_{a != y} f_a over active outputs, or y f of a single one: [..., n, c], [n, c], mask [c] -> [..., n]."""
    active = np.flatnonzero(head)
    f, y = f[..., active], y[..., active]
    if len(active) == 1:
        return f[..., 0] * y[..., 0]
    own = np.broadcast_to(np.arange(len(active)) == y.argmax(-1)[..., None], f.shape)
    return np.where(own, f, 0).sum(-1) - np.where(own, -np.inf, f).max(-1)


def margin_change(before, after, y, head):
    """Per sample, the margin after minus the margin before, of outputs [..., n, c]; below 0 is nearer to being forgotten."""
    return margin(after, y, head) - margin(before, y, head)


def average_accuracy(R):
    """ACC = mean_j R[T-1, j] (GEM, and nearly everyone since)."""
    return _mean(R, [(len(R) - 1, j) for j in range(_tasks(R))])


def learning_accuracy(R):
    """LA = mean_i R[i, i] (Mirzadeh et al. 2022; Guha and Lakshman 2024; Graldi et al. 2025)."""
    return _mean(R, [(i, i) for i in range(_tasks(R))])


def average_incremental_accuracy(R):
    """AIA = mean_i mean_{j<=i} R[i, j] (iCaRL, continuum; they weight by samples, which is the same for tasks of equal size)."""
    return float(np.mean([_mean(R, [(i, j) for j in range(i + 1)]) for i in range(_tasks(R))]))


def accuracy_triangle(R):
    """A = mean of R[i, j] over i >= j (Diaz-Rodriguez et al. 2018; continuum's accuracy_A)."""
    return _mean(R, [(i, j) for i in range(_tasks(R)) for j in range(i + 1)])


def bwt_gem(R):
    """1/(T-1) sum_{j<T-1} (R[T-1, j] - R[j, j]) (Lopez-Paz and Ranzato 2017, the paper; avalanche, mammoth, clarena, GPM)."""
    return _over_others(R, lambda j: _entry(R, -1, j) - _entry(R, j, j), range(len(R) - 1))


def bwt_gem_code(R):
    """1/T sum_{j<T-1} (R[T-1, j] - R[j, j]): GEM's published code, a mean over all tasks to which the last contributes 0."""
    return bwt_gem(R) * (len(R) - 1) / len(R)


def bwt_all_pairs(R):
    """mean over i > j of R[i, j] - R[j, j] (Diaz-Rodriguez et al. 2018; continuum, which cites GEM)."""
    pairs = [(i, j) for i in range(_tasks(R)) for j in range(i)]
    return (
        float(np.mean([_entry(R, i, j) - _entry(R, j, j) for i, j in pairs]))
        if pairs
        else float("nan")
    )


def bwt_positive(R):
    """max(`bwt_all_pairs`, 0) (Diaz-Rodriguez et al. 2018; continuum)."""
    return float(np.maximum(bwt_all_pairs(R), 0))


def remembering(R):
    """1 - |min(`bwt_all_pairs`, 0)| (Diaz-Rodriguez et al. 2018; continuum)."""
    return float(1 - np.abs(np.minimum(bwt_all_pairs(R), 0)))


def fwt_gem(R, b):
    """1/(T-1) sum_{j>=1} (R[j-1, j] - b[j]) (Lopez-Paz and Ranzato 2017, the paper; avalanche)."""
    return _over_others(
        R, lambda j: _entry(R, j - 1, j) - _reference("b", b, j, R), range(1, len(R))
    )


def fwt_gem_code(R, b):
    """1/T sum_{j>=1} (R[j-1, j] - b[j]): GEM's published code, a mean over all tasks to which the first contributes 0."""
    return fwt_gem(R, b) * (len(R) - 1) / len(R)


def fwt_without_baseline(R):
    """mean_{j>=1} R[j-1, j] (continuum, whose comment says that b is left out): a level, not a difference."""
    return _over_others(R, lambda j: _entry(R, j - 1, j), range(1, len(R)))


def fwt_independent(R, a_ind):
    """1/(T-1) sum_{j>=1} (R[j, j] - a_ind[j]), a_ind[j] the accuracy of a network trained on task j alone (clarena)."""
    return _over_others(
        R, lambda j: _entry(R, j, j) - _reference("a_ind", a_ind, j, R), range(1, len(R))
    )


def forgetting_first(R):
    """mean_{j<T-1} (R[j, j] - R[T-1, j]) (avalanche)."""
    return 0 - bwt_gem(R)


def forgetting_chaudhry(R):
    """mean_{j<T-1} (max_{i<=T-2} R[i, j] - R[T-1, j]) (Chaudhry et al. 2018, eq. 3; A-GEM's code on permuted data): may be negative,
    and rows before j was learned count."""
    return _from_peak(R, lambda j: range(len(R) - 1))


def forgetting_learned(R):
    """mean_{j<T-1} (max_{j<=i<=T-2} R[i, j] - R[T-1, j]) (continuum; FACIL and A-GEM's split data, where rows before j are zeros)."""
    return _from_peak(R, lambda j: range(j, len(R) - 1))


def forgetting_peak(R):
    """mean_{j<T-1} (max_{j<=i<=T-1} R[i, j] - R[T-1, j]) (PyCIL, PILOT, Stable-SGD, Mirzadeh's code): never negative."""
    return _from_peak(R, lambda j: range(j, len(R)))


def forgetting_peak_next(R):
    """mean_{j<T-1} (max_{max(j-1, 0)<=i<=T-1} R[i, j] - R[T-1, j]) (mammoth, whose rows hold the next task too)."""
    return _from_peak(R, lambda j: range(max(j - 1, 0), len(R)))


def forgetting_peak_all_tasks(R):
    """AF = 1/T of the sum in `forgetting_peak` (Guha and Lakshman 2024); SequeL reports minus this."""
    return forgetting_peak(R) * (len(R) - 1) / len(R)


def forgetting_graldi(R):
    """CF = mean over all T tasks of R[j, j] - R[T-1, j] (Graldi et al. 2025; the averaging set is transcribed, not checked)."""
    return 0 - bwt_gem_code(R)


def forgetting_relative(R):
    """CFr = mean over all T tasks of (R[j, j] - R[T-1, j]) / R[j, j] (Graldi et al. 2025; as above), to which the last contributes 0.
    ValueError where another R[j, j] is 0."""

    def term(j):
        own = _entry(R, j, j)
        if own == 0:
            raise ValueError(f"R[{j}, {j}] is 0, and a share of it is not defined")
        return (own - _entry(R, -1, j)) / own

    return _over_others(R, term, range(len(R) - 1)) * (len(R) - 1) / len(R)


def forgetting_rate(R, b, a_joint):
    """FR = mean_j (R[T-1, j] - b[j]) / (a_joint[j] - b[j]) - 1, a_joint[j] the accuracy on task j of a network trained on all tasks at
    once (clarena): below 0 is worse than joint training. ValueError where a_joint[j] is b[j], up to the rounding of means over ties."""

    def term(j):
        start = _reference("b", b, j, R)
        gap = _reference("a_joint", a_joint, j, R) - start
        if abs(gap) < 1e-12:
            raise ValueError(
                f"a_joint[{j}] is b[{j}], and a share of their difference is not defined"
            )
        return (_entry(R, -1, j) - start) / gap

    return _over_others(R, term, range(len(R))) - 1


REFERENCED = ("fwt_independent", "forgetting_rate")  # those that need more than R and b
DEFAULTS: tuple[Callable, ...] = (
    average_accuracy,
    learning_accuracy,
    bwt_gem,
    forgetting_chaudhry,
    fwt_gem,
)
DIALECTS: tuple[Callable, ...] = (  # every one that needs no more than R and b
    average_incremental_accuracy, accuracy_triangle,
    bwt_gem_code, bwt_all_pairs, bwt_positive, remembering, fwt_gem_code, fwt_without_baseline,
    forgetting_first, forgetting_learned, forgetting_peak, forgetting_peak_next, forgetting_peak_all_tasks,
    forgetting_graldi, forgetting_relative,
)  # fmt: skip
LEVELS = {  # of the loss itself, not of -loss: mean loss where the accuracy's name says mean accuracy
    "average_loss": average_accuracy,
    "learning_loss": learning_accuracy,
    "average_incremental_loss": average_incremental_accuracy,
    "loss_triangle": accuracy_triangle,
}
DIFFERENCES: tuple[Callable, ...] = (
    bwt_gem, bwt_gem_code, bwt_all_pairs, bwt_positive, fwt_gem, fwt_gem_code,
    forgetting_chaudhry, forgetting_first, forgetting_learned, forgetting_peak, forgetting_peak_next, forgetting_peak_all_tasks,
    forgetting_graldi,
)  # fmt: skip
NEEDS_B = (fwt_gem, fwt_gem_code)


def summary(R, b) -> dict[str, float]:
    """Every dialect of R and b under its function's name, the defaults first; NaN where R lacks an entry that the number needs."""
    return {f.__name__: _of(f, R, b) for f in (*DEFAULTS, *DIALECTS)}


def loss_summary(R_loss, b_loss) -> dict[str, float]:
    """The same of losses: mean losses under names of their own, and the differences of -R_loss, -b_loss under the names that they have
    for accuracies, so that forgetting above 0 is a loss that rose and transfer above 0 one that fell. No ratios."""
    levels = {name: _of(f, R_loss, b_loss) for name, f in LEVELS.items()}
    return levels | {
        f.__name__: _of(f, -np.asarray(R_loss), -np.asarray(b_loss)) for f in DIFFERENCES
    }


def referenced(R, b, a_ind=None, a_joint=None) -> dict[str, float]:
    """`fwt_independent` where a_ind is given and `forgetting_rate` where a_joint is; NaN as in `summary`."""
    single = {} if a_ind is None else {"fwt_independent": _or_nan(fwt_independent, R, a_ind)}
    return single | (
        {} if a_joint is None else {"forgetting_rate": _or_nan(forgetting_rate, R, b, a_joint)}
    )


def _of(function, R, b):
    return _or_nan(function, R, b) if function in NEEDS_B else _or_nan(function, R)


def _or_nan(function, *arguments):
    try:
        return function(*arguments)
    except ValueError:
        return float("nan")


def _tasks(R):
    if np.ndim(R) != 2 or np.shape(R)[0] != np.shape(R)[1] or not len(R):
        raise ValueError(
            f"R of shape {np.shape(R)}: expected a square, a row and a column for each task"
        )
    return len(R)


def _entry(R, i, j):
    value = np.asarray(R, float)[i, j]  # of lists too, as summary.json has them
    if np.isnan(value):
        raise ValueError(f"R[{i % len(R)}, {j}] was not measured")
    return value


def _reference(name, vector, j, R):
    if np.shape(vector) != (len(R),):
        raise ValueError(
            f"{name} of shape {np.shape(vector)}: expected a number for each of {len(R)} tasks"
        )
    value = np.asarray(vector, float)[j]
    if np.isnan(value):
        raise ValueError(f"{name}[{j}] was not measured")
    return value


def _mean(R, where):
    return float(np.mean([_entry(R, i, j) for i, j in where]))


def _over_others(R, term, tasks):
    return float(np.mean([term(j) for j in tasks])) if _tasks(R) > 1 else float("nan")


def _from_peak(R, rows):
    return _over_others(
        R, lambda j: max(_entry(R, i, j) for i in rows(j)) - _entry(R, -1, j), range(len(R) - 1)
    )
