"""A drift taken apart: the numbers of theory 12.2, and parts that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl import dynamics, kernels, losses, networks
from ntkcl.dynamics import attribution

PHI_A, PHI_B = jnp.array([[1.0, 0, 1], [0, 1, 0]]), jnp.array([[1.0, 1, 0], [0, 1, 1]])
R_B = jnp.array([[0.5], [2.5]])
K_AA = (PHI_A @ PHI_A.T)[:, None, :, None]
K_AB = (PHI_A @ PHI_B.T)[:, None, :, None]
ALPHA = jnp.linalg.solve(PHI_B @ PHI_B.T, R_B)  # trained to the end


def test_samples_and_modes_are_those_of_theory_12_2():
    moved = attribution.by_sample(K_AB, ALPHA)
    np.testing.assert_allclose(moved[0, 0], [-0.5, 1.5], atol=1e-12)
    drift = moved.sum(-1)
    np.testing.assert_allclose(drift, [[1], [1]], atol=1e-12)
    energies = attribution.mode_energies(K_AA, drift)
    np.testing.assert_allclose(energies, [0.5, 0.5], atol=1e-12)
    assert float(attribution.participation_rank(energies)) == pytest.approx(2)
    # A is interpolated, its loss (1/2) mean goes from 0 to 0.5: (d/2) . d_j
    change = attribution.loss_change(moved, jnp.zeros((2, 1)), jnp.ones(1)) / 2
    np.testing.assert_allclose(change.sum(0), [-0.25, 0.75], atol=1e-12)


def test_modes_are_ordered_by_their_eigenvalue_and_no_drift_has_none():
    energies = attribution.mode_energies(jnp.diag(jnp.array([1.0, 3, 2])), jnp.array([1.0, 2, 0]))
    np.testing.assert_allclose(energies, [0.8, 0, 0.2], atol=1e-12)
    nothing = attribution.mode_energies(jnp.eye(2), jnp.zeros((2, 1)))
    assert not nothing.any() and float(attribution.participation_rank(nothing)) == 0
    assert float(attribution.participation_rank(jnp.array([0.0, 0.3, 0]))) == pytest.approx(1)


def test_parts_add_up_to_drift_and_loss():
    """Three outputs, one of them outside of the old task's head, on a network whose forecast comes
    from the solver."""
    network = networks.mlp(outputs=3, width=16, depth=2, b_std=0.1)
    x = jax.random.normal(jax.random.key(0), (9, 4))
    theta = network.init(jax.random.key(1), x[0])
    inputs, y, head = (
        np.arange(5, 9),
        jax.random.normal(jax.random.key(2), (9, 3)),
        jnp.array([1.0, 0, 1]),
    )
    kernel = kernels.structured(network)
    step, f = dynamics.Step(inputs, y[5:], np.ones((4, 3))), jnp.zeros((9, 3))
    solve = dynamics.one_task(
        lambda inputs: kernel(theta, x, x[inputs]), f, step, dynamics.gradient_descent(0.01, 50)
    )
    drift = solve.change[:5]

    moved = attribution.by_sample(kernel(theta, x[:5], x[5:]), solve.alpha)
    np.testing.assert_allclose(moved.sum(-1), drift, atol=1e-13)
    layers = attribution.by_layer(kernels.layers(network)(theta, x[:5], x[5:]), solve.alpha)
    assert set(layers) == {"hidden_0", "hidden_1", "readout"}
    np.testing.assert_allclose(sum(layers.values()), drift, atol=1e-13)
    assert float(sum(attribution.shares(layers).values())) == pytest.approx(1)
    energies = attribution.mode_energies(kernel(theta, x[:5]), drift)
    assert float(energies.sum()) == pytest.approx(1) and energies.shape == (15,)

    value = jax.vmap(losses.squared_error().value, (0, 0, None))
    change = value(f[:5] + drift, y[:5], head) - value(f[:5], y[:5], head)
    reported = attribution.loss_change(moved, y[:5] - f[:5], head) / 2  # two active outputs
    np.testing.assert_allclose(reported.sum(1), change, atol=1e-13)
    assert np.abs(reported).max() > 1e-3


def test_half_of_every_product_of_two_samples_goes_to_each():
    """One old output, residual 0, moved by +1 and by -1: nothing is lost, and each sample is
    charged with nothing."""
    moved = jnp.array([[[1.0, -1.0]]])
    np.testing.assert_allclose(
        attribution.loss_change(moved, jnp.zeros((1, 1)), jnp.ones(1)), [[0, 0]]
    )
    np.testing.assert_allclose(
        attribution.loss_change(moved, jnp.ones((1, 1)), jnp.ones(1)), [[-1, 1]]
    )
