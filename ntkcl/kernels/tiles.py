"""Blocks of any size: tiles within a memory budget, over all devices, into memory or a store.

The tiles here are those of the host, sized by memory; within each, `ntkcl.kernels.kernel` has its
own, sized by the cache.
"""

import math
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
from ntkcl.kernels.kernel import Factors, Kernel
from ntkcl.validation import SettingError, finite

MIB = 2**20
ROWS = PartitionSpec("samples")
WHOLE = PartitionSpec()

Progress = Callable[[Sequence[Any]], Iterable[Any]]


class Tile(NamedTuple):
    """Compiled for tiles of `rows` x `columns` samples: factors of each, Gram of the two, None
    where one tile holds all, and of one with itself; `mib` it all takes."""

    rows: int
    columns: int
    row_factors: Callable
    column_factors: Callable
    gram: Callable | None
    own: Callable | None
    mib: float

    def holds(self, x1, x2) -> bool:
        """Whether one tile is the whole block, no sample repeated to fill it."""
        return len(x1) == self.rows and len(x1 if x2 is None else x2) == self.columns


def tiled(
    kernel: Any,
    *,
    budget_mib: float | int = 1024,
    store: str | Path | None = None,
    devices: Any = None,
    progress: Progress | None = None,
) -> Callable[..., np.ndarray]:
    """The same kernel for blocks of any size.

    The map is `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]`, a numpy array.

    Arguments:
      kernel: any of this package's empirical kernels.
      budget_mib: memory for tiles in work, beside theta, the inputs and the result; tiles are as
        large as it allows (by XLA's account).
      store: a folder; the result is then mapped from a file there, found again by content, and
        finished if it is half done. With several processes it must be a folder that all of
        them see.
      devices: those that share each tile's rows; all of this and of other processes where None.
      progress: wraps the sequence of tiles, as `tqdm.tqdm` and `rich.progress.track` do.

    x2 = None computes the tiles on and above the diagonal and mirrors the others.
    Raises ValueError for a budget below one sample a side, a store that cannot be written, and as
      `checks.check` does.
    """
    budget_mib = finite("kernel.budget_mib", budget_mib, above=0.0)
    if not isinstance(kernel, Kernel):
        raise SettingError(
            f"kernel: tiled({type(kernel).__name__}); expected a kernel, such as "
            "kernels.contraction(model)"
        )
    devices = _checked(jax.devices() if devices is None else devices)
    compiled: dict[Any, Tile] = {}
    in_place = store is None and progress is None and len(devices) == jax.device_count() == 1

    def kernel_fn(theta, x1, x2=None):
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((theta, x1, x2))):
            raise SettingError(
                "kernel: tiles are not for jax.jit and its like; use kernels.structured or "
                "kernels.contraction there"
            )
        check(kernel.model, theta, x1, x2)
        x1, x2 = np.asarray(x1), None if x2 is None else np.asarray(x2)
        arrays = (*jax.tree.leaves(theta), x1, x2)
        kinds = (jax.tree.structure(theta), *(None if a is None else _kind(a) for a in arrays))
        if kinds not in compiled:
            compiled[kinds] = fit(kernel, theta, x1, x2, budget_mib, devices)
        tile = compiled[kinds]
        if in_place and tile.holds(x1, x2):
            return _whole(tile, theta, x1, x2)
        with _sink(store, kernel, theta, x1, x2) as sink:
            todo = _missing(sink, _regions(tile, x1, x2), x2 is None)
            _compute(tile, devices, theta, x1, x2, progress(todo) if progress else todo, sink)
            if jax.process_count() > 1:
                # Before the others open what the first has written.
                multihost_utils.sync_global_devices("kernel block")
            return sink.open()

    return kernel_fn


def _checked(devices) -> Sequence[Any]:
    several = isinstance(devices, Sequence) and not isinstance(devices, str)
    if not several or not devices or len(set(devices)) < len(devices):
        raise SettingError(f"kernel.devices={devices}: expected some of jax.devices(), each once")
    return devices


def _whole(tile: Tile, theta, x1, x2) -> np.ndarray:
    """A block of one tile as it was computed: neither spread over devices nor copied."""
    rows = tile.row_factors(theta, x1)
    if tile.own:
        return np.asarray(tile.own(rows))
    assert tile.gram is not None
    return np.asarray(tile.gram(rows, tile.column_factors(theta, x2)))


