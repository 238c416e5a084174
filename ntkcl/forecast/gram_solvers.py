"""Decompositions of the Gram matrices of tasks.

By all eigenvalues where a matrix is small or used again and again, else by Lanczos.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import dynamics, kernels
from ntkcl.dynamics import Arrow, Decomposed
from ntkcl.types import Places, Products

DIAGONALISED = 1500
"""Rows up to which a Gram matrix is diagonalised; above them Lanczos is faster.

Measured on 2 cores at 2,000 rows: 1.7 s, and .5 s for the 100 products after which Lanczos differs
from it by 1e-13; at 10,000 rows minutes, and 6 s.
"""
# The part of a filtered vector on the last Krylov vector above which the space is doubled: what is
# read off changes by ten times as much. Of kernels in float32 it is below their rounding.
TAIL, TAIL_FLOAT32 = 1e-11, 1e-8
# Products at first, at most, by the tail that they should leave. Of 2,000 rows after 500 steps at
# half the limit, 22 leave up to 3e-3, 26 6e-4, 42 6e-6, 46 4e-7 and 60 less than 1e-11.
FIRST = ((1e-4, 26), (1e-9, 52), (0.0, 60))
HELD_ROWS = 20_000
"""Rows above which no Gram matrix is held where products will do: 1.5 GiB in float32, and as much
again in work."""

HELD_FOR_LIMIT = 5000  # rows above which 30 products are faster than making the matrix for them

# Entries of a Gram matrix that a product reads a second, from memory: 2 cores, float32. It is 8e9;
# less by what making the matrix takes, shared among the hundred products of a solve and its checks.
# Products by the network are taken where they are faster: for many inputs of small networks.
GRAM_RATE = 5e9
PADDED = 256  # Gram matrices for Lanczos are padded to multiples of this
LARGEST = 30  # products for the largest eigenvalue alone
ROOM = 60  # vectors that a Krylov space is allocated for: one program serves every order up to it
ROUGH = 1e-3  # a tail that changes what is read off by about as much


def prepare(krylov_order: int, diagonalised: int = DIAGONALISED, tail: float | None = None):
    """`ntkcl.dynamics.prepared`, the Gram matrix decomposed as its size asks for.

    Arguments:
      krylov_order: products by Lanczos at first; as many as are needed in the end.
      diagonalised: rows up to which all eigenvalues are computed, larger matrices by Lanczos.
      tail: see `TAIL`; None is that of the kernel's type.
    """

    def decompose(gram, dtype):
        if len(gram) <= diagonalised:
            return dynamics.eigendecomposed(gram, dtype)
        return _by_lanczos(_padded(gram), krylov_order, tail or _tail_of(gram.dtype))

    def decompose_products(matvec, root, entries):
        kind = jnp.result_type(*jax.tree.leaves(matvec))
        matrix = _Products(matvec, jnp.asarray(root), entries)
        return _by_lanczos(matrix, krylov_order, tail or _tail_of(kind))

    def prepared(kernel, step, dtype):
        places = dynamics.as_places(step.kernel or kernel)
        rows = int(np.count_nonzero(step.weights))
        products = cheaper_products(places, step.inputs, rows, diagonalised)
        if products is None or step.removed is not None:
            return dynamics.prepared(kernel, step, dtype, decompose)
        given = products.matvec(), step, dtype, decompose_products
        return dynamics.prepared_by_products(places, *given)

    return prepared


def extend(krylov_order: int, diagonalised: int = DIAGONALISED, tail: float = TAIL):
    """`ntkcl.dynamics.extended`, the arrow by Lanczos.

    A step of at most `diagonalised` rows is prepared from the start: extending would cost more.
    Arguments: as of `prepare`.
    """
    from_start = prepare(krylov_order, diagonalised, tail)

    def decompose(arrow):
        return _by_lanczos(_padded_arrow(arrow), krylov_order, tail)

    def extended(base, kernel, step, dtype):
        if np.count_nonzero(step.weights) <= diagonalised:
            return from_start(kernel, step, dtype)
        return dynamics.extended(base, kernel, step, dtype, decompose)

    return extended


def cheaper_products(
    places, inputs, rows: int, diagonalised: int, held: int | None = None
) -> Products | None:
    """Products with the Gram matrix of `rows` rows of the inputs, where they are faster than
    reading a held one, or it has more than `held` rows (None: `HELD_ROWS`); else None."""
    if rows <= diagonalised or places.products is None:
        return None
    products = places.products(inputs)
    held = HELD_ROWS if held is None else held
    cheaper = rows > held or products.seconds < rows**2 / GRAM_RATE
    return products if cheaper else None


def largest_at(places: Places, inputs: np.ndarray, weights: np.ndarray) -> float:
    """The largest eigenvalue of the weighted Gram matrix of the inputs' rows, NaN for one that is
    not finite. From the matrix where it is small, since a forecast asks for the same one."""
    rows = int(np.count_nonzero(weights))
    products = cheaper_products(places, inputs, rows, DIAGONALISED, HELD_FOR_LIMIT)
    if products is None:
        block = np.asarray(places.block(inputs, inputs))
        return largest(block, weights) if np.isfinite(block).all() else float("nan")
    root = np.sqrt(np.asarray(weights, np.float64))
    return _largest_of(_Products(products.matvec(), jnp.asarray(root), np.flatnonzero(weights)))


def largest(block: np.ndarray, weights: np.ndarray) -> float:
    """The largest eigenvalue of the weighted Gram matrix of rows, `block` [m, c, m, c]."""
    if np.count_nonzero(weights) <= DIAGONALISED:
        return dynamics.largest_eigenvalue(block, weights)
    root = np.sqrt(weights).astype(block.dtype).ravel()
    gram = block.reshape(root.size, root.size)
    if (root != 1).any():
        gram = root[:, None] * gram * root
    return _largest_of(_padded(gram))


def _largest_of(matrix) -> float:
    return float(np.asarray(matrix.ritz(_start(matrix.size), LARGEST).values)[-1])


def _start(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=size)


def _tail_of(kind) -> float:
    return TAIL_FLOAT32 if kind == np.float32 else TAIL


def _product(matrix, v):
    """The matrix times v, in the matrix's type: products of a kernel in float32 round as the kernel
    itself did, and take a third of the time. All else of a solve is in v's type."""
    return jnp.matmul(matrix, v.astype(matrix.dtype), precision="highest").astype(v.dtype)


