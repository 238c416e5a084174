"""An orthonormal basis of the parameter directions in which kept old outputs change.

What `ogd`, `ogd_plus` and `pca_ogd` have in common. In training the gradient is projected off the
basis; in kernel space the same directions are removed from the kernel. The three differ in which
rows enter the basis after a task.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from ntkcl import resources, validation
from ntkcl.compilation import portable
from ntkcl.dynamics import Removed, Step
from ntkcl.dynamics.steps import task_step
from ntkcl.methods.memory import draw_memory
from ntkcl.types import Apply, Params, Task, TaskRows
from ntkcl.validation import SettingError

OUTPUTS = ("all", "average", "true")
# Directions whose square is below this share of the longest row's are rounding, as in kernel space.
DEPENDENT = 1e-10
# Copies of the directions that exist while they are made orthonormal: the old basis in its own type
# and in float64, the new rows, the new basis.
COPIES = 4

# `(t, targets, head) -> places [k] among the samples of task t, combinations [k, c] of outputs`
Select = Callable[..., tuple[Int[np.ndarray, " k"], Float[np.ndarray, "k c"]]]


class Kept(NamedTuple):
    """Of one task the inputs x [k, ...] kept, and the combination of outputs [k, c] of each."""

    x: Any
    weights: Any


class Memory(NamedTuple):
    """An orthonormal basis [d, p] of the directions that training keeps out of; what was kept."""

    basis: jax.Array
    kept: tuple[Kept, ...]


def selection(per_task: int | None, outputs: str, seed: int) -> Select:
    """Which samples of a task are kept, and which outputs of them; see `ogd` for the arguments."""
    if per_task is not None:
        validation.whole("method.per_task", per_task)
    validation.one_of("method.outputs", outputs, OUTPUTS)
    validation.seed("method.seed", seed)

    def select(t, y, head):
        places = draw_memory(seed, t, len(y), per_task)
        active, one = np.flatnonzero(head), np.eye(np.shape(y)[1])
        if outputs == "all":
            return np.repeat(places, len(active)), np.tile(one[active], (len(places), 1))
        if outputs == "average":
            return places, np.tile(one[active].mean(0), (len(places), 1))
        return places, one[active[np.argmax(np.asarray(y)[places][:, active], 1)]]

    return select


def kept_before(memory: Memory | tuple) -> tuple[Kept, ...]:
    """What was kept of the tasks before; nothing before the first task, when `memory` is ()."""
    return memory.kept if isinstance(memory, Memory) else ()


def keep(select: Select, memory: Memory | tuple, theta: Params, task: Task) -> Kept:
    """What is kept of the task that has just been trained."""
    places, weights = select(len(kept_before(memory)), task.train.y, task.head)
    dtype = jnp.result_type(*jax.tree.leaves(theta))
    return Kept(task.train.x[places], jnp.asarray(weights, dtype))


def check_memory(memory: Memory | tuple, theta: Params, new_rows: int, per_task: int | None):
    """ValueError where the basis and so many new rows do not fit into the machine's memory."""
    rows = new_rows + (len(memory.basis) if isinstance(memory, Memory) else 0)
    leaves = jax.tree.leaves(theta)
    p = sum(math.prod(leaf.shape) for leaf in leaves)
    need = COPIES * rows * p * jnp.result_type(*leaves).itemsize / 2**30
    available = resources.memory_gib()
    if need > available:
        raise SettingError(
            f"method.per_task={per_task}: {rows} directions of {p} parameters take {need:.1f} GiB "
            f"while they are made orthonormal, and there are {available:.1f}; expected fewer "
            "samples or method.outputs=true"
        )


def jacobians(apply: Apply, theta: Params, kept: Kept) -> Float[Array, "k p"]:
    """The flat gradient of weights[i] . f(x[i]), for each i."""
    return _jacobians(portable(apply), theta, kept.x, kept.weights)


@jax.jit
def _jacobians(apply, theta, x, weights):
    def row(pair):
        x, w = pair
        return ravel_pytree(jax.grad(lambda p: jnp.dot(w, apply(p, x)))(theta))[0]

    return jax.lax.map(row, (x, weights))


def extended(memory: Memory | tuple, rows: Float[Array, "k p"], kept: Kept) -> Memory:
    """The memory after a task: its basis spans these rows too."""
    basis = memory.basis if isinstance(memory, Memory) else rows[:0]
    return Memory(_spanning(basis, rows), (*kept_before(memory), kept))


def _spanning(basis, rows):
    """The orthonormal basis, and of the rows what is not in its span."""
    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    rounding = max(DEPENDENT, len(rows) * eps) * float(jnp.max(jnp.sum(rows**2, 1)))
    # A second time at length 1: what rounding has left of the basis in short rows goes.
    for least in (rounding, 0.5):
        rest, lam, modes = _off_basis(basis, rows)
        solid = np.flatnonzero(np.asarray(lam) > least)
        rows = (modes[:, solid] / jnp.sqrt(lam[solid])[None]).T @ rest
    return jnp.concatenate([basis, rows.astype(basis.dtype)])


@jax.jit
@jax.default_matmul_precision("highest")
def _off_basis(basis, rows):
    """The rows less their part in the span of the basis; eigenvalues and eigenvectors of their Gram
    matrix. In the widest type there is: a Gram matrix squares the condition, and in float32 what it
    takes for small directions is rounding."""
    basis, rows = basis.astype(float), rows.astype(float)
    rows = rows - (rows @ basis.T) @ basis
    return rows, *jnp.linalg.eigh(rows @ rows.T)


@jax.default_matmul_precision("highest")
def project(memory, apply, loss, theta, gradient):
    """The gradient less its part in the span of the basis."""
    if not memory:
        return gradient
    flat, back = ravel_pytree(gradient)
    return back(flat - memory.basis.T @ (memory.basis @ flat))


def removed_of_task(select: Select, t: int, task: TaskRows) -> Removed:
    """The directions kept of task t, as combinations [k, q, c] of the Jacobian rows of q inputs."""
    places, weights = select(t, task.targets, np.asarray(task.head))
    distinct, where = np.unique(places, return_inverse=True)
    rows = np.zeros((len(places), len(distinct), weights.shape[1]))
    rows[np.arange(len(places)), where] = weights
    return Removed(np.asarray(task.inputs)[distinct], rows)


def step_without(task: TaskRows, removed: Sequence[Removed]) -> Step:
    """The task's own rows, the directions kept of the tasks before removed from the kernel."""
    step = task_step(task)
    if not removed:
        return step
    inputs, bases = np.concatenate([one.inputs for one in removed]), [one.basis for one in removed]
    if all(map(_spans_every_row, bases)):
        return step._replace(removed=Removed(inputs))
    # Block-diagonal: the directions of a task are combinations of its own inputs' rows alone.
    whole = np.zeros((sum(map(len, bases)), sum(b.shape[1] for b in bases), task.targets.shape[1]))
    d = q = 0
    for basis in bases:
        whole[d : d + len(basis), q : q + basis.shape[1]] = basis
        d, q = d + len(basis), q + basis.shape[1]
    return step._replace(removed=Removed(inputs, whole))


def _spans_every_row(basis: Float[np.ndarray, "k q c"]) -> bool:
    """Whether the directions are the Jacobian rows of q inputs themselves, in whatever order."""
    taken = basis.reshape(len(basis), -1) != 0
    return bool((taken.sum(0) == 1).all() and (taken.sum(1) == 1).all())
