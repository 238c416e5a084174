"""The block that candidates share is read in place, and says what the kernel says."""

import jax
import numpy as np
import pytest

from ntkcl import kernels, networks

TRAINED = 7


@pytest.fixture(scope="module")
def case():
    network = networks.mlp(outputs=3, width=8)
    x = jax.random.normal(jax.random.key(0), (10, 5))
    theta = network.init(jax.random.key(1), x[0])
    calls = []

    def kernel_fn(*given):
        calls.append(given)
        return kernels.contraction(network)(*given)

    places = kernels.held(kernel_fn, theta, x, TRAINED)
    return places, np.asarray(kernels.contraction(network)(theta, x, x)), calls


@pytest.mark.parametrize("inputs", [[2, 3, 4], [6], [5, 1, 3], [2, 3, 4, 0, 6], [1, 1, 2], [0]])
def test_blocks_and_sums_over_rows_in_any_order_are_those_of_the_kernel(case, inputs):
    places, K, calls = case
    inputs = np.array(inputs)
    alpha = np.random.default_rng(0).normal(size=(len(inputs), 3))
    for rows in (np.array([0, 1, 2, 3]), np.array([6, 2])):
        np.testing.assert_allclose(
            places.block(rows, inputs), K[rows][:, :, inputs], rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(
        places.change(inputs, alpha),
        np.einsum("iajb,jb->ia", K[:, :, inputs], alpha),
        rtol=1e-5,
        atol=1e-5,
    )
    assert len(calls) == 2  # the trained inputs, and the others beside them, once


def test_a_slice_of_the_block_is_not_copied(case):
    places, *_ = case
    one, other = (places.block(np.arange(2), np.arange(a, a + 3)) for a in (1, 2))
    assert np.shares_memory(one, other)


def test_without_other_inputs_there_is_one_block():
    network = networks.mlp(outputs=2, width=4)
    x = jax.random.normal(jax.random.key(0), (4, 5))
    theta = network.init(jax.random.key(1), x[0])
    places = kernels.held(kernels.contraction(network), theta, x, len(x))
    assert places.change(np.arange(2), np.ones((2, 2))).shape == (4, 2)
