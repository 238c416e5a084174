"""Filters and the triangular solve against numbers worked out on paper, slow loops, and training itself."""

from functools import partial
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import train_linear

from ntkcl import forecast

ONE = np.ones(1)


def solve(phis, ys, rate, steps, readers=None):
    """The forecast for a linear model started at zero; rows are all train inputs, then `readers`."""
    sizes = np.cumsum([0] + [len(y) for y in ys])
    rows = [slice(a, b) for a, b in pairwise(sizes)]
    everything = np.concatenate([*phis, *([] if readers is None else [readers])])
    columns = (jnp.asarray(everything @ phi.T)[:, None, :, None] for phi in phis)
    filters = [partial(forecast.gradient_descent, rate=rate, steps=steps)] * len(ys)
    targets = [jnp.asarray(y, float)[:, None] for y in ys]
    return forecast.sequence(columns, rows, jnp.zeros((len(everything), 1)), targets, [ONE] * len(ys), filters)


def test_one_task_matches_theory_12_1():
    K = jnp.array([[2.0, 1.0], [1.0, 2.0], [1.0, 0.5]])
    done = forecast.one_task(
        K[:, None, :, None], slice(0, 2), jnp.zeros((3, 1)), jnp.array([[1.0], [0.0]]), ONE,
        partial(forecast.gradient_descent, rate=0.15, steps=5),
    )  # fmt: skip
    np.testing.assert_allclose(done.change[:, 0], [0.752983125, 0.1966884375, 0.3764915625], atol=1e-10)
    assert 2 * 2 / forecast.largest_eigenvalue(K[:2, None, :, None], ONE) == pytest.approx(1.3333333333, abs=1e-9)


@pytest.mark.parametrize(("rate", "drift"), [(0.1, 0.9176457), (0.05, 0.6794229117)])
def test_two_tasks_match_theory_12_2(rate, drift):
    """Task B from the converged network of task A: residual (0.5, 2.5) on B."""
    a, b = np.array([[1, 0, 1], [0, 1, 0]], float), np.array([[1, 1, 0], [0, 1, 1]], float)
    column = jnp.asarray(np.concatenate([a, b]) @ b.T)[:, None, :, None]
    f = jnp.array([[1.0], [-1.0], [-0.5], [-0.5]])
    rule = partial(forecast.gradient_descent, rate=rate, steps=7)
    done = forecast.one_task(column, slice(2, 4), f, jnp.array([[0.0], [2.0]]), ONE, rule)
    np.testing.assert_allclose(done.change[:2, 0], [drift, drift], atol=1e-7)


THREE = [np.array([[1.0, 0, 1, 0]]), np.array([[0, 1.0, 1, 0], [1, 0, 0, 1]]), np.array([[1.0, 1, 0, 0]])]
THREE_Y = [np.array([1.0]), np.array([-1.0, 2.0]), np.array([0.0])]


def test_three_tasks_match_theory_12_3():
    solves = solve(THREE, THREE_Y, 0.2, 10)
    alpha = np.concatenate([s.alpha.ravel() for s in solves])
    np.testing.assert_allclose(alpha, [0.4969766912, -0.7439625228, 0.7469675508, -0.2484792605], atol=1e-10)
    f = np.cumsum([s.change[:, 0] for s in solves], axis=0)
    np.testing.assert_allclose(f[-1], [0.7484791499, -1.2394276149, 1.7424325323, 0.0030231983], atol=1e-10)

    def loss(t, rows, y):
        return 0.5 * np.mean((f[t, rows] - y) ** 2)

    forgetting = [loss(-1, rows, y) - loss(t, rows, y) for t, (rows, y) in enumerate([([0], 1.0), ([1, 2], THREE_Y[1])])]
    np.testing.assert_allclose(forgetting, [0.0316130882, 0.0308755138], atol=1e-10)


