"""Blocks of any size: tiles within a memory budget, over all devices, into memory or a store.

The tiles here are those of the host, sized by memory; within each, `ntkcl.kernels.kernel` has its
own, sized by the cache.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ntkcl.kernels import store as stores
from ntkcl.kernels.checks import check
from ntkcl.kernels.kernel import Kernel
from ntkcl.kernels.tile_sizes import ROWS, WHOLE, Tile, fit, shardings
from ntkcl.validation import SettingError, finite

Progress = Callable[[Sequence[Any]], Iterable[Any]]


def tiled(
    kernel: Any,
    *,
    budget_mib: float | int = 1024,
    store: str | Path | None = None,
    devices: Any = None,
    progress: Progress | None = None,
) -> Callable[..., np.ndarray]:
    """The same kernel for blocks of any size.

    The map is `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]`, a numpy array, not to be written
    to: one tile is returned as it was computed.

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
    sharding = shardings(devices)

    def place(array, partition):
        return jax.make_array_from_callback(
            array.shape, sharding(partition), lambda index: array[index]
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
