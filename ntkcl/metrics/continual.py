"""Scores of a stream, each a function of the accuracy matrix; every dialect has a name of its own.

R[i, j] is the score on task j after training task i, b[j] that of the untrained network; tasks
count from 0, fractions in [0, 1], the full square j > i included. A predicted R goes through the
same functions as a measured one. An entry that was not measured is NaN, and a function that needs
it raises ValueError naming it. With one task transfer and forgetting are NaN. Forgetting above 0 is
worse than before, transfer above 0 better; losses go through the same functions as -R_loss and
-b_loss, except through ratios and levels, which mean nothing there.
"""

import numpy as np

from ntkcl.validation import SettingError


def average_accuracy(R):
    """ACC = mean_j R[T-1, j] (GEM, and nearly everyone since)."""
    return _mean(R, [(len(R) - 1, j) for j in range(_tasks(R))])


def learning_accuracy(R):
    """LA = mean_i R[i, i] (Mirzadeh et al. 2022; Guha and Lakshman 2024; Graldi et al. 2025)."""
    return _mean(R, [(i, i) for i in range(_tasks(R))])


def average_incremental_accuracy(R):
    """AIA = mean_i mean_{j<=i} R[i, j] (iCaRL, continuum).

    They weight by samples, which is the same for tasks of equal size.
    """
    return float(np.mean([_mean(R, [(i, j) for j in range(i + 1)]) for i in range(_tasks(R))]))


def accuracy_triangle(R):
    """A = mean of R[i, j] over i >= j (Diaz-Rodriguez et al. 2018; continuum's accuracy_A)."""
    return _mean(R, [(i, j) for i in range(_tasks(R)) for j in range(i + 1)])


def bwt_gem(R):
    """1/(T-1) sum_{j<T-1} (R[T-1, j] - R[j, j]) (Lopez-Paz and Ranzato 2017, the paper).

    Also avalanche, mammoth, clarena, GPM.
    """
    return _over_others(R, lambda j: _entry(R, -1, j) - _entry(R, j, j), range(len(R) - 1))


def bwt_gem_code(R):
    """1/T sum_{j<T-1} (R[T-1, j] - R[j, j]) (GEM's published code).

    A mean over all tasks, to which the last contributes 0.
    """
    return bwt_gem(R) * (len(R) - 1) / len(R)


def bwt_all_pairs(R):
    """Mean over i > j of R[i, j] - R[j, j] (Diaz-Rodriguez et al. 2018).

    Also continuum, which cites GEM.
    """
    pairs = [(i, j) for i in range(_tasks(R)) for j in range(i)]
    if not pairs:
        return float("nan")
    return float(np.mean([_entry(R, i, j) - _entry(R, j, j) for i, j in pairs]))


def bwt_positive(R):
    """max(`bwt_all_pairs`, 0) (Diaz-Rodriguez et al. 2018; continuum)."""
    return float(np.maximum(bwt_all_pairs(R), 0))


def remembering(R):
    """1 - |min(`bwt_all_pairs`, 0)| (Diaz-Rodriguez et al. 2018; continuum)."""
    return float(1 - np.abs(np.minimum(bwt_all_pairs(R), 0)))


def fwt_gem(R, b):
    """1/(T-1) sum_{j>=1} (R[j-1, j] - b[j]) (Lopez-Paz and Ranzato 2017, the paper; avalanche)."""

    def term(j):
        return _entry(R, j - 1, j) - _reference("b", b, j, R)

    return _over_others(R, term, range(1, len(R)))


def fwt_gem_code(R, b):
    """1/T sum_{j>=1} (R[j-1, j] - b[j]) (GEM's published code).

    A mean over all tasks, to which the first contributes 0.
    """
    return fwt_gem(R, b) * (len(R) - 1) / len(R)


def fwt_without_baseline(R):
    """mean_{j>=1} R[j-1, j] (continuum, whose comment says that it omits b).

    A level, not a difference.
    """
    return _over_others(R, lambda j: _entry(R, j - 1, j), range(1, len(R)))


def fwt_independent(R, a_ind):
    """1/(T-1) sum_{j>=1} (R[j, j] - a_ind[j]) (clarena).

    a_ind[j] is the accuracy of a network trained on task j alone.
    """

    def term(j):
        return _entry(R, j, j) - _reference("a_ind", a_ind, j, R)

    return _over_others(R, term, range(1, len(R)))


