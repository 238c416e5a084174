"""The parameter directions in which kept old outputs change, and the projection off their span.

What `ogd`, `ogd_plus` and `pca_ogd` have in common. The directions are rows V of Jacobians, at the
parameters that each task has ended at, and none of them is held: V g is one product with tangents
of the kept samples, V^T v one gradient. The projection g - V^T P V g needs beside them the
pseudo-inverse P of the Gram matrix V V^T alone, [D, D] where a basis would be [D, p], and a step of
training reads that. In kernel space the same directions are removed from the kernel. The three
methods differ in which rows are added after a task.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ntkcl import resources, validation
from ntkcl.compilation import activations, one_of, portable
from ntkcl.dynamics import Removed, Step
from ntkcl.dynamics.steps import task_step
from ntkcl.methods import row_span
from ntkcl.methods.memory import draw_memory
from ntkcl.types import Network, Params, Task, TaskRows
from ntkcl.validation import SettingError

OUTPUTS = ("all", "average", "true")
COPIES = 11  # of the Gram matrix, in float64, while its pseudo-inverse grows
CHUNK = 2**24  # numbers that are held at once while a Gram matrix is computed

# `(t, targets, head) -> places [k] among the samples of task t, combinations [k, c] of outputs`
Select = Callable[..., tuple[Int[np.ndarray, " k"], Float[np.ndarray, "k c"]]]


class Kept(NamedTuple):
    """Inputs x [q, ...] that are kept, and k rows: the input that each is of [k], and the
    combination of its outputs [k, c]."""

    x: Any
    places: Any
    weights: Any

    @staticmethod
    def of(x, places, weights) -> "Kept":
        """Of a task's inputs x, rows of samples that may be named more than once."""
        distinct, where = np.unique(places, return_inverse=True)
        return Kept(jnp.asarray(np.asarray(x)[distinct]), jnp.asarray(where), weights)

    @staticmethod
    def concatenated(several: "Sequence[Kept]") -> "Kept":
        """The rows of several in turn."""
        before = np.cumsum([0, *(len(one.x) for one in several)])
        places = [one.places + first for one, first in zip(several, before, strict=False)]
        x, weights = ([one[k] for one in several] for k in (0, 2))
        return Kept(*map(jnp.concatenate, (x, places, weights)))


class Block(NamedTuple):
    """Rows of the Jacobian at theta."""

    theta: Params
    kept: Kept


class Memory(NamedTuple):
    """The directions V that training keeps out of.

    apply: the network, `portable`.  blocks: of V, one after the other.
    gram: V V^T [D, D].  inverse: P [D, D], V^T P V being the projector onto the span; of principal
      directions, onto theirs alone.
    kept: of each task.
    """

    apply: Any
    blocks: tuple[Block, ...]
    gram: Any
    inverse: Any
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
    return Kept.of(task.train.x, places, jnp.asarray(weights, dtype))


def check_memory(memory: Memory | tuple, new_rows: int, per_task: int | None):
    """ValueError where the Gram matrix of all rows does not fit into the machine's memory."""
    rows = new_rows + (len(memory.gram) if isinstance(memory, Memory) else 0)
    need = COPIES * rows**2 * 8 / 2**30
    available = resources.memory_gib()
    if need > available:
        raise SettingError(
            f"method.per_task={per_task}: the Gram matrix of {rows} directions and its inverse "
            f"take {need:.1f} GiB, and there are {available:.1f}; expected fewer samples or "
            "method.outputs=true"
        )


def extended(
    memory: Memory | tuple,
    network: Network,
    theta: Params,
    kept: Kept,
    rows: Kept,
    directions: int | None = None,
) -> Memory:
    """The memory after a task, of which `kept` is kept: its span has these rows at theta too, or
    their largest principal directions."""
    apply, none = portable(network.apply), np.zeros((0, 0))
    before = memory if isinstance(memory, Memory) else Memory(apply, (), none, none, ())
    blocks = (*before.blocks, Block(theta, rows))
    gram = row_span.grown(np.asarray(before.gram), _gram(apply, blocks))
    inverse = row_span.spanning(gram, np.asarray(before.inverse), directions)
    return Memory(apply, blocks, jnp.asarray(gram), jnp.asarray(inverse), (*before.kept, kept))


def _gram(apply, blocks: Sequence[Block]) -> np.ndarray:
    """V V_new^T [D, k], V_new being the last of the blocks: a few of its rows at a time, and the
    products of all others with them, in the widest type. A Gram matrix squares the condition, and
    in float32 what it takes for small directions is rounding."""
    theta, kept = blocks[-1]
    samples = sum(len(block.kept.x) for block in blocks)
    held = samples * activations(apply, theta, one_of(kept.x))  # for each row, and its gradient
    held += sum(leaf.size for leaf in jax.tree.leaves(theta))
    at_once = max(1, min(len(kept.places), CHUNK // held))
    columns = []
    for first in range(0, len(kept.places), at_once):
        # The last chunk is as long as the others, so that nothing is compiled anew.
        some = np.minimum(np.arange(first, first + at_once), len(kept.places) - 1)
        chunk = _columns(apply, theta, kept.x, kept.places[some], kept.weights[some], blocks)
        columns.append(np.asarray(chunk)[:, : len(kept.places) - first])
    return np.concatenate(columns, 1)


@jax.jit
@jax.default_matmul_precision("highest")
def _columns(apply, theta, x, places, weights, blocks):
    theta = _wide(theta)

    def row(place, weight):
        return jax.grad(lambda p: jnp.dot(_wide(weight), apply(p, _wide(x[place]))))(theta)

    gradients = jax.vmap(row)(places, weights)
    return jax.vmap(lambda g: _products(apply, blocks, g), 0, 1)(gradients)


def _wide(tree):
    """In the widest floating type there is; integers as they are."""

    def wide(leaf):
        return leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(wide, tree)


def _products(apply, blocks, v):
    """V v [D] of a direction of parameter space."""
    return jnp.concatenate([_product(apply, block, v) for block in blocks])


def _product(apply, block: Block, v):
    theta, kept = _wide(block.theta), _wide(block.kept)

    def along(x):
        return jax.jvp(lambda p: apply(p, x), (theta,), (v,))[1]

    return jnp.sum(kept.weights * jax.vmap(along)(kept.x)[kept.places], 1)


def _pulled_back(apply, block: Block, v):
    """V^T v, a direction of parameter space, of the rows of one block."""
    theta, kept = _wide(block.theta), _wide(block.kept)

    def combined(p):
        f = jax.vmap(apply, (None, 0))(p, kept.x)
        return jnp.vdot(v, jnp.sum(kept.weights * f[kept.places], 1))

    return jax.grad(combined)(theta)


@jax.default_matmul_precision("highest")
def project(memory, apply, loss, theta, gradient):
    """The gradient less its part in the span of the rows, V^T P V g.

    In the widest type: of small directions float32 would leave rounding. A gradient that is of that
    type itself is projected twice, which squares what rounding has left of P.
    """
    if not memory:
        return gradient
    left = _wide(gradient)
    sizes = np.cumsum([len(block.kept.places) for block in memory.blocks])[:-1]
    is_widest = jnp.result_type(*jax.tree.leaves(gradient)) == jnp.result_type(float)
    for _ in range(2 if is_widest else 1):
        v = memory.inverse @ _products(memory.apply, memory.blocks, left)
        for block, own in zip(memory.blocks, jnp.split(v, sizes), strict=True):
            left = jax.tree.map(jnp.subtract, left, _pulled_back(memory.apply, block, own))
    return jax.tree.map(lambda g, one: one.astype(g.dtype), gradient, left)


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
