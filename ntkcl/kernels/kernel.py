"""A kernel is a Gram matrix: what each sample contributes is computed once, what each pair does in
tiles that stay in the cache.

Every empirical kernel here is two pure functions, `factors` of the samples of one side and `gram`
of two sides' factors. Larger machinery (memory budgets, stores, many devices) works on those two
and never asks which implementation it drives.
"""

from collections.abc import Callable
from itertools import combinations, product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntkcl.compilation import lowered, one_of
from ntkcl.kernels.checks import check
from ntkcl.types import Apply, Network

# Edge of a tile of the Gram matrix: on a processor its accumulator should stay in the cache
# (measured over 32 to 256 samples at c = 10: 128 is fastest), on an accelerator it should fill the
# matrix unit. A symmetric block takes 13/16 of it (measured over 64 to 171 samples), and computes
# tiles on the diagonal in strips: 5 tiles a side then cost .53 of the block.
EDGE = {"cpu": 1280}
ACCELERATOR_EDGE = 16384

# A symmetric matrix is computed in this many strips on and above its diagonal: k strips cost
# (k + 1)/2k of the whole.
STRIPS = 3


class Factors(NamedTuple):
    """One side of a kernel: a pytree of arrays [n, ...] and a pytree of arrays that all samples
    have in common."""

    samples: Any
    shared: Any


class Work(NamedTuple):
    """Multiply-adds: of the factors of one sample, and of the Gram of one pair of samples."""

    sample: float
    pair: float


class Kernel(NamedTuple):
    """K(x1, x2) = gram(factors(theta, x1), factors(theta, x2)), callable as
    `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]`.

    `gram(a)` alone is K(x1, x1), computed on and above the diagonal and mirrored. `work(theta, x)
    -> Work` counts, from shapes alone.
    """

    name: str
    model: Network
    factors: Partial  # of a jitted (held, theta, x) -> Factors, to what the model holds
    gram: Any  # jitted (a, b=None) -> [n1, c, n2, c]
    work: Callable[[Any, Any], Work]

    def __call__(self, theta, x1, x2=None):
        check(self.model, theta, x1, x2)
        a = self.factors(theta, x1)
        return self.gram(a) if x2 is None else self.gram(a, self.factors(theta, x2))


def network_of(model: Network | Apply) -> Network:
    """A plain `apply(theta, x) -> [c]` is a network without an initialiser."""
    return model if isinstance(model, Network) else Network(None, model)


def one_by_one(batched: Callable[[Any, Any], Any]) -> Network:
    """The network of a function written for batches, `batched(theta, x) -> [n, c]` for x [n, ...].

    Kernels probe it on a few inputs, together and one at a time, and refuse it if the samples
    interact.
    """
    return Network(None, lambda theta, x: batched(theta, x[None])[0], batched=batched)


def factored(
    name: str, model: Network, held: Any, factors: Callable, pair: Callable, work: Callable
) -> Kernel:
    """A `Kernel` of `factors(held, theta, x) -> Factors` and `pair(a, b) -> [m1, c, m2, c]`, both
    jitted, at the highest matmul precision; `held`, the functions of the model that factors use,
    `ntkcl.compilation.portable`.

    An accelerator's default precision (TF32, bfloat16) would cost four digits.
    """

    @jax.jit
    @jax.default_matmul_precision("highest")
    def kernel_factors(held, theta, x):
        return factors(held, theta, x)

    @jax.jit
    @jax.default_matmul_precision("highest")
    def gram(a, b=None):
        return by_tiles(pair, a, b)

    return Kernel(name, model, Partial(kernel_factors, held), gram, work)


def forward_work(model: Network, theta, x) -> tuple[float, int, int]:
    """Multiply-adds of one forward pass (as XLA counts them), outputs c, and parameters p."""
    p = sum(leaf.size for leaf in jax.tree.leaves(theta))
    one = one_of(x)
    counted = lowered(model.apply, theta, one).cost_analysis() or {}
    return counted.get("flops", 2 * p) / 2, jax.eval_shape(model.apply, theta, one).shape[0], p


