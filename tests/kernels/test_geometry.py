"""Geometry of kernels: the numbers worked out on paper, and the laws between the measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl import kernels, networks
from ntkcl.kernels import geometry

K1 = jnp.array([[2.0, 1, 0], [1, 2, 1], [0, 1, 2]])
K2 = jnp.array([[1.0, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 1]])
Y = jnp.array([1.0, -1, 1])
K_AA, K_AB, K_BB = jnp.diag(jnp.array([2.0, 1])), jnp.ones((2, 2)), jnp.array([[2.0, 1], [1, 2]])
ZERO = jnp.zeros((3, 3))


def psd(seed, n, rank=None):
    J = jax.random.normal(jax.random.key(seed), (n, rank or n))
    return J @ J.T


def test_alignments_are_those_of_theory_12_6():
    assert float(geometry.alignment(K1, K2)) == pytest.approx(0.9847319278, abs=1e-10)
    assert float(geometry.cka(K1, K2)) == pytest.approx(0.9828721869, abs=1e-10)
    assert float(geometry.alignment(K1, Y[:, None] * Y[None])) == pytest.approx(
        0.1666666667, abs=1e-10
    )
    assert float(geometry.target_alignment(K1, Y)) == pytest.approx(0.3162277660, abs=1e-10)


def test_overlap_energy_and_modes_are_those_of_theory_12_2():
    np.testing.assert_allclose(geometry.overlap_cosines(K_AA, K_AB, K_BB), [1, 0], atol=1e-8)
    assert float(geometry.cross_energy(K_AA, K_AB, K_BB)) == pytest.approx(0.5656854249, abs=1e-10)
    modes = geometry.drift_modes(K_AA, jnp.array([1.0, 1]))
    np.testing.assert_allclose(modes.eigenvalues, [2, 1], atol=1e-12)
    np.testing.assert_allclose(modes.energies, [0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(modes.cumulative, [0.5, 1], atol=1e-12)
    assert float(geometry.participation(modes.energies)) == pytest.approx(2)


@pytest.mark.parametrize("measure", [geometry.alignment, geometry.cka])
def test_alignments_are_symmetric_scale_free_at_most_one_and_one_with_themselves(measure):
    A, B = psd(1, 6), psd(2, 6)
    assert float(measure(A, B)) == pytest.approx(float(measure(B, A)), abs=1e-14)
    assert float(measure(3 * A, 0.1 * B)) == pytest.approx(float(measure(A, B)), abs=1e-14)
    assert 0 < float(measure(A, B)) < 1
    assert float(measure(A, 7 * A)) == pytest.approx(1, abs=1e-14)


def test_cka_alone_does_not_see_what_all_features_have_in_common():
    A, B = psd(1, 6), psd(2, 6)
    assert float(geometry.cka(A + 5, B)) == pytest.approx(float(geometry.cka(A, B)), abs=1e-12)
    assert abs(float(geometry.alignment(A + 5, B) - geometry.alignment(A, B))) > 1e-3


def test_distance_and_velocity_follow_from_cka():
    assert float(geometry.kernel_distance(K1, K2)) == pytest.approx(1 - 0.9828721869, abs=1e-10)
    assert float(geometry.velocity(K1, K2, dt=0.5)) == pytest.approx(
        2 * (1 - 0.9828721869), abs=1e-9
    )
    with pytest.raises(ValueError, match="dt=0"):
        geometry.velocity(K1, K2, dt=0.0)


def test_relative_change_is_the_frobenius_norm_of_the_difference_over_that_of_the_first():
    assert float(geometry.relative_change(K1, K2)) == pytest.approx(
        np.linalg.norm(K1 - K2) / np.linalg.norm(K2), abs=1e-14
    )
    assert float(geometry.relative_change(2 * K2, K2)) == pytest.approx(1, abs=1e-14)


def test_a_change_off_the_new_tasks_coefficients_does_not_reach_the_drift():
    alpha = jnp.array([1.0, -1, 0])
    change = jnp.array([[1.0, 1, 5], [2, 2, 5], [3, 3, 5]])  # change @ alpha = 0
    assert float(geometry.drift_change(K1 + change, K1, alpha)) == pytest.approx(0, abs=1e-14)
    assert float(geometry.drift_change(3 * K1, K1, alpha)) == pytest.approx(2, abs=1e-14)
    got = float(geometry.drift_change(K2, K1, alpha))
    assert got == pytest.approx(
        np.linalg.norm((K2 - K1) @ alpha) / np.linalg.norm(K1 @ alpha), abs=1e-14
    )


def test_overlap_cosines_are_those_of_the_row_spaces():
    """Two planes in five dimensions that share a direction, one of them given by three dependent
    rows."""
    V = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (5, 5)))[0].T
    angle = 0.7
    J_S = jnp.stack([2 * V[0], V[0] + 3 * V[1], V[0] - V[1]])
    J_k = jnp.stack([V[0], jnp.cos(angle) * V[1] + jnp.sin(angle) * V[2] + V[0]])
    cosines = geometry.overlap_cosines(J_S @ J_S.T, J_S @ J_k.T, J_k @ J_k.T)
    np.testing.assert_allclose(cosines, [1, np.cos(angle)], atol=1e-7)


def test_the_rank_cut_keeps_rounding_out_of_the_tangent_space():
    """A rank-deficient kernel in float32: without a cut its null space comes back as cosines."""
    J = jax.random.normal(jax.random.key(0), (40, 3), jnp.float32)
    K = J @ J.T
    cosines = geometry.overlap_cosines(K, K, K)
    np.testing.assert_allclose(cosines[:3], 1, atol=1e-3)
    np.testing.assert_allclose(cosines[3:], 0, atol=1e-3)
    assert float(geometry.overlap_cosines(K, K, K, cut=0.0)[3]) > 0.1
    with pytest.raises(ValueError, match="cut=1"):
        geometry.overlap_cosines(K, K, K, cut=1.0)


def test_orthogonal_tasks_have_neither_overlap_nor_cross_energy_and_equal_ones_all():
    A = psd(1, 4)
    assert not geometry.overlap_cosines(A, jnp.zeros((4, 4)), A).any()
    assert float(geometry.cross_energy(A, jnp.zeros((4, 4)), A)) == 0
    np.testing.assert_allclose(geometry.overlap_cosines(A, A, A), 1, atol=1e-7)
    assert float(geometry.cross_energy(A, A, A)) == pytest.approx(1, abs=1e-14)


def test_spectrum_and_effective_rank():
    np.testing.assert_allclose(geometry.spectrum(K1), [2 + 2**0.5, 2, 2 - 2**0.5], atol=1e-12)
    assert float(geometry.participation(geometry.spectrum(jnp.eye(5)))) == pytest.approx(5)
    assert float(geometry.participation(geometry.spectrum(psd(1, 5, rank=1)))) == pytest.approx(1)
    assert float(geometry.participation(jnp.full(4, 1e-200))) == pytest.approx(4)


def test_drift_energies_are_all_in_the_mode_that_drifts():
    lam, U = np.linalg.eigh(K1)
    modes = geometry.drift_modes(
        K1, 3 * jnp.asarray(U[:, 0])
    )  # the smallest eigenvalue, the last mode
    np.testing.assert_allclose(modes.energies, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(modes.eigenvalues, lam[::-1], atol=1e-12)


@pytest.fixture(scope="module")
def network():
    network = networks.mlp(outputs=2, width=8, depth=2)
    x = jax.random.normal(jax.random.key(1), (5, 4))
    thetas = [network.init(jax.random.key(k), x[0]) for k in (0, 2)]
    return network, thetas, x


def test_a_block_measures_as_its_gram_matrix(network):
    network, (first, second), x = network
    kernel_fn = kernels.structured(network)
    blocks = kernel_fn(first, x), kernel_fn(second, x)
    grams = [K.reshape(10, 10) for K in blocks]
    for measure in (
        geometry.alignment,
        geometry.cka,
        geometry.relative_change,
        geometry.kernel_distance,
    ):
        assert float(measure(*blocks)) == float(measure(*grams))
    v = jax.random.normal(jax.random.key(3), (5, 2))
    assert float(geometry.target_alignment(blocks[0], v)) == float(
        geometry.target_alignment(grams[0], v.reshape(-1))
    )
    np.testing.assert_array_equal(
        geometry.drift_modes(blocks[0], v).energies,
        geometry.drift_modes(grams[0], v.reshape(-1)).energies,
    )
    assert float(geometry.drift_change(*blocks, v)) == float(
        geometry.drift_change(*grams, v.reshape(-1))
    )
    np.testing.assert_array_equal(geometry.spectrum(blocks[0]), geometry.spectrum(grams[0]))
    S, M, k = blocks[0][:3, :, :3], blocks[0][:3, :, 3:], blocks[0][3:, :, 3:]
    assert geometry.overlap_cosines(S, M, k).shape == (4,)
    assert 0 < float(geometry.cross_energy(S, M, k)) < 1


def test_columns_of_targets_count_as_so_many_targets():
    columns = jax.random.normal(jax.random.key(0), (3, 2))
    expected = geometry.cka(K1, columns @ columns.T)
    assert float(geometry.target_alignment(K1, columns)) == pytest.approx(
        float(expected), abs=1e-14
    )


def test_any_measure_maps_over_the_layers_of_a_kernel(network):
    network, (first, second), x = network
    layers_fn = kernels.layers(network)
    before, now = layers_fn(first, x), layers_fn(second, x)
    change = jax.tree.map(geometry.relative_change, now, before)
    assert set(change) == set(before)
    for layer, value in change.items():
        assert float(value) == pytest.approx(
            np.linalg.norm(now[layer] - before[layer]) / np.linalg.norm(before[layer]), abs=1e-12
        )


def test_zeros_and_constants_have_no_direction_and_give_no_nan():
    assert float(geometry.alignment(ZERO, K1)) == float(geometry.alignment(ZERO, ZERO)) == 0
    assert float(geometry.cka(jnp.full((3, 3), 0.3), K1)) == 0
    assert float(geometry.target_alignment(K1, jnp.full(3, 0.3))) == 0
    assert float(geometry.relative_change(ZERO, ZERO)) == 0
    assert float(geometry.relative_change(K1, ZERO)) == float("inf")
    assert float(geometry.drift_change(K1, K2, jnp.zeros(3))) == 0
    assert not geometry.overlap_cosines(ZERO, ZERO, K1).any()
    assert float(geometry.cross_energy(ZERO, ZERO, K1)) == 0
    assert float(geometry.participation(jnp.zeros(3))) == 0
    assert not geometry.drift_modes(K1, jnp.zeros(3)).energies.any()


def test_measures_may_be_jitted_and_keep_float32():
    A, B = jnp.float32(K1), jnp.float32(K2)
    for measure in (geometry.alignment, geometry.cka, geometry.relative_change):
        got = jax.jit(measure)(A, B)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, measure(K1, K2), rtol=1e-5)
    np.testing.assert_allclose(
        jax.jit(geometry.overlap_cosines)(K_AA, K_AB, K_BB), [1, 0], atol=1e-8
    )


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: geometry.cka(K1, K_AA), "same inputs"),
        (lambda: geometry.alignment(jnp.ones(3), jnp.ones(3)), r"expected \[N1, N2\]"),
        (lambda: geometry.spectrum(jnp.ones((2, 3))), "both sides"),
        (lambda: geometry.overlap_cosines(K1, jnp.ones((2, 3)), K2), "K_Sk has shape"),
        (lambda: geometry.cross_energy(K_AA, jnp.ones((2, 3)), K_BB), "K_Sk has shape"),
        (lambda: geometry.target_alignment(K1, jnp.ones(4)), "targets of shape"),
        (lambda: geometry.target_alignment(K1, jnp.ones((1, 3))), "targets of shape"),
        (lambda: geometry.drift_modes(K1, jnp.ones(4)), "drift has shape"),
        (lambda: geometry.drift_change(K1, K2, jnp.ones(2)), "alpha has shape"),
    ],
)
def test_what_does_not_belong_together_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call()


def test_nan_is_never_taken_for_zero():
    K = jnp.eye(3)
    bad = K.at[0, 1].set(jnp.nan)
    for measure in (geometry.alignment, geometry.cka, geometry.relative_change):
        assert np.isnan(measure(bad, K)) and np.isnan(measure(bad, bad))
    assert np.isnan(geometry.drift_change(bad, bad, jnp.ones(3)))
    assert np.isnan(geometry.cross_energy(K, bad, K)) and np.isnan(geometry.cross_energy(bad, K, K))
    assert np.isnan(geometry.participation(bad[0])) and np.isnan(
        geometry.relative_change(bad, 0 * K)
    )
