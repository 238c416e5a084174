"""Convolutions that lose their stride: JAX's own are the oracle, value and derivatives alike."""

import jax
import numpy as np
import pytest
from cases import mostly_slow
from flax import linen as nn

from ntkcl import networks
from ntkcl.networks import strided

# pixels, taps, strides, padding, feature groups
CASES = {
    "SAME, odd": ((7, 9), (3, 3), (2, 2), "SAME", 1),
    "SAME, even": ((8, 6), (3, 2), (2, 2), "SAME", 1),
    "VALID, pixels left over": ((9, 8), (3, 2), (2, 3), "VALID", 1),
    "padding of its own": ((6, 7), (3, 4), (2, 2), ((2, 0), (1, 3)), 1),
    "padding that crops": ((9, 8), (2, 3), (2, 2), ((-1, 2), (1, -2)), 1),
    "kernel shorter than the stride": ((7, 8), (1, 2), (2, 3), "SAME", 1),
    "one tap, long stride": ((9, 5), (1, 1), (4, 4), "VALID", 1),
    "stride along one axis": ((6, 7), (3, 3), (2, 1), "SAME", 1),
    "groups": ((7, 6), (3, 2), (2, 2), "SAME", 2),
    "a group a channel": ((7, 6), (3, 3), (2, 2), ((1, 1), (1, 1)), 4),
    "1-D": ((11,), (5,), (3,), "SAME", 1),
    "1-D, groups": ((10,), (4,), (3,), ((0, 2),), 2),
    "3-D": ((5, 6, 4), (3, 1, 2), (2, 3, 2), "SAME", 1),
    "stride one": ((5, 6), (3, 2), (1, 1), "SAME", 1),
}


def both(pixels, taps, strides, padding, groups, **dilations):
    """JAX's convolution and ours, x, w and a cotangent."""
    keys, d = jax.random.split(jax.random.key(0), 3), len(pixels)
    x, w = (
        jax.random.normal(keys[0], (2, *pixels, 4)),
        jax.random.normal(keys[1], (*taps, 4 // groups, 6 * groups)),
    )
    axes = "DHW"[:d]
    layout = jax.lax.conv_dimension_numbers(
        x.shape, w.shape, (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    )
    settings = (
        dict(
            lhs_dilation=(1,) * d,
            rhs_dilation=(1,) * d,
            dimension_numbers=layout,
            feature_group_count=groups,
        )
        | dilations
    )
    pair = [
        lambda x, w, f=f: f(x, w, strides, padding, **settings)
        for f in (jax.lax.conv_general_dilated, strided.convolution)
    ]
    return *pair, x, w, jax.random.normal(keys[2], jax.eval_shape(pair[0], x, w).shape)


@pytest.mark.parametrize(
    "name", mostly_slow(CASES, "SAME, even", "padding that crops", "groups", "1-D")
)
def test_value_and_derivatives_are_those_of_the_convolution(name):
    theirs, ours, x, w, cotangent = both(*CASES[name])
    (z, back), (expected, expected_back) = jax.vjp(ours, x, w), jax.vjp(theirs, x, w)
    assert np.array_equal(z, expected)
    for derivative, reference in zip(back(cotangent), expected_back(cotangent), strict=True):
        np.testing.assert_allclose(derivative, reference, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        jax.jvp(lambda x: ours(x, w), [x], [x])[1], expected, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        jax.jvp(lambda w: ours(x, w), [w], [w])[1], expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dilation", ["lhs_dilation", "rhs_dilation"])
def test_a_dilated_convolution_is_left_alone(dilation):
    theirs, ours, x, w, cotangent = both(*CASES["padding of its own"], **{dilation: (2, 1)})
    for derivative, reference in zip(
        jax.vjp(ours, x, w)[1](cotangent), jax.vjp(theirs, x, w)[1](cotangent), strict=True
    ):
        assert np.array_equal(derivative, reference)


def test_the_backward_pass_of_a_tapped_model_has_no_inserted_zeros():
    class Strided(nn.Module):
        @nn.compact
        def __call__(self, x):
            for stride in (1, 2, 2):
                x = nn.relu(nn.Conv(4, (3, 3), (stride, stride))(x))
            return nn.Dense(2)(x.ravel())

    network, x = networks.network(Strided()), jax.random.normal(jax.random.key(0), (8, 8, 1))
    theta = network.init(jax.random.key(1), x)
    layers = network.taps.survey(theta, x).layers

    def f(probe, x):
        return network.taps.read(layers, theta, {("Conv_0",): [probe]}, x)[0]

    def programs(f):
        return str(jax.make_jaxpr(jax.jacrev(f))(np.zeros((64, 1, 4)), x))

    assert "lhs_dilation=(2, 2)" not in programs(f)
    theirs = jax.make_jaxpr(jax.jacrev(lambda x: network.apply(theta, x)))(x)
    assert "lhs_dilation=(2, 2)" in str(theirs)
