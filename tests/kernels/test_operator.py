"""K v without K against K, functions of K against its eigendecomposition."""

import logging
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import MLPS, linear, mlp, quadratic_features

from ntkcl import dynamics, kernels, networks
from ntkcl.kernels import krylov
from ntkcl.kernels.operator import operator
from ntkcl.types import Network


@cache
def case(name, n1=7, n2=5):
    network = mlp(name)
    x1, x2 = normal(1, n1, 4), normal(2, n2, 4)
    return network, network.init(jax.random.key(0), x1[0]), x1, x2


def normal(seed, *shape):
    return jnp.asarray(
        np.random.default_rng(seed).standard_normal(shape)
    )  # JAX compiles half a second for every shape


def close(got, expected, digits=1e-12):
    np.testing.assert_allclose(got, expected, atol=digits * max(1.0, float(np.abs(expected).max())))


CHUNKS = [(name, chunk) for name in MLPS for chunk in (3, 1000)] + [
    ("one hidden layer", chunk) for chunk in (1, 2, 5, 6)
]


@pytest.mark.parametrize(("name", "chunk"), CHUNKS)
def test_the_product_is_the_kernel_times_the_vector_whatever_the_chunk(name, chunk):
    network, theta, x1, x2 = case(name)
    product, kernel_fn = operator(network, chunk=chunk).product, kernels.contraction(network)
    v1, v2 = (normal(3, n, jax.eval_shape(network.apply, theta, x1[0]).size) for n in (7, 5))
    close(product(theta, x1, x2, v2), jnp.einsum("iajb,jb->ia", kernel_fn(theta, x1, x2), v2))
    close(product(theta, x1, None, v1), jnp.einsum("iajb,jb->ia", kernel_fn(theta, x1), v1))


@pytest.mark.parametrize("chunk", [3, 8])
def test_jvp_and_vjp_are_the_jacobian_and_its_transpose(chunk):
    network, theta, x, _ = case("deep with biases")
    ops = operator(network.apply, chunk=chunk)
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    J = jax.jit(
        jax.vmap(jax.jacrev(lambda flat, one: network.apply(unravel(flat), one)), (None, 0))
    )(flat, x)
    u, a = normal(4, flat.size), normal(5, *J.shape[:2])
    close(ops.jvp(theta, x, unravel(u)), J @ u)
    gradient = ops.vjp(theta, x, a)
    assert jax.tree.structure(gradient) == jax.tree.structure(theta)
    close(jax.flatten_util.ravel_pytree(gradient)[0], jnp.einsum("iap,ia->p", J, a))


def test_a_model_that_looks_its_inputs_up_takes_integers():
    table = normal(0, 5, 2)
    x = jnp.array([[0, 1], [3, 3], [4, 0]])
    product = operator(lambda table, x: table[x].sum(0), chunk=2).product
    counts = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 2, 0], [1, 0, 0, 0, 1]])
    v = normal(1, 3, 2)
    close(product(table, x, None, v), counts @ counts.T @ np.asarray(v))


