"""Training in function space, from kernel blocks alone. Arrays in, arrays out: nothing here trains.

A training rule is a filter of the residual, a task one `Step`, a stream of tasks one block
lower-triangular solve (`sequence`); `simulate` follows the steps one by one, `attribution` says
which training samples a drift comes from. The solves work in the floating type they are given:
give them float64.
"""

from ntkcl.dynamics import attribution
from ntkcl.dynamics.cached import cached
from ntkcl.dynamics.combined import Combined, combined
from ntkcl.dynamics.prepare import Prepared, extended, prepared, prepared_by_products
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
    one_task_from_each,
    sequence,
)
from ntkcl.dynamics.simulate import simulate
from ntkcl.dynamics.spectral import Arrow, Decomposed, eigendecomposed
from ntkcl.dynamics.steps import (
    Places,
    Removed,
    Step,
    as_places,
    buffered,
    by_columns,
    own,
    read_out,
    stacked,
    task_step,
)

__all__ = [
    "Arrow",
    "Combined",
    "Decomposed",
    "Places",
    "Prepared",
    "Removed",
    "Rule",
    "Solve",
    "Step",
    "as_places",
    "attribution",
    "buffered",
    "by_columns",
    "cached",
    "combined",
    "converged",
    "eigendecomposed",
    "extended",
    "gradient_descent",
    "gradient_flow",
    "heavy_ball",
    "largest_eigenvalue",
    "negative_mass",
    "nesterov",
    "one_task",
    "one_task_from_each",
    "own",
    "prepared",
    "prepared_by_products",
    "read_out",
    "sequence",
    "simulate",
    "stacked",
    "task_step",
]
