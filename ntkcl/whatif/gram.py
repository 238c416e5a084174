"""Gradients kept by their inner products alone: the dual form, for rules linear in gradients.

Such a rule never leaves the span of the parameters and of the gradients G [N, p] of all samples at
all anchors, and sees nothing of them but inner products. With

    G G^T = U diag(lambda) U^T        Z = U diag(sqrt(lambda)), [N, r]

rows of Z stand in for those of G, exactly, since Z Z^T = G G^T, and the code that follows a
training is the same. With fewer rows than parameters it costs as much less.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ntkcl.compilation import once, portable
from ntkcl.types import Apply, Optimizer, Params
from ntkcl.validation import SettingError
from ntkcl.whatif.anchors import ROWS, Gradients, rows_of
from ntkcl.whatif.sketch import frozen

MIB = 2**20


class Block(NamedTuple):
    """Samples x [r, *shape] at parameters theta, and the directions Q [c, k] of their gradients."""

    theta: Params
    x: Any
    Q: Any


@once
def is_linear(optimizer: Optimizer) -> bool:
    """Whether its steps are linear in gradients, as those of SGD with momentum."""
    try:
        return frozen(optimizer).b2 == 0
    except SettingError:
        return False


def check(optimizer: Optimizer) -> None:
    """SettingError for an optimizer that Gram blocks cannot follow."""
    if not is_linear(optimizer):
        raise SettingError(
            "whatif.keep=gram: the optimizer is not linear in gradients; expected one such as sgd, "
            "or whatif.keep=gradients, sketch or passes"
        )


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
    Cost: passes as of `anchors.gradients`, N^2 p products, and eigenvectors of N numbers.
    """
    m, start = len(thetas), ravel_pytree(thetas[0])[0]
    # Ways are small beside the parameters themselves, and would drown in their rounding.
    ways = jnp.stack([start, *(ravel_pytree(one)[0] - start for one in [*thetas[1:], end])])
    parts = [Block(theta, *trained) for theta in thetas] + [Block(end, *old)]
    blocks = [one for part in parts for one in _cut(part, start, budget_mib)]
    f, K = _products(portable(apply), ways, blocks, budget_mib)
    Z = jnp.asarray(_root(K), start.dtype)
    places, Z = jnp.concatenate([Z[:1], Z[:1] + Z[1 : m + 1]]), Z[m + 1 :]

    def gradients(thetas, samples, f, Z):
        x, Q = samples
        shapes = (len(thetas), len(x), -1), (len(thetas), len(x), Q.shape[1], Z.shape[1])
        return Gradients(thetas, f.reshape(shapes[0]), Z.reshape(shapes[1]), jnp.asarray(Q))

    count, rows = m * len(trained[0]), m * len(trained[0]) * trained[1].shape[1]
    base = gradients(places[:m], trained, f[:count], Z[:rows])
    return base, gradients(places[m:], old, f[count:], Z[rows:]), places


def _cut(part: Block, start: Any, budget_mib: float | int) -> list[Block]:
    """In blocks of which two fit the budget."""
    mib = part.Q.shape[1] * start.nbytes / MIB
    most = max(ROWS, int(budget_mib / 2 / mib))
    return [part._replace(x=part.x[row : row + most]) for row in range(0, len(part.x), most)]


def _gradients(apply, block: Block):
    """Outputs [r, c], and gradients [r k, p]."""
    chunks = [block.x[row : row + ROWS] for row in range(0, len(block.x), ROWS)]
    f, J = zip(*(rows_of(apply, block.theta, x, block.Q) for x in chunks), strict=True)
    return jnp.concatenate(f), jnp.concatenate([one.reshape(-1, one.shape[-1]) for one in J])


@jax.jit
def _product(a, b):
    return jnp.matmul(a, b.T, precision="highest")


def _products(apply, ways, blocks: list[Block], budget_mib: float | int):
    """Outputs [R, c] of all blocks, and the inner products [N, N] of `ways` and of all gradients;
    as many blocks are held as fit half of the budget."""
    held, outputs, sizes = {0: ways}, [], [len(ways)]
    sizes += [len(block.x) * block.Q.shape[1] for block in blocks]
    cuts = np.cumsum([0, *sizes])
    K = np.zeros((cuts[-1], cuts[-1]))
    K[: cuts[1], : cuts[1]] = _product(ways, ways)
    for i, block in enumerate(blocks, 1):
        f, G = _gradients(apply, block)
        outputs.append(f)
        for j in range(i + 1):
            other = G if j == i else held.get(j)
            other = _gradients(apply, blocks[j - 1])[1] if other is None else other
            part = np.asarray(_product(G, other))
            K[cuts[i] : cuts[i + 1], cuts[j] : cuts[j + 1]] = part
            K[cuts[j] : cuts[j + 1], cuts[i] : cuts[i + 1]] = part.T
        if sum(one.nbytes for one in held.values()) + G.nbytes <= budget_mib / 2 * MIB:
            held[i] = G
    return jnp.concatenate(outputs), K


def _root(K: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "N r"]:
    """Z of K = Z Z^T, without what single precision rounds away of rows of length 1."""
    lengths = np.sqrt(np.maximum(np.diag(K), np.finfo(np.float32).tiny))
    values, vectors = np.linalg.eigh(K / lengths / lengths[:, None])
    kept = values > 10 * jnp.finfo(jnp.zeros(0).dtype).eps
    return lengths[:, None] * vectors[:, kept] * np.sqrt(values[kept])
