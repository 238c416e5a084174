"""The training that is to come: network, stream, loss, optimizer, method, steps."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ntkcl.forecast.outcome import Effort
from ntkcl.training import loop
from ntkcl.types import Key, Loss, Method, Network, Optimizer, Params, Stream, TaskRows


class Rule(NamedTuple):
    """The transformation of an optimizer and a schedule, of a learning rate that may be traced: its two halves."""

    optimizer: Optimizer
    schedule: Callable[[Any], Any] | None
    half: str

    def __call__(self, learning_rate, *given):
        transform = self.optimizer.transform(learning_rate)
        if self.schedule is not None:
            transform = optax.chain(transform, optax.scale_by_schedule(self.schedule))
        return getattr(transform, self.half)(*given)


class Setting(NamedTuple):
    """The training that is to be foretold: everything but the network's parameters.

    x: all N inputs of the stream, the train sets in turn and then the test sets.  tasks: where each task stands among them.  steps: of
    each task.
    network: its `apply` centred where that is asked for, as it is measured and foretold.  trained: the same, or its forward pass in the
    floating type in which it is trained.  transform: the optimizer's, bound to this learning rate (`ntkcl.compilation`).
    carry: whether a task begins with the optimizer's state that the one before has left.  schedule: from the step, counted by the
    optimizer, to what its update is multiplied by; or None.  devices: how many share each batch.
    """

    key: Key
    stream: Stream
    x: Any
    tasks: tuple[TaskRows, ...]
    network: Network
    trained: Network
    kernel_fn: Callable[..., Any]
    loss: Loss
    optimizer: Optimizer
    method: Method
    learning_rate: float
    transform: Any
    steps: tuple[int, ...]
    batch_size: int | None
    effort: Effort
    carry: bool = False
    schedule: Callable[[Any], Any] | None = None
    devices: int = 1

    def at(self, learning_rate: float) -> "Setting":
        """With this learning rate."""
        halves = (
            Partial(Rule(self.optimizer, self.schedule, half), learning_rate)
            for half in ("init", "update")
        )
        return self._replace(
            learning_rate=learning_rate, transform=optax.GradientTransformation(*halves)
        )

    def factors(self, steps: int) -> np.ndarray:
        """What the schedule makes of a learning rate of 1 in the first so many steps."""
        return (
            np.ones(steps)
            if self.schedule is None
            else np.asarray(jax.vmap(self.schedule)(jnp.arange(steps, dtype=jnp.int32)))
        )

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest factor of all steps that the optimizer counts before it begins anew."""
        factors = self.factors(sum(self.steps) if self.carry else max(self.steps))
        return float(np.min(factors)), float(np.max(factors))

    def reordered(self, order: Sequence[int]) -> "Setting":
        """With its tasks, or some of them, in another order; inputs stay where they are."""
        stream, tasks = tuple(self.stream[t] for t in order), tuple(self.tasks[t] for t in order)
        return self._replace(stream=stream, tasks=tasks, steps=tuple(self.steps[t] for t in order))


class Anchor(NamedTuple):
    """A network on its way: theta, the method's memory, the outputs [f_0, ..., f_t] before and after each task so
    far, and the state that the optimizer goes on with, None at rest."""

    theta: Params
    memory: Any
    history: tuple[Float[Array, "N c"], ...]
    optimizer: Any = None

    def ahead(self, count: int) -> range:
        """The next `count` tasks."""
        first = len(self.history) - 1
        return range(first, first + count)


def order(setting: Setting, t: int):
    """The batches that `fit` will draw for task t, or None for full ones."""
    if setting.batch_size is None:
        return None
    return loop.batches(
        _key(setting, t), len(setting.tasks[t].inputs), setting.batch_size, setting.steps[t]
    )


def walk(
    setting: Setting,
    t: int,
    network: Network,
    theta,
    memory,
    optimizer=None,
    every=None,
    resume=None,
) -> Iterator[loop.Fit]:
    """Task t trained, the network itself or a linearised one, as `train.walk`; the optimizer at rest, or as `optimizer`.

    `resume(state)` tells how far training from this state has come before, or None.
    """
    yield from _from(
        setting, t, network, _started(setting, t, network, theta, memory, optimizer), every, resume
    )


def _from(setting, t, network, state, every=None, resume=None):
    task = setting.stream[t]
    yield from loop.walk(
        _key(setting, t),
        state,
        task.train,
        task.head,
        apply=network.apply,
        loss=setting.loss,
        transform=setting.transform,
        steps=setting.steps[t],
        batch_size=setting.batch_size,
        method=setting.method,
        every=every,
        so_far=None if resume is None else resume(state),
        devices=setting.devices,
    )


def _started(setting, t, network, theta, memory, optimizer):
    state = loop.start(
        theta, setting.transform, setting.method.begin(memory, network, theta, setting.stream[t])
    )
    return state if optimizer is None else state._replace(optimizer=optimizer)


def together(settings: Sequence[Setting], t: int, anchors: Sequence[Anchor]) -> list[loop.Fit]:
    """Task t of several settings that differ in their seeds alone, each trained from where its own network stands.

    As one batch, or one after the other: where arrays differ in shape, and convolutions on a CPU, to which several kernels at once are
    many small groups.
    """
    first, here, tasks = settings[0], anchors[0], [setting.stream[t] for setting in settings]
    states = [
        _started(s, t, s.trained, a.theta, a.memory, a.optimizer)
        for s, a in zip(settings, anchors, strict=True)
    ]
    shapes = [
        jax.tree.map(jnp.shape, (state, task.train))
        for state, task in zip(states, tasks, strict=True)
    ]
    if loop.convolves(first.trained.apply, here.theta, tasks[0].train.x) or any(
        other != shapes[0] for other in shapes
    ):
        walks = (
            _from(setting, t, setting.trained, state)
            for setting, state in zip(settings, states, strict=True)
        )
        return [fitted for (fitted,) in walks]
    return loop.together(
        [_key(setting, t) for setting in settings],
        states,
        [task.train for task in tasks],
        [task.head for task in tasks],
        [setting.trained.apply for setting in settings],
        [setting.transform for setting in settings],
        loss=first.loss,
        steps=first.steps[t],
        batch_size=first.batch_size,
        method=first.method,
    )


def fit(setting: Setting, t: int, network: Network, theta, memory, optimizer=None) -> loop.Fit:
    """Task t trained to its end."""
    (fitted,) = walk(setting, t, network, theta, memory, optimizer)
    return fitted


def consolidated(setting: Setting, t: int, network: Network, fitted: loop.Fit) -> Any:
    """The method's memory after task t."""
    return setting.method.consolidate(
        fitted.state.memory, network, setting.loss, fitted.theta, setting.stream[t]
    )


def left(setting: Setting, fitted: loop.Fit) -> Any:
    """The optimizer's state for the next task, None to begin at rest."""
    return fitted.state.optimizer if setting.carry else None


def _key(setting, t):
    return jax.random.fold_in(setting.key, t + 1)
