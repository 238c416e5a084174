"""The report on a solve: condition, jitter, negative mass, asymmetry, and what float32 loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl.kernels.numerics import numerics

ROTATION = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 20)))[0]


def with_eigenvalues(lam):
    return (ROTATION * np.asarray(lam)) @ ROTATION.T


def test_each_number_is_what_its_name_says():
    report = numerics(np.array([[2.0, 1], [1, 2]]), ridge=1.0)  # eigenvalues 1, 3
    assert report.condition == pytest.approx(2)
    assert report.jitter == pytest.approx(1 / 3)
    assert report.negative == report.asymmetry == 0
    assert report.gap < 1e-6


def test_negative_mass_is_the_share_below_zero():
    report = numerics(with_eigenvalues([-1.0] + [1.0] * 19))
    assert report.negative == pytest.approx(0.05)
    assert report.condition == pytest.approx(1)


def test_asymmetry_is_that_of_the_frobenius_norm():
    assert numerics(np.array([[1.0, 1], [0, 1]])).asymmetry == pytest.approx((2 / 3) ** 0.5)


def test_float32_loses_as_many_digits_as_the_condition_says_and_a_ridge_brings_them_back():
    K = with_eigenvalues(10.0 ** -np.linspace(0, 5, 20))
    plain, ridged = numerics(K), numerics(K, ridge=0.1)
    assert plain.condition == pytest.approx(1e5, rel=1e-6)
    assert 1e-7 < plain.gap < 1e5 * 1e-7 * 20
    assert plain.gap > 1e3 * ridged.gap
    assert ridged.condition == pytest.approx(1.1 / 0.10001, rel=1e-6)


def test_the_gap_is_measured_on_the_right_hand_side_that_is_given():
    K = with_eigenvalues(10.0 ** -np.linspace(0, 6, 20))
    easy, hard = (
        numerics(K, b=ROTATION[:, 0]),
        numerics(K, b=ROTATION[:, -1]),
    )  # solutions of length 1 and 1e6
    x64 = np.linalg.solve(K, ROTATION[:, 0])
    x32 = np.linalg.solve(np.float32(K), np.float32(ROTATION[:, 0]))
    assert easy.gap == pytest.approx(np.linalg.norm(x32 - x64) / np.linalg.norm(x64), rel=1e-12)
    assert easy.gap != hard.gap
    assert numerics(K) == numerics(K)


def test_a_block_reports_as_its_gram_matrix():
    K = with_eigenvalues(np.arange(1.0, 21))
    assert numerics(K.reshape(10, 2, 10, 2), ridge=0.5, b=np.ones((10, 2))) == numerics(
        K, ridge=0.5, b=np.ones(20)
    )


def test_float64_is_computed_in_where_jax_has_none():
    with jax.enable_x64(False):
        K = jnp.asarray(with_eigenvalues(10.0 ** -np.linspace(0, 4, 20)))
        assert K.dtype == jnp.float32
        report = numerics(K)
    lam = np.linalg.eigvalsh(np.asarray(K, np.float64))
    assert report.condition == pytest.approx(
        lam[-1] / lam[0], rel=1e-4
    )  # in float32 the smallest would be good to two digits
    assert 1e-8 < report.gap < 1e-1


def test_singular_kernels_are_told_and_not_solved():
    assert numerics(np.ones((2, 2))).gap == float("inf")
    zero, ridged = numerics(np.zeros((3, 3))), numerics(np.zeros((3, 3)), ridge=0.1)
    assert zero == (float("inf"), 0.0, 0.0, 0.0, float("inf"))
    assert ridged.condition == 1 and ridged.jitter == float("inf") and ridged.gap < 1e-6


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: numerics(np.ones((2, 3))), "a kernel of shape"),
        (lambda: numerics(np.ones((2, 2, 2))), "a kernel of shape"),
        (lambda: numerics(np.ones((2, 1, 1, 2))), "a kernel of shape"),
        (lambda: numerics(np.full((2, 2), np.nan)), "NaN or infinite"),
        (lambda: numerics(np.eye(2), ridge=-1.0), "ridge=-1"),
        (lambda: numerics(np.eye(2), b=np.ones(3)), "b has 3 entries"),
    ],
)
def test_what_cannot_be_solved_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call()
