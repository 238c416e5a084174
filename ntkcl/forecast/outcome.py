"""What a forecast may spend, and what it says of one task."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl.training.problem import Problem
from ntkcl.validation import finite, flag, whole


class Effort(NamedTuple):
    """What a forecast may spend.

    krylov_order: products with a kernel by Lanczos, at first where more can follow, at all in
      the form "matrix_free".
    kernels, tolerance: of the form "integrated": kernels a task at most; the error of one stride
      as a share of the task's residual.
    explain: whether what it will take is estimated, and said, before it is made.
    coarsen, segments: of the form "linearised": one step of k times the learning rate in place of
      every k; how often a task the network is linearised, or "auto", until twice as often predicts
      the same; 1 is "auto" where the learning rate exceeds the limit at a later anchor.
    """

    krylov_order: int = 100
    kernels: int = 8
    tolerance: float = 0.05
    explain: bool = False
    coarsen: int = 1
    segments: int | str = 1

    def checked(self) -> "Effort":
        """Itself; ValueError for a number out of range."""
        whole("forecast.krylov_order", self.krylov_order)
        whole("forecast.kernels", self.kernels)
        finite("forecast.tolerance", self.tolerance, above=0.0)
        flag("forecast.explain", self.explain)
        whole("forecast.coarsen", self.coarsen)
        if self.segments != "auto":
            whole("forecast.segments", self.segments, or_else="auto")
        return self


class Outcome(NamedTuple):
    """What one task will do to the outputs.

    change: [N, c], of all outputs.
    top: the largest eigenvalue its rule sees.  negative_mass: the share of eigenvalues below zero,
      NaN where no kernel was held.
    kernels, gradients: how many of the task it took, where that is not one kernel.
    pull: (inputs, alpha), where theta moves by J(x[inputs])^T alpha and by nothing else; else None.
    condition, smallest: lam_max / lam_min and lam_min of the Gram matrix; infinite and 0 where it
      is singular, NaN where not all eigenvalues are known.
    coefficients: `coefficients(rule, residual) -> alpha` of any other filter by the same Gram
      matrix, to three digits at least, where the method changes nothing and a memoryless rule may
      be cut in two; else None.
    anchor_top: the largest eigenvalue at the anchor, where `top` is of a kernel computed on the
      way; None where they are one.
    coarser: the same change predicted with half as many steps, [N, c]; None where all were taken.
    resegmented: `resegmented()` is the same change by half as many segments, [N, c]. None where
      those have not been trained anyway, on the way to more.
    theta: the parameters after the task, where a form follows them; else None.
    lower_order: the same change by a method of lower order that the forecast contains, [N, c], NaN
      at rows that it was not read at: by the tangents along which parameters moved, segment by
      segment, or by strides of the form "integrated" without their correction. None for others.
    limit_share: the learning rate over the stability limit at the anchor, from below, where the
      form itself has looked at it; else NaN.
    """

    change: Float[Array | np.ndarray, "N c"]
    top: float
    negative_mass: float
    kernels: int = 1
    gradients: int = 0
    pull: Any = None
    condition: float = float("nan")
    smallest: float = float("nan")
    coefficients: Any = None
    anchor_top: float | None = None
    coarser: Any = None
    resegmented: Any = None
    theta: Any = None
    lower_order: Any = None
    limit_share: float = float("nan")


def rule(problem: Problem, t: int, first: int = 0, last: int | None = None):
    """The filter g(lam, r) of task t's training, or of its steps from `first` to before `last`, at
    rest before them."""
    assert problem.optimizer.rule is not None  # `form_of` has checked it
    rate, steps = problem.learning_rate / problem.tasks[t].scale, problem.steps[t]
    last = steps if last is None else last
    if problem.schedule is None:
        return problem.optimizer.rule(rate, last - first)
    # At a rate of 0 nothing moves: strides of all lengths share their compiled program.
    stride = np.pad(problem.factors(steps)[first:last], (0, steps - (last - first)))
    return problem.optimizer.rule(jnp.asarray(rate * stride), steps)
