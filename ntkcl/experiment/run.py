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
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import forecast, kernels, methods
from ntkcl.experiment.checks import check, check_infinite, check_side_by_side, form_of
from ntkcl.experiment.events import AHEAD, Evaluation, Event, Measurement
from ntkcl.experiment.forecasts import anchor_forecast, baseline_forecasts, path_diagnostic, plan
from ntkcl.experiment.start import Initialised, initialise
from ntkcl.forecast import Effort
from ntkcl.kernels.infinite import infinite_kernel_fn
from ntkcl.resources import Cost, Meter
from ntkcl.training import problem as training_problem
from ntkcl.training.loop import Fit, diverged
from ntkcl.training.problem import Anchor, Problem, carried_optimizer_state, consolidate
from ntkcl.training.settings import Training
from ntkcl.types import Key, Loss, Method, Network, Optimizer, Rows, Stream
from ntkcl.validation import SettingError

DEFAULT = ("init", "boundary")
NAIVE = methods.naive()
EFFORT = Effort()


class Setup(NamedTuple):
    """The arguments of `run`, but for the checkpointer."""

    key: Key
    stream: Stream
    network: Network
    loss: Loss
    optimizer: Optimizer
    training: Training
    method: Method = NAIVE
    anchors: Sequence[str] = DEFAULT
    form: str = "auto"
    effort: Effort = EFFORT
    kernel: Callable[[Network], Callable[..., np.ndarray]] = kernels.empirical


class Experiment(NamedTuple):
    """Everything that is decided before the first event: the untrained network, how each task is
    trained, the anchors, and the form of the forecasts."""

    initialised: Initialised
    training: Training
    anchors: Sequence[str]
    form: str

    def forecast(self, problem: Problem, anchor: Anchor, count: int, infinite_fn=None):
        """The outcomes of the next `count` tasks, by the network's kernel or one of infinite
        width."""
        form, effort = forecast.FORMS[self.form], self.initialised.effort
        if infinite_fn is None:
            predict = form(self.initialised.kernel_fn, effort)
        else:
            predict = form(infinite_fn, effort, by_columns=True)
        return predict(problem, anchor, count)


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
    return _run(_prepare(setup), checkpointer)


def _run(experiment, checkpointer) -> Iterator[Event]:
    meter = Meter()
    problem, anchor = yield from _open(experiment, meter)
    path = forecast.path(problem)
    for t in range(len(problem.stream)):
        yield from _forecast_task(experiment, problem, anchor, meter)
        fitted, cost = yield from _train_task(experiment, problem, t, anchor, checkpointer, meter)
        measurement, reached = _measure_task(experiment, problem, t, anchor, fitted, cost, meter)
        yield measurement
        if measurement.diverged:
            return
        yield from _diagnose_task(experiment, path, problem, t, anchor, meter)
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
    return _open(_prepare(setup._replace(anchors=anchors)), Meter())


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
    experiments, meter = [_prepare(Setup(**run)) for run in runs], Meter()
    events: list[list[Event]] = [[] for _ in runs]
    states = [_collect(_open(one, meter), events[k]) for k, one in enumerate(experiments)]
    paths, running = [forecast.path(problem) for problem, _ in states], list(range(len(runs)))
    for t in range(len(states[0][0].stream)):
        for k in running:
            problem, anchor = states[k]
            events[k] += _forecast_task(experiments[k], problem, anchor, meter)
        meter.read()
        problems, anchors = zip(*(states[k] for k in running), strict=True)
        fits = jax.block_until_ready(training_problem.train_seeds(problems, t, anchors))
        total = meter.read()
        cost = total._replace(seconds=total.seconds / len(fits))
        for k, fitted in zip(list(running), fits, strict=True):
            one, (problem, anchor) = experiments[k], states[k]
            measurement, reached = _measure_task(one, problem, t, anchor, fitted, cost, meter)
            events[k].append(measurement)
            if measurement.diverged:
                running.remove(k)
                continue
            events[k] += _diagnose_task(one, paths[k], problem, t, anchor, meter)
            states[k] = problem, reached
        if not running:
            break
    return events


def _prepare(setup: Setup) -> Experiment:
    """The experiment, its settings and data checked."""
    key, stream, network, loss, optimizer, training, method, anchors, form, effort, kernel = setup
    check(stream, loss, training, anchors)
    trained = stream, network, loss, optimizer, training, method
    form = form_of(*trained, form) if anchors else "linearised"
    if "infinite" in anchors:
        check_infinite(network, form)
    initialised = initialise(
        key, stream, network, loss, optimizer, training, method, effort, kernel
    )
    return Experiment(initialised, training, tuple(anchors), form)


