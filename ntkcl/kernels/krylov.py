"""Functions of a kernel, solves and the large end of its spectrum, from its products alone.

With `ntkcl.kernels.operator`, `lambda v: product(theta, x, None, v)` is such a matvec, and
`matrix_function` of a training rule's filter gives the dual coefficients alpha = g(K) r of data
that no dense kernel can hold. Vectors keep their shape, [n, c] as a rule.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PRNGKeyArray

from ntkcl.validation import finite, whole

MatVec = Callable[[Float[Array, "..."]], Float[Array, "..."]]

# A Krylov space ends where the next vector is rounding noise, of length eps |K| and less:
# normalised, it may be an old direction and bring an old Ritz value a second time. Cutting at a few
# eps |K| changes g(K) v no more than rounding does.
BREAKDOWN = 10.0


class Solution(NamedTuple):
    """x = (K + ridge I)^-1 b as far as it went, and its relative residual |b - (K + ridge I) x| /
    |b|, 0 for b = 0."""

    x: Any
    residual: Any


def matrix_function(matvec: MatVec, g: Callable, *, order: int) -> MatVec:
    """v -> g(K) v by Lanczos: with K Q = Q T on the Krylov space of v, g(K) v = |v| Q g(T) e_1.

    Arguments:
      matvec: v -> K v, K symmetric positive semi-definite, any one shape of v.
      g: lam -> g(lam), a scalar filter, finite between the eigenvalues of K; those below zero are
        rounding and count as 0.
      order: products with K, at most; beyond the dimension of the Krylov space they change nothing.
        Exact for polynomials of a degree below `order`, such as `order` steps of gradient descent.
    Returns: a function that callers may jit; memory for `order` vectors, two to three times over.
    Raises ValueError for an order below 1.
    Source: Lanczos 1950; Saad 1992 (analysis of Krylov approximations).
    """
    return filtered(matvec, lambda lam, _: jax.vmap(g)(lam), order=order)


def filtered(matvec: MatVec, rule: Callable, *, order: int) -> MatVec:
    """v -> g(K) v for a training rule g(lam, r), which may look at the coefficients r of v in the
    (Ritz) eigenbasis.

    Arguments, cost, errors and source: as `matrix_function`, but `rule` takes all eigenvalues [k]
      and coefficients [k] at once, as the
    rules of `ntkcl.dynamics` do.
    """
    whole("order", order)

    def apply(v):
        return ritz(matvec, v, order=order).filtered(rule)

    return apply


class Ritz(NamedTuple):
    """v and K as its Krylov space sees them: Ritz values [k], coefficients r [k] of v in the basis
    of their vectors, the rows of `rotation.T @ basis`, orthonormal [k, size]; what lies beyond an
    exhausted space, or one of fewer products than there is room for, has coefficients zero.
    last: place of the last product's vector in the basis."""

    values: Any
    coefficients: Any
    rotation: Any
    basis: Any
    last: Any

    def filtered(self, rule: Callable):
        """g(K) v, of the shape of v, for a training rule g(lam, r)."""
        return jnp.tensordot(self._weights(rule), self.basis, 1, precision="highest")

    def tail(self, rule: Callable):
        """The share of g(K) v that lies on the last vector of the space: what longer spaces would
        still change is of its size."""
        weights = self._weights(rule)
        return jnp.abs(weights[self.last]) / jnp.maximum(
            jnp.linalg.norm(weights), jnp.finfo(weights.dtype).tiny
        )

    def _weights(self, rule):
        return self.rotation @ (
            rule(jnp.maximum(self.values, 0), self.coefficients) * self.coefficients
        )


@partial(jax.jit, static_argnames=("matvec", "room"))
def ritz_of(matvec: Callable, operand, v, order, *, room: int) -> Ritz:
    """`ritz` of v -> matvec(operand, v), compiled once for each shape and room, whatever the
    operand and the order."""
    return ritz(lambda u: matvec(operand, u), v, order=order, room=room)


def ritz(matvec: MatVec, v, *, order, room: int | None = None) -> Ritz:
    """`order` steps of Lanczos from v, at most; see `matrix_function`.

    room: vectors there is room for, as many as the order if None: an order below it may be traced.
    """
    length = jnp.linalg.norm(jnp.ravel(v))
    space = _lanczos(matvec, v, length, order, room or order)
    # What lies beyond the space is decoupled; an eigenvalue from inside of it keeps g where it is
    # defined.
    lam, U = jnp.linalg.eigh(_tridiagonal(space, space.diagonal[0]))
    last = jnp.minimum(order, len(lam)) - 1
    return Ritz(lam, length * U[0], U, space.Q.reshape(-1, *v.shape), last)


