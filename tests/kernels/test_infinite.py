"""Infinite width: the numbers worked out beforehand, what the closed forms must survive, and the
limit wide networks tend to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from ntkcl import kernels, losses, networks, optimizers
from ntkcl.kernels.infinite import infinite
from ntkcl.kernels.outputs import with_outputs
from ntkcl.networks.layers import ACTIVATIONS
from ntkcl.training.loop import train
from ntkcl.types import Dataset

X, Z, U = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0]), jnp.array([1.0, 2.0, 2.0])
PAIRS = [(X, X), (X, Z), (X, U), (U, U)]
ROOT2 = 2**0.5
RELU = [
    (dict(), [0.3333333333, 0.0530516477, 0.3527772020, 3.0]),
    (dict(w_std=ROOT2), [1.3333333333, 0.2122065908, 1.4111088081, 12.0]),
    (dict(w_std=ROOT2, b_std=0.1), [1.3633333333, 0.2354602531, 1.4387678395, 12.03]),
    (dict(b_std=0.1), [0.3533333333, 0.0697127390, 0.3716036206, 3.02]),
    (dict(depth=2, b_std=0.1), [0.2775, 0.0793344138, 0.2957680461, 2.2775]),
]
ERF = [
    (
        dict(),
        [0.2619797609, 0, 0.1250582193, 0.6555253430],
        [0.5398234081, 0, 0.2517502892, 1.7149246809],
    ),
    (
        dict(w_std=1.2, b_std=0.05),
        [0.4731003539, 0.0048326551, 0.2074084666, 1.0213544076],
        [0.9899165536, 0.0071653153, 0.4157990426, 2.8744625313],
    ),
    (
        dict(depth=2, b_std=0.1),
        [0.2420201530, 0.0243809701, 0.1025609890, 0.3970392835],
        [0.7337473728, 0.0449519605, 0.2834209634, 1.5459872462],
    ),
]
# The tables have ten decimals: half a unit of the last is 5e-11.
DECIMALS = dict(atol=1e-10, rtol=0)
SETTINGS = {
    "relu": dict(depth=3, b_std=0.1),
    "relu without biases": dict(depth=2, w_std=ROOT2, output_scale=0.3),
    "erf": dict(activation="erf", depth=2, w_std=1.5),
    "tanh": dict(activation="tanh", depth=2, b_std=0.3),
    "a function": dict(activation=lambda z: jnp.sin(z) + 0.3 * z, depth=2),
}


def on_pairs(kernel_fn):
    return np.array([kernel_fn(a[None], b[None])[0, 0] for a, b in PAIRS])


@pytest.mark.parametrize("settings, theta", RELU)
def test_relu_has_the_tabulated_tangent_kernel(settings, theta):
    np.testing.assert_allclose(on_pairs(infinite(**settings).ntk), theta, **DECIMALS)


@pytest.mark.parametrize("settings, sigma, theta", ERF)
def test_erf_has_the_tabulated_kernels(settings, sigma, theta):
    nngp, ntk = infinite(activation="erf", **settings)
    np.testing.assert_allclose(on_pairs(nngp), sigma, **DECIMALS)
    np.testing.assert_allclose(on_pairs(ntk), theta, **DECIMALS)


def test_the_circle_of_jacot_figure_1():
    angle = jnp.arange(5) * jnp.pi / 4
    nngp, ntk = infinite(depth=3, b_std=0.1)
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    theta = [0.2825, 0.1699705091, 0.0927021102, 0.0660364290, 0.0643537701]
    sigma = [0.08125, 0.0698672508, 0.0557602776, 0.0492393191, 0.0480965898]
    np.testing.assert_allclose(ntk(circle)[0], theta, **DECIMALS)
    np.testing.assert_allclose(nngp(circle)[0], sigma, **DECIMALS)


@pytest.mark.parametrize(
    "layers, theta", [(2, 0.6366197724), (3, 1.3714172726), (4, 2.1207762136), (5, 2.8607809944)]
)
def test_relu_at_he_gain_has_the_tabulated_orthogonal_pair_and_diagonal(layers, theta):
    x = 3**0.5 * jnp.stack([X, Z])  # |x|^2 = n_0
    K = infinite(depth=layers - 1, w_std=ROOT2).ntk(x)
    np.testing.assert_allclose(K[0, 1], theta, **DECIMALS)
    np.testing.assert_allclose(jnp.diag(K), 2.0 * layers, rtol=1e-14)  # L Sigma^1(x, x)


def test_relu_at_cosine_three_fifths_is_the_sum_of_its_two_tabulated_parts():
    # The table leaves w_std^2 = 2 out of the first layer, and ReLU is homogeneous: |x|^2 = n_0 / 2.
    x = (3 / 2) ** 0.5 * jnp.stack([X, 0.6 * X + 0.8 * Z])
    nngp, ntk = infinite(w_std=ROOT2)
    np.testing.assert_allclose(nngp(x)[0, 1], 0.6775475678, **DECIMALS)
    np.testing.assert_allclose(ntk(x)[0, 1] - nngp(x)[0, 1], 0.4228996588, **DECIMALS)


@pytest.mark.parametrize("degree, tolerance", [(256, 1e-12), (32, 1e-3)])
def test_quadrature_finds_the_closed_form_of_erf(degree, tolerance):
    x = jax.random.normal(jax.random.key(0), (6, 5))
    x = jnp.concatenate([x, -x[:2], 1.001 * x[:2], jnp.zeros((1, 5))])
    closed = infinite(activation="erf", depth=2, b_std=0.1)
    by_quadrature = infinite(activation=jax.lax.erf, degree=degree, depth=2, b_std=0.1)
    for ours, exact in zip(by_quadrature, closed, strict=True):
        np.testing.assert_allclose(ours(x), exact(x), atol=tolerance * float(exact(x).max()))


def test_quadrature_comes_near_the_closed_form_of_relu_in_spite_of_the_kink():
    x = jax.random.normal(jax.random.key(0), (6, 5))
    for ours, exact in zip(
        infinite(activation=jax.nn.relu, depth=2), infinite(depth=2), strict=True
    ):
        np.testing.assert_allclose(ours(x), exact(x), atol=2e-3 * float(exact(x).max()))


@pytest.mark.parametrize("cosine", [-0.9, 0.3, 0.99])
def test_quadrature_agrees_with_an_adaptive_integral_over_the_plane(cosine):
    q1, q2 = 1.5, 0.7
    x = (
        jnp.array([[q1**0.5, 0.0], [cosine * q2**0.5, (1 - cosine**2) ** 0.5 * q2**0.5]]) * ROOT2
    )  # n_0 = 2

    def integrand(b, a, g):
        u, v = q1**0.5 * a, q2**0.5 * (cosine * a + (1 - cosine**2) ** 0.5 * b)
        return g(u) * g(v) * np.exp(-(a**2 + b**2) / 2) / (2 * np.pi)

    def slope(z):
        return 1 / np.cosh(z) ** 2

    sigma, dot = (
        integrate.dblquad(integrand, -9, 9, -9, 9, (g,), epsabs=1e-10)[0] for g in (np.tanh, slope)
    )
    nngp, ntk = infinite(activation="tanh")
    np.testing.assert_allclose(nngp(x)[0, 1], sigma, atol=1e-9)
    np.testing.assert_allclose(ntk(x)[0, 1], sigma + cosine * (q1 * q2) ** 0.5 * dot, atol=1e-9)


@pytest.mark.parametrize("name", SETTINGS)
def test_gram_matrices_are_exactly_symmetric_and_positive(name):
    x = jax.random.normal(jax.random.key(1), (40, 3, 2))
    for kernel_fn in infinite(**SETTINGS[name]):
        K = np.asarray(kernel_fn(x))
        assert (K == K.T).all()
        assert np.linalg.eigvalsh(K)[0] > -1e-13 * K.max() * len(K)
        np.testing.assert_allclose(kernel_fn(x[:7], x[7:]), K[:7, 7:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SETTINGS)
def test_parallel_opposite_zero_and_huge_inputs_give_numbers(name, dtype):
    x = jax.random.normal(jax.random.key(2), (4, 7), dtype)
    x = jnp.concatenate([x, x, -x, (1 + 1e-7) * x, 1e-20 * x, 1e4 * x, jnp.zeros((2, 7), dtype)])
    for kernel_fn in infinite(**SETTINGS[name]):
        for K in (kernel_fn(x), kernel_fn(x[:3], x)):
            assert K.dtype == dtype and bool(jnp.isfinite(K).all())


@pytest.mark.parametrize("name", SETTINGS)
def test_float32_keeps_its_digits(name):
    x = jax.random.normal(jax.random.key(3), (30, 9), jnp.float32)
    for kernel_fn in infinite(**SETTINGS[name]):
        single, double = np.asarray(kernel_fn(x)), np.asarray(kernel_fn(x.astype(float)))
        np.testing.assert_allclose(
            single, double, atol=50 * np.finfo(np.float32).eps * double.max()
        )


def test_the_diagonal_of_relu_keeps_all_digits_in_float32():
    x = jax.random.normal(jax.random.key(3), (50, 784), jnp.float32)
    exact = 5 * 2 * np.mean(np.asarray(x, float) ** 2, 1)  # L Sigma^1
    np.testing.assert_allclose(jnp.diag(infinite(depth=4, w_std=ROOT2).ntk(x)), exact, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_inputs_that_come_back_in_x2_have_the_kernel_of_the_diagonal(dtype):
    x = jax.random.normal(jax.random.key(4), (20, 784), dtype)
    ntk = infinite(depth=4).ntk
    np.testing.assert_allclose(
        ntk(x, 2 * x[:5])[:5], 2 * ntk(x)[:, :5][:5], rtol=10 * jnp.finfo(dtype).eps
    )


def test_the_output_scale_multiplies_both_kernels_by_its_square():
    x = jax.random.normal(jax.random.key(0), (3, 2))
    for scaled, plain in zip(infinite(output_scale=3.0), infinite(), strict=True):
        np.testing.assert_allclose(scaled(x), 9 * plain(x), rtol=1e-14)


def test_the_named_activations_are_those_of_the_networks():
    x = jax.random.normal(jax.random.key(0), (3, 2))
    for name, function in ACTIVATIONS.items():
        named, given = infinite(activation=name).ntk(x), infinite(activation=function).ntk(x)
        np.testing.assert_allclose(named, given, atol=3e-3 if name == "relu" else 1e-12)


def test_kernels_go_through_jit_and_a_second_call_does_not_compile():
    x = jax.random.normal(jax.random.key(0), (5, 2))
    traced = []

    def activation(z):
        traced.append(z)
        return jnp.tanh(z)

    ntk = infinite(activation=activation).ntk
    np.testing.assert_allclose(jax.jit(ntk)(x), ntk(x), rtol=1e-13)
    before = len(traced)
    ntk(x + 1)
    assert len(traced) == before


def test_every_output_has_the_same_kernel_and_no_two_share_any():
    K = with_outputs(jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), 2)
    assert K.shape == (2, 2, 3, 2)
    np.testing.assert_array_equal(K[:, 0, :, 0], K[:, 1, :, 1])
    assert not K[:, 0, :, 1].any() and K[1, 1, 2, 1] == 6


@pytest.mark.parametrize(
    "settings, reported",
    [
        (dict(depth=0), "network.depth=0"),
        (dict(w_std=0.0), "network.w_std=0.0"),
        (dict(b_std=-1.0), "network.b_std=-1.0"),
        (dict(output_scale=float("nan")), "network.output_scale=nan"),
        (dict(activation="relou"), "network.activation=relou: expected relu, erf, tanh or gelu"),
        (dict(activation=lambda z: jnp.stack([z, z])), "one number to one number"),
        (dict(degree=0), "degree=0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_out_of_range_are_named(settings, reported):
    with pytest.raises(ValueError, match=reported):
        infinite(**settings)


@pytest.mark.parametrize(
    "inputs, reported",
    [
        ((jnp.ones((0, 3)),), "x1 has shape"),
        ((jnp.ones((2, 3), int),), "type int64; expected reals"),
        ((jnp.ones((2, 3)), jnp.ones((2, 4))), "expected the same in both"),
        ((jnp.ones((2, 3)), jnp.ones((2, 3), jnp.float32)), "float32 in x2"),
    ],
    ids=["empty", "integers", "shapes", "types"],
)
def test_inputs_that_cannot_be_meant_are_named(inputs, reported):
    with pytest.raises(ValueError, match=reported):
        infinite().ntk(*inputs)


# The limit itself. Inputs of |x|^2 = n_0, so that outputs are of order one; float32, whose rounding
# is far below every spread here.
POINTS = jax.random.normal(jax.random.key(5), (4, 6), jnp.float32)
POINTS = POINTS / jnp.linalg.norm(POINTS, axis=1, keepdims=True) * 6**0.5


def empirical(settings, width, seeds, outputs=2, seed=0):
    """f [seeds, n, c] and K [seeds, n, c, n, c] of networks drawn afresh."""
    net = networks.mlp(outputs=outputs, width=width, **settings)
    kernel_fn = kernels.structured(net)

    def one(key):
        theta = net.init(key, POINTS[0])
        return jax.vmap(net.apply, (None, 0))(theta, POINTS), kernel_fn(theta, POINTS)

    return jax.jit(lambda keys: jax.lax.map(one, keys))(
        jax.random.split(jax.random.key(seed), seeds)
    )


def worst_z(samples, mean):
    """The largest distance of a sample mean from `mean` in standard errors."""
    return (abs(samples.mean(0) - mean) / (samples.std(0, ddof=1) / len(samples) ** 0.5)).max()


@pytest.mark.parametrize(
    "settings, width, seeds",
    [
        # With one hidden layer both kernels are the expectation at any width, so narrow networks
        # do.
        (dict(b_std=0.4), 16, 400),
        (dict(activation="erf", w_std=1.5, output_scale=2.0), 16, 400),
        (dict(activation="gelu", w_std=1.3), 16, 400),
        # Beyond it the bias is of order 1/width, below the standard errors (1/sqrt(200) of the
        # spread).
        pytest.param(
            dict(depth=2, activation="tanh", w_std=1.5, b_std=0.3), 256, 200, marks=pytest.mark.slow
        ),
        (dict(depth=3, w_std=ROOT2), 256, 200),
    ],
    ids=str,
)
def test_networks_have_the_limit_as_covariance_and_mean_kernel(settings, width, seeds):
    f, K = map(np.asarray, empirical(settings, width, seeds))
    nngp, ntk = (with_outputs(kernel_fn(POINTS), 2) for kernel_fn in infinite(**settings))
    # 64 entries, most of them distinct: a fair draw stays below 4.5 standard errors in 99.9 % of
    # all tests.
    assert worst_z(np.einsum("sia,sjb->siajb", f, f), np.asarray(nngp)) < 4.5
    assert worst_z(K, np.asarray(ntk)) < 4.5


@pytest.mark.parametrize(
    "settings", [dict(depth=2, w_std=ROOT2, b_std=0.1), dict(depth=1, activation="erf")], ids=str
)
def test_the_distance_to_the_limit_halves_when_the_width_grows_four_times(settings):
    limit = np.asarray(with_outputs(infinite(**settings).ntk(POINTS), 2))
    distances = []
    for width in (16, 64, 256):
        _, K = empirical(settings, width, 50)
        distances.append(
            np.mean([np.linalg.norm(k - limit) for k in np.asarray(K)]) / np.linalg.norm(limit)
        )
    # A distance varies by about half of itself over seeds: 50 of them leave 7 % a mean and 10 % a
    # ratio, so 30 % is three deviations.
    for narrow, wide in itertools.pairwise(distances):
        assert 1.4 < narrow / wide < 2.6, distances
    assert distances[-1] < 0.25


def test_the_kernel_moves_less_in_training_the_wider_a_smooth_network():
    settings = dict(activation="erf", depth=2, b_std=0.1)
    y = jax.random.normal(jax.random.key(6), (len(POINTS), 1), POINTS.dtype)
    limit = float(jnp.linalg.eigvalsh(infinite(**settings).ntk(POINTS))[-1])
    learning_rate = (
        len(POINTS) / limit
    )  # eta_eff = 1 / lam_max for every width: the same motion in function space
    widths, changes = (16, 64, 256), []
    for width in widths:
        net = networks.mlp(outputs=1, width=width, **settings)
        kernel_fn, transform, loss = (
            kernels.structured(net),
            optimizers.sgd().transform(learning_rate),
            losses.squared_error(),
        )

        def change(key, net=net, kernel_fn=kernel_fn, transform=transform, loss=loss):
            theta = net.init(key, POINTS[0])
            after = train(
                key,
                theta,
                Dataset(POINTS, y),
                jnp.ones(1, POINTS.dtype),
                apply=net.apply,
                loss=loss,
                transform=transform,
                steps=50,
            )
            K0, K = kernel_fn(theta, POINTS), kernel_fn(after.theta, POINTS)
            return jnp.linalg.norm(K - K0) / jnp.linalg.norm(K0), after.losses[-1] / after.losses[0]

        moved, left = jax.jit(lambda keys, change=change: jax.lax.map(change, keys))(
            jax.random.split(jax.random.key(7), 12)
        )
        assert float(jnp.median(left)) < 0.5  # training did something
        changes.append(float(jnp.mean(moved)))
    slope = stats.linregress(np.log(widths), np.log(changes)).slope
    # The theorem bounds the motion by 1/sqrt(width); without an output of order one to amplify it,
    # 1/width is what later work finds. A mean over 12 seeds is good to 20 %, a slope over a factor
    # 16 then to 0.1.
    assert -1.3 < slope < -0.4, (slope, changes)
    assert changes[0] > changes[1] > changes[2]


def test_inputs_that_are_not_finite_are_refused():
    for bad in (jnp.nan, jnp.inf):
        with pytest.raises(ValueError, match="x2 holds NaN or infinite values"):
            kernels.infinite().ntk(jnp.ones((2, 3)), jnp.full((2, 3), bad))
        with pytest.raises(ValueError, match="x1 holds NaN or infinite values"):
            kernels.infinite_conv().nngp(jnp.full((1, 2, 2, 1), bad))
    with pytest.raises(ValueError, match="type list; expected reals"):
        kernels.infinite().ntk([[1.0]])
