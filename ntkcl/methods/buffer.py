"""A memory of fixed size that batches are drawn from during training.

What er, der and A-GEM have in common. Its arrays keep their shapes from the first task to the last,
so that nothing is compiled twice; how many of its rows are in use is a number in it, and so is the
key of its draws.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import resources, validation
from ntkcl.methods.memory import outputs
from ntkcl.types import Method
from ntkcl.validation import SettingError

BUFFERS, PASSES = ("reservoir", "balanced"), ("first", "all")


class Rows(NamedTuple):
    """Samples x, y, the head of their task, and the outputs they had when they were inserted, or
    ()."""

    x: Any
    y: Any
    head: Any
    outputs: Any


class Buffer(NamedTuple):
    """`rows` of which the first `count` are in use, and the task of each.

    `offered` is how many samples were offered so far.

    `tasks` there were before this one, of which `trained_on` samples of `n` were drawn so far,
    repetitions included. `key` is that of the step to come.
    """

    rows: Rows
    task: Any
    count: Any
    offered: Any
    tasks: Any
    trained_on: Any
    n: Any
    key: Any


def keys(memory: Buffer):
    """Four keys a step: of two draws, of what is kept, and of the next step."""
    return jax.random.split(memory.key, 4)


def draw(key, memory: Buffer, batch_size: int) -> tuple[Rows, Any]:
    """`batch_size` distinct rows at random, and which of them [batch_size] count.

    Where fewer rows are in use, all of them are drawn, and the others do not count.
    """
    size = len(memory.task)
    uniform = jax.random.uniform(key, (size,), jnp.float32)
    order = jnp.where(jnp.arange(size) < memory.count, uniform, 2.0)
    index = jnp.argsort(order)[:batch_size]
    return jax.tree.map(lambda a: a[index], memory.rows), jnp.arange(batch_size) < memory.count


def mean_of(values, counts):
    """The mean of those values that count, 0 where none does."""
    number = jnp.maximum(jnp.sum(counts), 1).astype(values.dtype)
    return jnp.sum(jnp.where(counts, values, 0.0)) / number


def mean_loss_of(loss, apply, theta, rows: Rows, counts):
    """The mean loss over drawn rows, each over the head of its task."""

    def one(x, y, head):
        return loss.value(apply(theta, x), y, head)

    return mean_of(jax.vmap(one)(rows.x, rows.y, rows.head), counts)


def offer(key, memory: Buffer, rows: Rows, valid) -> Buffer:
    """The buffer after these rows came along the stream, those that are `valid`, in turn.

    The i-th of the stream (from 0) is kept, in place of a row at random, with probability size / (i
    + 1); so every sample offered so far is in the buffer with the same probability. All at once: a
    place belongs to the last that was put there.
    Source: algorithm R of Vitter 1985.
    """
    size, n = len(memory.task), len(valid)
    at = memory.offered + jnp.cumsum(valid, dtype=jnp.int32) - 1
    drawn = jax.random.randint(key, (n,), 0, jnp.maximum(at, 0) + 1, jnp.int32)
    place = jnp.where(at < size, at, drawn)
    place = jnp.where(valid & (place < size), place, size)
    last = jnp.full(size + 1, -1).at[place].max(jnp.arange(n))[:size]

    def put(old, new):
        return jnp.where((last >= 0).reshape(-1, *[1] * (old.ndim - 1)), new[last], old)

    offered = memory.offered + jnp.sum(valid, dtype=jnp.int32)
    fresh = jnp.full(n, memory.tasks)
    return memory._replace(
        rows=jax.tree.map(put, memory.rows, rows),
        task=put(memory.task, fresh),
        count=jnp.minimum(offered, size),
        offered=offered,
    )


def balance(key, memory: Buffer, rows: Rows) -> Buffer:
    """The buffer with the task's rows added, all tasks so far in equal shares.

    A share is size / tasks, one more for the earliest where that is no whole number; a task of
    fewer samples leaves its share empty. Which rows of a task are dropped is random, for its rows
    are in random order.
    """
    size, t = len(memory.task), int(memory.tasks)
    shares = [size // (t + 1) + (j < size % (t + 1)) for j in range(t + 1)]
    task = np.asarray(memory.task)[: int(memory.count)]
    of_tasks = [np.flatnonzero(task == j)[: shares[j]] for j in range(t)]
    old = np.concatenate(of_tasks or [np.empty(0, int)])
    new = np.asarray(jax.random.permutation(key, len(rows.x)))[: shares[t]]
    count = len(old) + len(new)

    def put(old_rows, new_rows):
        return jnp.concatenate([old_rows[old], new_rows[new], old_rows[count:]])

    return memory._replace(
        rows=jax.tree.map(put, memory.rows, rows),
        task=put(memory.task, jnp.full(len(rows.x), memory.tasks)),
        count=jnp.int32(count),
        offered=memory.offered + len(rows.x),
    )


class _Settings(NamedTuple):
    size: int
    batch_size: int
    buffer: str
    passes: str
    seed: int
    stores_outputs: bool

    def check(self) -> None:
        """ValueError for a setting out of range."""
        validation.whole("method.size", self.size)
        if validation.whole("method.batch_size", self.batch_size) > self.size:
            raise SettingError(
                f"method.batch_size={self.batch_size}: expected at most method.size={self.size}, "
                "the rows of the buffer"
            )
        validation.one_of("method.buffer", self.buffer, BUFFERS)
        validation.one_of("method.passes", self.passes, PASSES)
        validation.seed("method.seed", self.seed)


def with_buffer(
    base: Method,
    size: int,
    batch_size: int,
    buffer: str,
    passes: str,
    seed: int,
    *,
    stores_outputs: bool = False,
) -> Method:
    """The method `base` with a buffer as its memory, which it draws from by `keys` and `draw`.

    Arguments:
      size, batch_size: rows of the buffer, and rows drawn of it at a time.
      buffer: "reservoir", every batch is offered after its step; "balanced", the task is, as it
        ends.
      passes: "first", a sample is offered in the first pass over its task alone, so that each is
        once; "all", again in every pass.
      stores_outputs: whether outputs are kept beside the samples, as they were before the step.
    """
    settings = _Settings(size, batch_size, buffer, passes, seed, stores_outputs)
    settings.check()

    def begin(memory, network, theta, task):
        n = jnp.int32(len(task.train.x))
        if memory:
            return memory._replace(tasks=memory.tasks + 1, trained_on=jnp.int32(0), n=n)
        x, y = (a[:1] for a in task.train)
        first = _rows(settings, network.apply, theta, x, y, jnp.asarray(task.head))
        return _empty(settings, first, n)

    def observe(memory, apply, theta, batch, head, gradient, update):
        *_, key, next_key = keys(memory)
        drawn = len(batch.x)
        if buffer == "reservoir":
            valid = (memory.trained_on + jnp.arange(drawn) < memory.n) | (passes == "all")
            rows = _rows(settings, apply, theta, batch.x, batch.y, head)
            memory = offer(key, memory, rows, valid)
        return memory._replace(trained_on=memory.trained_on + drawn, key=next_key)

    def consolidate(memory, network, loss, theta, task):
        if buffer == "reservoir":
            return memory
        *_, key, next_key = keys(memory)
        rows = _rows(settings, network.apply, theta, *task.train, jnp.asarray(task.head))
        return balance(key, memory, rows)._replace(key=next_key)

    return base._replace(begin=begin, observe=observe, consolidate=consolidate, step=None)


def _rows(settings: _Settings, apply, theta, x, y, head) -> Rows:
    stored = outputs(apply, theta, x) if settings.stores_outputs else ()
    return Rows(x, y, jnp.broadcast_to(head, y.shape), stored)


def _empty(settings: _Settings, first: Rows, n) -> Buffer:
    """No rows in use; ValueError where so many do not fit into the machine's memory."""
    size = settings.size
    need = sum(a.nbytes for a in jax.tree.leaves(first)) * size / 2**30
    available = resources.memory_gib()
    if need > available:
        raise SettingError(
            f"method.size={size}: a buffer of so many rows takes {need:.3g} GiB, and there are "
            f"{available:.3g}; use fewer"
        )
    # Rows that are not in use hold a sample, so that no network fails on them.
    rows = jax.tree.map(lambda a: jnp.repeat(a, size, 0), first)
    none, key = jnp.int32(0), jax.random.key(settings.seed)
    return Buffer(rows, jnp.zeros(size, jnp.int32), none, none, none, none, n, key)
