"""A network linearised at theta, which the kernel-space equivalents of methods read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl.compilation import portable
from ntkcl.kernels.contraction import contraction
from ntkcl.kernels.operator import operator
from ntkcl.types import Network, Tangent


def tangent(network: Network, theta, x, f, kernel_fn) -> Tangent:
    """See `ntkcl.types.Tangent`.

    Arguments:
      x: all N inputs.  f: [N, c], the outputs at theta, as they are trained and forecast (centred,
        if the network is).
      kernel_fn: `kernel_fn(theta, x1, x2) -> [n1, c, n2, c]`.
    """

    def columns(inputs):
        return jnp.asarray(kernel_fn(theta, x, x[inputs]))

    def squares(inputs, weights):
        return _squares(
            portable(network.apply), theta, x, jnp.asarray(inputs), jnp.asarray(weights)
        )

    def scaled(metric):
        root = jax.tree.map(jnp.sqrt, metric)

        def stretched(theta_scaled, one):
            return network.apply(jax.tree.map(jnp.divide, theta_scaled, root), one)

        kernel = contraction(stretched)
        there = jax.tree.map(jnp.multiply, theta, root)
        return lambda inputs: kernel(there, x, x[inputs])

    @functools.cache
    def at_zero():
        return f - operator(network).jvp(theta, x, theta).astype(f.dtype)

    return Tangent(columns, squares, scaled, at_zero)


@jax.jit
def _squares(apply, theta, x, inputs, weights):
    def add(total, row):
        i, weight = row
        jacobian = jax.jacrev(apply)(theta, x[i])
        return jax.tree.map(
            lambda s, j: s + jnp.tensordot(weight.astype(j.dtype), j**2, 1), total, jacobian
        ), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, theta), (inputs, weights))[0]


def held(tangent: Tangent, inputs) -> Tangent:
    """The same, its columns for `inputs` computed once, when first asked for, and cut out of one
    block from then on."""
    place = {int(i): k for k, i in enumerate(inputs)}

    @functools.cache
    def block():
        return np.asarray(tangent.columns(inputs))

    return tangent._replace(
        columns=lambda some: np.take(block(), [place[int(i)] for i in some], axis=2)
    )
