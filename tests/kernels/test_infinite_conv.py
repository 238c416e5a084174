"""Infinitely many channels: what reduces to `infinite` exactly, and the limit that wide
convolutional networks tend to."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl.kernels.contraction import contraction
from ntkcl.kernels.infinite import infinite
from ntkcl.kernels.infinite_conv import infinite_conv
from ntkcl.networks.layers import ACTIVATIONS

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 2)))
EXACT = dict(rtol=1e-12, atol=1e-14)
READOUTS = ["flatten", "mean"]
LAYERS = {
    "same": dict(kernel_size=3, b_std=0.3),
    "same, stride 2, tanh": dict(kernel_size=3, stride=2, w_std=1.4, activation="tanh"),
    "valid, even window": dict(kernel_size=2, padding="VALID", b_std=0.1, output_scale=0.5),
    "valid, stride 2, erf": dict(
        kernel_size=2, stride=2, padding="VALID", activation="erf", w_std=1.5, b_std=0.2
    ),
}


@pytest.mark.parametrize(
    "readout, settings",
    [
        ("flatten", dict(b_std=0.3)),
        ("mean", dict(activation="erf", w_std=1.5)),
        ("mean", dict(activation="tanh", output_scale=2.0)),
    ],
    ids=str,
)
def test_on_images_of_one_pixel_it_is_the_limit_of_a_network_of_dense_layers(readout, settings):
    x = IMAGES[:, :1, :1]
    conv, dense = (
        infinite_conv(depth=3, kernel_size=1, readout=readout, **settings),
        infinite(depth=3, **settings),
    )
    for ours, theirs in zip(conv, dense, strict=True):
        np.testing.assert_allclose(ours(x), theirs(x), **EXACT)


def test_the_fan_in_counts_the_padding():
    # One pixel under a 3 x 3 window: eight of nine places see zeros, so that every layer loses a
    # factor 9; ReLU is homogeneous.
    x = IMAGES[:, :1, :1]
    for ours, theirs in zip(infinite_conv(depth=3), infinite(depth=3), strict=True):
        np.testing.assert_allclose(ours(x), theirs(x) / 9**3, **EXACT)


@pytest.mark.parametrize("readout", READOUTS)
def test_a_window_of_the_whole_image_is_a_dense_layer(readout):
    conv = infinite_conv(kernel_size=4, padding="VALID", readout=readout, b_std=0.2)
    for ours, theirs in zip(conv, infinite(b_std=0.2), strict=True):
        np.testing.assert_allclose(ours(IMAGES), theirs(IMAGES), **EXACT)


@pytest.mark.parametrize("name", LAYERS)
def test_one_layer_is_the_mean_of_the_dense_kernel_over_pairs_of_patches(name):
    settings = LAYERS[name]
    size, stride, padding = (
        settings["kernel_size"],
        settings.get("stride", 1),
        settings.get("padding", "SAME"),
    )
    patches = jax.lax.conv_general_dilated_patches(
        IMAGES, (size, size), (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    n, places = len(patches), patches.shape[1] * patches.shape[2]
    patches = patches.reshape(n * places, -1)
    dense = infinite(
        **{k: v for k, v in settings.items() if k not in ("kernel_size", "stride", "padding")}
    )
    flatten, mean = (infinite_conv(readout=readout, **settings) for readout in READOUTS)
    for flat_fn, mean_fn, dense_fn in zip(flatten, mean, dense, strict=True):
        pairs = np.asarray(dense_fn(patches)).reshape(n, places, n, places)
        np.testing.assert_allclose(flat_fn(IMAGES), np.einsum("ipjp->ij", pairs) / places, **EXACT)
        np.testing.assert_allclose(mean_fn(IMAGES), pairs.mean((1, 3)), **EXACT)


def erf_layers(x, depth, size, stride, padding, w2, b2):
    """E[sigma sigma'] and E[dsigma dsigma'] Theta behind the last convolution, [n, p, n, p]: every
    pair at once."""
    n, h, w, c = x.shape
    value = np.einsum("ihwc,juvc->ihwjuv", x, x).reshape(n, h * w, n, h * w) / c
    dot_theta = np.zeros_like(value)
    for _ in range(depth):
        pixels = jnp.eye(h * w).reshape(-1, h, w, 1)
        shifts = jax.lax.conv_general_dilated_patches(
            pixels,
            (size, size),
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        h, w = shifts.shape[1:3]
        S = np.asarray(shifts).reshape(
            len(pixels), h * w, size**2
        )  # place d of the window at position a sees pixel p
        a_value, a_dot_theta = (
            np.einsum("pad,ipjq,qbd->iajb", S, T, S, optimize=True) / size**2
            for T in (value, dot_theta)
        )
        sigma = w2 * a_value + b2
        theta = sigma + w2 * a_dot_theta
        q = np.einsum("iaia->ia", sigma)
        norm = (1 + 2 * q)[:, :, None, None] * (1 + 2 * q)[None, None]
        value = 2 / np.pi * np.arcsin(2 * sigma / np.sqrt(norm))
        dot_theta = 4 / np.pi / np.sqrt(norm - 4 * sigma**2) * theta
    return value, dot_theta


@pytest.mark.parametrize(
    "depth, size, stride, padding", [(3, 3, 1, "SAME"), (2, 3, 2, "SAME"), (3, 2, 1, "VALID")]
)
def test_deep_networks_have_the_recursion_over_all_pairs_of_positions_at_once(
    depth, size, stride, padding
):
    value, dot_theta = erf_layers(
        np.asarray(IMAGES), depth, size, stride, padding, w2=2.25, b2=0.01
    )
    settings = dict(
        depth=depth,
        kernel_size=size,
        stride=stride,
        padding=padding,
        activation="erf",
        w_std=1.5,
        b_std=0.1,
    )
    means = dict(
        flatten=lambda T: np.einsum("iaja->ij", T) / T.shape[1], mean=lambda T: T.mean((1, 3))
    )
    for readout, mean in means.items():
        nngp, ntk = infinite_conv(readout=readout, **settings)
        sigma = 2.25 * mean(value) + 0.01
        np.testing.assert_allclose(nngp(IMAGES), sigma, **EXACT)
        np.testing.assert_allclose(ntk(IMAGES), sigma + 2.25 * mean(dot_theta), **EXACT)


@pytest.mark.parametrize("readout, name", list(zip(READOUTS * 2, LAYERS, strict=True)))
def test_gram_matrices_are_exactly_symmetric_positive_and_the_same_for_x2_of_none(readout, name):
    x = jnp.concatenate([IMAGES, -IMAGES[:1], 2 * IMAGES[:1], jnp.zeros((1, 4, 4, 2))])
    for kernel_fn in infinite_conv(depth=2, readout=readout, **LAYERS[name]):
        K = np.asarray(kernel_fn(x))
        assert (K == K.T).all()
        assert np.linalg.eigvalsh(K)[0] > -1e-13 * K.max() * len(K)
        np.testing.assert_allclose(kernel_fn(x, x), K, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("readout", READOUTS)
def test_the_diagonal_keeps_all_digits_in_float32(readout):
    # Rounding puts the cosine of a position with itself below 1; taken at its word, that costs half
    # the digits.
    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2, 2, 5000)), jnp.float32)
    for kernel_fn in infinite_conv(kernel_size=2, readout=readout):
        K = np.asarray(kernel_fn(x))
        assert K.dtype == np.float32
        np.testing.assert_allclose(np.diag(K), np.diag(kernel_fn(x.astype(float))), rtol=1e-6)


def test_a_mean_over_positions_sees_no_cyclic_shift_where_no_window_crosses_the_edge():
    shifted = jnp.roll(IMAGES, (1, 2), (1, 2))
    mean, flat = (
        infinite_conv(depth=2, kernel_size=1, readout=readout).ntk
        for readout in ("mean", "flatten")
    )
    np.testing.assert_allclose(mean(IMAGES, shifted), mean(IMAGES, IMAGES), rtol=1e-10)
    assert np.abs(np.asarray(flat(IMAGES, shifted) - flat(IMAGES, IMAGES))).max() > 0.01


def test_memory_is_that_of_one_row_of_pairs_and_a_second_call_does_not_compile():
    traced = []

    def activation(z):
        traced.append(z)
        return jnp.tanh(z)

    ntk = infinite_conv(readout="mean", activation=activation, degree=8).ntk

    def memory(n):
        return (
            jax.jit(ntk)
            .lower(jnp.zeros((n, 4, 4, 2)), IMAGES)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    one_row = IMAGES.dtype.itemsize * len(IMAGES) * 4**4
    assert memory(1) > one_row
    assert (
        memory(33) - memory(1) < 16 * one_row
    )  # 32 rows at once would be more than twice that for a single array of pairs
    ntk(IMAGES)
    before = len(traced)
    ntk(IMAGES + 1)
    assert len(traced) == before


@pytest.mark.parametrize(
    "settings, reported",
    [
        (dict(depth=0), "network.depth=0"),
        (dict(kernel_size=0), "network.kernel_size=0"),
        (dict(stride=0), "network.stride=0"),
        (dict(padding="same"), "network.padding=same: expected SAME or VALID"),
        (dict(readout="max"), "network.readout=max: expected flatten or mean"),
        (dict(activation="relou"), "network.activation=relou"),
        (dict(w_std=0.0), "network.w_std=0.0"),
        (dict(b_std=-1.0), "network.b_std=-1.0"),
        (dict(output_scale=0.0), "network.output_scale=0.0"),
        (dict(degree=0), "degree=0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, reported):
    with pytest.raises(ValueError, match=reported):
        infinite_conv(**settings)


@pytest.mark.parametrize(
    "settings, inputs, reported",
    [
        (dict(), (jnp.ones((2, 4, 4)),), r"x1 has shape \(2, 4, 4\); expected images"),
        (dict(), (jnp.ones((0, 4, 4, 1)),), "x1 has shape"),
        (dict(), (IMAGES, IMAGES[:, :3]), "expected the same in both"),
        (dict(depth=2, padding="VALID"), (IMAGES,), "layer 2 sees 2 x 2, less than kernel_size=3"),
    ],
    ids=["no channels", "empty", "shapes", "too small"],
)
def test_inputs_that_cannot_be_meant_are_named(settings, inputs, reported):
    with pytest.raises(ValueError, match=reported):
        infinite_conv(**settings).ntk(*inputs)


def network(settings, readout, width):
    """((rng, seeds) -> theta [seeds, ...], (theta, x) -> [1]): the network of the docstring,
    written out."""
    options = (
        dict(
            depth=1,
            kernel_size=3,
            stride=1,
            padding="SAME",
            activation="relu",
            w_std=1.0,
            b_std=0.0,
            output_scale=1.0,
        )
        | settings
    )
    k, stride, w_std, b_std = (
        options[name] for name in ("kernel_size", "stride", "w_std", "b_std")
    )

    def conv(W, b, h):
        z = jax.lax.conv_general_dilated(
            h[None],
            W,
            (stride, stride),
            options["padding"],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        return w_std / (k**2 * h.shape[-1]) ** 0.5 * z + b_std * b[None, None]

    def hidden(theta, h):
        for W, b in theta:
            h = ACTIVATIONS[options["activation"]](conv(W, b, h))
        return h.reshape(-1) if readout == "flatten" else h.mean((0, 1))

    def apply(theta, x):
        *layers, (w, b) = theta
        h = hidden(layers, x)
        return options["output_scale"] * (w_std / h.size**0.5 * jnp.dot(h, w) + b_std * b)

    def draw(rng, seeds):
        channels = [IMAGES.shape[-1]] + [width] * options["depth"]
        kernels = [(k, k, i, o) for i, o in pairwise(channels)]
        shapes = [(shape, shape[-1:]) for shape in kernels]
        features = jax.eval_shape(
            hidden, [tuple(map(jnp.zeros, pair)) for pair in shapes], IMAGES[0]
        ).size
        shapes.append(((features, 1), (1,)))
        return [
            tuple(jnp.asarray(rng.normal(size=(seeds, *shape))) for shape in pair)
            for pair in shapes
        ]

    return draw, apply


def worst_z(samples, mean):
    """The largest distance of a sample mean from `mean` in standard errors."""
    return (abs(samples.mean(0) - mean) / (samples.std(0, ddof=1) / len(samples) ** 0.5)).max()


@pytest.mark.parametrize(
    "readout, settings, width, seeds",
    [
        # With one hidden layer both kernels are the expectation at any width, so narrow networks
        # do.
        ("mean", dict(b_std=0.4, stride=2, output_scale=2.0), 8, 300),
        # Beyond it the bias is of order 1/width, below the standard errors (1/sqrt(seeds) of the
        # spread, itself 1/sqrt(width)).
        pytest.param(
            *("flatten", dict(depth=2, w_std=2**0.5, b_std=0.1), 64, 60), marks=pytest.mark.slow
        ),
        (
            "mean",
            dict(depth=2, kernel_size=2, padding="VALID", activation="erf", w_std=1.5, b_std=0.1),
            64,
            60,
        ),
        (
            "flatten",
            dict(depth=2, kernel_size=2, stride=2, activation="tanh", w_std=1.5, b_std=0.3),
            64,
            60,
        ),
    ],
    ids=str,
)
def test_convolutional_networks_have_the_limit_as_covariance_and_mean_kernel(
    readout, settings, width, seeds
):
    draw, apply = network(settings, readout, width)

    def one(theta):
        # The readout's share of the tangent kernel is the covariance of f given the layers below,
        # whose mean is the covariance.
        conditional = contraction(lambda last, x: apply([*theta[:-1], last], x))
        return conditional(theta[-1], IMAGES)[:, 0, :, 0], contraction(apply)(theta, IMAGES)[
            :, 0, :, 0
        ]

    samples = jax.jit(lambda thetas: jax.lax.map(one, thetas))(
        draw(np.random.default_rng(2), seeds)
    )
    for drawn, kernel_fn in zip(samples, infinite_conv(readout=readout, **settings), strict=True):
        drawn, limit = np.asarray(drawn), np.asarray(kernel_fn(IMAGES))
        # 6 distinct entries: a fair draw stays below 4 standard errors in 99.9 % of all tests, and
        # one is small enough to tell.
        assert worst_z(drawn, limit) < 4
        assert (drawn.std(0) / seeds**0.5).max() < 0.05 * limit.max()
