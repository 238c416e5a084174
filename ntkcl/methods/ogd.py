"""Orthogonal gradient descent: gradients are projected off what would change old outputs.

Three algorithms over one span of kept directions (`ntkcl.methods.jacobian_basis`). After a task it
takes in the Jacobians of the task's kept samples (`ogd`), those of all samples kept so far
(`ogd_plus`), or the principal directions of the task's Jacobians (`pca_ogd`).
"""

import numpy as np

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.dynamics import Removed, as_places
from ntkcl.methods import jacobian_basis as basis
from ntkcl.methods.custom import custom
from ntkcl.types import Method, Tangent
from ntkcl.validation import SettingError


@once
def ogd(per_task: int | None = 200, outputs: str = "all", *, seed: int = 0) -> Method:
    """Projects every gradient g to g - V^+ V g.

    The rows of V are Jacobians of kept old samples at the end of their task.

    Arguments:
      per_task, seed: samples kept of each task, None for all.
      outputs: what is held of a sample: "all" its active outputs, one row of V each (the paper's
        OGD-ALL); their "average" (OGD-AVE) or the one of its "true" class alone, that of the
        largest target (OGD-GTL), a row each.
    Kernel space: K(x, x') - K(x, M) K(M, M)^+ K(M, x'), M the kept pairs of a sample and a
    combination of outputs. Exact for any rule. What lies in the span of M cannot be learned.
    Raises ValueError, before the task is trained, for a memory larger than the task, or than the
    machine's.
    Source: Farajtabar et al. 2020; kernel: Bennani et al. 2020.
    """
    select = basis.selection(per_task, outputs, seed)

    def begin(memory, network, theta, task):
        places, _ = select(len(basis.kept_before(memory)), task.train.y, task.head)
        basis.check_memory(memory, len(places), per_task)
        return memory

    def consolidate(memory, network, loss, theta, task):
        kept = basis.keep(select, memory, theta, task)
        return basis.extended(memory, network, theta, kept, kept)

    step = _step(select)
    return custom(begin=begin, project=basis.project, consolidate=consolidate, step=step)


@once
def ogd_plus(per_task: int | None = 200, outputs: str = "all", *, seed: int = 0) -> Method:
    """OGD that adds, after every task, the Jacobians of all samples kept so far, taken at the
    parameters as they are then.

    Arguments: as of `ogd`.
    Kernel space: at one anchor the same kernel as `ogd`; they differ when the kernel moves.
    Source: Bennani et al. 2020.
    """
    select = basis.selection(per_task, outputs, seed)

    def begin(memory, network, theta, task):
        old = basis.kept_before(memory)
        places, _ = select(len(old), task.train.y, task.head)
        again = sum(len(one.places) for one in old)
        basis.check_memory(memory, len(places) + again, per_task)
        return memory

    def consolidate(memory, network, loss, theta, task):
        kept = basis.keep(select, memory, theta, task)
        every = basis.Kept.concatenated((*basis.kept_before(memory), kept))
        return basis.extended(memory, network, theta, kept, every)

    step = _step(select)
    return custom(begin=begin, project=basis.project, consolidate=consolidate, step=step)


@once
def pca_ogd(
    directions: int = 50, per_task: int | None = 200, outputs: str = "all", *, seed: int = 0
) -> Method:
    """OGD that keeps the `directions` largest principal directions of each task's kept Jacobians.

    The Jacobians are not centred.

    Arguments: otherwise as of `ogd`.
    Kernel space: Q_d^T J(M), Q_d the top eigenvectors of K(M, M), in place of J(M).
    Raises ValueError for more directions than a task's memory has rows.
    Source: Doan et al. 2021.
    """
    validation.whole("method.directions", directions)
    select = _with_rows(directions, basis.selection(per_task, outputs, seed))

    def begin(memory, network, theta, task):
        places, _ = select(len(basis.kept_before(memory)), task.train.y, task.head)
        basis.check_memory(memory, len(places), per_task)
        return memory

    def consolidate(memory, network, loss, theta, task):
        kept = basis.keep(select, memory, theta, task)
        return basis.extended(memory, network, theta, kept, kept, directions)

    def step(tangent, tasks, t, fs):
        kept = (basis.removed_of_task(select, j, task) for j, task in enumerate(tasks[:t]))
        return basis.step_without(tasks[t], [_largest(tangent, one, directions) for one in kept])

    return custom(begin=begin, project=basis.project, consolidate=consolidate, step=step)


def _step(select: basis.Select):
    """Kernel space where every kept direction is held."""

    def step(tangent, tasks, t, fs):
        kept = [basis.removed_of_task(select, j, task) for j, task in enumerate(tasks[:t])]
        return basis.step_without(tasks[t], kept)

    return step


def _with_rows(least: int, select: basis.Select) -> basis.Select:
    """`select`; ValueError for a task of which it keeps fewer rows than `least`."""

    def checked(t, y, head):
        places, weights = select(t, y, head)
        if least > len(places):
            raise SettingError(
                f"method.directions={least}: expected at most {len(places)}, "
                "the rows kept of a task"
            )
        return places, weights

    return checked


def _largest(tangent: Tangent, kept: Removed, directions: int) -> Removed:
    """The largest principal directions of rows, each as long as its singular value."""
    flat = kept.basis.reshape(len(kept.basis), -1)
    block = np.asarray(as_places(tangent.kernel).block(kept.inputs, kept.inputs), float)
    gram = flat @ block.reshape(flat.shape[1], -1) @ flat.T
    modes = np.linalg.eigh(gram)[1][:, -directions:]
    return Removed(kept.inputs, np.einsum("kd,kqc->dqc", modes, kept.basis))
