"""The NTK parametrization: one 1/sqrt(n), in the forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl import networks


def test_parameters_are_standard_normal_and_biases_are_left_out_where_their_scale_is_zero():
    theta = networks.mlp(outputs=3, width=400, depth=2).init(jax.random.key(0), jnp.ones(50))
    assert {layer: set(leaves) for layer, leaves in theta.items()} == {k: {"kernel"} for k in ("hidden_0", "hidden_1", "readout")}
    assert theta["hidden_1"]["kernel"].shape == (400, 400)
    assert np.std(theta["hidden_1"]["kernel"]) == pytest.approx(1.0, abs=0.02)


def test_the_output_variance_does_not_depend_on_the_width():
    x = jax.random.normal(jax.random.key(1), (30,))
    for width in (16, 256, 2048):
        network = networks.mlp(outputs=1, width=width, depth=1, w_std=2**0.5, b_std=0.0)
        keys = jax.random.split(jax.random.key(width), 2000 if width < 2048 else 500)
        f = jax.jit(jax.vmap(lambda k, net=network: net.apply(net.init(k, x), x)[0]))(keys)
        assert np.var(f) == pytest.approx(2 * float(x @ x) / 30, rel=0.2)  # ReLU with gain sqrt 2 keeps |x|^2 / n_0, times 2


def test_a_centred_network_starts_at_zero_and_keeps_its_tangent():
    network = networks.mlp(outputs=2, width=8)
    x = jax.random.normal(jax.random.key(1), (5,))
    theta = network.init(jax.random.key(0), x)
    apply = networks.centred(network.apply, theta)
    assert np.all(apply(theta, x) == 0)
    moved = jax.tree.map(lambda a: a + 0.1, theta)
    np.testing.assert_allclose(apply(moved, x), network.apply(moved, x) - network.apply(theta, x))
    for a, b in zip(jax.tree.leaves(jax.jacrev(apply)(moved, x)), jax.tree.leaves(jax.jacrev(network.apply)(moved, x)), strict=True):
        np.testing.assert_allclose(a, b)


def test_images_are_flattened_and_the_output_scaled():
    x = jax.random.normal(jax.random.key(1), (4, 4))
    one, half = (networks.mlp(outputs=2, width=8, output_scale=s) for s in (1.0, 0.5))
    theta = one.init(jax.random.key(0), x)
    np.testing.assert_allclose(half.apply(theta, x), 0.5 * one.apply(theta, x))
    np.testing.assert_allclose(one.apply(theta, x.ravel()), one.apply(theta, x))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("width", 0), ("depth", 0), ("outputs", 0), ("w_std", 0.0), ("output_scale", -1.0), ("b_std", float("nan")),
     ("activation", "swoosh")],
)  # fmt: skip
def test_bad_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=f"network.{setting}={value}"):
        networks.mlp(**(dict(outputs=2) | {setting: value}))