def _open(experiment, meter) -> Generator[Event, None, tuple[Problem, Anchor]]:
    """Everything before the first task; returns the problem at its learning rate, and the anchor
    at theta_0."""
    initialised, anchors = experiment.initialised, experiment.anchors
    theta, outputs = initialised.theta, initialised.outputs
    meter.read()  # what `initialised.cost` holds already
    chosen = plan(initialised, experiment.training, meter)
    problem = initialised.problem.at(chosen.learning_rate)
    yield chosen
    f = outputs(theta)
    if not np.isfinite(f).all():
        raise SettingError(
            "network: the untrained outputs are not finite; use a smaller network.output_scale or "
            "network.w_std"
        )
    slope = forecast.slopes(problem)(0, theta, f)
    yield Measurement(0, f, np.empty(0), False, slope, initialised.cost, meter.read())

    anchor, tasks = Anchor(theta, (), (jnp.asarray(f),)), len(problem.stream)
    if "infinite" in anchors:
        kernel_fn = infinite_kernel_fn(problem.network.infinite, f.shape[1])
        outcomes = experiment.forecast(problem, anchor, tasks, kernel_fn)
        yield anchor_forecast("infinite", problem, anchor, outcomes, outputs, meter)
    if "init" in anchors:
        outcomes = experiment.forecast(problem, anchor, tasks)
        yield anchor_forecast("init", problem, anchor, outcomes, outputs, meter)
        del outcomes  # and the Gram matrices with them, before anything is trained
    if anchors:
        by_kernel = "init" in anchors and experiment.form in forecast.BY_KERNEL
        own = initialised.kernel_fn if by_kernel else None
        yield baseline_forecasts(problem, theta, f, own, meter)
    return problem, anchor


def _forecast_task(experiment, problem, anchor, meter) -> Iterator[Event]:
    """The boundary forecast of the next task, where it is asked for."""
    if "boundary" in experiment.anchors:
        outcomes, outputs = experiment.forecast(problem, anchor, 1), experiment.initialised.outputs
        yield anchor_forecast("boundary", problem, anchor, outcomes, outputs, meter)


def _train_task(
    experiment, problem, t, anchor, checkpointer, meter
) -> Generator[Event, None, tuple[Fit, Cost]]:
    """Evaluations within the task, where they are asked for; returns the end of the training, and
    what it cost."""
    tested, cost = slice(Rows.of(problem.stream).test[0].start, None), Cost(0.0, 0.0)
    every = experiment.training.evaluate_every
    for fitted in _fits(problem, t, anchor, every, checkpointer):
        jax.block_until_ready(fitted.losses)  # else whoever reads it would pay for the training
        cost = cost.plus(meter.read())
        if fitted.step < problem.steps[t]:
            f = experiment.initialised.outputs(fitted.theta, tested)
            yield Evaluation(t, fitted.step, f, meter.read())
    return fitted, cost


def _fits(problem, t, anchor, every, checkpointer) -> Iterator[Fit]:
    """The training's state after every `every` steps and at its end; its end alone where a
    checkpointer saves the others, and perhaps has some already."""
    start = problem.trained, anchor
    if checkpointer is None:
        yield from training_problem.segments(problem, t, *start, every)
        return
    resume = partial(checkpointer.load, t)
    for fitted in training_problem.segments(problem, t, *start, checkpointer.every, resume):
        checkpointer.save(t, fitted)
    yield fitted


def _measure_task(
    experiment, problem, t, anchor, fitted, cost, meter
) -> tuple[Measurement, Anchor]:
    """What training task t did to all outputs, and the anchor that the next task begins at."""
    theta, stream = fitted.theta, problem.stream
    memory = consolidate(problem, t, problem.network, fitted)
    losses, cost = np.asarray(fitted.losses), cost.plus(meter.read())
    f = experiment.initialised.outputs(theta)
    lost = diverged(stream[t], problem.loss, losses, f)
    ahead = not lost and t + 1 < len(stream)
    slope = forecast.slopes(problem)(t + 1, theta, f) if ahead else float("nan")
    history = (*anchor.history, jnp.asarray(f))
    reached = Anchor(theta, memory, history, carried_optimizer_state(problem, fitted))
    return Measurement(t + 1, f, losses, lost, slope, cost, meter.read()), reached


def _diagnose_task(experiment, path, problem, t, anchor, meter) -> Iterator[Event]:
    """What the kernels on the path of task t's training did, where it is asked for."""
    if "path" in experiment.anchors:
        yield path_diagnostic(t, path(t, anchor), problem.steps[t], meter)


def _collect(events: Generator[Event, None, Any], into: list[Event]) -> Any:
    """Appends a generator's events to a list; returns what the generator returns."""

    def all_of():
        result.append((yield from events))

    result: list[Any] = []
    into.extend(all_of())
    return result[0]
