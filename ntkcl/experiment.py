"""The story, once: forecast, train, measure. Yields what happened, in the order in which it happened.

A `Forecast` is yielded before the training it forecasts has begun: the generator stands still at that `yield`, so nothing that is
done to the data or the trainer afterwards can reach it. So is a `Baselines`, what the forecasts will be compared with. Anchors:

* `infinite`: the kernel of infinite width for the whole stream, one for all seeds and widths;
* `init`: one kernel at theta_0 for the whole stream, before anything is trained;
* `boundary`: at the start of each task, the kernel and the residuals of the network as it then is, one task ahead;
* `path`: no forecast but a diagnostic, yielded after the measurement of each task: the kernels of its training, step by step.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import forecast, kernels, methods, predict
from ntkcl.events import ANCHORS, Baselines, Evaluation, Event, Forecast, Measurement, Plan
from ntkcl.forecast.rules import MOST_STEPS
from ntkcl.kernels.tiles import MIB
from ntkcl.meter import Cost, Meter, memory_gib
from ntkcl.networks import centred, computed_in, forward
from ntkcl.predict import Effort
from ntkcl.settings import finite, flag, one_of, whole
from ntkcl.types import Key, Loss, Method, Network, Optimizer, Params, Rows, Stream, Task

DEFAULT = ("init", "boundary")
NAIVE = methods.naive()
EFFORT = Effort()


class Training(NamedTuple):
    """How each task is trained: S = `steps` updates, on the whole task or on minibatches, and how the learning rate is found.

    Either `learning_rate` is given, or it is `learning_rate_fraction` of the stability limit: the smallest over the tasks of the
    rule's limit at the kernel of the untrained network. For full batches that kernel is K_tt; for minibatches the limit is one
    that no batch exceeds, that of the task's worst single sample. `schedule`, a function of the step such as any of Optax, multiplies
    the learning rate, and the limit is then that of its largest rate; the step is counted from each task's start, or with `carry` from
    the first's.
    `epochs` passes over each task take the place of `steps`, which may then be None, where given.
    The optimizer begins each task at rest (`reset`), or with the
    state that the task before has left (`carry`). `evaluate_every` steps the outputs are looked at, which changes nothing.
    `compute`: the floating type of the passes through the network in training; parameters, optimizer and loss keep theirs. Kernels,
    forecasts, what methods consolidate and measured outputs are of the network in its own type, at the parameters as trained.
    `devices`: how many, or "all", share each batch, which differs by rounding alone.
    """

    steps: int | None = 500
    epochs: float | None = None
    batch_size: int | None = None
    optimizer_state: str = "reset"
    evaluate_every: int | None = None
    learning_rate: float | None = None
    learning_rate_fraction: float | None = 0.5
    schedule: Callable[[Any], Any] | None = None
    compute: str | None = None
    devices: int | str = 1
    allow_unstable: bool = False


READ = 10_000  # inputs whose outputs are read at a time: of more, fresh memory costs more than the reading
BLOWN = 1e3  # a loss this many times that of predicting zero is no training, long before it overflows


def check_training(training: Training) -> None:
    """ValueError for settings out of range, as far as that is known without data."""
    if training.steps is None and training.epochs is None:
        raise ValueError("training.steps=null and training.epochs=null: expected one of them")
    if training.steps is not None and whole("training.steps", training.steps) > MOST_STEPS:
        raise ValueError(f"training.steps={training.steps}: expected at most {MOST_STEPS}, which is as far as Optax counts")
    one_of("training.optimizer_state", training.optimizer_state, ("reset", "carry"))
    if training.evaluate_every is not None:
        whole("training.evaluate_every", training.evaluate_every)
    rates = {name: getattr(training, name) for name in ("learning_rate", "learning_rate_fraction")}
    for name, rate in rates.items():
        if rate is not None:
            finite(f"training.{name}", rate, above=0.0)
    if all(rate is None for rate in rates.values()):
        raise ValueError("training.learning_rate=null and training.learning_rate_fraction=null: expected one of them")
    flag("training.allow_unstable", training.allow_unstable)
    if training.compute not in (None, "bfloat16"):
        raise ValueError(f"training.compute={training.compute}: expected null or bfloat16")


def check(stream: Stream, loss: Loss, training: Training, anchors: Sequence[str]) -> None:
    """ValueError for settings out of range, data that are not finite or no targets for this loss, a head without active outputs."""
    check_training(training)
    smallest = min(len(task.train.x) for task in stream)
    if training.batch_size is not None and whole("training.batch_size", training.batch_size) > smallest:
        raise ValueError(f"training.batch_size={training.batch_size}: expected at most {smallest}, the smallest task, or null")
    steps_of(training, stream)
    devices_of(training, stream)
    for anchor in anchors:
        one_of("forecast.anchors", anchor, ANCHORS)
    for t, task in enumerate(stream):
        for part, dataset in (("train", task.train), ("test", task.test)):
            for name, values in zip(dataset._fields, dataset, strict=True):
                bad = int(np.sum(~np.isfinite(values)))
                if bad:
                    raise ValueError(f"stream: task {t}, {part}.{name} holds {bad} NaN or infinite values; expected finite ones")
        if not np.any(task.head):
            raise ValueError(f"stream: task {t} has a head without active outputs")
        y = np.asarray(task.train.y)[:, np.flatnonzero(task.head)]
        if not loss.quadratic and ((y < 0).any() or np.abs(y.sum(1) - 1).max() > 1e-6):
            raise ValueError(f"loss: the targets of task {t} are no distribution over its outputs; use one_hot targets")


def steps_of(training: Training, stream: Stream) -> tuple[int, ...]:
    """Steps of each task: as given, or the fewest that see every sample `epochs` times."""
    sizes, batch, epochs = [len(task.train.x) for task in stream], training.batch_size, training.epochs
    if epochs is None:
        assert training.steps is not None  # `check_training` has seen that one is given
        return _bearable("steps", training.steps, (training.steps,) * len(sizes), batch)
    passes = finite("training.epochs", epochs, above=0.0)
    each = [passes * size / (batch or size) for size in sizes]  # infinite where it is too large for a float
    return _bearable("epochs", epochs, tuple(math.ceil(min(one, MOST_STEPS + 1)) for one in each), batch)


def _bearable(name, value, steps, batch_size) -> tuple[int, ...]:
    """The steps of each task; ValueError for more than can be counted, or be kept in memory: each has a loss, and the places of its
    batch [batch_size], all of which are drawn at once."""
    if max(steps) > MOST_STEPS:
        raise ValueError(f"training.{name}={value}: more than {MOST_STEPS} steps a task, which is as far as Optax counts; use fewer")
    need, there = max(steps) * (8 + 4 * (batch_size or 0)) / 2**30, memory_gib()
    if need > there:
        raise ValueError(
            f"training.{name}={value}: the losses and batches of {max(steps)} steps take {need:.3g} GiB, and there are {there:.3g}; "
            "use fewer"
        )
    return steps


def devices_of(training: Training, stream: Stream) -> int:
    """How many devices share each batch; ValueError for more than there are, and for batches that they cannot share evenly."""
    there = len(jax.local_devices())
    count = there if training.devices == "all" else whole("training.devices", training.devices)
    if count > there:
        raise ValueError(f"training.devices={count}: expected at most {there}, the devices that there are, or all")
    for size in {training.batch_size} if training.batch_size else {len(task.train.x) for task in stream}:
        if size % count:
            raise ValueError(f"training.devices={training.devices}: {count} devices cannot share a batch of {size} samples evenly")
    return count


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
      keeper: where trainings that a run before this one has done are kept, see `ntkcl.checkpoints`; None keeps nothing.
    After a measurement that diverged nothing more is trained and the generator ends.
    Raises ValueError at the call for bad settings and data, and before the first event where the learning rate exceeds the
    stability limit and that is not allowed.
    """
    story = _opened(key, stream, network, loss, optimizer, training, method, anchors, form, effort, kernel, limit, Meter())
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
    for fitted in predict.walk(setting, t, setting.trained, here.theta, here.memory, here.optimizer, every, resume):
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
        asked = {k: _told(_until_asked(stories[k], answer), told[k]) for k, answer in answers.items()}
        asked = {k: one for k, one in asked.items() if one is not None}
        if not asked:
            break
        meter.read()
        settings, (t, *_), anchors = zip(*asked.values(), strict=True)
        fits = jax.block_until_ready(predict.together(settings, t, anchors))
        cost = meter.read()
        answers = {k: ((fit,), cost._replace(seconds=cost.seconds / len(fits))) for k, fit in zip(asked, fits, strict=True)}
    return told