def _compute(tile: Tile, devices, theta, x1, x2, regions: Iterable[Any], sink) -> None:
    """Writes the regions to the sink, and without x2 their mirror images."""
    place, fetch = _transport(devices)
    theta = jax.tree.map(lambda leaf: place(leaf, WHOLE), theta)

    def factors(compiled, x, start, length):
        # Past the end the last sample again: tiles of one shape, compiled once.
        samples = np.minimum(np.arange(start, start + length), len(x) - 1)
        return compiled(theta, place(x[samples], ROWS))

    columns = x1 if x2 is None else x2
    side = None, None  # the rows' factors, kept for the whole row of tiles
    for region in regions:
        top, bottom, left, right = region
        if side[0] != top:
            side = top, factors(tile.row_factors, x1, top, tile.rows)
        own = tile.own if top == left else None  # there is none with x2
        if own:
            block = own(side[1])
        else:
            assert tile.gram is not None
            block = tile.gram(side[1], factors(tile.column_factors, columns, left, tile.columns))
        values = fetch(block)[: bottom - top, :, : right - left]
        sink.write(region, values)
        if x2 is None and not own:
            sink.write(_mirror(region), values.transpose(2, 3, 0, 1))


def tile_mib(kernel: Kernel, theta, x, edge: int) -> float:
    """Memory for a tile of `edge` samples a side, guessed from the factors' sizes.

    Three blocks (the tile, its mirror image, one in work) and two sides of factors, each with as
    much again in work.
    """
    linear, quadratic = _sizes(kernel, theta, x)
    return (edge * linear + edge**2 * quadratic) / MIB


def guess_edge(kernel: Kernel, theta, x, budget_mib: float | int) -> float:
    """The `edge` whose `tile_mib` is `budget_mib`, below 1 where not even one pair of samples
    fits."""
    linear, quadratic = _sizes(kernel, theta, x)
    root = (linear**2 + 4 * quadratic * budget_mib * MIB) ** 0.5
    return float((root - linear) / (2 * quadratic))


def _sizes(kernel, theta, x):
    one = jax.eval_shape(kernel.factors, theta, x[:1])
    return 4 * _bytes(one.samples), 3 * _bytes(jax.eval_shape(kernel.gram, one, one))


def fit(kernel: Kernel, theta, x1, x2, budget_mib: float | int, devices) -> Tile:
    """The largest tile within the budget: guessed from the factors' sizes, then measured on the
    compiled program and cut down."""
    edge = guess_edge(kernel, theta, x1, budget_mib)
    while True:
        rows, columns = (_share(len(x), edge, len(devices)) for x in (x1, x1 if x2 is None else x2))
        tile = _compile(kernel, theta, x1, rows, columns, x2 is None, devices)
        if tile.mib <= budget_mib:
            return tile
        if rows == columns == len(devices):
            raise SettingError(
                f"kernel.budget_mib={budget_mib:g}: one {kernel.name} tile of {rows} x {columns} "
                f"samples takes {tile.mib:.3g} MiB; expected at least {math.ceil(tile.mib)}, or "
                "kernels.structured or kernels.vector_products, which take less than a Jacobian"
            )
        # A multiple of the devices, and so is the next: at least so many less.
        longest = max(rows, columns)
        edge = min(longest - len(devices), longest * (budget_mib / tile.mib) ** 0.5)


