"""Scores of a stream: the accuracy matrix and the numbers that are lines given it.

R[i, j] is the score on task j after training task i, b[j] that of the untrained network; tasks count from 0, fractions in
[0, 1], the full square j > i included. A predicted R goes through the same functions as a measured one. An entry that was not
measured is NaN, and a function that needs it raises ValueError naming it. With one task transfer and forgetting are NaN.
"""

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
    right = np.take_along_axis(best, np.broadcast_to(y.argmax(-1)[..., None], (*f.shape[:-1], 1)), -1)[..., 0]
    with np.errstate(invalid="ignore"):  # 0 / 0, no equals: NaN where f is
        return right / best.sum(-1)


def average_accuracy(R):
    """ACC = mean_j R[T-1, j] (GEM)."""
    return float(_row(R, -1).mean())


def learning_accuracy(R):
    """LA = mean_i R[i, i] (Mirzadeh et al. 2022)."""
    return float(_needed(R, np.eye(len(R), dtype=bool)).mean())


def bwt_gem(R):
    """1/(T-1) sum_{j<T-1} (R[T-1, j] - R[j, j]) (Lopez-Paz and Ranzato 2017, the paper)."""
    return _over_others(R, lambda j: _entry(R, -1, j) - _entry(R, j, j), range(len(R) - 1))


def fwt_gem(R, b):
    """1/(T-1) sum_{j>=1} (R[j-1, j] - b[j]) (Lopez-Paz and Ranzato 2017, the paper)."""
    if np.isnan(b[1:]).any():
        raise ValueError(f"b[{1 + int(np.flatnonzero(np.isnan(b[1:]))[0])}] was not measured")
    return _over_others(R, lambda j: _entry(R, j - 1, j) - b[j], range(1, len(R)))


def forgetting_chaudhry(R):
    """mean_{j<T-1} (max_{i<=T-2} R[i, j] - R[T-1, j]) (Chaudhry et al. 2018, eq. 3): rows before j was learned count."""
    return _over_others(R, lambda j: max(_entry(R, i, j) for i in range(len(R) - 1)) - _entry(R, -1, j), range(len(R) - 1))


def summary(R, b) -> dict[str, float]:
    """The default table, each number under its function's name; NaN where R lacks an entry that the number needs."""
    named = {f.__name__: f for f in (average_accuracy, learning_accuracy, bwt_gem, forgetting_chaudhry)}
    named["fwt_gem"] = lambda R: fwt_gem(R, b)
    return {name: _or_nan(function, R) for name, function in named.items()}


def _or_nan(function, R):
    try:
        return function(R)
    except ValueError:
        return float("nan")


def _entry(R, i, j):
    if np.isnan(R[i, j]):
        raise ValueError(f"R[{i % len(R)}, {j}] was not measured")
    return R[i, j]


def _row(R, i):
    return np.array([_entry(R, i, j) for j in range(len(R))])


def _needed(R, where):
    return np.array([_entry(R, i, j) for i, j in np.argwhere(where)])


def _over_others(R, term, tasks):
    return float(np.mean([term(j) for j in tasks])) if len(R) > 1 else float("nan")