def _told(events, told):
    """What a generator returns, once all its events are told."""
    while True:
        try:
            told.append(next(events))
        except StopIteration as end:
            return end.value


def _opened(key, stream, network, loss, optimizer, training, method, anchors, form, effort, kernel, limit, meter):
    check(stream, loss, training, anchors)
    form = _form(stream, loss, optimizer, training, method, form) if anchors else "linearised"
    if "infinite" in anchors:
        if limit is None:
            raise ValueError(
                "forecast.anchors: infinite is for networks whose kernel of infinite width is known; expected network=mlp with "
                "network.parametrization=ntk"
            )
        if form not in ("closed", "simulated"):
            raise ValueError(f"forecast.anchors: infinite has no parameters for form={form} to follow; expected closed or simulated")
    begun = begin(key, stream, network, loss, optimizer, training, method, effort, kernel)
    return _story(begun, training, anchors, predict.FORMS[form], limit, meter)


class Begun(NamedTuple):
    """Before anything is trained: the setting without its learning rate, theta_0, and `outputs(theta, first=0)` [N - first, c] in
    float64, those at theta_0 subtracted where the network is centred; what the initialisation cost."""

    setting: predict.Setting
    theta: Params
    outputs: Callable[..., np.ndarray]
    cost: Cost


def begin(key, stream, network, loss, optimizer, training, method, effort, kernel) -> Begun:
    """The untrained network on all inputs of the stream, the train sets in turn and then the test sets; arguments as of `run`."""
    meter = Meter()
    methods.checked(method)
    x = jnp.concatenate([task.train.x for task in stream] + [task.test.x for task in stream])
    theta = network.init(jax.random.fold_in(key, 0), x[0])

    def read(theta, first=0):
        parts = [forward(network.apply, theta, x[at : at + READ]) for at in range(first, len(x), READ)]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    theta0 = theta if network.centred else None
    full = network._replace(apply=centred(network.apply, theta0))
    trained = network.apply if training.compute is None else computed_in(network.apply, training.compute)
    # In float64, and centred by what the same compiled function gave at theta_0, so that f_0 is 0 and not rounding.
    origin = read(theta) if network.centred else np.zeros((len(x), 1))
    setting = predict.Setting(
        key=key,
        stream=stream,
        x=x,
        tasks=predict.task_rows(stream, loss, Rows.of(stream).train),
        network=full,
        trained=full if training.compute is None else network._replace(apply=centred(trained, theta0)),
        kernel_fn=kernel(network),
        loss=loss,
        optimizer=optimizer,
        method=method,
        learning_rate=float("nan"),
        transform=None,
        steps=steps_of(training, stream),
        batch_size=training.batch_size,
        effort=effort.checked(),
        carry=training.optimizer_state == "carry",
        schedule=training.schedule,
        devices=devices_of(training, stream),
    )
    _check_schedule(setting)
    return Begun(setting, theta, lambda theta, first=0: read(theta, first) - origin[first:], meter.read())


