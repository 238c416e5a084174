"""The network linearised at points of one training, its anchors.

At anchor s, of parameters theta_s, outputs and their derivatives at theta near it are

    f(x; theta_s) + J(x; theta_s) (theta - theta_s)        J(x; theta_s)^T g

`Passes` computes both by passes through the network; `Gradients` reads them off gradients that are
kept, J of every sample at every anchor, and never touches the network.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ntkcl.compilation import portable
from ntkcl.types import Apply, Params

ROWS = 16  # samples whose gradients are computed at once: more leave the cache


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

    def outputs(self, s: int, theta, count: int):
        """Outputs [count, c] of the first samples at theta."""

        def one(x):
            anchor = jax.tree.map(lambda leaf: leaf[s], self.thetas)
            moved = jax.tree.map(jnp.subtract, theta, anchor)
            return sum(jax.jvp(lambda parameters: self.apply(parameters, x), (anchor,), (moved,)))

        return jax.lax.map(one, self.x[:count], batch_size=ROWS)


class Gradients(NamedTuple):
    """Linearised at `thetas` [m, p], where samples have outputs f [m, R, c] and gradients J
    [m, R, c, p]: no pass through the network at all."""

    thetas: Float[Array, "m p"]
    f: Float[Array, "m R c"]
    J: Float[Array, "m R c p"]

    def at(self, s, rows, theta):
        """As `Passes.at`."""
        flat, unravel = ravel_pytree(theta)
        c, p = self.J.shape[2:]
        # Slices are copied five times as fast as what is gathered by `J[s, rows]`.
        cut = (jax.lax.dynamic_slice(self.J, (s, row, 0, 0), (1, 1, c, p)) for row in rows)
        J = jnp.concatenate([one[0, 0] for one in cut])
        f = self.f[s, rows] + (J @ (flat - self.thetas[s])).reshape(-1, c)
        return f, lambda g: unravel(g.ravel() @ J)

    def outputs(self, s: int, theta, count: int):
        """As `Passes.outputs`."""
        moved = ravel_pytree(theta)[0] - self.thetas[s]
        return self.f[s, :count] + self.J[s, :count] @ moved


Anchors = Passes | Gradients


@jax.jit
@jax.default_matmul_precision("highest")
def rows_of(apply, theta, x):
    """Outputs [r, c] and gradients [r, c, p] of samples."""
    flat, unravel = ravel_pytree(theta)

    def one(x):
        f, pull = jax.vjp(lambda flat: apply(unravel(flat), x), flat)
        return f, jax.vmap(pull)(jnp.eye(len(f), dtype=f.dtype))[0]

    return jax.vmap(one)(x)


def gradients(apply: Apply, thetas: list[Params], x: Any) -> Gradients:
    """The gradients of samples x [R, *shape] at each of the anchors.

    Cost: (1 + c) R m passes, R c p m numbers.
    """
    apply = portable(apply)
    each = [_at_anchor(apply, theta, x) for theta in thetas]
    f, J = (jnp.stack(part) for part in zip(*each, strict=True))
    return Gradients(jnp.stack([ravel_pytree(theta)[0] for theta in thetas]), f, J)


def _at_anchor(apply, theta, x):
    """Outputs [R, c] and gradients [R, c, p], so many samples at once that all chunks are of one
    shape."""
    edge = min(ROWS, len(x))
    starts = [min(at, len(x) - edge) for at in range(0, len(x), edge)]
    f, J = zip(*(rows_of(apply, theta, x[at : at + edge]) for at in starts), strict=True)
    fresh = len(x) - starts[-1] if len(starts) == 1 else len(x) - edge * (len(starts) - 1)
    return tuple(
        np.concatenate([*map(np.asarray, part[:-1]), np.asarray(part[-1])[-fresh:]])
        for part in (f, J)
    )


def passes(apply: Apply, thetas: list[Params], x: Any) -> Passes:
    """Linearised at each of the anchors by passes through the network."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *thetas)
    return Passes(portable(apply), stacked, x)
