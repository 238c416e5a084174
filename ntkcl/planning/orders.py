"""All orders of the tasks from one kernel.

Its blocks do not depend on the order, and orders that begin alike share their beginning.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ntkcl import forecast, methods
from ntkcl.experiment.scores import sample_losses
from ntkcl.planning.candidate import Candidate, SharedKernel, named
from ntkcl.training.problem import Problem

TOGETHER = 32  # beginnings that are continued at once: more are hardly faster, and are held longer


class Beginning(NamedTuple):
    """The first tasks of an order, and the outputs [N, c] before and after each, which beginnings
    share."""

    order: tuple[int, ...]
    outputs: tuple[np.ndarray, ...]


def every_order(problem: Problem, shared: SharedKernel) -> Iterator[tuple[Candidate, np.ndarray]]:
    """Each of the T! orders and its outputs [T+1, N, c].

    Cost: sum_k T!/k! < e T! solves of one task, `TOGETHER` of one length at once. Memory: outputs
    of `TOGETHER` beginnings of each length and of all that continue them, fewer than
    `TOGETHER` T^2 / 2 arrays [N, c].
    """

    def walk(beginnings):
        longer = _continued(problem, shared, beginnings)
        for first in range(0, len(longer), TOGETHER):
            some = longer[first : first + TOGETHER]
            if len(some[0].order) == len(problem.tasks):
                yield from (_candidate(problem, one) for one in some)
            else:
                yield from walk(some)

    yield from walk([_untrained(shared)])


def searched_orders(
    problem: Problem, shared: SharedKernel, beam: int
) -> Iterator[tuple[Candidate, np.ndarray]]:
    """The `beam` orders that a beam search ends with.

    Of all beginnings of one length, those of the smallest mean loss over the tasks they hold are
    continued by every other task. No guarantee that the best order is among them. Memory: outputs
    of `beam` T beginnings, [N, c] each, and of those they come from.
    """
    frontier = [_untrained(shared)]
    for _ in problem.tasks:
        longer = _continued(problem, shared, frontier)
        frontier = sorted(longer, key=lambda one: _mean_loss(problem, one))[:beam]
    yield from (_candidate(problem, one) for one in frontier)


def _untrained(shared) -> Beginning:
    return Beginning((), (np.asarray(shared.here.history[0]),))


def _candidate(problem, whole: Beginning) -> tuple[Candidate, np.ndarray]:
    order = whole.order
    candidate = Candidate({"order": named(order)}, order, problem.reordered(order))
    return candidate, np.stack(whole.outputs)


def _continued(problem, shared, beginnings: Sequence[Beginning]) -> list[Beginning]:
    """Each beginning continued by every task it does not hold, in the order of the tasks."""
    longer = []
    for t in range(len(problem.tasks)):
        without = [one for one in beginnings if t not in one.order]
        changes = _changes(problem, shared, t, without) if without else ()
        for one, change in zip(without, changes, strict=True):
            after = one.outputs[-1] + change
            longer.append(Beginning((*one.order, t), (*one.outputs, after)))
    return sorted(longer, key=lambda one: one.order)


def _changes(problem, shared, t: int, beginnings) -> Iterable[np.ndarray]:
    """What task t changes after each of the beginnings: [N, c] each."""
    kernel = shared.tangent, shared.prepare
    if methods.is_naive(problem.method):
        now = np.stack([one.outputs[-1] for one in beginnings])
        return forecast.solved_from_each(problem, t, now, *kernel)
    return [_change(problem, shared, t, one) for one in beginnings]


def _change(problem, shared, t: int, beginning: Beginning) -> np.ndarray:
    """By a method that remembers which tasks came before."""
    here = shared.here._replace(history=beginning.outputs)
    ahead = problem.reordered((*beginning.order, t))
    (outcome,) = forecast.solved(ahead, here, here.ahead(1), shared.tangent, shared.prepare)
    return np.asarray(outcome.change)


def _mean_loss(problem, beginning: Beginning) -> float:
    f = beginning.outputs[-1]

    def loss_of(task):
        targets = np.asarray(task.targets)
        return sample_losses(f[task.inputs], targets, task.head, problem.loss).mean()

    return float(np.mean([loss_of(problem.tasks[t]) for t in beginning.order]))