ORDERS = {
    (0, 1, 2): 0.1589482422, (0, 2, 1): 0.1994245938, (1, 0, 2): 0.2172241211,
    (1, 2, 0): 0.2134558750, (2, 0, 1): 0.2008699097, (2, 1, 0): 0.1646770996,
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_matches_theory_12_4(order):
    K = np.array([[1, 0.5, 0.2], [0.5, 1, 0.4], [0.2, 0.4, 1]])
    phi = np.linalg.cholesky(K)[list(order)]
    y = np.array([1.0, -1.0, 1.0])[list(order)]
    f = sum(s.change[:, 0] for s in solve([phi[k : k + 1] for k in range(3)], [y[k : k + 1] for k in range(3)], 0.5, 2))
    assert 0.5 * np.mean((y - f) ** 2) == pytest.approx(ORDERS[order], abs=1e-10)


def test_the_solve_is_training_of_a_linear_model_step_by_step():
    rng = np.random.default_rng(0)
    phis, ys = [rng.normal(size=(n, 9)) for n in (4, 1, 6)], [rng.normal(size=n) for n in (4, 1, 6)]
    readers = rng.normal(size=(5, 9))
    thetas = train_linear(phis, ys, np.zeros(9), 0.03, 40)
    f = np.cumsum([s.change[:, 0] for s in solve(phis, ys, 0.03, 40, readers)], axis=0)
    everything = np.concatenate([*phis, readers])
    np.testing.assert_allclose(f, [everything @ theta for theta in thetas], atol=1e-12)


def test_the_filter_equals_its_sum_and_its_limit_at_zero():
    lam = np.concatenate([[0.0], np.logspace(-14, np.log10(19.9), 200)])
    for steps in (1, 2, 7, 200):
        slow = np.array([0.1 * sum((1 - 0.1 * v) ** s for s in range(steps)) for v in lam])
        np.testing.assert_allclose(forecast.gradient_descent(jnp.asarray(lam), 0.1, steps), slow, rtol=1e-12, atol=1e-14)
    assert float(forecast.gradient_descent(jnp.float64(0.0), 0.1, 5)) == 0.5
    assert float(forecast.gradient_descent(jnp.float64(1e-12), 0.1, 5)) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("gram", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_a_singular_kernel_gives_numbers_not_nan(gram):
    column = jnp.asarray(gram)[:, None, :, None]
    rule = partial(forecast.gradient_descent, rate=0.5, steps=3)
    done = forecast.one_task(column, slice(0, 2), jnp.zeros((2, 1)), jnp.array([[1.0], [0.5]]), ONE, rule)
    assert np.isfinite(done.change).all()
    f = np.zeros(2)
    for _ in range(3):
        f = f + 0.5 * np.array(gram) @ (np.array([1.0, 0.5]) - f)
    np.testing.assert_allclose(done.change[:, 0], f, atol=1e-12)


def test_inactive_outputs_send_no_gradient_and_may_still_drift():
    rng = np.random.default_rng(1)
    J = rng.normal(size=(3, 2, 11))  # three inputs, two outputs, eleven parameters
    K = jnp.asarray(np.einsum("iap,jbp->iajb", J, J))
    y = rng.normal(size=(3, 2))
    rule = partial(forecast.gradient_descent, rate=0.02, steps=30)
    done = forecast.one_task(K, slice(0, 3), jnp.zeros((3, 2)), jnp.asarray(y), np.array([0.0, 1.0]), rule)
    theta = train_linear([J[:, 1]], [y[:, 1]], np.zeros(11), 0.02, 30)[0]
    np.testing.assert_allclose(done.change, J @ theta, atol=1e-12)
    assert done.alpha.shape == (3, 1)
    assert abs(done.change[:, 0]).max() > 1e-3
    assert forecast.largest_eigenvalue(K, np.array([0.0, 1.0])) == pytest.approx(np.linalg.eigvalsh(J[:, 1] @ J[:, 1].T)[-1])


def test_agreement_knows_a_perfect_forecast_from_an_offset_from_noise():
    rng = np.random.default_rng(0)
    m = [rng.normal(size=(40, 2)) + 5.0, rng.normal(size=(30, 2)) - 5.0]
    assert forecast.agreement(m, m) == pytest.approx(dict(drift_r2=1, drift_cosine=1, drift_slope=1, skill=1))
    constant = [np.broadcast_to(d.mean(0), d.shape) for d in m]
    offset = forecast.agreement(m, constant)
    assert offset["drift_r2"] > 0.9 and offset["skill"] == pytest.approx(0.0, abs=1e-12)
    assert forecast.agreement(m, [2 * d for d in m])["drift_slope"] == pytest.approx(0.5)
    assert forecast.agreement(m, [-d for d in m])["drift_cosine"] == pytest.approx(-1)
    assert np.isnan(forecast.agreement([], [])["drift_r2"])
    assert np.isnan(forecast.agreement([m[0]], [np.full_like(m[0], np.nan)])["skill"])


def test_flips_need_the_right_direction():
    lost, gained, none = -1, 1, 0
    measured = np.array([lost, lost, gained, none, none, gained])
    predicted = np.array([lost, gained, gained, none, lost, none])
    assert forecast.flip_f1(measured, predicted) == pytest.approx(2 * 2 / (4 + 4))
    assert np.isnan(forecast.flip_f1(np.zeros(3), np.zeros(3)))


def test_rank_correlation_is_nan_for_constants():
    assert forecast.spearman(np.arange(5.0), np.arange(5.0) ** 3) == pytest.approx(1)
    assert np.isnan(forecast.spearman(np.ones(5), np.arange(5.0)))
