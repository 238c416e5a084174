"""What a forecast is told: the training that is to come, and where the network stands."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl.metrics import baselines
from ntkcl.training.problem import Setting
from ntkcl.types import Loss, Optimizer, Stream, TaskRows
from ntkcl.validation import finite, whole


class Effort(NamedTuple):
    """What a forecast may spend.

    krylov_order: products with a kernel by Lanczos, at first where they can be doubled, at all in the form "matrix_free".
    kernels, tolerance: of the form "integrated": kernels a task at most; the error of one stride as a share of the task's residual.
    """

    krylov_order: int = 100
    kernels: int = 8
    tolerance: float = 0.05

    def checked(self) -> "Effort":
        """Itself; ValueError for a number out of range."""
        whole("forecast.krylov_order", self.krylov_order)
        whole("forecast.kernels", self.kernels)
        finite("forecast.tolerance", self.tolerance, above=0.0)
        return self


class Outcome(NamedTuple):
    """What one task will do: the change [N, c] of all outputs; the largest eigenvalue its rule sees, and the share of eigenvalues below
    zero, NaN where no kernel was held; how many kernels and gradients of the task it took, where that is not one kernel.

    `energies` [T, 2]: what `forecast.baselines.energy` tells of the blocks between the train inputs of every task and of this one; None
    where no kernel was held.  `pull`: (inputs, alpha), where theta moves by J(x[inputs])^T alpha and by nothing else; else None.
    `condition`: lam_max / lam_min of the Gram matrix, infinite where it is singular.  `coefficients(rule, residual) -> alpha` of any
    other filter by the same Gram matrix, where the method changes nothing and a rule without memory may be cut in two; else None.
    `anchor_top`: the largest eigenvalue at the anchor, where `top` is of a kernel computed on the way
    there; None where they are one.
    """

    change: Float[Array, "N c"]
    top: float
    negative_mass: float
    kernels: int = 1
    gradients: int = 0
    energies: Any = None
    pull: Any = None
    condition: float = float("nan")
    coefficients: Any = None
    anchor_top: float | None = None


def task_rows(stream: Stream, loss: Loss, places: Sequence[slice]) -> tuple[TaskRows, ...]:
    """Each task as kernel space sees it, its train inputs at `places`."""
    return tuple(
        TaskRows(
            np.arange(own.start, own.stop),
            jnp.asarray(task.train.y, jnp.float64),
            np.asarray(task.head, np.float64),
            1.0 / loss.rate(1.0, len(task.train.x), task.head),
        )
        for task, own in zip(stream, places, strict=True)
    )


def rule(setting: Setting, t: int, first: int = 0, last: int | None = None):
    """The filter g(lam, r) of task t's training, or of its steps from `first` to before `last`, at rest before them."""
    assert setting.optimizer.rule is not None  # `form_of` has seen to it
    rate, steps = setting.learning_rate / setting.tasks[t].scale, setting.steps[t]
    last = steps if last is None else last
    if setting.schedule is None:
        return setting.optimizer.rule(rate, last - first)
    # At a rate of 0 nothing moves: strides of all lengths share their compiled program.
    stride = np.pad(setting.factors(steps)[first:last], (0, steps - (last - first)))
    return setting.optimizer.rule(jnp.asarray(rate * stride), steps)


def memoryless(optimizer: Optimizer) -> bool:
    """Whether two steps leave of a residual what one and one again do: so not with momentum."""
    if optimizer.rule is None:
        return False
    lam = jnp.full(1, 0.5)
    one, two = (float(1 - (lam * optimizer.rule(1.0, steps)(lam, lam))[0]) for steps in (1, 2))
    return abs(two - one**2) < 1e-6


def energies(setting: Setting, t: int, block) -> np.ndarray:
    """`forecast.baselines.energy` [T, 2] of task t's columns and every task's rows, active outputs alone."""
    own = setting.tasks[t]
    active = np.flatnonzero(own.head)
    columns = block[:, :, : len(own.inputs)]

    def one(task):
        rows = np.flatnonzero(task.head)
        return baselines.energy(columns[task.inputs][:, rows][..., active])

    return np.stack([one(task) for task in setting.tasks])
