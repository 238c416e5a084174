"""All orders of the tasks from one kernel: its blocks do not depend on the order, and orders that begin alike share their beginning."""

from collections.abc import Iterator

import numpy as np

from ntkcl import forecast
from ntkcl.experiment.scores import sample_losses
from ntkcl.planning.candidate import Candidate, Ground, named
from ntkcl.training.problem import Anchor, Setting


def every_order(setting: Setting, ground: Ground) -> Iterator[tuple[Candidate, np.ndarray]]:
    """Each of the T! orders and its outputs [T+1, N, c], depth first; sum_k T!/k! < e T! solves of one task."""

    def walk(order, here):
        if len(order) == len(setting.tasks):
            yield _candidate(setting, order), np.stack(here.history)
        for t in range(len(setting.tasks)):
            if t not in order:
                yield from walk((*order, t), _onwards(setting, ground, here, (*order, t)))

    yield from walk((), ground.here)


def searched_orders(
    setting: Setting, ground: Ground, beam: int
) -> Iterator[tuple[Candidate, np.ndarray]]:
    """The `beam` orders that a beam search ends with: of all beginnings of one length, those of the smallest mean loss over the tasks
    they hold are continued by every task left. No guarantee that the best order is among them."""
    frontier: list[tuple[tuple[int, ...], Anchor]] = [((), ground.here)]
    for _ in setting.tasks:
        longer = [
            ((*order, t), _onwards(setting, ground, here, (*order, t)))
            for order, here in frontier
            for t in range(len(setting.tasks))
            if t not in order
        ]
        frontier = sorted(longer, key=lambda one: _mean_loss(setting, *one))[:beam]
    yield from ((_candidate(setting, order), np.stack(here.history)) for order, here in frontier)


def _candidate(setting, order) -> Candidate:
    return Candidate({"order": named(order)}, order, setting.reordered(order))


def _onwards(setting, ground, here, order):
    """Where the last task of this beginning leads."""
    (outcome,) = forecast.solved(
        setting.reordered(order), here, here.ahead(1), ground.tangent, ground.prepare
    )
    return here._replace(history=(*here.history, here.history[-1] + outcome.change))


def _mean_loss(setting, order, here) -> float:
    f, tasks = np.asarray(here.history[-1]), [setting.tasks[t] for t in order]
    return float(
        np.mean(
            [
                sample_losses(
                    f[task.inputs], np.asarray(task.targets), task.head, setting.loss
                ).mean()
                for task in tasks
            ]
        )
    )