def forgetting_first(R):
    """mean_{j<T-1} (R[j, j] - R[T-1, j]) (avalanche)."""
    return 0 - bwt_gem(R)


def forgetting_chaudhry(R):
    """mean_{j<T-1} (max_{i<=T-2} R[i, j] - R[T-1, j]) (Chaudhry et al. 2018, eq. 3).

    Also A-GEM's code on permuted data. May be negative, and rows before j was learned count.
    """
    return _from_peak(R, lambda j: range(len(R) - 1))


def forgetting_learned(R):
    """mean_{j<T-1} (max_{j<=i<=T-2} R[i, j] - R[T-1, j]) (continuum).

    Also FACIL and A-GEM's split data, where rows before j are zeros.
    """
    return _from_peak(R, lambda j: range(j, len(R) - 1))


def forgetting_peak(R):
    """mean_{j<T-1} (max_{j<=i<=T-1} R[i, j] - R[T-1, j]), never negative.

    PyCIL, PILOT, Stable-SGD, Mirzadeh's code.
    """
    return _from_peak(R, lambda j: range(j, len(R)))


def forgetting_peak_next(R):
    """mean_{j<T-1} (max_{max(j-1, 0)<=i<=T-1} R[i, j] - R[T-1, j]) (mammoth).

    Its rows hold the next task too.
    """
    return _from_peak(R, lambda j: range(max(j - 1, 0), len(R)))


def forgetting_peak_all_tasks(R):
    """AF = 1/T of the sum in `forgetting_peak` (Guha and Lakshman 2024).

    SequeL reports minus this.
    """
    return forgetting_peak(R) * (len(R) - 1) / len(R)


def forgetting_graldi(R):
    """CF = mean over all T tasks of R[j, j] - R[T-1, j] (Graldi et al. 2025).

    The set that is averaged over is transcribed, not checked.
    """
    return 0 - bwt_gem_code(R)


def forgetting_relative(R):
    """CFr = mean over all T tasks of (R[j, j] - R[T-1, j]) / R[j, j] (Graldi et al. 2025).

    The averaging as in `forgetting_graldi`; the last task contributes 0. ValueError where another
    R[j, j] is 0.
    """

    def term(j):
        own = _entry(R, j, j)
        if own == 0:
            raise SettingError(f"R[{j}, {j}] is 0, and a share of it is not defined")
        return (own - _entry(R, -1, j)) / own

    return _over_others(R, term, range(len(R) - 1)) * (len(R) - 1) / len(R)


def forgetting_rate(R, b, a_joint):
    """FR = mean_j (R[T-1, j] - b[j]) / (a_joint[j] - b[j]) - 1 (clarena).

    a_joint[j] is the accuracy on task j of a network trained on all tasks at once; below 0 is worse
    than joint training. ValueError where a_joint[j] is b[j], up to the rounding of means over ties.
    """

    def term(j):
        start = _reference("b", b, j, R)
        gap = _reference("a_joint", a_joint, j, R) - start
        if abs(gap) < 1e-12:
            raise SettingError(
                f"a_joint[{j}] is b[{j}], and a share of their difference is not defined"
            )
        return (_entry(R, -1, j) - start) / gap

    return _over_others(R, term, range(len(R))) - 1


def _tasks(R):
    if np.ndim(R) != 2 or np.shape(R)[0] != np.shape(R)[1] or not len(R):
        raise SettingError(
            f"R of shape {np.shape(R)}: expected a square, a row and a column for each task"
        )
    return len(R)


def _entry(R, i, j):
    value = np.asarray(R, float)[i, j]  # of lists too, as summary.json has them
    if np.isnan(value):
        raise SettingError(f"R[{i % len(R)}, {j}] was not measured")
    return value


def _reference(name, vector, j, R):
    if np.shape(vector) != (len(R),):
        raise SettingError(
            f"{name} of shape {np.shape(vector)}: expected a number for each of {len(R)} tasks"
        )
    value = np.asarray(vector, float)[j]
    if np.isnan(value):
        raise SettingError(f"{name}[{j}] was not measured")
    return value


def _mean(R, where):
    return float(np.mean([_entry(R, i, j) for i, j in where]))


def _over_others(R, term, tasks):
    return float(np.mean([term(j) for j in tasks])) if _tasks(R) > 1 else float("nan")


def _from_peak(R, rows):
    def term(j):
        return max(_entry(R, i, j) for i in rows(j)) - _entry(R, -1, j)

    return _over_others(R, term, range(len(R) - 1))
