"""How large tiles may be: guessed from the factors' sizes, measured on compiled programs."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ntkcl.kernels.kernel import Factors, Kernel
from ntkcl.resources import MIB
from ntkcl.validation import SettingError

ROWS = PartitionSpec("samples")
WHOLE = PartitionSpec()


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
    sharding, single = shardings(devices), len(devices) == 1
    split, whole = Factors(ROWS, WHOLE), Factors(WHOLE, WHOLE)

    def spec(array, partition):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding(partition))

    def share(f, ins, outs):
        if not single:
            f = jax.shard_map(
                f, mesh=sharding(WHOLE).mesh, in_specs=ins, out_specs=outs, check_vma=False
            )
        return jax.jit(f)

    theta = jax.tree.map(lambda leaf: spec(leaf, WHOLE), theta)
    (held,) = kernel.factors.args
    # Other processes' devices take copies of what every process holds, not another's array.
    held = jax.device_put(held if single else jax.tree.map(np.asarray, held), sharding(WHOLE))
    shared_factors = share(kernel.factors.func, (WHOLE, WHOLE, ROWS), split)

    def side(n):
        samples = spec(jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), ROWS)
        lowered = shared_factors.lower(held, theta, samples)
        # Of this very trace: which form a layer takes is read off the program.
        out = zip(lowered.out_info, split, strict=True)
        parts = (jax.tree.map(lambda leaf, p=p: spec(leaf, p), part) for part, p in out)
        return partial(lowered.compile(), held), Factors(*parts)

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


def shardings(devices) -> Callable[[PartitionSpec], Any]:
    """`sharding(partition)` over the devices. Of one device its own: of a mesh of one XLA makes
    another program, whose products took a quarter longer."""
    if len(devices) == 1:
        return lambda partition: SingleDeviceSharding(devices[0])
    mesh = Mesh(np.array(devices), ("samples",))
    return lambda partition: NamedSharding(mesh, partition)


def _work_mib(row_factors, column_factors, grams) -> float:
    """Two sides of factors; beside them first a side in the making, then the block in work, the
    block, and its mirror image."""
    sides = [bound.func.memory_analysis() for bound in (row_factors, column_factors)]
    blocks = [compiled.memory_analysis() for compiled in grams]
    making = max(cost.temp_size_in_bytes for cost in sides)
    multiplying = max(cost.temp_size_in_bytes for cost in blocks)
    factors = sum(cost.output_size_in_bytes for cost in sides)
    return (factors + max(making, multiplying + 2 * blocks[0].output_size_in_bytes)) / MIB


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
