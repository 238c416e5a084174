"""The network linearised at points of one training, its anchors.

At anchor s, of parameters theta_s, outputs and their derivatives at theta near it are

    f(x; theta_s) + J(x; theta_s) (theta - theta_s)        J(x; theta_s)^T g

`Passes` computes both by passes through the network; `Gradients` reads them off gradients that are
kept, J of every sample at every anchor, and never touches the network. They are kept in those
directions of output space alone in which the loss can pull: a softmax does not see what all outputs
have in common, so that of two outputs one direction is left. For methods, which may hold outputs
themselves, all are kept.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ntkcl.compilation import convolves, portable
from ntkcl.types import Apply, Loss, Params
from ntkcl.whatif.sketch import Sketch

AT_ONCE = 16  # samples whose gradients are computed at once: more leave the cache
NUMBERS_AT_ONCE = 2**23  # numbers of them, 32 MiB, likewise
PROBES = 8  # random outputs for each of the network's, where the loss's directions are looked for
PROBE_WEIGHT = 1e-2  # of the probes beside the samples' own
NEGLIGIBLE = 1e-6  # a singular value, over the largest, of a direction in which nothing pulls


class Passes(NamedTuple):
    """Linearised at `thetas`, a pytree of leaves [m, ...], on samples x [R, *shape]: about 1.5
    times the passes of the training that it follows, and no memory."""

    apply: Any
    thetas: Params
    x: Any

    def at(self, s, rows, theta):
        """Outputs [b, c] of samples at theta, and the map from [b, c] to J^T g, a pytree like
        theta."""
        anchor = jax.tree.map(lambda leaf: leaf[s], self.thetas)
        x = self.x[rows]

        def outputs(parameters):
            return jax.vmap(self.apply, (None, 0))(parameters, x)

        moved = jax.tree.map(jnp.subtract, theta, anchor)
        f, along = jax.linearize(outputs, anchor)
        back = jax.linear_transpose(along, anchor)
        return f + along(moved), lambda g: back(g)[0]

    def one(self, s, theta, row):
        """Outputs [c] of one sample at theta."""
        return self._outputs(s, self.x[row], theta)

    def outputs(self, s: int, theta, count: int):
        """Outputs [count, c] of the first samples at theta."""
        each = partial(self._outputs, s, theta=theta)
        return jax.lax.map(each, self.x[:count], batch_size=AT_ONCE)

    def _outputs(self, s, x, theta):
        # Some methods take products in a wider type than that of the parameters.
        anchor = jax.tree.map(lambda own, leaf: own[s].astype(leaf.dtype), self.thetas, theta)
        moved = jax.tree.map(jnp.subtract, theta, anchor)
        return sum(jax.jvp(lambda parameters: self.apply(parameters, x), (anchor,), (moved,)))


class Gradients(NamedTuple):
    """Linearised at `thetas` [m, p], where samples have outputs f [m, R, c] and, in the directions
    Q [c, k], gradients J [m, R, k, p]: no pass through the network at all. In other directions the
    outputs stay those at the anchor."""

    thetas: Float[Array, "m p"]
    f: Float[Array, "m R c"]
    J: Float[Array, "m R k p"]
    Q: Float[Array, "c k"]

    def at(self, s, rows, theta):
        """As `Passes.at`."""
        flat, unravel = ravel_pytree(theta)
        k, p = self.J.shape[2:]
        # Slices are copied five times as fast as what is gathered by `J[s, rows]`.
        cut = (jax.lax.dynamic_slice(self.J, (s, row, 0, 0), (1, 1, k, p)) for row in rows)
        J = jnp.concatenate([one[0, 0] for one in cut])
        f = self.f[s, rows] + (J @ (flat - self.thetas[s])).reshape(-1, k) @ self.Q.T
        return f, lambda g: unravel((g @ self.Q).ravel() @ J)

    def one(self, s, theta, row):
        """As `Passes.one`."""
        return self.f[s, row] + self.Q @ (self.J[s, row] @ (_flat(theta) - self.thetas[s]))

    def outputs(self, s: int, theta, count: int):
        """As `Passes.outputs`."""
        moved = _flat(theta) - self.thetas[s]
        return self.f[s, :count] + self.J[s, :count] @ moved @ self.Q.T


Anchors = Passes | Gradients


def directions(
    loss: Loss,
    f: Float[np.ndarray, "n c"],
    y: Float[np.ndarray, "n c"],
    head: Float[np.ndarray, " c"],
    most: int | None = None,
) -> tuple[Float[np.ndarray, "c k"], float]:
    """Orthonormal directions of output space in which the loss pulls, the strongest first.

    Arguments:
      f, y, head: outputs and targets of samples, and the mask of the outputs.
      most: of the directions; None keeps all in which the loss can pull at any outputs.
    Returns: the directions, and the share of the loss's squared gradients, at f, outside of them.
    """
    c = f.shape[1]
    probes = np.random.default_rng(0).standard_normal((PROBES * c, c)).astype(f.dtype)
    pull = jax.vmap(jax.grad(loss.value), (0, 0, None))
    given = (f, y), (probes, np.resize(y, probes.shape))
    with jax.enable_x64(True):  # rounding is no direction
        at64 = (jax.tree.map(lambda one: np.asarray(one, np.float64), (*at, head)) for at in given)
        own, other = (np.asarray(pull(*at)) for at in at64)
    if not other.any():  # a single output of a softmax: nothing pulls
        return np.eye(c, dtype=f.dtype)[:, np.flatnonzero(head)[:1]], 0.0
    faint = PROBE_WEIGHT * np.sqrt(max(np.sum(own**2), NEGLIGIBLE**2) / np.sum(other**2))
    _, sizes, Q = np.linalg.svd(np.concatenate([own, faint * other]), full_matrices=False)
    Q = Q[: max(int((sizes > NEGLIGIBLE * sizes[0]).sum()), 1)][:most].T
    outside = 1 - np.sum((own @ Q) ** 2) / max(np.sum(own**2), NEGLIGIBLE**2)
    return np.asarray(Q, f.dtype), max(float(outside), 0.0)


def rows_at_once(numbers: int) -> int:
    """Samples whose gradients, of so many numbers each, are computed at once."""
    return max(1, min(AT_ONCE, NUMBERS_AT_ONCE // numbers))


@jax.jit
@jax.default_matmul_precision("highest")
def rows_of(apply, theta, x, Q, sketch=None):
    """Outputs [r, c] of samples, and gradients [r, k, p] of them along the directions Q [c, k], or
    sketches of these."""
    kept = _flat if sketch is None else sketch.of

    def one(x):
        f, pull = jax.vjp(lambda theta: apply(theta, x), theta)
        return f, jax.vmap(lambda q: kept(pull(q)[0]))(Q.T)

    size = sum(leaf.size for leaf in jax.tree.leaves(theta))
    return jax.lax.map(one, x, batch_size=rows_at_once(Q.shape[1] * size))


def mean_squares(apply: Apply, theta: Params, x: Any, Q) -> Params:
    """Of the gradients of samples x [R, *shape] along the directions Q [c, k], a pytree like theta;
    of as many of them as fill chunks of one shape."""
    flat, unravel = ravel_pytree(theta)
    few = min(rows_at_once(Q.shape[1] * flat.size), len(x))
    starts = range(0, len(x) - few + 1, few)
    total = jnp.zeros_like(flat)
    for row in starts:
        J = rows_of(portable(apply), theta, x[row : row + few], Q)[1]
        total += jnp.mean(J**2, (0, 1))
    return unravel(total / len(starts))


def _flat(theta):
    return ravel_pytree(theta)[0]


@partial(jax.jit, donate_argnums=0)
def _written(whole, part, s, row):
    """`whole` [m, R, ...] with `part` [r, ...] in it, in place."""
    return jax.lax.dynamic_update_slice(whole, part[None], (s, row) + (0,) * (part.ndim - 1))


def gradients(
    apply: Apply,
    thetas: list[Params],
    x: Any,
    Q: Float[Array | np.ndarray, "c k"],
    sketch: Sketch | None = None,
) -> Gradients:
    """The gradients of samples x [R, *shape] along the directions Q, at each of the anchors, or
    sketches of them.

    Cost: (1 + k) R m passes, R k p m numbers; of sketches d numbers in place of p.
    """
    apply, place = portable(apply), sketch.of if sketch else _flat
    flat = jnp.stack([place(theta) for theta in thetas])
    (m, p), (c, k), R = flat.shape, Q.shape, len(x)
    size = sum(leaf.size for leaf in jax.tree.leaves(thetas[0]))
    f, J = jnp.zeros((m, R, c), flat.dtype), jnp.zeros((m, R, k, p), flat.dtype)
    # In one program a loop over samples spares new memory for each, but slows convolutions.
    looped = sketch is not None and not convolves(apply, thetas[0], x[0])
    edge = min(AT_ONCE if looped else rows_at_once(k * size), R)
    for s, theta in enumerate(thetas):
        for row in range(0, R, edge):
            row = min(row, R - edge)  # all chunks are of one shape
            outputs, rows = rows_of(apply, theta, x[row : row + edge], Q, sketch)
            f, J = _written(f, outputs, s, row), _written(J, rows, s, row)
    return Gradients(flat, f, J, jnp.asarray(Q))


def passes(apply: Apply, thetas: list[Params], x: Any) -> Passes:
    """Linearised at each of the anchors by passes through the network."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *thetas)
    return Passes(portable(apply), stacked, x)
