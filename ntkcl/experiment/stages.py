"""The stages of an experiment: everything before the first task, then a forecast, the training, the
measurement and the diagnosis of each task. `ntkcl.experiment.run` puts them in order.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import forecast, kernels, methods
from ntkcl.experiment.checks import check, check_coarsen, check_infinite, check_segments, form_of
from ntkcl.experiment.events import Evaluation, Event, Measurement
from ntkcl.experiment.forecasts import anchor_forecast, baseline_forecasts, path_diagnostic, plan
from ntkcl.experiment.start import Initialised, initialise
from ntkcl.forecast import Effort
from ntkcl.kernels.infinite import infinite_kernel_fn
from ntkcl.resources import Cost
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


def prepare(setup: Setup) -> Experiment:
    """The experiment, its settings and data checked."""
    key, stream, network, loss, optimizer, training, method, anchors, form, effort, kernel = setup
    check(stream, loss, training, anchors)
    trained = stream, network, loss, optimizer, training, method
    form = form_of(*trained, form, effort.checked().segments) if anchors else "linearised"
    if "infinite" in anchors:
        check_infinite(network, form)
    check_coarsen(stream, training, form, effort.coarsen)
    check_segments(stream, training, form, effort)
    initialised = initialise(
        key, stream, network, loss, optimizer, training, method, effort, kernel
    )
    return Experiment(initialised, training, tuple(anchors), form)


def begin(experiment, meter) -> Generator[Event, None, tuple[Problem, Anchor]]:
    """Everything before the first task; returns the problem at its learning rate, and the anchor
    at theta_0."""
    initialised, anchors = experiment.initialised, experiment.anchors
    theta, outputs, effort = initialised.theta, initialised.outputs, initialised.effort
    meter.read()  # what `initialised.cost` holds already
    chosen = plan(initialised, experiment.training, meter)
    problem = initialised.problem.at(chosen.learning_rate)
    if effort.explain and {"init", "boundary"} & set(anchors):
        taken = forecast.estimate(problem, theta, experiment.form, effort.coarsen, effort.segments)
        chosen = chosen._replace(estimate=taken, cost=chosen.cost.plus(meter.read()))
    yield chosen
    f = outputs(theta)
    if not np.isfinite(f).all():
        raise SettingError(
            "network: the untrained outputs are not finite; use a smaller network.output_scale or "
            "network.w_std"
        )
    slope = forecast.slopes(problem)(0, theta, f)
    unknown = float("nan")
    yield Measurement(0, f, np.empty(0), False, slope, unknown, initialised.cost, meter.read())

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


def forecast_task(experiment, problem, anchor, meter) -> Iterator[Event]:
    """The boundary forecast of the next task, where it is asked for."""
    if "boundary" in experiment.anchors:
        outcomes, outputs = experiment.forecast(problem, anchor, 1), experiment.initialised.outputs
        yield anchor_forecast("boundary", problem, anchor, outcomes, outputs, meter)


def train_task(
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


def measure_task(experiment, problem, t, anchor, fitted, cost, meter) -> tuple[Measurement, Anchor]:
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
    fell = loss_slope(problem, t, losses)
    return Measurement(t + 1, f, losses, lost, slope, fell, cost, meter.read()), reached


def loss_slope(problem: Problem, t: int, losses: np.ndarray) -> float:
    """(L(theta_1) - L(theta_0)) / h of the first step of task t, h its length along the gradient.

    At a small learning rate it is -|dL_t/dtheta|^2, to first order in h. NaN where the first step
    is not along the gradient of the task's whole loss: minibatches, methods, rules such as Adam.
    """
    rule, at_rest = problem.optimizer.rule, t == 0 or not problem.carry
    plain = at_rest and problem.full_batches and methods.is_naive(problem.method)
    if rule is None or not plain or len(losses) < 2:
        return float("nan")
    step = rule(problem.learning_rate * problem.factors(1)[0], 1)(jnp.zeros(1), jnp.zeros(1))
    return float((losses[1] - losses[0]) / step[0])


def diagnose_task(experiment, path, problem, t, anchor, meter) -> Iterator[Event]:
    """What the kernels on the path of task t's training did, where it is asked for."""
    if "path" in experiment.anchors:
        yield path_diagnostic(t, path(t, anchor), problem.steps[t], meter)
