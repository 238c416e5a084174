"""What training will do to the outputs, from kernel blocks alone. Arrays in, arrays out: nothing here trains a network.

A training rule is a filter of the residual; a task is one `Step`; a stream of tasks is one block lower-triangular solve; agreement
compares the predicted outputs with measured ones, `baselines` with what was to be had for nothing; `attribution` takes a drift apart.
The solves work in the floating type they are given: give them float64.
"""

from ntkcl.dynamics import attribution
from ntkcl.dynamics.prepare import Prepared, extended, prepared, remembered
from ntkcl.dynamics.rules import (
    Rule,
    converged,
    gradient_descent,
    gradient_flow,
    heavy_ball,
    nesterov,
)
from ntkcl.dynamics.sequence import (
    Solve,
    largest_eigenvalue,
    negative_mass,
    one_task,
    read_out,
    sequence,
)
from ntkcl.dynamics.simulate import simulate
from ntkcl.dynamics.spectral import Arrow, Decomposed, eigendecomposed
from ntkcl.dynamics.steps import Removed, Step
from ntkcl.metrics import baselines
from ntkcl.metrics.agreement import agreement, flip_f1, r2, spearman
from ntkcl.metrics.verdict import verdict

__all__ = [
    "Arrow",
    "Decomposed",
    "Prepared",
    "Removed",
    "Rule",
    "Solve",
    "Step",
    "agreement",
    "attribution",
    "baselines",
    "converged",
    "eigendecomposed",
    "extended",
    "flip_f1",
    "gradient_descent",
    "gradient_flow",
    "heavy_ball",
    "largest_eigenvalue",
    "negative_mass",
    "nesterov",
    "one_task",
    "prepared",
    "r2",
    "read_out",
    "remembered",
    "sequence",
    "simulate",
    "spearman",
    "verdict",
]