class _Padded(NamedTuple):
    """The matrix [size, size] that `product(operand, v)` multiplies with, and `more` rows and
    columns of zeros beyond it."""

    product: Callable[..., Any]
    operand: Any
    size: int
    more: int

    def ritz(self, v, order: int):
        return _ritz_of(self.product, self.operand, self._padded(v), order)

    def ritz_of_both(self, v, w, order: int):
        """Of two vectors at once, the matrix read once for both: of 2,000 rows it takes hardly
        longer than one, of 10,000 as long as one after the other."""
        both = jnp.stack([self._padded(v), self._padded(w)])
        return _ritz_of_each(self.product, self.operand, both, order, room=_room(order))

    def _padded(self, v):
        return jnp.asarray(np.pad(v, (0, self.more)))

    def cut(self, v):
        return np.asarray(v)[: self.size]


class _Products(NamedTuple):
    """A weighted Gram matrix by products: root K root, of the `entries` of root [m, c] that are not
    zero."""

    matvec: Any
    root: Any
    entries: np.ndarray

    @property
    def size(self):
        return len(self.entries)

    def ritz(self, v, order: int):
        whole = np.zeros(self.root.size)
        whole[self.entries] = v
        operand = self.matvec, self.root
        return _ritz_of(_weighted, operand, jnp.asarray(whole.reshape(self.root.shape)), order)

    def ritz_of_both(self, v, w, order: int):
        return self.ritz(v, order), self.ritz(w, LARGEST)

    def cut(self, v):
        return np.asarray(v).ravel()[self.entries]


def _room(order: int) -> int:
    return max(ROOM, order)


def _ritz_of(product, operand, v, order: int):
    return kernels.krylov.ritz_of(product, operand, v, order, room=_room(order))


@partial(jax.jit, static_argnames=("product", "room"))
def _ritz_of_each(product, operand, vectors, order, *, room: int):
    def ritz(v):
        return kernels.krylov.ritz(lambda u: product(operand, u), v, order=order, room=room)

    spaces = jax.vmap(ritz)(vectors)
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], spaces) for i in range(len(vectors)))


def _weighted(operand, v):
    matvec, root = operand
    return root * matvec(root * v).astype(v.dtype)


def _padded(gram: np.ndarray) -> _Padded:
    """Zero rows change nothing, and one compiled program serves all tasks of nearly one size."""
    more = -len(gram) % PADDED
    padded = np.pad(gram, (0, more)) if more else gram
    return _Padded(_product, jnp.asarray(padded), len(gram), more)


def _padded_arrow(arrow: Arrow) -> _Padded:
    size, more = len(arrow.lam) + len(arrow.corner), -len(arrow.corner) % PADDED
    removed = arrow.removed
    if removed is not None:
        removed = np.pad(removed, ((0, more), (0, -removed.shape[1] % PADDED)))
    border, corner = np.pad(arrow.border, ((0, 0), (0, more))), np.pad(arrow.corner, (0, more))
    padded = jax.tree.map(jnp.asarray, Arrow(arrow.lam, border, corner, removed))
    return _Padded(Arrow.product, padded, size, more)


@jax.jit
def _read_off(ritz, rule, scale):
    """g(scale K) v, and the share of it that longer spaces would still change."""

    def scaled(lam, r):
        return rule(scale * lam, r)

    return ritz.filtered(scaled), ritz.tail(scaled)


def _by_lanczos(matrix: _Padded | _Products, order: int, tail: float) -> Decomposed:
    start = _start(matrix.size)
    known: list[Any] = []  # Ritz values of the start, the largest eigenvalue among them

    def values():
        if not known:
            known.append(np.asarray(matrix.ritz(start, LARGEST).values))
        return known[0]

    def space(v, k):
        if known or k < LARGEST:
            return matrix.ritz(v, k)
        ritz, of_start = matrix.ritz_of_both(v, start, k)
        known.append(np.asarray(of_start.values))
        return ritz

    return _scaled(matrix, space, values, order, 1.0, tail)


def _scaled(matrix, space, values, order: int, scale: float, tail: float) -> Decomposed:
    """Functions of `scale` times the matrix, by its Krylov spaces. A function of the module: one
    that knew itself would keep the matrix until the garbage collector comes."""
    first = next(products for least, products in FIRST if tail >= least)

    def filtered(rule, v):
        n = len(v)
        k = min(order, first, n)
        result, left = _read_off(space(v, k), rule, scale)
        while k < n and float(left) > tail:
            k = min(2 * k, n)
            result, left = _read_off(space(v, k), rule, scale)
        return matrix.cut(result)

    again = partial(_scaled, matrix, space, values, order)
    rough = again(scale, ROUGH) if tail < ROUGH else None
    return Decomposed(
        filtered, lambda: scale * values(), lambda s: again(s * scale, tail), None, rough
    )
