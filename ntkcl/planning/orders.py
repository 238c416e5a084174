"""All orders of the tasks from one kernel.

Its blocks do not depend on the order, and orders that begin alike share their beginning.
"""

from collections.abc import Iterator

import numpy as np

from ntkcl import forecast
from ntkcl.experiment.scores import sample_losses
from ntkcl.planning.candidate import Candidate, SharedKernel, named
from ntkcl.training.problem import Anchor, Problem


def every_order(problem: Problem, shared: SharedKernel) -> Iterator[tuple[Candidate, np.ndarray]]:
    """Each of the T! orders and its outputs [T+1, N, c], depth first.

    Cost: sum_k T!/k! < e T! solves of one task.
    """

    def walk(order, here):
        if len(order) == len(problem.tasks):
            yield _candidate(problem, order), np.stack(here.history)
        for t in range(len(problem.tasks)):
            if t not in order:
                yield from walk((*order, t), _onwards(problem, shared, here, (*order, t)))

    yield from walk((), shared.here)


def searched_orders(
    problem: Problem, shared: SharedKernel, beam: int
) -> Iterator[tuple[Candidate, np.ndarray]]:
    """The `beam` orders that a beam search ends with.

    Of all beginnings of one length, those of the smallest mean loss over the tasks they hold are
    continued by every other task. No guarantee that the best order is among them.
    """
    frontier: list[tuple[tuple[int, ...], Anchor]] = [((), shared.here)]
    for _ in problem.tasks:
        longer = [
            ((*order, t), _onwards(problem, shared, here, (*order, t)))
            for order, here in frontier
            for t in range(len(problem.tasks))
            if t not in order
        ]
        frontier = sorted(longer, key=lambda one: _mean_loss(problem, *one))[:beam]
    yield from ((_candidate(problem, order), np.stack(here.history)) for order, here in frontier)


def _candidate(problem, order) -> Candidate:
    return Candidate({"order": named(order)}, order, problem.reordered(order))


def _onwards(problem, shared, here, order):
    """Where the last task of this beginning leads."""
    problem, kernel = problem.reordered(order), (shared.tangent, shared.prepare)
    (outcome,) = forecast.solved(problem, here, here.ahead(1), *kernel)
    return here._replace(history=(*here.history, here.history[-1] + outcome.change))


def _mean_loss(problem, order, here) -> float:
    f = np.asarray(here.history[-1])

    def loss_of(task):
        targets = np.asarray(task.targets)
        return sample_losses(f[task.inputs], targets, task.head, problem.loss).mean()

    return float(np.mean([loss_of(problem.tasks[t]) for t in order]))