def _check_schedule(setting):
    low, high = setting.extremes
    if not 0 <= low <= high < float("inf") or high == 0:
        raise ValueError(
            f"training.schedule: values from {low:g} to {high:g} over the training; expected finite ones, none below 0 and not all 0"
        )


def _form(stream, loss, optimizer, training, method, form) -> str:
    if training.optimizer_state == "carry":
        if form not in ("auto", "linearised"):
            raise ValueError(
                f"forecast.form={form}: begins each task at rest, and training.optimizer_state=carry; use linearised or auto"
            )
        return "linearised"
    full, rows = full_batches(stream, training.batch_size), Rows.of(stream)
    y = stream[0].train.y
    block = rows.test[-1].stop * max(own.stop - own.start for own in rows.train) * y.shape[1] ** 2 * y.dtype.itemsize
    return predict.form_of(form, loss, optimizer, method, full, block / MIB)


def full_batches(stream: Stream, batch_size: int | None) -> bool:
    """Whether every step sees all of its task."""
    return batch_size is None or all(batch_size == len(task.train.x) for task in stream)


class Asked(NamedTuple):
    """A training that a story waits for. It is sent what comes of it, a `train.Fit` or several on the way, and what it cost already."""

    setting: predict.Setting
    task: int
    here: predict.Anchor


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
        raise ValueError("network: the untrained outputs are not finite; use a smaller network.output_scale or network.w_std")
    slope = predict.slopes(setting)
    yield Measurement(0, f, np.empty(0), False, slope(0, theta, f), born, meter.read())

    here, energies = predict.Anchor(theta, (), (jnp.asarray(f),)), None
    walked = predict.path(setting)
    if "infinite" in anchors:
        infinite = setting._replace(kernel_fn=wide(limit, f.shape[1]))
        yield _foretold("infinite", setting, here, foretell(infinite, here, len(stream)), outputs, meter)
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
        memory = predict.consolidated(setting, t, setting.network, fitted)
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
        here = predict.Anchor(fitted.theta, memory, (*here.history, jnp.asarray(f)), predict.left(setting, fitted))


