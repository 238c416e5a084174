"""One task in function space: the rows it trains on, targets, weights, removed directions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ntkcl.dynamics import checks
from ntkcl.types import Places
from ntkcl.validation import shape_is

# Inputs, by their place among all N -> K(x, x[inputs]) [N, c, m, c].
Columns = Callable[[Int[np.ndarray, " m"]], Any]


def by_columns(columns: Columns) -> Places:
    """A kernel given by whole columns, as `Places`; the block that was computed last is kept."""
    kept: dict[bytes, np.ndarray] = {}

    def whole(inputs):
        key = np.asarray(inputs).tobytes()
        if key not in kept:
            kept.clear()
            kept[key] = np.asarray(columns(inputs))
            n, c = kept[key].shape[:2]
            shape_is("K(x, x[inputs])", kept[key], (n, c, len(inputs), c))
            checks.places("Step.inputs", inputs, n)
        return kept[key]

    return Places(
        lambda rows, inputs: whole(inputs)[rows],
        lambda inputs, alpha: read_out(whole(inputs), alpha),
    )


def as_places(kernel: "Places | Columns") -> Places:
    """The kernel as solves read it, from columns too."""
    return kernel if isinstance(kernel, Places) else by_columns(kernel)


@jax.jit
def read_out(column, alpha):
    """K alpha in alpha's type."""
    # As a product and a sum, XLA widens the block on the fly instead of copying it.
    shape_is("alpha", alpha, column.shape[-2:])
    return jnp.sum(column * alpha[None, None], axis=(-2, -1))


class Removed(NamedTuple):
    """Directions v = basis J(x[inputs]) of parameter space that a projection keeps training out of.

    inputs [q]; basis [d, q, c], or None for all q c Jacobian rows themselves.
    """

    inputs: Int[np.ndarray, " q"]
    basis: Any = None


class Step(NamedTuple):
    """One task's training in kernel space.

    The loss is (1/2) sum over rows and outputs of weight (target - f)^2.

    inputs: [m], places among all N inputs; an input may come twice, with two targets.
    targets, weights: [m, c]; an output of weight 0 does not count.
    ridge: lambda of a penalty lambda/2 |theta - centre|^2, relative to the (1/2) sum.
    origin: [N, c], the linearised outputs at the centre; None for the outputs before this task, the
    centre being where they are. removed: directions kept out of, for methods that project the
    gradient. kernel: in a metric of the method's own; None for the kernel of the stream.
    """

    inputs: Int[np.ndarray, " m"]
    targets: Float[Array, "m c"]
    weights: Float[np.ndarray, "m c"]
    ridge: float | int = 0.0
    origin: Float[Array, "N c"] | None = None
    removed: Removed | None = None
    kernel: Places | Columns | None = None


def task_step(task) -> Step:
    """The task's own rows, its active outputs with weight 1."""
    return Step(*own(task))


def stacked(*parts) -> Step:
    """One step on the rows (inputs, targets, weights) of all parts."""
    inputs, targets, weights = zip(*parts, strict=True)
    return Step(np.concatenate(inputs), jnp.concatenate(targets), np.concatenate(weights))


def own(task, weight=1.0, pick=slice(None)):
    """The task's rows, or some of them, every active output with one weight."""
    targets = task.targets[pick]
    weights = weight * np.broadcast_to(np.asarray(task.head, float), targets.shape)
    return np.asarray(task.inputs)[pick], targets, weights


def buffered(tasks, new, picks, weight):
    """Rows of old tasks, some of each, that add `weight` x their mean loss to that of `new`."""
    size = sum(map(len, picks))
    return [
        own(task, weight * new.scale / (size * np.sum(task.head)), pick)
        for task, pick in zip(tasks, picks, strict=True)
    ]
