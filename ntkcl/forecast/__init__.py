"""What training will do to the outputs, from kernel blocks alone. Arrays in, arrays out: nothing here trains a network.

A task is one linear filter of its residual; a stream of tasks is one block lower-triangular solve; agreement compares the
predicted outputs with measured ones. The solves work in the floating type they are given: give them float64.
"""

from ntkcl.forecast.agreement import agreement, flip_f1, r2, spearman
from ntkcl.forecast.filters import gradient_descent
from ntkcl.forecast.sequence import Solve, largest_eigenvalue, negative_mass, one_task, sequence

__all__ = [
    "Solve",
    "agreement",
    "flip_f1",
    "gradient_descent",
    "largest_eigenvalue",
    "negative_mass",
    "one_task",
    "r2",
    "sequence",
    "spearman",
]
