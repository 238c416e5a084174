"""Numbers that say how well a sequence of tasks was learned, and how well a forecast of it agrees.

`continual` holds functions of the accuracy matrix R and of b, `dialects` says which of them are
reported, `per_sample` which samples are right and which have flipped. `agreement` compares
predicted with measured outputs, `baselines` says what is to be had without a forecast,
`error_budget` splits the error of a forecast into parts, `verdict` says before training whether to
trust it.
"""

from ntkcl.metrics import baselines
from ntkcl.metrics.agreement import agreement, cosine, flip_f1, r2, skill, slope, spearman
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
from ntkcl.metrics.dialects import (
    DEFAULTS,
    DIALECTS,
    DIFFERENCES,
    LEVELS,
    NEEDS_B,
    REFERENCED,
    loss_summary,
    referenced,
    summary,
)
from ntkcl.metrics.error_budget import budget
from ntkcl.metrics.per_sample import (
    correct,
    flip_gained,
    flip_lost,
    forgetting_events,
    margin,
    margin_change,
)
from ntkcl.metrics.verdict import verdict

__all__ = [
    "DEFAULTS",
    "DIALECTS",
    "DIFFERENCES",
    "LEVELS",
    "NEEDS_B",
    "REFERENCED",
    "accuracy_triangle",
    "agreement",
    "average_accuracy",
    "average_incremental_accuracy",
    "baselines",
    "budget",
    "bwt_all_pairs",
    "bwt_gem",
    "bwt_gem_code",
    "bwt_positive",
    "correct",
    "cosine",
    "flip_f1",
    "flip_gained",
    "flip_lost",
    "forgetting_chaudhry",
    "forgetting_events",
    "forgetting_first",
    "forgetting_graldi",
    "forgetting_learned",
    "forgetting_peak",
    "forgetting_peak_all_tasks",
    "forgetting_peak_next",
    "forgetting_rate",
    "forgetting_relative",
    "fwt_gem",
    "fwt_gem_code",
    "fwt_independent",
    "fwt_without_baseline",
    "learning_accuracy",
    "loss_summary",
    "margin",
    "margin_change",
    "r2",
    "referenced",
    "remembering",
    "skill",
    "slope",
    "spearman",
    "summary",
    "verdict",
]
