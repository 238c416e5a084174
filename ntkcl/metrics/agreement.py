"""How near a predicted drift is to the measured one.

drift d_S = f_T(X_S) - f_S(X_S) is compared entry by entry over the old tasks S < T, samples and
active outputs. A common offset explains much of most drifts, so R2 stands beside the skill over an
oracle that knows that offset.
"""

from collections.abc import Sequence

import numpy as np

from ntkcl.validation import shape_is


def r2(measured, predicted) -> float:
    """1 - sum (m - p)^2 / sum (m - mean m)^2 over all entries together."""
    measured, predicted = np.asarray(measured, float), np.asarray(predicted, float)
    shape_is("predicted", predicted, measured.shape)
    return _one_minus_ratio(measured - predicted, measured - measured.mean())


def cosine(measured, predicted) -> float:
    """m . p / (|m| |p|), uncentred."""
    return _ratio(measured @ predicted, np.linalg.norm(measured) * np.linalg.norm(predicted))


def slope(measured, predicted) -> float:
    """Of the least-squares line measured = slope * predicted + offset; 1 is the right size."""
    centred = predicted - predicted.mean()
    return _ratio(centred @ (measured - measured.mean()), centred @ centred)


def skill(measured: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> float:
    """1 - sum (m - p)^2 / sum (m - constant)^2, one constant for each old task and output.

    The constant is the mean **measured** drift. It is an oracle, it has seen the answer: above zero
    the forecast knows more than the best common offset.
    Arguments: drifts [n_S, a_S] by old task.
    """
    error = np.concatenate([(m - p).ravel() for m, p in zip(measured, predicted, strict=True)])
    spread = np.concatenate([(m - m.mean(0)).ravel() for m in measured])
    return _one_minus_ratio(error, spread)


def spearman(measured, predicted) -> float:
    """Rank correlation, equal values sharing the mean of their ranks.

    NaN where one side is constant or holds a NaN. Infinite values have ranks, too.
    """
    sides = [np.asarray(side, float) for side in (measured, predicted)]
    if any((side == side[0]).all() or np.isnan(side).any() for side in sides):
        return float("nan")
    measured, predicted = map(_ranks, sides)
    return float(np.corrcoef(measured, predicted)[0, 1])


def _ranks(values) -> np.ndarray:
    """As `scipy.stats.rankdata`, the import of which takes as long as that of JAX."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def flip_f1(measured, predicted) -> float:
    """F1 of the predicted flips, -1 lost, +1 gained, 0 unchanged; a hit needs the same sign.

    NaN where neither side has any.
    """
    hits = np.sum((measured == predicted) & (measured != 0))
    return _ratio(2.0 * hits, np.sum(measured != 0) + np.sum(predicted != 0))


def agreement(measured: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> dict[str, float]:
    """R2, cosine, slope and skill of drifts [n_S, a_S] by old task.

    NaN where there is no old task or a value is not finite.
    """
    names = ("drift_r2", "drift_cosine", "drift_slope", "skill")
    if not measured or not all(np.isfinite(d).all() for d in (*measured, *predicted)):
        return dict.fromkeys(names, float("nan"))
    m, p = (np.concatenate([d.ravel() for d in drifts]) for drifts in (measured, predicted))
    values = r2(m, p), cosine(m, p), slope(m, p), skill(measured, predicted)
    return dict(zip(names, values, strict=True))


def _one_minus_ratio(error, spread) -> float:
    return 1.0 - _ratio(error @ error, spread @ spread)


def _ratio(top, bottom) -> float:
    return float(top / bottom) if bottom > 0 else float("nan")