def diverged(task: Task, loss: Loss, losses: np.ndarray, f: np.ndarray) -> bool:
    """Whether training blew up: outputs [N, c] that are not finite, or a loss [S] on the way far above that of predicting zero."""
    zero = jnp.mean(jax.vmap(loss.value, (0, 0, None))(jnp.zeros_like(task.train.y), task.train.y, task.head))
    return not (np.isfinite(f).all() and losses.max() <= BLOWN * max(losses[0], float(zero)))


def wide(limit: Callable[..., Any], c: int) -> Callable[..., Any]:
    """`kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]` of a `limit` as of `run`. In float64: rounding makes near inputs look equal."""

    def kernel_fn(theta, x1, x2=None):
        k = limit(*(None if x is None else jnp.asarray(x, jnp.float64).reshape(len(x), -1) for x in (x1, x2)))
        return kernels.with_outputs(k.astype(x1.dtype), c)

    return kernel_fn


def _foretold(name, setting, here, outcomes, outputs, meter) -> Forecast:
    ahead = here.ahead(len(outcomes))
    rates = [setting.learning_rate * setting.extremes[1] / setting.tasks[t].scale for t in ahead]
    tops = [setting.loss.curvature * outcome.top for outcome in outcomes]
    firsts = [top if o.anchor_top is None else setting.loss.curvature * o.anchor_top for top, o in zip(tops, outcomes, strict=True)]
    limits = [setting.optimizer.limit(top) if top == top else float("nan") for top in tops]
    return Forecast(
        name,
        ahead.start,
        np.stack([outcome.change for outcome in outcomes]),
        predict.trial(setting, here, outcomes, outputs),
        predict.halved(setting, here, outcomes, outputs),
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
    return Forecast("path", t, changes, trial, trial, unknown, (True,), unknown, unknown, unknown, (0,), (steps,), meter.read())


def _baselines(setting, f, energies, meter) -> Baselines:
    tasks = len(setting.stream)
    held = energies is not None and all(e is not None for e in energies)
    both = np.stack(energies, 1) if held else np.full((tasks, tasks, 2), np.nan)  # [S, t, 2]
    cross_energy, cka = (forecast.baselines.similarity(np.asarray(both[..., k], np.float64)) for k in range(2))
    changes, remark = predict.input_cosine(setting, jnp.asarray(f))
    return Baselines(changes, cka, cross_energy, meter.read(), remark)


def _plan(setting, theta, training, meter) -> Plan:
    # Of a learning rate that may exceed it nobody asks, and on many samples it takes longer than training.
    asked = training.learning_rate is None or not training.allow_unstable
    limit = predict.limit(setting, theta) if asked else float("nan")
    return Plan(rate(training, limit, setting.network.rate_scale), float(limit), setting.steps, meter.read())


def rate(training: Training, limit: float, scale: float = 1.0) -> float:
    """The learning rate at this stability limit; ValueError where there is none to take a fraction of, or it is over the limit.

    A given rate is multiplied by `scale`, the network's `rate_scale`. A fraction is not: the limit has that factor in it already.
    """
    given, fraction = training.learning_rate, training.learning_rate_fraction
    if given is None and not np.isfinite(limit):
        raise ValueError(
            "training.learning_rate=null: this optimizer has no stability limit to take a fraction of; give a learning rate"
        )
    if given is not None and scale != 1 and not np.isfinite(limit):
        raise ValueError("network.parametrization=mup: how the learning rate scales is known for optimizer=sgd; expected that, or ntk")
    rate = given * scale if given is not None else limit * fraction  # type: ignore[operator]  # `check` has seen that one is given
    if rate > limit and not training.allow_unstable:
        name, value = ("learning_rate", given) if given is not None else ("learning_rate_fraction", fraction)
        raise ValueError(
            f"training.{name}={value:g}: the learning rate {rate:.6g} exceeds the stability limit {limit:.6g} of the kernel at "
            f"initialisation; use at most {limit / scale if given is not None else 1}, or training.allow_unstable=true"
        )
    return float(rate)