def _share(n, edge, devices) -> int:
    """Equal parts of n samples, none longer than `edge`, and each a multiple of the number of
    devices."""
    parts = -(-n // max(1, int(min(n, edge))))
    length = -(-n // parts)
    return -(-length // devices) * devices


def _compile(kernel, theta, x, rows, columns, symmetric, devices) -> Tile:
    mesh, single = Mesh(np.array(devices), ("samples",)), len(devices) == 1
    split, whole = Factors(ROWS, WHOLE), Factors(WHOLE, WHOLE)

    def spec(array, partition):
        there = NamedSharding(mesh, partition)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=there)

    def share(f, ins, outs):
        if not single:
            f = jax.shard_map(f, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)
        return jax.jit(f)

    theta = jax.tree.map(lambda leaf: spec(leaf, WHOLE), theta)
    shared_factors = share(kernel.factors, (WHOLE, ROWS), split)

    def side(n):
        samples = spec(jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), ROWS)
        lowered = shared_factors.lower(theta, samples)
        # Of this very trace: which form a layer takes is read off the program.
        out = zip(lowered.out_info, split, strict=True)
        parts = (jax.tree.map(lambda leaf, p=p: spec(leaf, p), part) for part, p in out)
        return lowered.compile(), Factors(*parts)

    f, a = side(rows)
    g, b = (f, a) if rows == columns else side(columns)
    if symmetric and single and rows >= len(x):
        own = jax.jit(lambda a: kernel.gram(a)).lower(a).compile()
        return Tile(rows, columns, f, f, None, own, _work_mib(f, f, [own]))
    gram = share(lambda a, b: kernel.gram(a, b), (split, whole), ROWS).lower(a, b).compile()
    if not symmetric:
        return Tile(rows, columns, f, g, gram, None, _work_mib(f, g, [gram]))
    if not single:
        return Tile(rows, columns, f, g, gram, lambda a: gram(a, a), _work_mib(f, g, [gram]))
    own = jax.jit(lambda a: kernel.gram(a)).lower(a).compile()
    return Tile(rows, columns, f, g, gram, own, _work_mib(f, g, [gram, own]))


def _work_mib(row_factors, column_factors, grams) -> float:
    """Two sides of factors; beside them first a side in the making, then the block in work, the
    block, and its mirror image."""
    sides = [compiled.memory_analysis() for compiled in (row_factors, column_factors)]
    blocks = [compiled.memory_analysis() for compiled in grams]
    making = max(cost.temp_size_in_bytes for cost in sides)
    multiplying = max(cost.temp_size_in_bytes for cost in blocks)
    factors = sum(cost.output_size_in_bytes for cost in sides)
    return (factors + max(making, multiplying + 2 * blocks[0].output_size_in_bytes)) / MIB


def _regions(tile, x1, x2) -> list[stores.Region]:
    """Row by row of tiles; those on and above the diagonal where x2 is x1."""
    sides = (len(x1), tile.rows), (len(x1 if x2 is None else x2), tile.columns)
    rows, columns = (list(pairwise([*range(0, n, length), n])) for n, length in sides)
    return [
        (*row, *column) for row in rows for column in columns if x2 is not None or row <= column
    ]


def _mirror(region: stores.Region) -> stores.Region:
    return *region[2:], *region[:2]


def _missing(sink, regions, symmetric):
    """What is still to do; with several processes, as the first of them sees it."""
    parts = {*regions, *map(_mirror, regions)} if symmetric else set(regions)
    missing = set(sink.missing(list(parts)))
    todo = np.array(
        [region in missing or (symmetric and _mirror(region) in missing) for region in regions]
    )
    if jax.process_count() > 1:
        todo = multihost_utils.broadcast_one_to_all(todo)
    return [region for region, wanted in zip(regions, todo, strict=True) if wanted]


def _transport(devices):
    """`place(array, partition)` spreads an array that every process holds over the devices,
    `fetch(array)` brings it back to all."""
    mesh = Mesh(np.array(devices), ("samples",))

    def place(array, partition):
        return jax.make_array_from_callback(
            array.shape, NamedSharding(mesh, partition), lambda index: array[index]
        )

    def fetch(array):
        here = array.is_fully_addressable
        return np.asarray(array if here else multihost_utils.process_allgather(array, tiled=True))

    return place, fetch


def _sink(store, kernel, theta, x1, x2):
    one = jax.eval_shape(kernel.factors, theta, x1[:1])
    block = jax.eval_shape(kernel.gram, one, one)
    shape = len(x1), block.shape[1], len(x1 if x2 is None else x2), block.shape[3]
    if store is None:
        return stores.Memory(shape, block.dtype)
    name = stores.key(kernel, theta, x1, x2)
    if jax.process_index() > 0:
        return stores.Follower(store, name)
    return stores.Block(store, name, shape, block.dtype)


def _kind(array):
    return array.shape, str(array.dtype)


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
