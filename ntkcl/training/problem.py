"""The training that is to come, and where the network stands when it begins.

A `Problem` holds everything that decides a training but the network's parameters: stream, network,
loss, optimizer, method, steps. It knows nothing of forecasts. An `Anchor` is a network on its way
through the stream. `train`, `segments`, `train_in_segments` and `train_seeds` train one task.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ntkcl.compilation import convolves, once, one_of
from ntkcl.training import loop
from ntkcl.training.settings import full_batches
from ntkcl.types import Key, Loss, Method, Network, Optimizer, Params, Stream, TaskRows
from ntkcl.validation import are_tokens


class Problem(NamedTuple):
    """The training that is to come: everything but the network's parameters.

    key: from which each task's batches are drawn.
    stream: T tasks.  x: all N inputs of the stream, the train sets in turn and then the test sets.
    tasks: where each task's train inputs stand among the N.
    network: its `apply` is centred where that is asked for, as outputs are measured and forecast.
    trained: the same, or its forward pass in the floating type in which it is trained.
    transform: the optimizer's transformation, bound to this learning rate (`ntkcl.compilation`).
    steps: of each task.  batch_size: None is the whole task.
    carry: whether a task begins with the optimizer's state that the task before has left.
    schedule: from the step, as the optimizer counts it, to a factor of its update; or None.
    devices: how many share each batch.
    """

    key: Key
    stream: Stream
    x: Any
    tasks: tuple[TaskRows, ...]
    network: Network
    trained: Network
    loss: Loss
    optimizer: Optimizer
    method: Method
    learning_rate: float
    transform: Any
    steps: tuple[int, ...]
    batch_size: int | None
    carry: bool = False
    schedule: Callable[[Any], Any] | None = None
    devices: int = 1

    def at(self, learning_rate: float) -> "Problem":
        """With this learning rate."""
        halves = _transformation(self.optimizer, self.schedule)
        transform = optax.GradientTransformation(*(Partial(f, learning_rate) for f in halves))
        return self._replace(learning_rate=learning_rate, transform=transform)

    def coarsened(self, k: int) -> "Problem":
        """With one step of k times the learning rate in place of every k. k divides the steps of
        every task."""
        if k == 1:
            return self
        schedule = None if self.schedule is None else _every(self.schedule, k)
        steps = tuple(steps // k for steps in self.steps)
        return self._replace(steps=steps, schedule=schedule).at(self.learning_rate * k)

    def factors(self, steps: int) -> np.ndarray:
        """What the schedule multiplies a learning rate by in the first `steps` steps, [steps]."""
        if self.schedule is None:
            return np.ones(steps)
        return np.asarray(jax.vmap(self.schedule)(jnp.arange(steps, dtype=jnp.int32)))

    def inputs(self, places) -> np.ndarray:
        """x[places], cut by NumPy: XLA would compile each cut for each shape."""
        return np.asarray(self.x)[places]

    @property
    def dtype(self) -> np.dtype:
        """The floating type of inputs, or of targets where inputs are token ids."""
        return self.stream[0].train.y.dtype if are_tokens(self.x) else self.x.dtype

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and largest factor of all steps the optimizer counts before it restarts."""
        factors = self.factors(sum(self.steps) if self.carry else max(self.steps))
        return float(np.min(factors)), float(np.max(factors))

    @property
    def full_batches(self) -> bool:
        """Whether every step sees all of its task."""
        return full_batches(self.stream, self.batch_size)

    def reordered(self, order: Sequence[int]) -> "Problem":
        """With its tasks, or some of them, in another order; inputs stay where they are."""
        return self._replace(
            stream=tuple(self.stream[t] for t in order),
            tasks=tuple(self.tasks[t] for t in order),
            steps=tuple(self.steps[t] for t in order),
        )


class Anchor(NamedTuple):
    """A network on its way through the stream: theta; the method's memory; the outputs
    [f_0, ..., f_t], each [N, c], before and after every task so far; the optimizer's state to
    continue with, None at rest."""

    theta: Params
    memory: Any
    history: tuple[Float[Array, "N c"], ...]
    optimizer_state: Any = None

    def ahead(self, count: int) -> range:
        """The next `count` tasks."""
        first = len(self.history) - 1
        return range(first, first + count)


@once
def _every(schedule, k: int):
    """The schedule of every k-th step."""
    return lambda step: schedule(k * step)


@once
def _transformation(optimizer, schedule):
    """`init(learning_rate, theta)` and `update(learning_rate, gradient, state, theta)`, learning
    rates being traced: the same two functions for the same settings, so that programs are
    shared."""

    def transform(learning_rate):
        plain = optimizer.transform(learning_rate)
        if schedule is None:
            return plain
        return optax.chain(plain, optax.scale_by_schedule(schedule))

    def init(learning_rate, *given):
        return transform(learning_rate).init(*given)

    def update(learning_rate, *given):
        return transform(learning_rate).update(*given)

    return init, update


def task_rows(stream: Stream, loss: Loss, places: Sequence[slice]) -> tuple[TaskRows, ...]:
    """Each task as function space sees it, its train inputs at `places` among the N."""
    return tuple(
        TaskRows(
            np.arange(own.start, own.stop),
            jnp.asarray(np.asarray(task.train.y, np.float64)),
            np.asarray(task.head, np.float64),
            1.0 / loss.rate(1.0, len(task.train.x), task.head),
        )
        for task, own in zip(stream, places, strict=True)
    )


