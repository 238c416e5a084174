"""Training on one task: Optax inside one `lax.scan`, or several with looks in between, or step by
step, where that is faster."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from ntkcl.compilation import convolves, one_of, portable
from ntkcl.types import Apply, Dataset, Key, Loss, Method, Params, Task


class State(NamedTuple):
    """Where training stands: parameters, the optimizer's state, what the method remembers."""

    theta: Params
    optimizer: Any
    memory: Any


class Fit(NamedTuple):
    """Where training has come to after `step` steps, and the task's own loss before each of them
    (of the step's batch)."""

    step: int
    state: State
    losses: Float[Array, " steps"]

    @property
    def theta(self) -> Params:
        return self.state.theta


@partial(jax.jit, static_argnames=("n", "batch_size", "steps"))
def batches(key: Key, n: int, batch_size: int, steps: int) -> Int[Array, "steps batch_size"]:
    """The batch of each step: fresh permutations of the n samples laid end to end, one an epoch,
    and cut into batches.

    Every sample is drawn once an epoch; where batch_size does not divide n, a batch may straddle
    two epochs.
    """
    epochs = -(-steps * batch_size // n)
    order = jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, epochs))
    return order.ravel()[: steps * batch_size].reshape(steps, batch_size)


def at_rest(theta: Params, transform: optax.GradientTransformation, memory: Any = ()) -> State:
    """Where training begins, the optimizer at rest."""
    return State(theta, transform.init(theta), memory)


def segments(
    key: Key,
    state: State,
    dataset: Dataset,
    head: Float[Array | np.ndarray, " c"],
    *,
    apply: Apply,
    steps: int,
    every: int | None = None,
    so_far: Fit | None = None,
    **settings,
) -> Iterator[Fit]:
    """S = `steps` updates of theta on the mean loss over a batch, as of `runner` with `settings`;
    yields where it stands after every `every` of them and at the end.

    Which batches are drawn, and the result, do not depend on `every`.
    `so_far`: one of the things yielded earlier, to go on from; at the end already, it is yielded
    again.
    """
    run = runner(key, state, dataset, head, apply=apply, steps=steps, **settings)
    at = begin(state) if so_far is None else so_far
    if at.step >= steps:
        yield at
    while at.step < steps:
        at = run(apply, at, min(every or steps, steps - at.step))
        yield at


def begin(state: State) -> Fit:
    """Before the first step."""
    return Fit(0, state, jnp.zeros(0, jax.tree.leaves(state.theta)[0].dtype))


def runner(
    key: Key,
    state: State,
    dataset: Dataset,
    head: Float[Array | np.ndarray, " c"],
    *,
    apply: Apply,
    loss: Loss,
    transform: optax.GradientTransformation,
    steps: int,
    batch_size: int | None = None,
    method: Method | None = None,
    devices: int = 1,
) -> Callable[[Apply, Fit, int], Fit]:
    """`run(apply, at, count)`: the next `count` of S = `steps` updates of theta on the mean loss
    over a batch, the whole task where batch_size is None.

    The function given to `run` may be another each time, bound to other arrays than `apply` is.
    A method puts its objective, made of that loss and its memory, in the loss's place, projects the
    gradients, and may observe each step.
    `devices`: of this process, share every batch evenly, each with all parameters; what is returned
    lies on the first of them.
    Divergence is data: losses and parameters that are not finite are returned as they are.
    """
    order = None if batch_size is None else batches(key, dataset.x.shape[0], batch_size, steps)
    settings: dict[str, Any] = dict(transform=portable(transform), loss=loss, method=method)
    whole, shared = spread(devices)
    if devices > 1:
        settings["shared"] = shared
        dataset = jax.device_put(dataset, shared if order is None else whole)
    at_once = 1 if convolves(apply, state.theta, one_of(dataset.x)) else steps

    def run(apply: Apply, at: Fit, count: int) -> Fit:
        state, losses, bound = at.state, [at.losses] if len(at.losses) else [], portable(apply)
        state = state if devices == 1 else jax.device_put(state, whole)
        for first in range(at.step, at.step + count, at_once):
            some = min(at_once, at.step + count - first)
            drawn = None if order is None else order[first : first + some]
            ended, values = advance(
                state, dataset, head, drawn, apply=bound, count=some, **settings
            )
            state = _with_memory(method, ended, state)
            losses.append(values)
        if devices > 1:
            state, losses = jax.device_put((state, losses), jax.local_devices()[0])
        joined = losses[0] if len(losses) == 1 else jnp.concatenate(losses)
        return Fit(at.step + count, state, joined)

    return run


