"""The story, once: forecast, train, measure. Yields what happened, in the order in which it happened.

A `Forecast` is yielded before the training it forecasts has begun: the generator stands still at that `yield`, so nothing that is
done to the data or the trainer afterwards can reach it. So is a `Baselines`, what the forecasts will be compared with. Anchors:

* `infinite`: the kernel of infinite width for the whole stream, one for all seeds and widths;
* `init`: one kernel at theta_0 for the whole stream, before anything is trained;
* `boundary`: at the start of each task, the kernel and the residuals of the network as it then is, one task ahead;
* `path`: no forecast but a diagnostic, yielded after the measurement of each task: the kernels of its training, step by step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import forecast, kernels, methods
from ntkcl.experiment.checks import check
from ntkcl.experiment.events import Baselines, Evaluation, Event, Forecast, Measurement, Plan
from ntkcl.experiment.start import begin
from ntkcl.forecast import Effort
from ntkcl.kernels.infinite import wide
from ntkcl.kernels.tiles import MIB
from ntkcl.metrics import baselines
from ntkcl.resources import Cost, Meter
from ntkcl.training.loop import diverged
from ntkcl.training.problem import Anchor, Setting, consolidated, left, together, walk
from ntkcl.training.settings import Training, full_batches, rate
from ntkcl.types import Key, Loss, Method, Network, Optimizer, Rows, Stream

DEFAULT = ("init", "boundary")
NAIVE = methods.naive()
EFFORT = Effort()


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
    limit: Callable[..., Any] | None = None,
    keeper: Any = None,
) -> Iterator[Event]:
    """Yields the plan, the untrained measurement, the infinite and the init forecast and the baselines, then for each task its boundary
    forecast, measurement and path. No baselines without an anchor.

    Arguments:
      key: split into the initialisation and one key a task.
      stream: arrays in the floating type that networks and kernels are to work in; forecasts are solved in float64.
      method: what is done against forgetting, in training and in the forecast alike.
      anchors: which of `ANCHORS` to forecast from.
      form: which of `predict.FORMS` to forecast by; "auto" takes the first that is exact for the linearised network.
      effort: what a forecast may spend.
      kernel: from the network to its `kernel_fn(theta, x1, x2=None)`, such as `kernels.empirical` with settings of one's own.
      limit: `limit(x1, x2) -> [n1, n2]`, what one output's kernel tends to as this network gets wider, for the anchor "infinite", such
        as `kernels.infinite(...).ntk`. What a method asks for beside the kernel is then still of the network as it is.
      keeper: where trainings that a run before this one has done are kept, see `ntkcl.runs.checkpoints`; None keeps nothing.
    After a measurement that diverged nothing more is trained and the generator ends.
    Raises ValueError at the call for bad settings and data, and before the first event where the learning rate exceeds the
    stability limit and that is not allowed.
    """
    story = _opened(
        key,
        stream,
        network,
        loss,
        optimizer,
        training,
        method,
        anchors,
        form,
        effort,
        kernel,
        limit,
        Meter(),
    )
    if keeper is not None and training.evaluate_every is not None:
        raise ValueError(
            f"training.evaluate_every={training.evaluate_every}: checkpoints keep no curves; expected null, or checkpoints.every=null"
        )
    return _alone(story, training.evaluate_every, keeper)


def _alone(story, every, keeper):
    asked = yield from _until_asked(story, None)
    while asked:
        asked = yield from _until_asked(story, (_walked(*asked, every, keeper), Cost(0.0, 0.0)))


def _until_asked(story, answer):
    """The events until a story waits for a training, what it waits for, None at its end."""
    with suppress(StopIteration):
        event = story.send(answer)
        while not isinstance(event, Asked):
            yield event
            event = next(story)
        return event


def _walked(setting, t, here, every, keeper):
    every, resume = (keeper.every, partial(keeper.load, t)) if keeper else (every, None)
    for fitted in walk(
        setting, t, setting.trained, here.theta, here.memory, here.optimizer, every, resume
    ):
        if keeper:
            keeper.save(t, fitted)
        else:
            yield fitted
    if keeper:
        yield fitted


def together(runs: Sequence[Mapping[str, Any]]) -> list[list[Event]]:
    """The events of several runs that differ in their seeds alone, each given by all arguments of `run` but the keeper.

    They are played side by side; where all have come to a task's training, it is one program mapped over them, if `predict.together`
    finds that it can be. A run's results are those that it has alone, up to rounding. One that diverges ends, the others go on. What
    trainings cost is shared evenly.
    Raises ValueError as `run`, and for what cannot be done side by side: looks within a task, batches shared by devices.
    """
    training, meter = runs[0]["training"], Meter()
    for name, expected in (("evaluate_every", None), ("devices", 1)):
        if getattr(training, name) != expected:
            raise ValueError(
                f"training.{name}={getattr(training, name)}: expected {'null' if expected is None else expected} where seeds are "
                "trained as one, or seeds_by=loop"
            )
    stories = [_opened(**run, meter=meter) for run in runs]
    told: list[list[Event]] = [[] for _ in runs]
    answers: dict[int, Any] = dict.fromkeys(range(len(runs)))
    while answers:
        asked = {
            k: _told(_until_asked(stories[k], answer), told[k]) for k, answer in answers.items()
        }
        asked = {k: one for k, one in asked.items() if one is not None}
        if not asked:
            break
        meter.read()
        settings, (t, *_), anchors = zip(*asked.values(), strict=True)
        fits = jax.block_until_ready(together(settings, t, anchors))
        cost = meter.read()
        answers = {
            k: ((fit,), cost._replace(seconds=cost.seconds / len(fits)))
            for k, fit in zip(asked, fits, strict=True)
        }
    return told


def _told(events, told):
    """What a generator returns, once all its events are told."""
    while True:
        try:
            told.append(next(events))
        except StopIteration as end:
            return end.value


def _opened(
    key,
    stream,
    network,
    loss,
    optimizer,
    training,
    method,
    anchors,
    form,
    effort,
    kernel,
    limit,
    meter,
):
    check(stream, loss, training, anchors)
    form = _form(stream, loss, optimizer, training, method, form) if anchors else "linearised"
    if "infinite" in anchors:
        if limit is None:
            raise ValueError(
                "forecast.anchors: infinite is for networks whose kernel of infinite width is known; expected network=mlp with "
                "network.parametrization=ntk"
            )
        if form not in ("closed", "simulated"):
            raise ValueError(
                f"forecast.anchors: infinite has no parameters for form={form} to follow; expected closed or simulated"
            )
    begun = begin(key, stream, network, loss, optimizer, training, method, effort, kernel)
    return _story(begun, training, anchors, forecast.FORMS[form], limit, meter)


def _form(stream, loss, optimizer, training, method, form) -> str:
    if training.optimizer_state == "carry":
        if form not in ("auto", "linearised"):
            raise ValueError(
                f"forecast.form={form}: begins each task at rest, and training.optimizer_state=carry; use linearised or auto"
            )
        return "linearised"
    full, rows = full_batches(stream, training.batch_size), Rows.of(stream)
    y = stream[0].train.y
    block = (
        rows.test[-1].stop
        * max(own.stop - own.start for own in rows.train)
        * y.shape[1] ** 2
        * y.dtype.itemsize
    )
    return forecast.form_of(form, loss, optimizer, method, full, block / MIB)


class Asked(NamedTuple):
    """A training that a story waits for. It is sent what comes of it, a `train.Fit` or several on the way, and what it cost already."""

    setting: Setting
    task: int
    here: Anchor


def _story(begun, training, anchors, foretell, limit, meter):
    setting, theta, outputs, born = begun
    tested = Rows.of(setting.stream).test[0].start
    stream, loss = setting.stream, setting.loss
    meter.read()  # what `born` has told already
    plan = _plan(setting, theta, training, meter)
    setting = setting.at(plan.learning_rate)
    yield plan
    f = outputs(theta)
    if not np.isfinite(f).all():
        raise ValueError(
            "network: the untrained outputs are not finite; use a smaller network.output_scale or network.w_std"
        )
    slope = forecast.slopes(setting)
    yield Measurement(0, f, np.empty(0), False, slope(0, theta, f), born, meter.read())

    here, energies = Anchor(theta, (), (jnp.asarray(f),)), None
    walked = forecast.path(setting)
    if "infinite" in anchors:
        infinite = setting._replace(kernel_fn=wide(limit, f.shape[1]))
        yield _foretold(
            "infinite", setting, here, foretell(infinite, here, len(stream)), outputs, meter
        )
    if "init" in anchors:
        outcomes = foretell(setting, here, len(stream))
        energies = [outcome.energies for outcome in outcomes]
        yield _foretold("init", setting, here, outcomes, outputs, meter)
        del outcomes  # and the Gram matrices with them, before anything is trained
    if anchors:
        yield _baselines(setting, f, energies, meter)
    for t, task in enumerate(stream):
        if "boundary" in anchors:
            yield _foretold("boundary", setting, here, foretell(setting, here, 1), outputs, meter)
        fits, cost = yield Asked(setting, t, here)
        for fitted in fits:
            jax.block_until_ready(fitted.losses)  # else what looks at it would pay for the training
            cost = cost.plus(meter.read())
            if fitted.step < setting.steps[t]:
                yield Evaluation(t, fitted.step, outputs(fitted.theta, tested), meter.read())
        memory = consolidated(setting, t, setting.network, fitted)
        losses, cost = np.asarray(fitted.losses), cost.plus(meter.read())
        f = outputs(fitted.theta)
        lost = diverged(task, loss, losses, f)
        ahead = not lost and t + 1 < len(stream)
        next_slope = slope(t + 1, fitted.theta, f) if ahead else float("nan")
        yield Measurement(t + 1, f, losses, lost, next_slope, cost, meter.read())
        if lost:
            return
        if "path" in anchors:
            yield _in_hindsight(t, walked(t, here), setting.steps[t], meter)
        here = Anchor(fitted.theta, memory, (*here.history, jnp.asarray(f)), left(setting, fitted))


def _foretold(name, setting, here, outcomes, outputs, meter) -> Forecast:
    ahead = here.ahead(len(outcomes))
    rates = [setting.learning_rate * setting.extremes[1] / setting.tasks[t].scale for t in ahead]
    tops = [setting.loss.curvature * outcome.top for outcome in outcomes]
    firsts = [
        top if o.anchor_top is None else setting.loss.curvature * o.anchor_top
        for top, o in zip(tops, outcomes, strict=True)
    ]
    limits = [setting.optimizer.limit(top) if top == top else float("nan") for top in tops]
    return Forecast(
        name,
        ahead.start,
        np.stack([outcome.change for outcome in outcomes]),
        forecast.trial(setting, here, outcomes, outputs),
        forecast.halved(setting, here, outcomes, outputs),
        tuple(rate * first for rate, first in zip(rates, firsts, strict=True)),
        tuple(not rate > limit for rate, limit in zip(rates, limits, strict=True)),
        tuple(rate / limit for rate, limit in zip(rates, limits, strict=True)),
        tuple(outcome.negative_mass for outcome in outcomes),
        tuple(outcome.condition for outcome in outcomes),
        tuple(outcome.kernels for outcome in outcomes),
        tuple(outcome.gradients for outcome in outcomes),
        meter.read(),
    )


def _in_hindsight(t, change, steps, meter) -> Forecast:
    changes, unknown = change[None], (float("nan"),)
    trial = np.full_like(changes, np.nan)
    return Forecast(
        "path",
        t,
        changes,
        trial,
        trial,
        unknown,
        (True,),
        unknown,
        unknown,
        unknown,
        (0,),
        (steps,),
        meter.read(),
    )


def _baselines(setting, f, energies, meter) -> Baselines:
    tasks = len(setting.stream)
    held = energies is not None and all(e is not None for e in energies)
    both = np.stack(energies, 1) if held else np.full((tasks, tasks, 2), np.nan)  # [S, t, 2]
    cross_energy, cka = (
        baselines.similarity(np.asarray(both[..., k], np.float64)) for k in range(2)
    )
    changes, remark = forecast.input_cosine(setting, jnp.asarray(f))
    return Baselines(changes, cka, cross_energy, meter.read(), remark)


def _plan(setting, theta, training, meter) -> Plan:
    # Of a learning rate that may exceed it nobody asks, and on many samples it takes longer than training.
    asked = training.learning_rate is None or not training.allow_unstable
    limit = forecast.limit(setting, theta) if asked else float("nan")
    return Plan(
        rate(training, limit, setting.network.rate_scale), float(limit), setting.steps, meter.read()
    )
