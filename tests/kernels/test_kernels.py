"""Kernels against a hand-made network, a pair-by-pair loop, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import MLPS, linear, mlp, quadratic_features
from oracles import kernel as oracle

from ntkcl import kernels, networks
from ntkcl.networks.layers import ACTIVATIONS

HAND = {
    "hidden_0": {"kernel": jnp.array([[1.0, 1.0], [0.0, -1.0]]), "bias": jnp.array([0.0, 1.0])},
    "readout": {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.array([0.5])},
}
HAND_X = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]])
HAND_K = [[1.8607106781, 0.0125, 0.515], [0.0125, 0.07375, 0.2625], [0.515, 0.2625, 1.515]]
HAND_BY_LEAF = {
    ("hidden_0", "kernel"): [[1.25, 0, 0.25], [0, 0.0625, 0.25], [0.25, 0.25, 1.25]],
    ("hidden_0", "bias"): [
        [0.025, 0.0025, 0.005],
        [0.0025, 0.00125, 0.0025],
        [0.005, 0.0025, 0.005],
    ],
    ("readout", "kernel"): [[0.5757106781, 0, 0.25], [0, 0, 0], [0.25, 0, 0.25]],
    ("readout", "bias"): [[0.01] * 3] * 3,
}


@pytest.fixture
def hand(monkeypatch):
    """Input (0, 1) sits on the kink of one hidden unit: the paper calculation takes the derivative
    there as 1/2, jax.nn as 0."""
    monkeypatch.setitem(ACTIVATIONS, "relu", lambda z: jnp.maximum(z, 0.0))
    return networks.mlp(outputs=1, width=2, depth=1, b_std=0.1)


@pytest.mark.parametrize("form", ["structured", "contraction"])
def test_the_hand_made_network_has_the_kernel_worked_out_on_paper(hand, form):
    kernel_fn = (
        kernels.structured(hand) if form == "structured" else kernels.contraction(hand.apply)
    )
    f = jax.vmap(hand.apply, (None, 0))(HAND, HAND_X)
    np.testing.assert_allclose(f[:, 0], [1.6914213562, 0.05, 0.55], atol=1e-10)
    np.testing.assert_allclose(kernel_fn(HAND, HAND_X)[:, 0, :, 0], HAND_K, atol=1e-10)


@pytest.mark.parametrize("leaf", HAND_BY_LEAF)
def test_each_leaf_contributes_what_the_paper_calculation_says(hand, leaf):
    layer, name = leaf

    def apply(value, x):
        return hand.apply(HAND | {layer: HAND[layer] | {name: value}}, x)

    K = kernels.contraction(apply)(HAND[layer][name], HAND_X)
    np.testing.assert_allclose(K[:, 0, :, 0], HAND_BY_LEAF[leaf], atol=1e-10)


@pytest.mark.parametrize("name", MLPS)
@pytest.mark.parametrize("form", ["structured", "contraction"])
def test_kernels_agree_with_the_pair_by_pair_oracle(name, form):
    network = mlp(name)
    x1, x2 = (jax.random.normal(jax.random.key(k), (n, 4)) for k, n in ((1, 3), (2, 5)))
    theta = network.init(jax.random.key(0), x1[0])
    kernel_fn = (
        kernels.structured(network) if form == "structured" else kernels.contraction(network.apply)
    )
    expected = oracle(network.apply, theta, x1, x2)
    np.testing.assert_allclose(kernel_fn(theta, x1, x2), expected, atol=1e-12 * abs(expected).max())


@pytest.mark.parametrize("name", MLPS)
def test_the_gram_matrix_is_a_reshape_symmetric_and_positive(name):
    network = mlp(name)
    x = jax.random.normal(jax.random.key(1), (6, 4))
    theta = network.init(jax.random.key(0), x[0])
    kernel_fn = kernels.structured(network)
    K = kernel_fn(theta, x)
    gram = np.asarray(K).reshape(2 * [K.shape[0] * K.shape[1]])
    np.testing.assert_allclose(gram, gram.T, atol=1e-13 * abs(gram).max())
    assert np.linalg.eigvalsh(gram)[0] > -1e-12 * abs(gram).max()
    np.testing.assert_allclose(K, kernel_fn(theta, x, x), atol=1e-13 * abs(gram).max())
    np.testing.assert_allclose(
        kernel_fn(theta, x[:2], x[2:]),
        kernel_fn(theta, x[2:], x[:2]).transpose(2, 3, 0, 1),
        atol=1e-12,
    )


def test_a_plain_function_goes_through_contraction():
    model = linear(quadratic_features, 2)
    x = jax.random.normal(jax.random.key(1), (4, 3))
    K = kernels.contraction(model.apply)(model.init(jax.random.key(0), x[0]), x)
    phi = jax.vmap(quadratic_features)(x)
    np.testing.assert_allclose(K, np.einsum("ij,ab->iajb", phi @ phi.T, np.eye(2)), atol=1e-12)


def test_float32_stays_float32_and_is_near_float64():
    network = mlp("deep with biases")
    x = jax.random.normal(jax.random.key(1), (4, 6))
    theta = network.init(jax.random.key(0), x[0])
    single = kernels.structured(network)(jax.tree.map(jnp.float32, theta), jnp.float32(x))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, kernels.structured(network)(theta, x), rtol=1e-4, atol=1e-5)


def test_the_average_over_wide_networks_is_the_infinite_width_kernel_of_theory_12_5():
    """ReLU, L = 2, s_w 2, beta .1: within four standard errors of the mean over 64 networks."""
    x = jnp.array([[1.0, 0, 0], [0, 1, 0], [1, 2, 2]])
    network = networks.mlp(outputs=1, width=2000, w_std=2**0.5, b_std=0.1)
    kernel_fn = kernels.structured(network)
    K = np.stack(
        [kernel_fn(network.init(jax.random.key(k), x[0]), x)[:, 0, :, 0] for k in range(64)]
    )
    expected = {(0, 0): 1.3633333333, (0, 1): 0.2354602531, (0, 2): 1.4387678395, (2, 2): 12.03}
    for (i, j), value in expected.items():
        error = K[:, i, j].std(ddof=1) / 8
        assert error < 0.01 * value + 0.01 and K[:, i, j].mean() == pytest.approx(
            value, abs=4 * error
        )


def test_the_outputs_of_a_block_averaged_one_by_one_and_made_from_scalars():
    K = np.asarray(jax.random.normal(jax.random.key(0), (4, 3, 5, 3)))
    gram = K.reshape(12, 15)
    mean = np.array(
        [
            [np.trace(gram[3 * i : 3 * i + 3, 3 * j : 3 * j + 3]) / 3 for j in range(5)]
            for i in range(4)
        ]
    )
    np.testing.assert_allclose(kernels.traced(K), mean, atol=1e-14)
    np.testing.assert_array_equal(kernels.diagonal(K)[:, :, 1], gram[1::3, 1::3])
    np.testing.assert_allclose(
        kernels.traced(kernels.with_outputs(jnp.asarray(mean), 3)), mean, atol=1e-14
    )
    np.testing.assert_array_equal(kernels.with_outputs(jnp.asarray(mean), 2)[:, 0, :, 1], 0 * mean)