def by_tiles(pair: Callable, a: Factors, b: Factors | None = None):
    """All pairs of samples, one tile at a time; without b, a with itself: tiles below the diagonal
    are the mirrored ones above.

    The last tile of a side overlaps the one before it, so that all have one shape and no sample is
    padded; on the diagonal they come in strips.
    """
    other = a if b is None else b
    n1, n2 = size(a), size(other)
    one = jax.eval_shape(lambda: pair(rows(a, 0, 1), rows(other, 0, 1)))
    c = one.shape[1]
    edge = EDGE.get(jax.default_backend(), ACCELERATOR_EDGE) // c
    edge = max(1, edge * 13 // 16 if b is None else edge)
    if n1 <= edge and n2 <= edge:
        return pair(a, other)

    def add(block, corner, shape):
        (i, j), (t1, t2) = corner, shape
        tile = pair(rows(a, i, t1), rows(other, j, t2)).reshape(t1 * c, t2 * c)
        return jax.lax.dynamic_update_slice(block, tile, (i * c, j * c))

    def mirror(block, corner, shape):
        (i, j), (t1, t2) = corner, shape
        tile = jax.lax.dynamic_slice(block, (i * c, j * c), (t1 * c, t2 * c))
        return jax.lax.dynamic_update_slice(block, tile.T, (j * c, i * c))

    block = jnp.zeros((n1 * c, n2 * c), one.dtype)
    if b is None:
        block = _symmetric_tiles(block, cover(n1, edge), add, mirror)
    else:
        block = _all_tiles(block, cover(n1, edge), cover(n2, edge), add)
    return block.reshape(n1, c, n2, c)


def _all_tiles(block, side1, side2, add):
    (starts1, t1), (starts2, t2) = side1, side2
    corners = np.array(list(product(starts1, starts2)), np.int32)
    return _each(lambda block, corner: add(block, corner, (t1, t2)), block, corners)


def _symmetric_tiles(block, side, add, mirror):
    starts, t = side

    def add_mirrored(state, corner):
        # Writing across the rows is slow, so a mirror image is written beside the products of the
        # next tile.
        block, last = state
        return add(mirror(block, last, (t, t)), corner, (t, t)), corner

    def add_diagonal(block, i):
        for first, length in strips(t):
            start, right = i + first, t - first - length
            block = add(block, (start, start), (length, length + right))
            if right:
                block = mirror(block, (start, start + length), (length, right))
        return block

    above = tuple(np.array(list(combinations(starts, 2)), np.int32).T)
    block, last = _each(add_mirrored, (block, tuple(i[0] for i in above)), above)
    return _each(add_diagonal, mirror(block, last, (t, t)), np.array(starts, np.int32))


def _each(step, state, corners):
    return jax.lax.scan(lambda state, corner: (step(state, corner), None), state, corners)[0]


def strips(n: int) -> list[tuple[int, int]]:
    """First row and number of rows of each strip of a symmetric matrix of n rows: few, so that it
    is a matrix product of some size."""
    length = -(-n // STRIPS)
    return [(first, min(length, n - first)) for first in range(0, n, length)]


def size(a: Factors) -> int:
    """n, the number of samples."""
    return jax.tree.leaves(a.samples)[0].shape[0]


def rows(a: Factors, start, length: int) -> Factors:
    """The factors of `length` samples from `start` on."""
    return a._replace(
        samples=jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, length), a.samples
        )
    )


def cover(n: int, edge: int) -> tuple[list[int], int]:
    """Starts and length of the fewest equal intervals, at most `edge` long, that cover 0..n; the
    last may overlap the one before."""
    count = -(-n // edge)
    length = -(-n // count)
    return [min(i * length, n - length) for i in range(count)], length
