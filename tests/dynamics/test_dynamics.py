"""Filters and the triangular solve against numbers worked out on paper, slow loops, and training
itself."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import train_linear

from ntkcl import dynamics, forecast, kernels, metrics

RULES_12_1 = {
    "flow, t = 1": (dynamics.gradient_flow(0.15, 1), [0.250831936, 0.1115399124, 0.1254159680]),
    "flow, t = 5": (dynamics.gradient_flow(0.15, 5), [0.7111171113, 0.1834836641, 0.3555585557]),
    "flow, t = 100": (
        dynamics.gradient_flow(0.15, 100),
        [0.9999998470, 1.5295116e-07, 0.4999999235],
    ),
    "GD": (dynamics.gradient_descent(0.15, 5), [0.752983125, 0.1966884375, 0.3764915625]),
    "heavy ball": (dynamics.heavy_ball(0.15, 5, 0.9), [1.498250625, 0.1419459375, 0.7491253125]),
    "Nesterov": (dynamics.nesterov(0.15, 5, 0.9), [1.2045141439, -0.1250427009, 0.6022570719]),
    "converged": (dynamics.converged(), [1.0, 0.0, 0.5]),
}


def at(K):
    """Columns of a kernel [N, c, N, c]."""
    return lambda inputs: jnp.asarray(K)[:, :, inputs]


def step(rows, y, weights=None):
    y = jnp.asarray(y, float)
    return dynamics.Step(
        np.asarray(rows),
        y,
        np.ones(y.shape) if weights is None else np.broadcast_to(weights, y.shape),
    )


def solve(phis, ys, rate, steps, readers=None):
    """The forecast for a linear model started at zero; rows are all train inputs, then
    `readers`."""
    sizes = np.cumsum([0] + [len(y) for y in ys])
    everything = np.concatenate([*phis, *([] if readers is None else [readers])])
    K = (everything @ everything.T)[:, None, :, None]
    rule = dynamics.gradient_descent(rate, steps)
    parts = [
        lambda fs, a=a, b=b, y=y: step(np.arange(a, b), y[:, None])
        for (a, b), y in zip(pairwise(sizes), ys, strict=True)
    ]
    return dynamics.sequence(at(K), jnp.zeros((len(everything), 1)), parts, [rule] * len(ys))


@pytest.mark.parametrize("name", RULES_12_1)
def test_one_task_matches_theory_12_1(name):
    rule, expected = RULES_12_1[name]
    K = np.array([[2.0, 1.0, 1.0], [1.0, 2.0, 0.5], [1.0, 0.5, 3.0]])
    done = dynamics.one_task(
        at(K[:, None, :, None]), jnp.zeros((3, 1)), step([0, 1], [[1.0], [0.0]]), rule
    )
    np.testing.assert_allclose(done.change[:, 0], expected, atol=1e-10)
    top = dynamics.largest_eigenvalue(K[:2, None, :2, None], np.ones((2, 1)))
    assert 2 * 2 / top == pytest.approx(1.3333333333, abs=1e-9) and float(
        done.top
    ) == pytest.approx(top)


def test_a_plain_function_is_a_rule_like_any_other():
    K, task = at(np.diag([2.0, 1.0])[:, None, :, None]), step([0, 1], [[1.0], [0.5]])
    alpha = dynamics.prepared(K, task).coefficients(lambda lam, r: 1 / (1 + lam), task.targets)
    np.testing.assert_allclose(alpha, [[1 / 3], [1 / 4]], rtol=1e-14)


THREE = [
    np.array([[1.0, 0, 1, 0]]),
    np.array([[0, 1.0, 1, 0], [1, 0, 0, 1]]),
    np.array([[1.0, 1, 0, 0]]),
]
THREE_Y = [np.array([1.0]), np.array([-1.0, 2.0]), np.array([0.0])]


def test_three_tasks_match_theory_12_3():
    solves = solve(THREE, THREE_Y, 0.2, 10)
    alpha = np.concatenate([s.alpha.ravel() for s in solves])
    np.testing.assert_allclose(
        alpha, [0.4969766912, -0.7439625228, 0.7469675508, -0.2484792605], atol=1e-10
    )
    f = np.cumsum([s.change[:, 0] for s in solves], axis=0)
    np.testing.assert_allclose(
        f[-1], [0.7484791499, -1.2394276149, 1.7424325323, 0.0030231983], atol=1e-10
    )

    def loss(t, rows, y):
        return 0.5 * np.mean((f[t, rows] - y) ** 2)

    forgetting = [
        loss(-1, rows, y) - loss(t, rows, y)
        for t, (rows, y) in enumerate([([0], 1.0), ([1, 2], THREE_Y[1])])
    ]
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
    f = sum(
        s.change[:, 0]
        for s in solve([phi[k : k + 1] for k in range(3)], [y[k : k + 1] for k in range(3)], 0.5, 2)
    )
    assert 0.5 * np.mean((y - f) ** 2) == pytest.approx(ORDERS[order], abs=1e-10)


@pytest.mark.parametrize("decompose", ["eigenvectors", "lanczos"])
def test_a_step_from_each_of_several_outputs_is_one_from_each_in_turn(decompose):
    rng = np.random.default_rng(3)
    jacobian = rng.normal(size=(7, 2, 30))
    kernel = np.einsum("iap,jbp->iajb", jacobian, jacobian)
    places = kernels.held(
        lambda theta, a, b=None: kernel[a][:, :, a if b is None else b], (), np.arange(7), 5
    )
    weights = rng.uniform(0.5, 1.0, size=(4, 2))
    weights[1, 0] = 0
    step = dynamics.Step(np.array([0, 1, 2, 4]), rng.normal(size=(4, 2)), weights)
    outputs = rng.normal(size=(3, 7, 2))
    rule = dynamics.gradient_descent(0.01, 20)
    prepare = dynamics.prepared if decompose == "eigenvectors" else forecast.prepare(10, 0)
    changes = dynamics.one_task_from_each(places, outputs, step, rule, prepare)
    for f, change in zip(outputs, changes, strict=True):
        alone = dynamics.one_task(places, jnp.asarray(f), step, rule, prepare)
        np.testing.assert_allclose(change, alone.change, rtol=1e-10, atol=1e-12)


def test_a_step_from_each_of_none_or_with_a_ridge_is_refused():
    step = dynamics.Step(np.array([0]), np.zeros((1, 1)), np.ones((1, 1)))
    rule = dynamics.gradient_descent(0.1, 2)
    with pytest.raises(ValueError, match="with b of at least 1"):
        dynamics.one_task_from_each(
            lambda i: np.ones((1, 1, 1, 1)), np.zeros((0, 1, 1)), step, rule
        )
    ridge = step._replace(ridge=0.1)
    with pytest.raises(ValueError, match="Step: has a ridge"):
        dynamics.one_task_from_each(
            lambda i: np.ones((1, 1, 1, 1)), np.zeros((1, 1, 1)), ridge, rule
        )


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
        np.testing.assert_allclose(
            dynamics.gradient_descent(0.1, steps)(jnp.asarray(lam), None),
            slow,
            rtol=1e-12,
            atol=1e-14,
        )
    few = dynamics.gradient_descent(0.1, 5)(jnp.array([0.0, 1e-12]), None)
    assert float(few[0]) == 0.5 and float(few[1]) == pytest.approx(0.5, abs=1e-12)


def test_momentum_matches_theory_12_1():
    lam = jnp.array([0.0, 2.0])
    np.testing.assert_allclose(
        dynamics.heavy_ball(0.1, 10, 0.9)(lam, None), [4.1381059609, 0.4978000647], atol=1e-10
    )
    assert float(dynamics.nesterov(0.1, 10, 0.9)(lam, None)[1]) == pytest.approx(
        0.4743196322, abs=1e-10
    )


def test_a_schedule_of_one_rate_is_that_rate_and_others_are_products():
    lam = jnp.linspace(0, 5, 7)
    for rule in (
        dynamics.gradient_descent,
        lambda *a: dynamics.heavy_ball(*a, 0.8),
        lambda *a: dynamics.nesterov(*a, 0.8),
    ):
        np.testing.assert_allclose(
            rule(jnp.full(6, 0.1), 6)(lam, None), rule(0.1, 6)(lam, None), rtol=1e-13
        )
    rates = jnp.array([0.3, 0.1, 0.02])
    left = 1 - lam * dynamics.gradient_descent(rates, 3)(lam, None)
    np.testing.assert_allclose(left, jnp.prod(1 - rates[:, None] * lam[None], 0), atol=1e-14)


@pytest.mark.parametrize("kind", ["gradient_descent", "heavy_ball", "nesterov", "gradient_flow"])
def test_stopping_early_is_training_for_as_long_as_the_loss_is_above(kind):
    rng = np.random.default_rng(3)
    lam, r = jnp.asarray(np.abs(rng.normal(size=9))), jnp.asarray(rng.normal(size=9))
    more = (0.5,) if kind in ("heavy_ball", "nesterov") else ()
    make = getattr(dynamics, kind)

    def loss(rule):
        return float(0.5 * jnp.sum((r * (1 - lam * rule(lam, r))) ** 2))

    stop = 0.3 * float(0.5 * jnp.sum(r**2))
    stopped = make(0.02, 2000, *more, stop=stop)
    if kind == "gradient_flow":
        assert loss(stopped) == pytest.approx(stop, rel=1e-12)
    else:
        losses = [loss(make(0.02, steps, *more)) for steps in range(1, 60)]
        first = next(k for k, value in enumerate(losses) if value <= stop)
        assert first > 2 and loss(stopped) == pytest.approx(losses[first], rel=1e-12)
    assert (
        float(jnp.max(jnp.abs(make(0.1, 400, *more, stop=10 * stop)(lam, r)))) == 0
    )  # already there
    np.testing.assert_allclose(
        make(0.1, 7, *more, stop=0.0)(lam, r), make(0.1, 7, *more)(lam, r), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dynamics.gradient_descent(0.1, 0), "rule.steps=0"),
        (
            lambda: dynamics.heavy_ball(0.1, 5, 1.0),
            "rule.momentum=1.0: expected a number from 0 to below 1",
        ),
        (
            lambda: dynamics.gradient_descent(jnp.ones(4), 5),
            r"rule.rate has shape \(4,\); expected one rate or a schedule of 5",
        ),
        (lambda: dynamics.gradient_flow(0.1, -1), "rule.time=-1"),
        (lambda: dynamics.converged(cut=-1.0), "rule.cut=-1.0"),
        (lambda: dynamics.gradient_descent(0.1, 5, stop=-1.0), "rule.stop=-1.0"),
    ],
)
def test_rules_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "gram", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
)
def test_a_singular_kernel_gives_numbers_not_nan(gram):
    K = at(np.asarray(gram)[:, None, :, None])
    task = step([0, 1], [[1.0], [0.5]])
    rules = [
        dynamics.converged(),
        dynamics.gradient_flow(0.5, 3),
        dynamics.heavy_ball(0.5, 3, 0.5),
        dynamics.nesterov(0.5, 3, 0.5),
    ]
    assert all(
        np.isfinite(dynamics.one_task(K, jnp.zeros((2, 1)), task, rule).change).all()
        for rule in rules
    )
    done = dynamics.one_task(K, jnp.zeros((2, 1)), task, dynamics.gradient_descent(0.5, 3))
    f = np.zeros(2)
    for _ in range(3):
        f = f + 0.5 * np.array(gram) @ (np.array([1.0, 0.5]) - f)
    np.testing.assert_allclose(done.change[:, 0], f, atol=1e-12)


def test_inactive_outputs_send_no_gradient_and_may_still_drift():
    rng = np.random.default_rng(1)
    J = rng.normal(size=(3, 2, 11))  # three inputs, two outputs, eleven parameters
    K = jnp.asarray(np.einsum("iap,jbp->iajb", J, J))
    y = rng.normal(size=(3, 2))
    done = dynamics.one_task(
        at(K), jnp.zeros((3, 2)), step(range(3), y, [0.0, 1.0]), dynamics.gradient_descent(0.02, 30)
    )
    theta = train_linear([J[:, 1]], [y[:, 1]], np.zeros(11), 0.02, 30)[0]
    np.testing.assert_allclose(done.change, J @ theta, atol=1e-12)
    assert done.alpha.shape == (3, 2) and not done.alpha[:, 0].any()
    assert abs(done.change[:, 0]).max() > 1e-3
    assert dynamics.largest_eigenvalue(K, np.array([[0.0, 1.0]] * 3)) == pytest.approx(
        np.linalg.eigvalsh(J[:, 1] @ J[:, 1].T)[-1]
    )


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("scaled", [False, True])
def test_weighted_rows_are_kept_out_of_directions(columns, scaled):
    """Of weights that are not one; also where they are those of a decomposition made before."""
    rng = np.random.default_rng(2)
    J, y, rate, weight = rng.normal(size=(5, 9)), rng.normal(size=3), 0.02, 4.0
    out = J[3:4].T  # training on rows 0 to 2 must not move row 3
    K = J @ J.T
    projected = J @ (np.eye(9) - out @ out.T / (out.T @ out)) @ J.T
    f = np.zeros(5)
    for _ in range(7):
        f = f + rate * weight * projected[:, :3] @ (y - f[:3])

    block = jnp.asarray(K)[:, None, :, None]
    kernel = (
        (lambda inputs: block[:, :, inputs])
        if columns
        else dynamics.Places(
            lambda rows, inputs: block[rows][:, :, inputs],
            lambda inputs, alpha: dynamics.read_out(block[:, :, inputs], alpha),
        )
    )
    removed = dynamics.Removed(np.array([3]))
    weights = np.full((3, 1), 1.0 if scaled else weight)
    step = dynamics.Step(np.arange(3), jnp.asarray(y)[:, None], weights, removed=removed)

    def prepare(*given):
        return dynamics.prepared(*given).scaled(weight if scaled else 1.0)

    rule = dynamics.gradient_descent(rate, 7)
    solve = dynamics.one_task(kernel, jnp.zeros((5, 1)), step, rule, prepare)
    np.testing.assert_allclose(solve.change[:, 0], f, atol=1e-12)
    assert abs(solve.change[3, 0]) < 1e-12 < abs(solve.change[4, 0])


def test_agreement_knows_a_perfect_forecast_from_an_offset_from_noise():
    rng = np.random.default_rng(0)
    m = [rng.normal(size=(40, 2)) + 5.0, rng.normal(size=(30, 2)) - 5.0]
    assert metrics.agreement(m, m) == pytest.approx(
        dict(drift_r2=1, drift_cosine=1, drift_slope=1, skill=1)
    )
    constant = [np.broadcast_to(d.mean(0), d.shape) for d in m]
    offset = metrics.agreement(m, constant)
    assert offset["drift_r2"] > 0.9 and offset["skill"] == pytest.approx(0.0, abs=1e-12)
    assert metrics.agreement(m, [2 * d for d in m])["drift_slope"] == pytest.approx(0.5)
    assert metrics.agreement(m, [-d for d in m])["drift_cosine"] == pytest.approx(-1)
    assert np.isnan(metrics.agreement([], [])["drift_r2"])
    assert np.isnan(metrics.agreement([m[0]], [np.full_like(m[0], np.nan)])["skill"])


def test_flips_need_the_right_direction():
    lost, gained, none = -1, 1, 0
    measured = np.array([lost, lost, gained, none, none, gained])
    predicted = np.array([lost, gained, gained, none, lost, none])
    assert metrics.flip_f1(measured, predicted) == pytest.approx(2 * 2 / (4 + 4))
    assert np.isnan(metrics.flip_f1(np.zeros(3), np.zeros(3)))


def test_rank_correlation_is_nan_for_constants():
    assert metrics.spearman(np.arange(5.0), np.arange(5.0) ** 3) == pytest.approx(1)
    assert np.isnan(metrics.spearman(np.ones(5), np.arange(5.0)))


@pytest.mark.parametrize("twice", [False, True], ids=["independent", "one of them twice"])
@pytest.mark.parametrize("combined", [False, True])
def test_removed_directions_leave_the_kernel_less_what_they_span(twice, combined):
    """K - K_M K_MM^+ K_M^T, whether K_MM is solved by Cholesky or by its eigenvalues."""
    rng = np.random.default_rng(4)
    J = rng.normal(size=(6, 2, 40))
    K = np.einsum("icp,jdp->icjd", J, J)
    inputs = np.array([4, 5, 4] if twice else [4, 5])
    basis = rng.normal(size=(3, len(inputs), 2)) if combined else None
    V = J[inputs].reshape(-1, 40)
    V = V if basis is None else basis.reshape(3, -1) @ V
    off = J @ (np.eye(40) - np.linalg.pinv(V, rcond=1e-8) @ V)
    expected = np.einsum("icp,jdp->icjd", off, off)

    y, rule = jnp.asarray(rng.normal(size=(3, 2))), dynamics.gradient_descent(1e-2, 9)
    step = dynamics.Step(np.arange(3), y, np.ones((3, 2)))
    removed = step._replace(removed=dynamics.Removed(inputs, basis))
    f = jnp.zeros((6, 2))
    one = dynamics.one_task(lambda some: jnp.asarray(K[:, :, some]), f, removed, rule)
    other = dynamics.one_task(lambda some: jnp.asarray(expected[:, :, some]), f, step, rule)
    np.testing.assert_allclose(one.change, other.change, atol=1e-9)
    assert abs(other.change).max() > 0.01


def test_combined_rows_are_those_of_the_jacobian_with_combinations_in_their_place():
    rng = np.random.default_rng(0)
    n, c = 8, 3
    J, basis = rng.normal(size=(n, c, 40)), [rng.normal(size=(k, 3, c)) for k in (4, 2)]
    block = np.einsum("iap,jbp->iajb", J, J)
    places = dynamics.as_places(lambda inputs: block[:, :, inputs])
    inputs = np.array([5, 6, 7]), np.array([0, 2, 3])
    several = [dynamics.Combined(*one) for one in zip(inputs, basis, strict=True)]
    made = dynamics.combined(places, several)

    replaced = J.copy()
    for carriers, own, u in zip(([5, 6], [0]), inputs, basis, strict=True):
        rows = np.einsum("kqc,qcp->kp", u, J[own])
        rows = np.pad(rows, ((0, len(carriers) * c - len(rows)), (0, 0)))
        replaced[carriers] = rows.reshape(-1, c, J.shape[2])
    here, there = np.array([5, 1, 6, 0]), np.array([0, 4, 5])
    expected = np.einsum("iap,jbp->iajb", replaced[here], replaced[there])
    np.testing.assert_allclose(made.block(here, there), expected, atol=1e-12)
    alpha = rng.normal(size=(3, c))
    expected = np.einsum("iap,jbp,jb->ia", J, replaced[there], alpha)
    np.testing.assert_allclose(made.change(there, alpha), expected, atol=1e-12)
