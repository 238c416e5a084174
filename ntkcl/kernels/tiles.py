"""Blocks of any size: tiles that fit a memory budget, over all devices, into memory or into a store.

The tiles here are those of the host, sized by memory; within each, `ntkcl.kernels.factored` has its own, sized by the cache.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ntkcl.kernels import store as stores
from ntkcl.kernels.checks import check
from ntkcl.kernels.factored import Factors, Kernel
from ntkcl.settings import finite

MIB = 2**20
ROWS = PartitionSpec("samples")
WHOLE = PartitionSpec()

Progress = Callable[[Sequence[Any]], Iterable[Any]]


class Tile(NamedTuple):
    """Compiled for tiles of `edge` samples a side: the factors of one, the Gram of two, of one with itself; `mib` it all takes."""

    edge: int
    factors: Callable
    gram: Callable
    own: Callable
    mib: float


def tiled(
    kernel: Kernel,
    *,
    budget_mib: float = 1024.0,
    store: str | Path | None = None,
    devices: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> Callable[..., np.ndarray]:
    """The same kernel for blocks of any size: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]`, a numpy array.

    Arguments:
      kernel: any of this package's empirical kernels.
      budget_mib: memory for tiles in work, beside the result itself; tiles are as large as it allows (by XLA's own account).
      store: a folder; the result is then mapped from a file there, found again by content, and finished if it was left half done.
        With several processes it must be a folder that all of them see.
      devices: those that share each tile's rows; all of this and of other processes where None.
      progress: wraps the sequence of tiles, as `tqdm.tqdm` and `rich.progress.track` do.

    x2 = None computes the tiles on and above the diagonal and mirrors the others.
    Raises ValueError for a budget below one sample a side, a store that cannot be written, and as `checks.check` does.
    """
    budget_mib = finite("kernel.budget_mib", budget_mib, above=0.0)
    devices = list(jax.devices() if devices is None else devices)
    compiled: dict[Any, Tile] = {}

    def kernel_fn(theta, x1, x2=None):
        check(kernel.model, theta, x1, x2)
        kinds = tuple(_kind(leaf) for leaf in (*jax.tree.leaves(theta), x1, x1 if x2 is None else x2))
        if kinds not in compiled:
            compiled[kinds] = fit(kernel, theta, x1, x2, budget_mib, devices)
        tile = compiled[kinds]
        place, fetch = _transport(devices)
        theta_there = jax.tree.map(lambda leaf: place(leaf, WHOLE), theta)

        def factors(x, start):
            # Past the end the last sample again: tiles of one shape, compiled once.
            return tile.factors(theta_there, place(np.asarray(x[np.minimum(np.arange(start, start + tile.edge), len(x) - 1)]), ROWS))

        with _sink(store, kernel, theta, x1, x2) as sink:
            todo = _missing(sink, _regions(tile.edge, x1, x2), x2 is None)
            side = None, None  # the rows' factors, kept for the whole row of tiles
            for region in progress(todo) if progress else todo:
                top, bottom, left, right = region
                side = side if side[0] == top else (top, factors(x1, top))
                on_diagonal = x2 is None and top == left
                block = tile.own(side[1]) if on_diagonal else tile.gram(side[1], factors(x1 if x2 is None else x2, left))
                values = fetch(block)[: bottom - top, :, : right - left]
                sink.write(region, values)
                if x2 is None and not on_diagonal:
                    sink.write(_mirror(region), values.transpose(2, 3, 0, 1))
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("kernel block")  # before the others open what the first has written
            return sink.open()

    return kernel_fn


def fit(kernel: Kernel, theta, x1, x2, budget_mib: float, devices) -> Tile:
    """The largest tile within the budget: guessed from the factors' sizes, then measured on the compiled program and cut down."""
    one = jax.eval_shape(kernel.factors, theta, x1[:1])
    block = jax.eval_shape(kernel.gram, one, one)
    per_sample, per_pair = _bytes(one.samples), _bytes(block)
    longest = max(len(x1), len(x1 if x2 is None else x2))
    # t from 3 blocks of t^2 pairs (the tile, its mirror image, one in work) and two sides of factors, each with as much again in work
    linear, budget = 4 * per_sample, budget_mib * MIB
    edge = int((-linear + (linear**2 + 12 * per_pair * budget) ** 0.5) / (6 * per_pair))
    edge = min(longest, max(1, edge))
    while True:
        edge = -(-edge // len(devices)) * len(devices)
        tile = _compile(kernel, theta, x1, edge, devices)
        if tile.mib <= budget_mib:
            return tile
        if edge == len(devices):
            raise ValueError(
                f"kernel.budget_mib={budget_mib:g}: one {kernel.name} tile of {edge} x {edge} samples takes {tile.mib:.3g} MiB; "
                "use a larger budget, or kernels.structured or kernels.vector_products, which take less than a Jacobian"
            )
        edge = max(1, min(edge - len(devices), int(edge * 0.9 * (budget_mib / tile.mib) ** 0.5)))


def _compile(kernel, theta, x, edge, devices) -> Tile:
    mesh = Mesh(np.array(devices), ("samples",))

    def spec(array, partition):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(mesh, partition))

    def share(f, ins, outs):
        return jax.jit(f if len(devices) == 1 else jax.shard_map(f, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False))

    theta = jax.tree.map(lambda leaf: spec(leaf, WHOLE), theta)
    samples = spec(jax.ShapeDtypeStruct((edge, *x.shape[1:]), x.dtype), ROWS)
    split, whole = Factors(ROWS, WHOLE), Factors(WHOLE, WHOLE)
    factors = share(kernel.factors, (WHOLE, ROWS), split).lower(theta, samples).compile()
    shape = jax.eval_shape(kernel.factors, theta, samples)
    a = Factors(*(jax.tree.map(lambda leaf, p=p: spec(leaf, p), part) for part, p in zip(shape, split, strict=True)))
    gram = share(lambda a, b: kernel.gram(a, b), (split, whole), ROWS).lower(a, a).compile()
    own = share(lambda a: kernel.gram(a), (split,), ROWS).lower(a).compile() if len(devices) == 1 else lambda a: gram(a, a)
    f, g = factors.memory_analysis(), gram.memory_analysis()
    # Two sides of factors; beside them first a side in the making, then the block in work, the block, and its mirror image.
    work = 2 * f.output_size_in_bytes + max(f.temp_size_in_bytes, g.temp_size_in_bytes + 2 * g.output_size_in_bytes)
    return Tile(edge, factors, gram, own, work / MIB)


def _regions(edge, x1, x2) -> list[stores.Region]:
    """Row by row of tiles; those on and above the diagonal where x2 is x1."""
    rows, columns = (list(pairwise([*range(0, len(x), edge), len(x)])) for x in (x1, x1 if x2 is None else x2))
    return [(*row, *column) for row in rows for column in columns if x2 is not None or row <= column]


def _mirror(region: stores.Region) -> stores.Region:
    return *region[2:], *region[:2]


def _missing(sink, regions, symmetric):
    """What is still to do; with several processes, as the first of them sees it."""
    parts = {*regions, *map(_mirror, regions)} if symmetric else set(regions)
    missing = set(sink.missing(list(parts)))
    todo = np.array([region in missing or (symmetric and _mirror(region) in missing) for region in regions])
    if jax.process_count() > 1:
        todo = multihost_utils.broadcast_one_to_all(todo)
    return [region for region, wanted in zip(regions, todo, strict=True) if wanted]


def _transport(devices):
    """`place(array, partition)` spreads an array that every process holds over the devices, `fetch(array)` brings it back to all."""
    mesh = Mesh(np.array(devices), ("samples",))

    def place(array, partition):
        return jax.make_array_from_callback(array.shape, NamedSharding(mesh, partition), lambda index: array[index])

    def fetch(array):
        return np.asarray(array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True))

    return place, fetch


def _sink(store, kernel, theta, x1, x2):
    one = jax.eval_shape(kernel.factors, theta, x1[:1])
    block = jax.eval_shape(kernel.gram, one, one)
    shape = len(x1), block.shape[1], len(x1 if x2 is None else x2), block.shape[3]
    if store is None:
        return stores.Memory(shape, block.dtype)
    name = stores.key(kernel, theta, x1, x2)
    return stores.Block(store, name, shape, block.dtype) if jax.process_index() == 0 else stores.Follower(store, name)


def _kind(array):
    return array.shape, str(array.dtype)


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
