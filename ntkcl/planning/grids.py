"""What each planning job ranks: candidates and their predicted outputs [T+1, N, c]."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ntkcl import forecast
from ntkcl.experiment.start import Initialised
from ntkcl.methods import replay as named_replay
from ntkcl.planning.buffers import searched_buffers
from ntkcl.planning.candidate import Candidate, SharedKernel, predicted_outputs, scores
from ntkcl.planning.orders import every_order, searched_orders
from ntkcl.planning.ranking import cost
from ntkcl.training.problem import Problem
from ntkcl.training.settings import Training, rate
from ntkcl.types import Method
from ntkcl.validation import MOST_STEPS, SettingError, finite, whole

Candidates = Iterator[tuple[Candidate, np.ndarray]]

EVERY = 7  # tasks up to which all orders are predicted: 5,040 orders from 13,699 solves of one task


def orders(
    initialised: Initialised,
    shared: SharedKernel,
    training: Training,
    *,
    exact: int = EVERY,
    beam: int = 100,
) -> Candidates:
    """All orders of the tasks at one learning rate, stable for each task.

    Of more than `exact` tasks those that a beam search finds.
    Raises ValueError for one task, for `exact` above 8 (40,320 orders), for a loss, rule or method
    that has no closed form.
    """
    tasks = len(initialised.problem.tasks)
    if tasks < 2:
        raise SettingError(f"stream.tasks={tasks}: job=orders expected at least 2 tasks")
    if whole("plan.orders.exact", exact) > 8:
        raise SettingError(
            f"plan.orders.exact={exact}: expected at most 8, {exact}! orders are too many; of more "
            "tasks a beam search"
        )
    whole("plan.orders.beam", beam)
    problem = stable(initialised, shared, training)
    against = forecast.reasons(
        "closed", problem.loss, problem.optimizer, problem.method, problem.batch_size is None
    )
    if against:
        raise SettingError(
            f"job=orders solves in closed form, and {against[0]}; expected others, such as "
            "loss=squared_error optimizer=sgd method=naive"
        )
    yield from (
        every_order(problem, shared) if tasks <= exact else searched_orders(problem, shared, beam)
    )


def methods(
    initialised: Initialised,
    shared: SharedKernel,
    training: Training,
    grid: Sequence[tuple[Mapping[str, Any], Method]],
) -> Candidates:
    """A grid of methods and their settings, each at a learning rate of its own.

    The rate is found as `training` says, from the method's own stability limit.
    grid: (coordinates, method) of every cell, such as ({"method": "l2", "penalty": 0.1},
    ntkcl.methods.l2(0.1)).
    """
    if not grid:
        raise SettingError(
            "plan.methods: expected at least one method, such as "
            "{naive: {}, replay: {per_task: [5, 20]}}"
        )
    for coordinates, method in grid:
        with_method = initialised.problem._replace(method=method)
        problem = stable(initialised._replace(problem=with_method), shared, training)
        coordinates = {**coordinates, "learning_rate": problem.learning_rate}
        candidate = Candidate(coordinates, tuple(range(len(problem.tasks))), problem)
        yield candidate, predicted_outputs(candidate, shared)


def replay(
    initialised: Initialised,
    shared: SharedKernel,
    training: Training,
    *,
    goal: Mapping[str, str],
    per_task: int,
    weight: float | int,
    seed: int,
    **search,
) -> Candidates:
    """Random buffers and one searched for, at the learning rate of a random one.

    goal: `score` and `part`, see `cost`.  search: see `searched_buffers`.
    """
    smallest = min(len(task.inputs) for task in initialised.problem.tasks)
    if whole("plan.replay.per_task", per_task) > smallest:
        raise SettingError(
            f"plan.replay.per_task={per_task}: expected at most {smallest}, the samples of the "
            "smallest task"
        )
    finite("plan.replay.weight", weight, above=0.0)
    drawn = initialised.problem._replace(method=named_replay(per_task, weight, seed=seed))
    problem = stable(initialised._replace(problem=drawn), shared, training)

    def key(candidate, outputs):
        return cost(scores(outputs, candidate, shared), **goal)

    search |= dict(per_task=per_task, weight=weight, seed=seed)
    yield from searched_buffers(problem, shared, key, **search)


def learning_rates(
    initialised: Initialised,
    shared: SharedKernel,
    training: Training,
    *,
    fractions: Any,
    steps: Any,
) -> Candidates:
    """Learning rates, as fractions of the stability limit, by numbers of steps.

    `fractions` and `steps` are each one number or several.
    """
    fractions, steps = map(_as_list, (fractions, steps))
    _check_rates(fractions, steps)
    for count in steps:
        # At its own number of steps: a schedule may have its largest rate late.
        timed = initialised.problem._replace(steps=(count,) * len(initialised.problem.tasks))
        limit = min(shared.limits(timed))
        if not np.isfinite(limit):
            raise SettingError(
                "job=lr: this optimizer has no stability limit to take fractions of; expected "
                "optimizer=sgd"
            )
        for fraction in fractions:
            problem = timed.at(fraction * limit)
            coordinates = {
                "steps": count,
                "fraction": fraction,
                "learning_rate": problem.learning_rate,
                "stable": fraction <= 1,
            }
            candidate = Candidate(coordinates, tuple(range(len(problem.tasks))), problem)
            yield candidate, predicted_outputs(candidate, shared)


def _as_list(one: Any) -> Any:
    return one if isinstance(one, list | tuple) else [one]


def _check_rates(fractions: Sequence, steps: Sequence) -> None:
    if not fractions or not steps:
        raise SettingError(
            f"plan.lr: fractions={fractions}, steps={steps}; expected at least one of each"
        )
    for fraction, count in itertools.product(fractions, steps):
        finite("plan.lr.fractions", fraction, above=0.0)
        if whole("plan.lr.steps", count) > MOST_STEPS:
            raise SettingError(
                f"plan.lr.steps={count}: expected at most {MOST_STEPS}, which is as far as Optax "
                "counts"
            )


def stable(initialised: Initialised, shared: SharedKernel, training: Training) -> Problem:
    """The problem at the learning rate that a run with it would take."""
    limit = min(shared.limits(initialised.problem))
    return initialised.problem.at(rate(training, limit, initialised.problem.network.rate_scale))
