"""One experiment: forecast, train, measure. Yields events in the order in which things happen.

An `AnchorForecast` is yielded before the training it forecasts has initialised: the generator
stands still at that `yield`, so nothing that is done to the data or the trainer afterwards can
reach it. So are `Baselines`, what the forecasts will be compared with. Anchors:

* `infinite`: the kernel of infinite width for the whole stream, one for all seeds and widths;
* `init`: one kernel at theta_0 for the whole stream, before anything is trained;
* `boundary`: at the start of each task, the kernel and the residuals of the network as it then is,
  one task ahead;
* `path`: no forecast but a diagnostic, yielded after the measurement of each task: the kernels of
  its training, step by step.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ntkcl import forecast, kernels
from ntkcl.experiment import stages
from ntkcl.experiment.checks import check_side_by_side
from ntkcl.experiment.events import AHEAD, Event
from ntkcl.experiment.stages import DEFAULT, EFFORT, NAIVE, Setup
from ntkcl.forecast import Effort
from ntkcl.resources import Meter
from ntkcl.training import problem as training_problem
from ntkcl.training.settings import Training
from ntkcl.types import Key, Loss, Method, Network, Optimizer, Stream
from ntkcl.validation import SettingError


def run(
    key: Key,
    stream: Stream,
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    training: Training,
    *,
    method: Method = NAIVE,
    anchors: Sequence[str] = DEFAULT,
    form: str = "auto",
    effort: Effort = EFFORT,
    kernel: Callable[[Network], Callable[..., np.ndarray]] = kernels.empirical,
    checkpointer: Any = None,
) -> Iterator[Event]:
    """Yields the plan, the untrained measurement, the infinite and the init forecast and the
    baselines, then for each task its boundary forecast, measurement and path diagnostic. No
    baselines without an anchor.

    Arguments:
      key: split into the initialisation and one key a task.
      stream: arrays in the floating type that networks and kernels are to work in; forecasts are
        solved in float64.
      method: what is done against forgetting, in training and in the forecast alike.
      anchors: which of `events.ANCHORS` to forecast from.
      form: which of `forecast.FORMS` to forecast by; "auto" takes the first that is exact for the
        linearised network.
      effort: what a forecast may spend.
      kernel: from the network to its `kernel_fn(theta, x1, x2=None)`, such as `kernels.empirical`
        with settings of one's own.
      checkpointer: keeps trainings that an earlier process has done, `ntkcl.runs.checkpoints`.
    After a measurement that diverged nothing more is trained and the generator ends.
    Raises ValueError at the call for bad settings and data, and before the first event where the
    learning rate exceeds the stability limit and that is not allowed.
    """
    every = training.evaluate_every
    if checkpointer is not None and every is not None:
        raise SettingError(
            f"training.evaluate_every={every}: checkpoints keep no curves; expected null, or "
            "checkpoints.every=null"
        )
    setup = Setup(
        key, stream, network, loss, optimizer, training, method, anchors, form, effort, kernel
    )
    return _run(stages.prepare(setup), checkpointer)


def _run(experiment, checkpointer) -> Iterator[Event]:
    meter = Meter()
    problem, anchor = yield from stages.begin(experiment, meter)
    path = forecast.path(problem)
    for t in range(len(problem.stream)):
        yield from stages.forecast_task(experiment, problem, anchor, meter)
        fitted, cost = yield from stages.train_task(
            experiment, problem, t, anchor, checkpointer, meter
        )
        measurement, reached = stages.measure_task(
            experiment, problem, t, anchor, fitted, cost, meter
        )
        yield measurement
        if measurement.diverged:
            return
        yield from stages.diagnose_task(experiment, path, problem, t, anchor, meter)
        anchor = reached


def predict(**arguments: Any) -> Iterator[Event]:
    """The events of `run` before the first task: the plan, the untrained measurement, the infinite
    and the init forecast, the baselines. Nothing is trained.

    Arguments: those of `run`, by name, but the checkpointer; of `anchors`, those that look one task
    ahead are left out.
    Raises ValueError as `run`, and where no anchor is left.
    """
    setup = Setup(**arguments)
    anchors = tuple(anchor for anchor in setup.anchors if anchor not in AHEAD)
    if not anchors:
        raise SettingError(
            f"forecast.anchors={list(setup.anchors)}: none of them forecasts the whole stream "
            "before anything is trained; expected init or infinite among them"
        )
    return stages.begin(stages.prepare(setup._replace(anchors=anchors)), Meter())


def run_seeds(runs: Sequence[Mapping[str, Any]]) -> list[list[Event]]:
    """The events of several runs that differ in their seeds alone, each given by all arguments of
    `run` but the checkpointer.

    Each task's training is one program mapped over the seeds, where `problem.train_seeds` finds
    that it can be. A run's results are those that it has alone, up to rounding. One that diverges
    ends, the others go on. The cost of training is shared evenly.
    Raises ValueError as `run`, and for what cannot be done side by side: evaluations within a task,
    batches shared by devices.
    """
    check_side_by_side(runs[0]["training"])
    experiments, meter = [stages.prepare(Setup(**run)) for run in runs], Meter()
    events: list[list[Event]] = [[] for _ in runs]
    states = [_collect(stages.begin(one, meter), events[k]) for k, one in enumerate(experiments)]
    paths, running = [forecast.path(problem) for problem, _ in states], list(range(len(runs)))
    for t in range(len(states[0][0].stream)):
        for k in running:
            problem, anchor = states[k]
            events[k] += stages.forecast_task(experiments[k], problem, anchor, meter)
        meter.read()
        problems, anchors = zip(*(states[k] for k in running), strict=True)
        fits = jax.block_until_ready(training_problem.train_seeds(problems, t, anchors))
        total = meter.read()
        cost = total._replace(seconds=total.seconds / len(fits))
        for k, fitted in zip(list(running), fits, strict=True):
            one, (problem, anchor) = experiments[k], states[k]
            measurement, reached = stages.measure_task(one, problem, t, anchor, fitted, cost, meter)
            events[k].append(measurement)
            if measurement.diverged:
                running.remove(k)
                continue
            events[k] += stages.diagnose_task(one, paths[k], problem, t, anchor, meter)
            states[k] = problem, reached
        if not running:
            break
    return events


def _collect(events: Generator[Event, None, Any], into: list[Event]) -> Any:
    """Appends a generator's events to a list; returns what the generator returns."""

    def all_of():
        result.append((yield from events))

    result: list[Any] = []
    into.extend(all_of())
    return result[0]