def spread(devices: int) -> tuple[NamedSharding, NamedSharding]:
    """How arrays lie on the first so many devices: whole on each of them, and shared out along
    their first axis."""
    mesh = Mesh(np.array(jax.local_devices()[:devices]), ("samples",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("samples"))


def _with_memory(method, ended, start):
    return ended if method is not None and method.observe else ended._replace(memory=start.memory)


@partial(jax.jit, static_argnames=("loss", "count", "method", "shared"))
def advance(
    state: State, dataset, head, order, *, apply, transform, loss, count, method, shared=None
) -> tuple[State, Any]:
    """`count` updates, on the batches `order` [count, batch_size], laid out as `shared`, or on the
    whole task; and their losses.

    apply, transform: `portable` ones.  Memory that no step changes is in no carry and does not come
    back: it would be copied.
    """

    def drawn(index):
        batch = jax.tree.map(lambda a: a[index], dataset)
        return batch if shared is None else jax.lax.with_sharding_constraint(batch, shared)

    def objective(theta, memory, batch):
        f = jax.vmap(apply, (None, 0))(theta, batch.x)
        task_loss = jnp.mean(jax.vmap(loss.value, (0, 0, None))(f, batch.y, head))
        if method is None:
            return task_loss, task_loss
        return method.objective(memory, apply, loss, theta, batch, head, task_loss), task_loss

    observes = method is not None and method.observe is not None

    def step(carry, index):
        theta, optimizer, memory = carry
        memory = memory if observes else state.memory
        batch = dataset if index is None else drawn(index)
        (_, value), gradient = jax.value_and_grad(objective, has_aux=True)(theta, memory, batch)
        direction = (
            gradient if method is None else method.project(memory, apply, loss, theta, gradient)
        )
        updates, optimizer = transform.update(direction, optimizer, theta)
        if observes:
            memory = method.observe(memory, apply, theta, batch, head, gradient, updates)
        return State(
            optax.apply_updates(theta, updates), optimizer, memory if observes else ()
        ), value

    start = state if observes else state._replace(memory=())
    if count > 1:
        return jax.lax.scan(step, start, order, length=count)
    ended, value = step(
        start, None if order is None else order[0]
    )  # without a loop, see `compilation.convolves`
    return ended, value[None]


@partial(jax.jit, static_argnames=("axes", "loss", "count", "method"))
def _advance_vmapped(each, apply, *, axes, loss, count, method):
    """`advance` mapped over the first axis of all arrays of `each`, its other five arguments, and
    of those of `apply` whose entry in `axes` is 0, not None."""

    def one(each, apply):
        *arguments, transform = each
        bound = dict(apply=apply, transform=transform, loss=loss, count=count, method=method)
        return advance(*arguments, **bound)

    return jax.vmap(one, (0, jax.tree.unflatten(jax.tree.structure(apply), axes)))(each, apply)


def train(
    key: Key,
    theta: Params,
    dataset: Dataset,
    head: Float[Array | np.ndarray, " c"],
    *,
    transform,
    memory: Any = (),
    **settings,
) -> Fit:
    """The end of `segments` from rest, `settings` as of it."""
    (fitted,) = segments(
        key, at_rest(theta, transform, memory), dataset, head, transform=transform, **settings
    )
    return fitted


def train_vmapped(
    keys: Sequence[Key],
    states: Sequence[State],
    datasets: Sequence[Dataset],
    heads: Sequence[Any],
    applies: Sequence[Apply],
    transforms: Sequence[optax.GradientTransformation],
    *,
    loss: Loss,
    steps: int,
    batch_size: int | None = None,
    method: Method | None = None,
) -> list[Fit]:
    """Several trainings at once, by one program mapped over them: each ends as `segments` of its
    own key, state, dataset, head, network and rule, up to rounding.

    Networks and rules may differ in the arrays they are bound to (`ntkcl.compilation`), and all
    arrays have the same shapes. An array that all networks hold, such as frozen weights, is not
    copied for each. What `method` does while training may depend on its memory alone.
    """
    n, dtype = len(datasets[0].x), jax.tree.leaves(states[0].theta)[0].dtype
    orders = [None if batch_size is None else batches(key, n, batch_size, steps) for key in keys]
    applies, transforms = ([portable(one) for one in given] for given in (applies, transforms))

    def stacked(*leaves):
        return jnp.stack(
            [jnp.asarray(leaf, dtype) if isinstance(leaf, float) else leaf for leaf in leaves]
        )

    def joined(*leaves):
        return leaves[0] if _is_one(leaves) else stacked(*leaves)

    each = [list(parts) for parts in zip(states, datasets, heads, orders, transforms, strict=True)]
    columns = map(jax.tree.leaves, applies)
    axes = tuple(None if _is_one(own) else 0 for own in zip(*columns, strict=True))
    arguments = jax.tree.map(stacked, *each), jax.tree.map(joined, *applies)
    settings = dict(axes=axes, loss=loss, count=steps, method=method)
    leaves, tree = jax.tree.flatten(_advance_vmapped(*arguments, **settings))
    ended = (jax.tree.unflatten(tree, own) for own in zip(*leaves, strict=True))
    return [
        Fit(steps, _with_memory(method, at, start), losses)
        for (at, losses), start in zip(ended, states, strict=True)
    ]


def _is_one(arrays) -> bool:
    return all(array is arrays[0] for array in arrays)


@partial(jax.jit, static_argnums=0)
def _loss_of_zero(loss, y, head):
    return jnp.mean(jax.vmap(loss.value, (0, 0, None))(jnp.zeros_like(y), y, head))


# A loss this many times that of predicting zero is no training, long before it overflows.
DIVERGENCE_FACTOR = 1e3


def diverged(task: Task, loss: Loss, losses: np.ndarray, f: np.ndarray) -> bool:
    """Whether training blew up: outputs [N, c] that are not finite, or a loss [S] on the way far
    above that of predicting zero."""
    zero = float(_loss_of_zero(loss, task.train.y, task.head))
    largest = DIVERGENCE_FACTOR * max(losses[0], zero)
    return not (np.isfinite(f).all() and losses.max() <= largest)
