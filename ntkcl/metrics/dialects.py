"""Which scores of a stream are reported, and the summaries that hold them.

The scores themselves are the functions of `ntkcl.metrics.continual`, each under its own name.
"""

from collections.abc import Callable

import numpy as np

from ntkcl.metrics.continual import (
    accuracy_triangle,
    average_accuracy,
    average_incremental_accuracy,
    bwt_all_pairs,
    bwt_gem,
    bwt_gem_code,
    bwt_positive,
    forgetting_chaudhry,
    forgetting_first,
    forgetting_graldi,
    forgetting_learned,
    forgetting_peak,
    forgetting_peak_all_tasks,
    forgetting_peak_next,
    forgetting_rate,
    forgetting_relative,
    fwt_gem,
    fwt_gem_code,
    fwt_independent,
    fwt_without_baseline,
    learning_accuracy,
    remembering,
)

REFERENCED = ("fwt_independent", "forgetting_rate")
"""Scores that need more than R and b: networks trained from the start as references."""
DEFAULTS: tuple[Callable, ...] = (
    average_accuracy,
    learning_accuracy,
    bwt_gem,
    forgetting_chaudhry,
    fwt_gem,
)
"""The scores that are shown first."""
DIALECTS: tuple[Callable, ...] = (
    average_incremental_accuracy,
    accuracy_triangle,
    bwt_gem_code,
    bwt_all_pairs,
    bwt_positive,
    remembering,
    fwt_gem_code,
    fwt_without_baseline,
    forgetting_first,
    forgetting_learned,
    forgetting_peak,
    forgetting_peak_next,
    forgetting_peak_all_tasks,
    forgetting_graldi,
    forgetting_relative,
)
"""Every other score that needs no more than R and b."""
LEVELS = {
    "average_loss": average_accuracy,
    "learning_loss": learning_accuracy,
    "average_incremental_loss": average_incremental_accuracy,
    "loss_triangle": accuracy_triangle,
}
"""Scores of the loss itself, not of -loss: mean loss where the accuracy's name says mean accuracy.
"""
DIFFERENCES: tuple[Callable, ...] = (
    bwt_gem,
    bwt_gem_code,
    bwt_all_pairs,
    bwt_positive,
    fwt_gem,
    fwt_gem_code,
    forgetting_chaudhry,
    forgetting_first,
    forgetting_learned,
    forgetting_peak,
    forgetting_peak_next,
    forgetting_peak_all_tasks,
    forgetting_graldi,
)
"""Scores that are differences: of losses they are those of -R_loss and -b_loss."""
NEEDS_B = (fwt_gem, fwt_gem_code)
"""Scores that need b, the scores of the untrained network."""


def summary(R, b) -> dict[str, float]:
    """Every dialect of R and b under its function's name, the defaults first.

    NaN where R lacks an entry that the number needs.
    """
    return {f.__name__: _of(f, R, b) for f in (*DEFAULTS, *DIALECTS)}


def loss_summary(R_loss, b_loss) -> dict[str, float]:
    """The same of losses, without ratios.

    Mean losses have names of their own. The differences of -R_loss and -b_loss have the names that
    they have for accuracies: forgetting above 0 is a loss that rose, transfer above 0 one that
    fell.
    """
    levels = {name: _of(f, R_loss, b_loss) for name, f in LEVELS.items()}
    R, b = -np.asarray(R_loss), -np.asarray(b_loss)
    return levels | {f.__name__: _of(f, R, b) for f in DIFFERENCES}


def referenced(R, b, a_ind=None, a_joint=None) -> dict[str, float]:
    """The scores that need reference trainings, of those references that are given.

    `fwt_independent` needs a_ind, `forgetting_rate` a_joint; NaN as in `summary`.
    """
    scores = {}
    if a_ind is not None:
        scores["fwt_independent"] = _or_nan(fwt_independent, R, a_ind)
    if a_joint is not None:
        scores["forgetting_rate"] = _or_nan(forgetting_rate, R, b, a_joint)
    return scores


def _of(function, R, b):
    return _or_nan(function, R, b) if function in NEEDS_B else _or_nan(function, R)


def _or_nan(function, *arguments):
    try:
        return function(*arguments)
    except ValueError:
        return float("nan")
