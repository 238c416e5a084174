"""Orthogonal gradient descent: gradients are projected off the directions in which old outputs would change."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ntkcl import resources, validation
from ntkcl.compilation import once, portable
from ntkcl.dynamics import Removed
from ntkcl.dynamics.steps import task_step
from ntkcl.methods.custom import custom
from ntkcl.methods.memory import chosen
from ntkcl.types import Method

OUTPUTS = ("all", "average", "true")
DEPENDENT = 1e-10  # directions whose square is below this share of the longest row's are rounding, as in kernel space
COPIES = 4  # of the directions while they are made orthonormal: the old basis in its own type and in float64, the new one


class Memory(NamedTuple):
    """An orthonormal basis [d, p] of the directions kept out of; of each task the inputs [k, ...] kept, and the combination [k, c] of
    the outputs that each was kept for."""

    basis: jax.Array
    kept: tuple


@once
def ogd(per_task: int | None = 200, outputs: str = "all", *, seed: int = 0) -> Method:
    """Projects every gradient g to g - V^+ V g, the rows of V being Jacobians of kept old samples at the end of their task.

    Arguments:
      per_task, seed: samples kept of each task, None for all.
      outputs: what is held of a sample: "all" its active outputs, one row of V each (the paper's OGD-ALL); their "average" (OGD-AVE)
        or the one of its "true" class alone, that of the largest target (OGD-GTL), a row each.
    Kernel space: K(x, x') - K(x, M) K(M, M)^+ K(M, x'), M the kept pairs of a sample and a combination of outputs. Exact for any rule.
    What lies in the span of M cannot be learned.
    Raises ValueError, before the task is trained, for a memory larger than the task, or than the machine's.
    Source: Farajtabar et al. 2020; kernel: Bennani et al. 2020.
    """
    return _projection(per_task, outputs, seed, None, again=False)


@once
def ogd_plus(per_task: int | None = 200, outputs: str = "all", *, seed: int = 0) -> Method:
    """OGD whose memory also takes, after every task, the Jacobians of all samples kept so far at the parameters as they are then.

    Arguments: as of `ogd`.
    Kernel space: at one anchor the same kernel as `ogd`; they differ when the kernel moves.
    Source: Bennani et al. 2020.
    """
    return _projection(per_task, outputs, seed, None, again=True)


@once
def pca_ogd(
    directions: int = 50, per_task: int | None = 200, outputs: str = "all", *, seed: int = 0
) -> Method:
    """OGD that keeps only the `directions` largest principal directions (uncentred) of each task's kept Jacobians.

    Arguments: otherwise as of `ogd`.
    Kernel space: Q_d^T J(M), Q_d the top eigenvectors of K(M, M), in place of J(M).
    Raises ValueError for more directions than a task's memory has rows.
    Source: Doan et al. 2021.
    """
    return _projection(
        per_task, outputs, seed, validation.whole("method.directions", directions), again=False
    )


@jax.jit
def _jacobians(apply, theta, x, weights):
    """The flat gradient of weights[i] . f(x[i]), for each i, [k, p]."""

    def row(pair):
        x, w = pair
        return ravel_pytree(jax.grad(lambda p: jnp.dot(w, apply(p, x)))(theta))[0]

    return jax.lax.map(row, (x, weights))


@partial(jax.jit, static_argnames="directions")
@jax.default_matmul_precision("highest")
def _principal(rows, directions):
    """The `directions` largest principal directions of rows, each as long as its singular value."""
    return jnp.linalg.eigh(rows @ rows.T)[1][:, -directions:].T @ rows


@jax.jit
@jax.default_matmul_precision("highest")
def _beside(basis, rows):
    """The rows less their part in the span of the basis; eigenvalues and eigenvectors of their Gram matrix. In the widest type there
    is: a Gram matrix squares the condition, and in float32 what it takes for small directions is rounding."""
    basis, rows = basis.astype(float), rows.astype(float)
    rows = rows - (rows @ basis.T) @ basis
    return rows, *jnp.linalg.eigh(rows @ rows.T)


def _grown(basis, rows):
    """The orthonormal basis, and of the rows what is not in its span."""
    rounding = max(DEPENDENT, len(rows) * float(jnp.finfo(jnp.result_type(float)).eps)) * float(
        jnp.max(jnp.sum(rows**2, 1))
    )
    for least in (
        rounding,
        0.5,
    ):  # the second time all are of length 1, and what rounding has left of the basis in small ones goes
        rest, lam, modes = _beside(basis, rows)
        solid = np.flatnonzero(np.asarray(lam) > least)
        rows = (modes[:, solid] / jnp.sqrt(lam[solid])[None]).T @ rest
    return jnp.concatenate([basis, rows.astype(basis.dtype)])


def _projection(per_task, outputs, seed, directions, again) -> Method:
    if per_task is not None:
        validation.whole("method.per_task", per_task)
    validation.one_of("method.outputs", outputs, OUTPUTS)
    validation.seed("method.seed", seed)

    def picked(t, y, head):
        """Places [k] and combinations of outputs [k, c] of the rows kept of task t."""
        places = chosen(seed, t, len(y), per_task)
        active, one = np.flatnonzero(head), np.eye(np.shape(y)[1])
        if outputs == "all":
            places, weights = np.repeat(places, len(active)), np.tile(one[active], (len(places), 1))
        elif outputs == "average":
            weights = np.tile(one[active].mean(0), (len(places), 1))
        else:
            weights = one[active[np.argmax(np.asarray(y)[places][:, active], 1)]]
        if directions is not None and directions > len(places):
            raise ValueError(
                f"method.directions={directions}: expected at most {len(places)}, the rows kept of a task"
            )
        return places, weights

    def begin(memory, network, theta, task):
        """Refuses what could not be kept, before anything is trained."""
        basis, kept = memory or ((), ())
        rows = (
            len(basis)
            + len(picked(len(kept), task.train.y, task.head)[0])
            + (sum(len(x) for x, _ in kept) if again else 0)
        )
        leaves = jax.tree.leaves(theta)
        p = sum(math.prod(leaf.shape) for leaf in leaves)
        need, there = (
            COPIES * rows * p * jnp.result_type(*leaves).itemsize / 2**30,
            resources.memory_gib(),
        )
        if need > there:
            raise ValueError(
                f"method.per_task={per_task}: {rows} directions of {p} parameters take {need:.1f} GiB while they are made orthonormal, "
                f"and there are {there:.1f}; expected fewer samples or method.outputs=true"
            )
        return memory

    @jax.default_matmul_precision("highest")
    def project(memory, apply, loss, theta, gradient):
        if not memory:
            return gradient
        flat, back = ravel_pytree(gradient)
        return back(flat - memory.basis.T @ (memory.basis @ flat))

    def consolidate(memory, network, loss, theta, task):
        basis, kept = memory or (None, ())
        places, weights = picked(len(kept), task.train.y, task.head)
        own = task.train.x[places], jnp.asarray(weights, jnp.result_type(*jax.tree.leaves(theta)))
        rows = _jacobians(portable(network.apply), theta, *own)
        rows = rows if directions is None else _principal(rows, directions)
        moved = [_jacobians(portable(network.apply), theta, *old) for old in kept] if again else []
        return Memory(
            _grown(rows[:0] if basis is None else basis, jnp.concatenate([*moved, rows])),
            (*kept, own),
        )

    def step(tangent, tasks, t, fs):
        step = task_step(tasks[t])
        if t == 0:
            return step
        inputs, parts = [], []
        for j, task in enumerate(tasks[:t]):
            places, weights = picked(j, task.targets, np.asarray(task.head))
            distinct, where = np.unique(places, return_inverse=True)
            rows = np.zeros((len(places), len(distinct), weights.shape[1]))
            rows[np.arange(len(places)), where] = weights
            own = np.asarray(task.inputs)[distinct]
            if directions is not None:
                flat = rows.reshape(len(rows), -1)
                gram = (
                    flat
                    @ np.asarray(tangent.columns(own), float)[own].reshape(flat.shape[1], -1)
                    @ flat.T
                )
                rows = np.einsum("kd,kqc->dqc", np.linalg.eigh(gram)[1][:, -directions:], rows)
            inputs.append(own)
            parts.append(rows)
        basis = np.zeros((sum(map(len, parts)), sum(map(len, inputs)), tasks[t].targets.shape[1]))
        d = q = 0
        for rows in parts:
            basis[d : d + len(rows), q : q + rows.shape[1]] = rows
            d, q = d + len(rows), q + rows.shape[1]
        return step._replace(removed=Removed(np.concatenate(inputs), basis))

    return custom(begin=begin, project=project, consolidate=consolidate, step=step)