def batch_order(problem: Problem, t: int):
    """The batches [steps, batch_size] that training will draw for task t; None for full batches."""
    if problem.batch_size is None:
        return None
    n = len(problem.tasks[t].inputs)
    return loop.batches(_key(problem, t), n, problem.batch_size, problem.steps[t])


def segments(
    problem: Problem,
    t: int,
    network: Network,
    anchor: Anchor,
    every: int | None = None,
    resume: Callable[[loop.State], loop.Fit | None] | None = None,
) -> Iterator[loop.Fit]:
    """Task t trained from the anchor, the network itself or a linearised one, as `loop.segments`.

    resume: `resume(state)` returns how far a training from this state has come before, or None.
    """
    start = anchor.theta, anchor.memory, anchor.optimizer_state
    state = _initial_state(problem, t, network, *start)
    yield from _segments(problem, t, network, state, every, resume)


def train(
    problem: Problem,
    t: int,
    network: Network,
    theta: Params,
    memory: Any,
    optimizer_state: Any = None,
) -> loop.Fit:
    """Task t trained to its end; with an `optimizer_state` to continue with, else from rest."""
    state = _initial_state(problem, t, network, theta, memory, optimizer_state)
    (fitted,) = _segments(problem, t, network, state)
    return fitted


def train_in_segments(
    problem: Problem,
    t: int,
    network_at: Callable[[Params], Network],
    theta: Params,
    memory: Any,
    optimizer_state: Any,
    count: int,
) -> loop.Fit:
    """As `train`, its steps in `count` parts that are as even as can be: in each it trains
    `network_at(theta)`, theta being where the parts before have come to."""
    network, steps = network_at(theta), problem.steps[t]
    state = _initial_state(problem, t, network, theta, memory, optimizer_state)
    run = loop.runner(*_given(problem, t, state), apply=network.apply, **_settings(problem, t))
    at = loop.begin(state)
    for end in sorted({steps * (k + 1) // count for k in range(count)} - {0}):
        network = network_at(at.theta) if at.step else network
        # Nobody reads the losses, and to append to them would be a program for each length.
        at = run(network.apply, at._replace(losses=jnp.zeros(0)), end - at.step)
    return at


def train_seeds(problems: Sequence[Problem], t: int, anchors: Sequence[Anchor]) -> list[loop.Fit]:
    """Task t of several problems that differ in their seeds alone, each from its own anchor.

    As one vmapped program, or one after the other: where arrays differ in shape, and for
    convolutions on a CPU, to which several kernels at once are many small groups.
    """
    first, here, tasks = problems[0], anchors[0], [problem.stream[t] for problem in problems]
    states = [
        _initial_state(p, t, p.trained, a.theta, a.memory, a.optimizer_state)
        for p, a in zip(problems, anchors, strict=True)
    ]
    shapes = [
        [jnp.shape(leaf) for leaf in jax.tree.leaves((state, task.train))]
        for state, task in zip(states, tasks, strict=True)
    ]
    differ = any(other != shapes[0] for other in shapes)
    if differ or convolves(first.trained.apply, here.theta, one_of(tasks[0].train.x)):
        each = (
            _segments(problem, t, problem.trained, state)
            for problem, state in zip(problems, states, strict=True)
        )
        return [fitted for (fitted,) in each]
    return loop.train_vmapped(
        [_key(problem, t) for problem in problems],
        states,
        [task.train for task in tasks],
        [task.head for task in tasks],
        [problem.trained.apply for problem in problems],
        [problem.transform for problem in problems],
        loss=first.loss,
        steps=first.steps[t],
        batch_size=first.batch_size,
        method=first.method,
    )


def consolidate(problem: Problem, t: int, network: Network, fitted: loop.Fit) -> Any:
    """The method's memory after task t; after the last as it was, since nothing would use it."""
    memory, task = fitted.state.memory, problem.stream[t]
    if t + 1 == len(problem.stream):
        return memory
    return problem.method.consolidate(memory, network, problem.loss, fitted.theta, task)


def carried_optimizer_state(problem: Problem, fitted: loop.Fit) -> Any:
    """The optimizer's state that the next task continues with; None begins at rest."""
    return fitted.state.optimizer if problem.carry else None


def _segments(problem, t, network, state, every=None, resume=None):
    so_far = None if resume is None else resume(state)
    each = dict(apply=network.apply, every=every, so_far=so_far)
    yield from loop.segments(*_given(problem, t, state), **each, **_settings(problem, t))


def _given(problem, t, state):
    task = problem.stream[t]
    return _key(problem, t), state, task.train, task.head


def _settings(problem, t):
    return dict(
        loss=problem.loss,
        transform=problem.transform,
        steps=problem.steps[t],
        batch_size=problem.batch_size,
        method=problem.method,
        devices=problem.devices,
    )


def _initial_state(problem, t, network, theta, memory, optimizer_state):
    memory = problem.method.begin(memory, network, theta, problem.stream[t])
    state = loop.at_rest(theta, problem.transform, memory)
    return state if optimizer_state is None else state._replace(optimizer=optimizer_state)


def _key(problem, t):
    return jax.random.fold_in(problem.key, t + 1)