def test_memory_is_that_of_a_chunk_however_many_samples_there_are():
    network = networks.mlp(outputs=3, width=64)
    ops = operator(network, chunk=32)
    theta = network.init(jax.random.key(0), jnp.ones(400))

    def temporary(n):
        x, v = jnp.ones((n, 400)), jnp.ones((n, 3))
        return (
            jax.jit(ops.product, static_argnums=2)
            .lower(theta, x, None, v)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    small, large = temporary(97), temporary(1025)
    assert (
        large - small < 3 * 1025 * 3 * 8
        # Vectors [n, c] alone grow, not the copy of x or the activations, 100 times as large.
    )


def test_callers_may_jit_and_vmap_the_product():
    network, theta, x1, x2 = case("one hidden layer")
    ops = operator(network, chunk=3)
    vs = normal(3, 4, 5, 3)
    K = kernels.contraction(network)(theta, x1, x2)
    batched = jax.jit(jax.vmap(lambda theta, v: ops.product(theta, x1, x2, v), (None, 0)))
    close(batched(theta, vs), jnp.einsum("iajb,kjb->kia", K, vs))


def test_a_second_product_compiles_nothing(caplog):
    network, theta, x1, x2 = case("one hidden layer")
    product, v = operator(network, chunk=4).product, normal(3, 5, 3)  # no other test's chunk
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        product(theta, x1, x2, v)
        assert any("ompiling" in record.message for record in caplog.records)
        caplog.clear()
        product(jax.tree.map(lambda leaf: 2 * leaf, theta), x1, x2, v)
        named = [
            record.message
            for record in caplog.records
            if "forward" in record.message or "backward" in record.message
        ]
    assert not named


def test_float32_stays_float32():
    network, theta, x1, x2 = case("erf, gains")
    single = jax.tree.map(jnp.float32, (theta, x1, x2))
    product, v = operator(network, chunk=3).product, normal(3, 5, 3)
    got = product(*single, v)
    assert got.dtype == jnp.float32
    close(got, product(theta, x1, x2, v), 1e-5)


def test_what_cannot_be_multiplied_is_refused_in_one_line():
    network, theta, x1, x2 = case("one hidden layer")
    ops = operator(network)
    with pytest.raises(ValueError, match=r"v has shape \(7, 3\); expected \(5, 3\)"):
        ops.product(theta, x1, x2, jnp.ones((7, 3)))
    with pytest.raises(ValueError, match=r"a has shape \(7,\); expected \(7, 3\)"):
        ops.vjp(theta, x1, jnp.ones(7))
    with pytest.raises(ValueError, match="jvp: u has leaves"):
        ops.jvp(theta, x1, theta | {"readout": {"kernel": jnp.ones((3, 7))}})
    with pytest.raises(ValueError, match="x1 holds NaN"):
        ops.product(theta, x1 * jnp.nan, x2, jnp.ones((5, 3)))
    with pytest.raises(ValueError, match="chunk=0"):
        operator(network, chunk=0)
    mixing = Network(
        None,
        network.apply,
        batched=lambda theta, x: jax.vmap(network.apply, (None, 0))(
            theta, x - x.mean(0, keepdims=True)
        ),
    )
    with pytest.raises(ValueError, match="mixes the samples"):
        operator(mixing).product(theta, x1, x2, jnp.ones((5, 3)))


# Functions of K

A = np.random.default_rng(0).standard_normal((30, 30))
ROTATION = np.linalg.qr(A)[0]
MATRICES = {
    "well conditioned": (A @ A.T / 30 + np.eye(30), np.ones(30)),
    "rank 5 of 30": (A[:, :5] @ A[:, :5].T / 5, np.ones(30)),
    "fifteen decades": ((ROTATION * 10.0 ** -np.linspace(0, 15, 30)) @ ROTATION.T, np.ones(30)),
    "identity": (np.eye(6), np.arange(6.0)),
    "zero": (np.zeros((5, 5)), np.arange(5.0)),
    "two equal samples": (np.ones((2, 2)), np.array([1.0, 0.0])),
    "invariant subspace": (np.diag([1.0, 2, 0, 0]), np.array([1.0, 1, 0, 0])),
    "invariant subspace with a null direction": (
        np.diag([1.0, 2, 3, 0, 0, 0]),
        np.array([1.0, 1, 0, 0, 1, 0]),
    ),
    "zero vector": (A @ A.T, np.zeros(30)),
    "one by one": (np.array([[2.0]]), np.array([3.0])),
}
FILTERS = {
    "gradient flow": lambda lam: jnp.where(
        lam > 0, -jnp.expm1(-3 * lam) / jnp.where(lam > 0, lam, 1), 3.0
    ),
    "gradient descent": lambda lam: dynamics.gradient_descent(0.3, 6)(lam, None),
    "ridge": lambda lam: 1 / (lam + 0.5),
    "pseudo-inverse": lambda lam: jnp.where(lam > 1e-3, 1 / jnp.where(lam > 1e-3, lam, 1), 0.0),
}


def dense(K, g, v):
    lam, U = np.linalg.eigh(K)
    return U @ (np.asarray(g(jnp.maximum(lam, 0))) * (U.T @ v))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("name", MATRICES)
def test_matrix_functions_are_those_of_the_eigendecomposition_also_beyond_the_krylov_space(
    name, dtype
):
    K, v = MATRICES[name]
    K = K / max(
        1.0, np.linalg.eigvalsh(K)[-1] / 4
    )  # gradient descent at rate .3 is stable up to 2/.3

    @jax.jit
    def all_rules(K, v):
        return {
            rule: krylov.matrix_function(lambda u: K @ u, g, order=50)(v)
            for rule, g in FILTERS.items()
        }

    for rule, got in all_rules(jnp.asarray(K, dtype), jnp.asarray(v, dtype)).items():
        if (name, rule, dtype) == ("fifteen decades", "pseudo-inverse", jnp.float32):
            continue  # eigenvalues beside the cut: float32 cannot tell on which side
        expected = dense(K, FILTERS[rule], v)
        assert got.dtype == dtype
        np.testing.assert_allclose(
            got,
            expected,
            atol=3e3 * jnp.finfo(dtype).eps * max(1, abs(expected).max()),
            err_msg=rule,
        )


def test_gradient_descent_of_s_steps_is_exact_after_s_products():
    K, v = MATRICES["well conditioned"]
    g = lambda lam: dynamics.gradient_descent(0.1, 6)(lam, None)  # noqa: E731
    a = 0 * v
    for _ in range(6):
        a = a + 0.1 * (v - K @ a)
    apply = {
        order: jax.jit(krylov.matrix_function(lambda u: K @ u, g, order=order)) for order in (5, 6)
    }
    close(apply[6](jnp.asarray(v)), a, 1e-13)
    assert abs(apply[5](jnp.asarray(v)) - a).max() > 1e-8


def test_a_space_with_room_for_more_vectors_is_that_of_its_order():
    K, v = (jnp.asarray(a) for a in MATRICES["well conditioned"])
    rule = dynamics.gradient_descent(0.1, 60)
    short = krylov.ritz(lambda u: K @ u, v, order=4)
    for room in (5, 9, 100):
        roomy = krylov.ritz_of(jnp.matmul, K, v, 4, room=room)
        close(roomy.filtered(rule), short.filtered(rule), 1e-12)
        close(roomy.tail(rule), short.tail(rule), 1e-12)
    assert float(short.tail(rule)) > 1e-6


def test_a_filter_that_only_the_spectrum_can_take_meets_nothing_else_beyond_the_krylov_space():
    v = jnp.arange(4.0)
    close(krylov.matrix_function(lambda u: 2 * u, lambda lam: 1 / lam, order=4)(v), v / 2)


def test_nan_goes_through_and_is_not_taken_for_the_end_of_the_space():
    apply = krylov.matrix_function(lambda u: u, jnp.exp, order=3)
    assert np.isnan(apply(jnp.array([1.0, jnp.nan]))).all()
    broken = krylov.matrix_function(lambda u: u * jnp.nan, jnp.exp, order=3)
    assert np.isnan(broken(jnp.ones(4))).all()


@pytest.fixture(scope="module")
def trained():
    """A network's own matvec on 9 inputs, two of them equal, and its dense kernel, singular for
    that."""
    network = networks.mlp(outputs=2, width=16, b_std=0.3)
    x = normal(1, 9, 4).at[8].set(normal(1, 9, 4)[0])
    theta = network.init(jax.random.key(0), x[0])
    ops = operator(network, chunk=4)
    return lambda v: ops.product(theta, x, None, v), np.asarray(
        kernels.contraction(network)(theta, x)
    ).reshape(18, 18)


def test_a_networks_filtered_residual_is_that_of_its_dense_kernel(trained):
    matvec, K = trained
    v = normal(2, 9, 2)
    got = jax.jit(
        lambda v: {
            rule: krylov.matrix_function(matvec, g, order=40)(v) for rule, g in FILTERS.items()
        }
    )(v)
    for rule, g in FILTERS.items():
        close(np.ravel(got[rule]), dense(K, g, np.ravel(v)), 1e-10)


def test_solve_is_the_ridge_solution_and_says_how_far_it_came(trained):
    matvec, K = trained
    b = normal(2, 9, 2)
    x, residual = jax.jit(lambda b: krylov.solve(matvec, b, ridge=0.1, tolerance=1e-12))(b)
    close(np.ravel(x), np.linalg.solve(K + 0.1 * np.eye(18), np.ravel(b)), 1e-9)
    assert residual < 1e-11
    assert krylov.solve(matvec, b, ridge=0.1, steps=2).residual > 1e-3
    inside = jnp.asarray(K @ np.ravel(b)).reshape(
        9, 2
    )  # a singular kernel, and a right-hand side in its range
    x, residual = jax.jit(lambda b: krylov.solve(matvec, b, tolerance=1e-10))(inside)
    assert residual < 1e-9 and np.isfinite(x).all()
    assert not krylov.solve(lambda v: 0 * v, b).residual < 1  # no solution, and it shows
    zero = krylov.solve(matvec, 0 * b)
    assert not zero.x.any() and zero.residual == 0


def test_the_largest_ritz_values_are_the_largest_eigenvalues(trained):
    matvec, K = trained
    lam = np.linalg.eigvalsh(K)[::-1]
    ritz = jax.jit(
        lambda: krylov.spectrum(matvec, jnp.zeros((9, 2)), order=12, key=jax.random.key(3))
    )()
    assert ritz.shape == (12,)
    close(ritz[:2], lam[:2], 1e-6)
    assert (
        ritz <= lam[:12] * (1 + 1e-12)
    ).all()  # interlacing: Ritz values never exceed the eigenvalues of their rank
    full = krylov.spectrum(
        matvec, jax.ShapeDtypeStruct((9, 2), jnp.float64), order=99, key=jax.random.key(3)
    )
    close(full, lam, 1e-10)


def test_ritz_values_of_an_exhausted_space_are_followed_by_zeros():
    ritz = krylov.spectrum(
        lambda u: jnp.diag(jnp.array([3.0, 3, 1, 1])) @ u,
        jnp.zeros(4),
        order=4,
        key=jax.random.key(0),
    )
    close(ritz, np.array([3.0, 1, 0, 0]))


def test_a_wide_enough_linear_model_is_fitted_by_the_solve_alone():
    model = linear(quadratic_features, 2)
    x, y = normal(1, 4, 3), normal(2, 4, 2)
    theta = model.init(jax.random.key(0), x[0])
    ops = operator(model)
    residual = y - jax.vmap(model.apply, (None, 0))(theta, x)
    alpha = krylov.solve(lambda v: ops.product(theta, x, None, v), residual, tolerance=1e-13).x
    fitted = jax.tree.map(jnp.add, theta, ops.vjp(theta, x, alpha))
    close(jax.vmap(model.apply, (None, 0))(fitted, x), y, 1e-10)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: krylov.matrix_function(lambda v: v, jnp.exp, order=0), "order=0"),
        (
            lambda: krylov.spectrum(lambda v: v, jnp.ones(2), order=-1, key=jax.random.key(0)),
            "order=-1",
        ),
        (lambda: krylov.solve(lambda v: v, jnp.ones(2), ridge=-0.1), "ridge=-0.1"),
        (lambda: krylov.solve(lambda v: v, jnp.ones(2), tolerance=0.0), "tolerance=0.0"),
        (lambda: krylov.solve(lambda v: v, jnp.ones(2), steps=0), "steps=0"),
    ],
)
def test_settings_that_cannot_work_are_named(call, why):
    with pytest.raises(ValueError, match=why):
        call()
