"""K v without K, for data whose dense kernel fits into no memory.

    K(x1, x2) v = J(x1) (J(x2)^T v)

A block of n samples a side has (n c)^2 entries, 1.4 TB at n = 60,000 and c = 10; the product needs
one gradient and the activations of a chunk of samples. `ntkcl.kernels.krylov` makes matrix
functions, solves and spectra of it.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ntkcl.compilation import convolves, one_of, portable
from ntkcl.kernels.checks import check, shapes
from ntkcl.kernels.kernel import cover, network_of
from ntkcl.types import Apply, Network
from ntkcl.validation import SettingError, whole

# Measured on 2 cores (MLP 784-1024-10, 20,000 images, the product): 1.70 s at 128 samples, 1.47 at
# 512, 1.50 at 1024, 1.75 at 8192. Below, each chunk adds a gradient too often; above, activations
# leave the cache. 512 is the least memory of the flat part.
CHUNK = 512
UNROLLED = 16  # chunks: their program grows with their number


class Operator(NamedTuple):
    """J u, J^T a and K v for inputs x [n, *shape]; see `operator`."""

    jvp: Callable[..., Any]
    vjp: Callable[..., Any]
    product: Callable[..., Any]
    matvec: Callable[..., Partial]


def operator(model: Network | Apply, *, chunk: int = CHUNK) -> Operator:
    """The kernel as a linear map, its samples visited `chunk` at a time.

        jvp(theta, x, u) = J(x) u
        vjp(theta, x, a) = J(x)^T a
        product(theta, x1, x2, v) = J(x1) J(x2)^T v
        matvec(theta, x)(v) = J(x) J(x)^T v

    Arguments:
      model: a network, or `apply(theta, x) -> [c]` for one x.
      chunk: the most samples whose activations are held at once.
    Returns: pure functions that callers may jit: `jvp` takes u shaped like theta and gives [n, c];
      `vjp` takes a [n, c] and gives a pytree like theta; `product` takes v [n2, c] and gives
      [n1, c], x2 = None meaning x1; `matvec` gives a `jax.tree_util.Partial`, an argument of
      programs that serve all inputs of one shape.
    Cost: a jvp or a vjp about that of one gradient, a product both; memory for theta twice, and the
      activations of a chunk.
    Raises ValueError as `ntkcl.kernels.checks.check` does, and for u, a or v of another shape.
    Source: Novak, Sohl-Dickstein, Schoenholz 2022, section 3.2 (NTK-vector products).
    """
    network = network_of(model)
    whole("chunk", chunk)

    apply = portable(network.apply)
    forward = partial(_forward, apply, chunk)
    backward = partial(_backward, apply, chunk)

    def outputs(theta, x):
        return _outputs.eval_shape(apply, theta, x)

    def jvp(theta, x, u):
        check(network, theta, x)
        if shapes(u) != shapes(theta):
            raise SettingError(
                f"jvp: u has leaves {_listed(u)}; expected those of theta, {_listed(theta)}"
            )
        return forward(
            theta, x, jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), u, theta)
        )

    def vjp(theta, x, a):
        check(network, theta, x)
        return backward(theta, x, _rows("vjp: a", a, outputs(theta, x)))

    def product(theta, x1, x2, v):
        check(network, theta, x1, x2)
        x2 = x1 if x2 is None else x2
        return forward(theta, x1, backward(theta, x2, _rows("product: v", v, outputs(theta, x2))))

    def matvec(theta, x):
        check(network, theta, x)
        return Partial(_symmetric(chunk), apply, theta, x)

    return Operator(jvp, vjp, product, matvec)


@cache  # one function a chunk, so that programs are found again
def _symmetric(chunk):
    def matvec(apply, theta, x, v):
        v = v.astype(jnp.result_type(*jax.tree.leaves(theta)))
        return _forward(apply, chunk, theta, x, _backward(apply, chunk, theta, x, v))

    return matvec


def _on(apply, x):
    return lambda theta: jax.vmap(apply, (None, 0))(theta, x)


@jax.jit  # traced once for each shape
def _outputs(apply, theta, x):
    return _on(apply, x)(theta)


@partial(jax.jit, static_argnums=1)
@jax.default_matmul_precision("highest")
def _forward(apply, chunk, theta, x, u):
    starts, length = cover(len(x), chunk)
    if _unrolled(apply, theta, x, len(starts)):
        parts = [x[at : at + length] for at in range(0, len(x), length)]
        return jnp.concatenate([jax.jvp(_on(apply, part), (theta,), (u,))[1] for part in parts])

    def write(out, start):
        part = jax.lax.dynamic_slice_in_dim(x, start, length)
        rows = jax.jvp(_on(apply, part), (theta,), (u,))[1]
        return jax.lax.dynamic_update_slice_in_dim(out, rows, start, 0), None

    f = jax.eval_shape(_on(apply, x), theta)
    return jax.lax.scan(write, jnp.zeros(f.shape, f.dtype), jnp.asarray(starts))[0]


@partial(jax.jit, static_argnums=1)
@jax.default_matmul_precision("highest")
def _backward(apply, chunk, theta, x, a):
    starts, length = cover(len(x), chunk)
    if _unrolled(apply, theta, x, len(starts)):
        parts = [slice(at, at + length) for at in range(0, len(x), length)]
        gradients = [jax.vjp(_on(apply, x[part]), theta)[1](a[part])[0] for part in parts]
        return jax.tree.map(lambda *leaves: sum(leaves), *gradients)

    def add(total, step):
        k, start = step
        part, weights = (jax.lax.dynamic_slice_in_dim(array, start, length) for array in (x, a))
        # By the chunk before, which the last one overlaps.
        seen = start + jnp.arange(length) < k * length
        (gradient,) = jax.vjp(_on(apply, part), theta)[1](jnp.where(seen[:, None], 0, weights))
        return jax.tree.map(jnp.add, total, gradient), None

    steps = (jnp.arange(len(starts)), jnp.asarray(starts))
    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, theta), steps)[0]


def _unrolled(apply, theta, x, chunks: int) -> bool:
    """Whether chunks are visited without a loop: a single one, and a few of a network that
    convolves."""
    return chunks == 1 or (chunks <= UNROLLED and convolves(apply, theta, one_of(x)))


def _rows(name, a, f):
    if jnp.shape(a) != f.shape:
        raise SettingError(
            f"{name} has shape {jnp.shape(a)}; expected {f.shape}, one row a sample and one column "
            "an output"
        )
    return jnp.asarray(a, f.dtype)


def _listed(tree):
    return ", ".join(f"{path} {shape}" for path, shape in shapes(tree).items())
