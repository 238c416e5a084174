"""Gram matrices that are computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl import kernels, networks

X, Y = (jax.random.normal(jax.random.key(k), (5, 3)) for k in range(2))
NETWORK = networks.mlp(outputs=2, width=4)
THETA, OTHER = (NETWORK.init(jax.random.key(k), X[0]) for k in range(2))
KERNEL = kernels.contraction(NETWORK)


@pytest.fixture
def counted():
    """A kernel that says what it was asked for."""
    asked = []

    def kernel_fn(theta, x1, x2=None):
        asked.append((theta is THETA, x2 is None))
        return KERNEL(theta, x1, x2)

    return kernel_fn, asked


def test_a_block_is_computed_once_and_by_what_is_in_its_inputs(counted):
    kernel_fn, asked = counted
    kernel = kernels.remembered(kernel_fn, THETA)
    for x in (X, jnp.array(X), Y, X):
        np.testing.assert_array_equal(kernel(THETA, x), KERNEL(THETA, x))
    assert len(asked) == 2
    # Blocks of two sides, parts, and other values are other blocks.
    np.testing.assert_array_equal(kernel(THETA, X, Y), KERNEL(THETA, X, Y))
    np.testing.assert_array_equal(kernel(THETA, X[:4]), KERNEL(THETA, X[:4]))
    moved = X.at[0, 0].add(1)
    np.testing.assert_array_equal(kernel(THETA, moved), KERNEL(THETA, moved))
    assert len(asked) == 5


def test_at_other_parameters_it_is_another_kernel_and_all_is_forgotten(counted):
    kernel_fn, asked = counted
    kernel = kernels.remembered(kernel_fn, THETA)
    kernel(THETA, X)
    np.testing.assert_array_equal(kernel(OTHER, X), KERNEL(OTHER, X))
    np.testing.assert_array_equal(kernel(OTHER, X), KERNEL(OTHER, X))
    kernel(THETA, X)
    assert asked == [(True, True), (False, True), (False, True), (True, True)]


def test_no_more_is_kept_than_is_allowed(counted):
    kernel_fn, asked = counted
    kernel = kernels.remembered(kernel_fn, THETA, most=KERNEL(THETA, X).nbytes)
    for x in (X, Y, X, Y):
        kernel(THETA, x)
    assert len(asked) == 3  # X once, Y each time
