"""Gradients kept by their inner products alone: the dual form, for rules linear in gradients.

A rule that is linear in gradients and the same for every parameter never leaves the span of the
parameters and of the gradients G [N, p] of all samples at all anchors, and sees nothing of them but
inner products. With

    G G^T = U diag(lambda) U^T        Z = U diag(sqrt(lambda)), [N, r]

rows of Z stand in for those of G, since Z Z^T = G G^T up to rounding, and the code that follows a
training is the same. A row has r <= min(N, p) numbers in the place of p.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ntkcl.compilation import portable
from ntkcl.resources import MIB
from ntkcl.types import Apply, Optimizer, Params
from ntkcl.validation import SettingError
from ntkcl.whatif.anchors import AT_ONCE, Gradients, rows_at_once, rows_of
from ntkcl.whatif.rules import is_linear

# Of N^2 p, half of which are computed, on 2 cores; and eigenvectors take as long as so many times
# N^3.
PRODUCTS_PER_SECOND = 5e10
EIGENVECTORS = 10


class Block(NamedTuple):
    """Samples x [r, *shape] at parameters theta, and the directions Q [c, k] of their gradients."""

    theta: Params
    x: Any
    Q: Any


def check(optimizer: Optimizer) -> None:
    """SettingError for an optimizer that Gram blocks cannot follow."""
    if not is_linear(optimizer):
        raise SettingError(
            "whatif.keep=gram: the optimizer is not linear in gradients, the same for every "
            "parameter; expected one such as sgd, or whatif.keep=gradients or passes"
        )


def products(N: int, p: int) -> float:
    """N^2 p, and what eigenvectors take beside them."""
    return float(N) ** 2 * (p + EIGENVECTORS * N)


def linearised(
    apply: Apply,
    thetas: list[Params],
    end: Params,
    trained: tuple[Any, Any],
    old: tuple[Any, Any],
    budget_mib: float | int,
) -> tuple[Gradients, Gradients, Float[Array, "m1 r"]]:
    """The network at each of m anchors on the samples that are trained on, and at the base's end on
    the old ones.

    Arguments:
      thetas, end: at the anchors, and where the base has ended.
      trained, old: samples x, and directions Q of their gradients.
      budget_mib: of gradients that are held at a time. What does not fit is computed anew for each
        block of inner products.
    Returns: both linearisations, and the anchors and the end as rows.
    Cost: passes as of `anchors.gradients`, `passes_each` times; `products`.
    """
    m, start = len(thetas), ravel_pytree(thetas[0])[0]
    # theta_s - theta_0, for it is small beside theta_0 and would drown in its rounding.
    moved = jnp.stack([start, *(ravel_pytree(one)[0] - start for one in [*thetas[1:], end])])
    blocks = []
    for part in [Block(theta, *trained) for theta in thetas] + [Block(end, *old)]:
        rows = _cuts(len(part.x), part.Q.shape[1] * start.nbytes, budget_mib)
        blocks += [part._replace(x=part.x[low:high]) for low, high in rows]
    f, K = _products(portable(apply), moved, blocks, budget_mib)
    Z = jnp.asarray(_root(K, len(start), start.dtype), start.dtype)
    places, Z = jnp.concatenate([Z[:1], Z[:1] + Z[1 : m + 1]]), Z[m + 1 :]
    count, k = m * len(trained[0]), trained[1].shape[1]
    base = _kept(places[:m], f[:count], Z[: count * k], trained[1])
    return base, _kept(places[m:], f[count:], Z[count * k :], old[1]), places


def _kept(thetas, f, Z, Q) -> Gradients:
    """Of outputs [m R, c] and rows [m R k, r]."""
    m, (c, k) = len(thetas), Q.shape
    J = Z.reshape(m, -1, k, Z.shape[1])
    return Gradients(thetas, f.reshape(m, -1, c), J, jnp.asarray(Q))


def _cuts(samples: int, nbytes: int, budget_mib: float | int) -> list[tuple[int, int]]:
    """Samples of so many bytes of gradients each, in blocks of which eight fit the budget."""
    most = max(1, int(budget_mib * MIB / 8 / nbytes))
    most = most // AT_ONCE * AT_ONCE or most  # few shapes
    return [(low, min(low + most, samples)) for low in range(0, samples, most)]


def _held(sizes: list[int], budget_mib: float | int) -> int:
    """How many blocks, the first ones, of so many bytes each are held in half of the budget."""
    return int((np.cumsum(sizes) <= budget_mib * MIB / 2).sum())


def passes_each(parts: Sequence[tuple[int, int]], nbytes: int, budget_mib: float | int) -> float:
    """How often gradients of so many bytes are computed, of so many samples in so many directions
    each."""
    sizes = [
        (high - low) * k * nbytes
        for samples, k in parts
        for low, high in _cuts(samples, k * nbytes, budget_mib)
    ]
    before = np.cumsum([0, *sizes])  # each block
    again = np.maximum(before[:-1] - before[_held(sizes, budget_mib)], 0)
    return float(1 + again.sum() / before[-1])


def _gradients(apply, block: Block):
    """Outputs [r, c], and gradients [r k, p]."""
    at_once = rows_at_once(
        block.Q.shape[1] * sum(leaf.size for leaf in jax.tree.leaves(block.theta))
    )
    chunks = [block.x[row : row + at_once] for row in range(0, len(block.x), at_once)]
    f, J = zip(*(rows_of(apply, block.theta, x, block.Q) for x in chunks), strict=True)
    return jnp.concatenate(f), jnp.concatenate([one.reshape(-1, one.shape[-1]) for one in J])


@jax.jit
def _product(a, b):
    return jnp.matmul(a, b.T, precision="highest")


def _products(apply, moved, blocks: list[Block], budget_mib: float | int):
    """Outputs [R, c] of all blocks, and the inner products [N, N] of `moved` and of all
    gradients."""
    counts = [len(block.x) * block.Q.shape[1] for block in blocks]
    most = _held([count * moved[0].nbytes for count in counts], budget_mib)
    cuts = np.cumsum([0, len(moved), *counts])
    K, held, outputs = np.zeros((cuts[-1], cuts[-1])), {0: moved}, []
    K[: cuts[1], : cuts[1]] = _product(moved, moved)
    for i, block in enumerate(blocks, 1):
        f, G = _gradients(apply, block)
        outputs.append(f)
        for j in range(i + 1):
            other = G if j == i else held.get(j)
            other = _gradients(apply, blocks[j - 1])[1] if other is None else other
            part = np.asarray(_product(G, other))
            K[cuts[i] : cuts[i + 1], cuts[j] : cuts[j + 1]] = part
            K[cuts[j] : cuts[j + 1], cuts[i] : cuts[i + 1]] = part.T
        if i <= most:
            held[i] = G
    return jnp.concatenate(outputs), K


def _root(K: Float[np.ndarray, "N N"], p: int, dtype: Any) -> Float[np.ndarray, "N r"]:
    """Z of K = Z Z^T, of at most p columns, without what is rounding in this type once rows are of
    length 1; NaN where K is not finite, since a base may have diverged."""
    if not np.isfinite(K).all():
        return np.full((len(K), 1), np.nan)
    lengths = np.sqrt(np.maximum(np.diag(K), np.finfo(np.float32).tiny))
    values, vectors = np.linalg.eigh(K / lengths / lengths[:, None])
    kept = np.flatnonzero(values > 10 * np.finfo(dtype).eps)[-p:]
    return lengths[:, None] * vectors[:, kept] * np.sqrt(values[kept])
