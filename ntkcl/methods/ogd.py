"""Orthogonal gradient descent: gradients are projected off the directions in which old outputs would change."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ntkcl import settings
from ntkcl.forecast import Removed
from ntkcl.methods.naive import naive, task_step
from ntkcl.methods.stack import chosen
from ntkcl.types import Method

OUTPUTS = ("all", "true")
DEPENDENT = 1e-10  # squared singular values below this share of the largest are rounding: the same cut as in kernel space


class Memory(NamedTuple):
    """An orthonormal basis [d, p] of the directions kept out of, the directions [d', p] it was made of, the inputs that were kept."""

    basis: jax.Array
    directions: jax.Array
    kept: tuple


def ogd(per_task: int | None = 200, outputs: str = "all", *, seed: int = 0) -> Method:
    """Projects every gradient g to g - V^+ V g, the rows of V being the Jacobians of kept old samples at the end of their task.

    Arguments:
      per_task, seed: samples kept of each task, None for all.
      outputs: "all" active outputs of a sample, or its "true" class alone (OGD-GTL), the largest target.
    Kernel space: K(x, x') - K(x, M) K(M, M)^+ K(M, x'), M the kept (sample, output) pairs. Exact for any rule. What lies in the
    span of M cannot be learned.
    Raises ValueError for a memory larger than a task.
    Source: Farajtabar et al. 2020; kernel: Bennani et al. 2020.
    """
    return _projection(per_task, outputs, seed, None, again=False)


def ogd_plus(per_task: int | None = 200, outputs: str = "all", *, seed: int = 0) -> Method:
    """OGD whose memory also takes, after every task, the Jacobians of all samples kept so far at the parameters as they are then.

    Kernel space: at one anchor the same kernel as `ogd`; they differ when the kernel moves.
    Source: Bennani et al. 2020.
    """
    return _projection(per_task, outputs, seed, None, again=True)


def pca_ogd(directions: int = 50, per_task: int | None = 200, outputs: str = "all", *, seed: int = 0) -> Method:
    """OGD that keeps only the `directions` largest principal directions (uncentred) of each task's kept Jacobians.

    Kernel space: Q_d^T J(M), Q_d the top eigenvectors of K(M, M), in place of J(M).
    Raises ValueError for more directions than a task's memory has rows.
    Source: Doan et al. 2021.
    """
    return _projection(per_task, outputs, seed, settings.whole("method.directions", directions), again=False)


@partial(jax.jit, static_argnames="apply")
def _jacobians(apply, theta, x, out):
    """The flat gradient of output `out[i]` at x[i], for each i, [d, p]."""

    def row(pair):
        x, a = pair
        return ravel_pytree(jax.grad(lambda p: apply(p, x)[a])(theta))[0]

    return jax.lax.map(row, (x, jnp.asarray(out)))


@jax.jit
def _spectrum(rows):
    """Eigenvalues, ascending, and eigenvectors of the Gram matrix of rows."""
    return jnp.linalg.eigh(rows @ rows.T)


def _projection(per_task, outputs, seed, directions, again) -> Method:
    if per_task is not None:
        settings.whole("method.per_task", per_task)
    settings.one_of("method.outputs", outputs, OUTPUTS)
    settings.seed("method.seed", seed)

    def picked(t, y, head):
        """Places [d] and outputs [d] of the rows kept of task t."""
        places = chosen(seed, t, len(y), per_task)
        active = np.flatnonzero(head)
        if outputs == "true":
            return places, active[np.argmax(np.asarray(y)[places][:, active], 1)]
        return np.repeat(places, len(active)), np.tile(active, len(places))

    def enough(rows):
        if directions is not None and directions > len(rows):
            raise ValueError(f"method.directions={directions}: expected at most {len(rows)}, the rows kept of a task")

    def principal(rows):
        if directions is None:
            return rows
        enough(rows)
        return _spectrum(rows)[1][:, -directions:].T @ rows

    def project(memory, apply, loss, theta, gradient):
        if not memory:
            return gradient
        flat, back = ravel_pytree(gradient)
        return back(flat - memory.basis.T @ (memory.basis @ flat))

    def consolidate(memory, network, loss, theta, task):
        places, out = picked(len(memory.kept) if memory else 0, task.train.y, task.head)
        kept = ((task.train.x[places], out),)
        fresh = [principal(_jacobians(network.apply, theta, *kept[0]))]
        if memory:
            fresh = [memory.directions, *([_jacobians(network.apply, theta, *old) for old in memory.kept] if again else []), *fresh]
            kept = memory.kept + kept
        rows = jnp.concatenate(fresh)
        lam, modes = _spectrum(rows)
        solid = np.flatnonzero(np.asarray(lam) > DEPENDENT * float(lam[-1]))
        return Memory((modes[:, solid] / jnp.sqrt(lam[solid])[None]).T @ rows, rows, kept)

    def step(tangent, tasks, t, fs):
        step = task_step(tasks[t])
        if t == 0:
            return step
        inputs, parts = [], []
        for j, task in enumerate(tasks[:t]):
            places, out = picked(j, task.targets, np.asarray(task.head))
            distinct, where = np.unique(places, return_inverse=True)
            rows = np.zeros((len(places), len(distinct), task.targets.shape[1]))
            rows[np.arange(len(places)), where, out] = 1.0
            own = np.asarray(task.inputs)[distinct]
            if directions is not None:
                enough(rows)
                gram = np.asarray(tangent.columns(own), float)[own][where, out][:, where, out]
                rows = np.einsum("kd,kqc->dqc", np.linalg.eigh(gram)[1][:, -directions:], rows)
            inputs.append(own)
            parts.append(rows)
        basis = np.zeros((sum(map(len, parts)), sum(map(len, inputs)), tasks[t].targets.shape[1]))
        d = q = 0
        for rows in parts:
            basis[d : d + len(rows), q : q + rows.shape[1]] = rows
            d, q = d + len(rows), q + rows.shape[1]
        return step._replace(removed=Removed(np.concatenate(inputs), basis))

    return naive()._replace(plain=False, project=project, consolidate=consolidate, step=step)
