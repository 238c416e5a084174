"""What each planning job ranks: candidates and their outputs [T+1, N, c], foretold from the untrained network."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ntkcl import forecast
from ntkcl.dynamics.rules import MOST_STEPS
from ntkcl.experiment.start import Begun
from ntkcl.methods import replay as named_replay
from ntkcl.planning.buffers import searched_buffers
from ntkcl.planning.candidate import Candidate, Ground, foretold, scores
from ntkcl.planning.orders import every_order, searched_orders
from ntkcl.planning.ranking import cost
from ntkcl.training.problem import Setting
from ntkcl.training.settings import Training, rate
from ntkcl.types import Method
from ntkcl.validation import finite, whole

Told = Iterator[tuple[Candidate, np.ndarray]]

EVERY = 7  # tasks up to which all orders are foretold: 5,040 orders from 13,699 solves of one task


def orders(
    begun: Begun, ground: Ground, training: Training, *, exact: int = EVERY, beam: int = 100
) -> Told:
    """All orders of the tasks at one learning rate, stable for each task; of more than `exact` tasks those that a beam search finds.

    Raises ValueError for one task, for `exact` above 8 (40,320 orders), for a loss, rule or method that has no closed form.
    """
    tasks = len(begun.setting.tasks)
    if tasks < 2:
        raise ValueError(f"stream.tasks={tasks}: job=orders expected at least 2 tasks")
    if whole("plan.orders.exact", exact) > 8:
        raise ValueError(
            f"plan.orders.exact={exact}: expected at most 8, {exact}! orders are too many; of more tasks a beam search"
        )
    whole("plan.orders.beam", beam)
    setting = stable(begun, ground, training)
    against = forecast.reasons(
        "closed", setting.loss, setting.optimizer, setting.method, setting.batch_size is None
    )
    if against:
        raise ValueError(
            f"job=orders solves in closed form, and {against[0]}; expected others, such as loss=squared_error optimizer=sgd"
        )
    yield from (
        every_order(setting, ground) if tasks <= exact else searched_orders(setting, ground, beam)
    )


def methods(
    begun: Begun,
    ground: Ground,
    training: Training,
    grid: Sequence[tuple[Mapping[str, Any], Method]],
) -> Told:
    """A grid of methods and their settings, each at a learning rate found as `training` says from its own stability limit.

    grid: (coordinates, method) of every cell, such as ({"method": "l2", "penalty": 0.1}, ntkcl.methods.l2(0.1)).
    """
    if not grid:
        raise ValueError(
            "plan.methods: expected at least one method, such as {naive: {}, replay: {per_task: [5, 20]}}"
        )
    for coordinates, method in grid:
        setting = stable(
            begun._replace(setting=begun.setting._replace(method=method)), ground, training
        )
        candidate = Candidate(
            {**coordinates, "learning_rate": setting.learning_rate},
            tuple(range(len(setting.tasks))),
            setting,
        )
        yield candidate, foretold(candidate, ground)


def replay(
    begun: Begun,
    ground: Ground,
    training: Training,
    *,
    score: str,
    part: str,
    per_task: int,
    weight: float | int,
    seed: int,
    **search,
) -> Told:
    """Random buffers and one searched for, at the learning rate of a random one; see `searched_buffers` for `search`."""
    smallest = min(len(task.inputs) for task in begun.setting.tasks)
    if whole("plan.replay.per_task", per_task) > smallest:
        raise ValueError(
            f"plan.replay.per_task={per_task}: expected at most {smallest}, the samples of the smallest task"
        )
    finite("plan.replay.weight", weight, above=0.0)
    drawn = begun.setting._replace(method=named_replay(per_task, weight, seed=seed))
    setting = stable(begun._replace(setting=drawn), ground, training)

    def key(candidate, outputs):
        return cost(scores(outputs, candidate, ground), score, part)

    yield from searched_buffers(
        setting, ground, key, per_task=per_task, weight=weight, seed=seed, **search
    )


def learning_rates(
    begun: Begun, ground: Ground, training: Training, *, fractions: Any, steps: Any
) -> Told:
    """Learning rates, as fractions of the stability limit, by numbers of steps; each one number or several."""
    fractions, steps = (
        one if isinstance(one, list | tuple) else [one] for one in (fractions, steps)
    )
    if not fractions or not steps:
        raise ValueError(
            f"plan.lr: fractions={fractions}, steps={steps}; expected at least one of each"
        )
    for fraction, count in itertools.product(fractions, steps):
        finite("plan.lr.fractions", fraction, above=0.0)
        if whole("plan.lr.steps", count) > MOST_STEPS:
            raise ValueError(
                f"plan.lr.steps={count}: expected at most {MOST_STEPS}, which is as far as Optax counts"
            )
    for count in steps:
        timed = begun.setting._replace(
            steps=(count,) * len(begun.setting.tasks)
        )  # a schedule may have its largest rate late
        limit = min(forecast.limits(timed, begun.theta, ground.tangent, ground.prepare))
        if not np.isfinite(limit):
            raise ValueError(
                "job=lr: this optimizer has no stability limit to take fractions of; expected optimizer=sgd"
            )
        for fraction in fractions:
            setting = timed.at(fraction * limit)
            coordinates = {
                "steps": count,
                "fraction": fraction,
                "learning_rate": setting.learning_rate,
                "stable": fraction <= 1,
            }
            candidate = Candidate(coordinates, tuple(range(len(setting.tasks))), setting)
            yield candidate, foretold(candidate, ground)


def stable(begun: Begun, ground: Ground, training: Training) -> Setting:
    """The setting at the learning rate that a run with it would take."""
    limit = min(forecast.limits(begun.setting, begun.theta, ground.tangent, ground.prepare))
    return begun.setting.at(rate(training, limit, begun.setting.network.rate_scale))