def solve(
    matvec: MatVec, b, *, ridge: float = 0.0, tolerance: float = 1e-5, steps: int = 1000
) -> Solution:
    """(K + ridge I)^-1 b by conjugate gradients.

    Arguments:
      matvec: v -> K v, K symmetric positive semi-definite.
      b: any shape. Without a ridge it must lie in the range of K: the pseudo-inverse of anything
        else is `matrix_function` with g(lam) = 1/lam above a cut and 0 below.
      ridge: absolute, in units of K.
      tolerance: on the relative residual; float32 reaches about 1e-6 times the root of the
        condition number.
      steps: products with K, at most: at seconds a product over a large set, a thousand are the
        better part of an hour.
    Returns: `Solution(x, residual)`; whoever must be sure compares the residual, which is computed
      afresh. It is large or NaN, not an error, where there is no solution or the steps did not
      suffice.
    Raises ValueError for a negative ridge, a tolerance that is not positive, steps below 1.
    Source: Hestenes, Stiefel 1952, as in jax.scipy.
    """
    finite("ridge", ridge, least=0.0)
    finite("tolerance", tolerance, above=0.0)
    whole("steps", steps)

    def shifted(v):
        return matvec(v) + ridge * v

    x = cg(shifted, b, tol=tolerance, maxiter=steps)[0]
    length = jnp.linalg.norm(jnp.ravel(b))
    gap = jnp.linalg.norm(jnp.ravel(b - shifted(x)))
    return Solution(x, gap / jnp.where(length > 0, length, 1))


def spectrum(matvec: MatVec, like, *, order: int, key: PRNGKeyArray) -> Float[Array, " k"]:
    """Ritz values of K, descending: the largest eigenvalues first and best, the small ones only as
    a smear.

    Arguments:
      matvec: v -> K v, K symmetric positive semi-definite.
      like: an array, or its shape and type, such as v is.
      order: products with K, at most.
      key: draws the start. A repeated eigenvalue is found once.
    Returns: [min(order, size of like)], zeros once the Krylov space of the start is exhausted.
    Raises ValueError for an order below 1.
    Source: Lanczos 1950.
    """
    whole("order", order)
    v = jax.random.normal(key, like.shape, like.dtype)
    space = _lanczos(matvec, v, jnp.linalg.norm(jnp.ravel(v)), order, order)
    return jnp.linalg.eigvalsh(_tridiagonal(space, 0.0))[::-1]


class _Krylov(NamedTuple):
    """Orthonormal rows Q [k, size], T by its diagonals [k] and [k - 1], and which of the k are of
    the space: the first few, or all."""

    Q: Any
    diagonal: Any
    lengths: Any
    inside: Any


def _lanczos(matvec, v, length, order, room: int) -> _Krylov:
    """Every vector is made orthogonal to all before it, twice. Cut where it breaks down: there it
    divides by zero, or by noise, and goes on with old directions."""
    room = min(room, v.size)
    # For v = 0 any unit vector: g(K) 0 is 0 times something finite.
    first = jnp.zeros(v.size, v.dtype).at[0].set(1)
    start = jnp.where(length > 0, jnp.ravel(v) / jnp.where(length > 0, length, 1), first)
    dot = partial(jnp.dot, precision="highest")

    def step(k, space):
        Q, diagonal, lengths = space
        u = jnp.ravel(matvec(Q[k].reshape(v.shape)))
        along = dot(Q, u)
        u = u - dot(along, Q)
        more = dot(Q, u)  # by rounding
        u = u - dot(more, Q)
        beyond = jnp.linalg.norm(u)
        Q = jax.lax.dynamic_update_index_in_dim(Q, u / beyond, k + 1, 0)
        return Q, diagonal.at[k].set(along[k] + more[k]), lengths.at[k].set(beyond)

    # One vector more, that the last step writes.
    Q = jnp.zeros((room + 1, v.size), v.dtype).at[0].set(start)
    empty = Q, *jnp.zeros((2, room), v.dtype)
    steps = min(order, room) if isinstance(order, int) else jnp.minimum(order, room)
    Q, diagonal, lengths = jax.lax.fori_loop(0, steps, step, empty)
    size = jnp.nanmax(jnp.abs(jnp.concatenate([diagonal, lengths])))
    grown = lengths[:-1] > BREAKDOWN * jnp.finfo(v.dtype).eps * size
    made = jnp.arange(room) < order
    inside = made & jnp.cumprod(jnp.concatenate([jnp.ones(1, bool), grown])).astype(bool)
    Q, lengths = jnp.where(inside[:, None], Q[:-1], 0), jnp.where(inside[1:], lengths[:-1], 0)
    return _Krylov(Q, diagonal, lengths, inside)


def _tridiagonal(space, beyond):
    diagonal = jnp.where(space.inside, space.diagonal, beyond)
    return jnp.diag(diagonal) + jnp.diag(space.lengths, 1) + jnp.diag(space.lengths, -1)
