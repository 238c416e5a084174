"""A network linearised at theta, which the kernel-space equivalents of methods read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntkcl.compilation import one_of, portable
from ntkcl.kernels.contraction import contraction
from ntkcl.kernels.empirical import product_seconds
from ntkcl.kernels.operator import operator
from ntkcl.types import Network, Places, Products, Tangent


def tangent(network: Network, theta, x, f, kernel_fn, *, by_columns: bool = False) -> Tangent:
    """See `ntkcl.types.Tangent`.

    Arguments:
      x: all N inputs.  f: [N, c], the outputs at theta, as they are trained and forecast (centred,
        if the network is).
      kernel_fn: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]`.
      by_columns: read off whole columns of `kernel_fn`, which need not be the network's own kernel.
    """

    def columns(inputs):
        return kernel_fn(theta, x, np.asarray(x)[inputs])

    def squares(inputs, weights):
        return _squares(
            portable(network.apply), theta, x, jnp.asarray(inputs), jnp.asarray(weights)
        )

    def scaled(metric):
        root = jax.tree.map(jnp.sqrt, metric)
        stretched = Partial(_stretched, portable(network.apply), root)
        there = jax.tree.map(jnp.multiply, theta, root)
        return _places(stretched, there, x, contraction(stretched))

    @functools.cache
    def at_zero():
        return f - operator(network).jvp(theta, x, theta).astype(f.dtype)

    kernel = columns if by_columns else _places(network, theta, x, kernel_fn)
    return Tangent(kernel, squares, scaled, at_zero)


def _places(model, theta, x, kernel_fn) -> Places:
    """Blocks by `kernel_fn`, changes by products with the Jacobian: no block of all inputs."""
    linear = operator(model)

    def of(inputs):  # cut by NumPy: XLA would compile each cut for each shape
        return np.asarray(x)[inputs]

    def block(rows, inputs):
        if np.array_equal(rows, inputs):
            return kernel_fn(theta, of(inputs))
        return kernel_fn(theta, of(rows), of(inputs))

    def change(inputs, alpha):
        return linear.product(theta, x, of(inputs), alpha)

    def products(inputs):
        seconds = product_seconds(model, theta, len(inputs), one_of(x))
        return Products(seconds, lambda: linear.matvec(theta, of(inputs)))

    return Places(block, change, products)


def _stretched(apply, root, theta_scaled, one):
    return apply(jax.tree.map(jnp.divide, theta_scaled, root), one)


@jax.jit
def _squares(apply, theta, x, inputs, weights):
    def add(total, row):
        i, weight = row
        jacobian = jax.jacrev(apply)(theta, x[i])
        return jax.tree.map(
            lambda s, j: s + jnp.tensordot(weight.astype(j.dtype), j**2, 1), total, jacobian
        ), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, theta), (inputs, weights))[0]
