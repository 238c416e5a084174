"""The NTK parametrization: one 1/sqrt(n), in the forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

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


def test_standard_layers_of_torch_begin_uniform_within_one_over_root_fan_in_and_have_biases():
    theta = networks.mlp(outputs=3, width=400, depth=2, parametrization="standard", init="torch").init(jax.random.key(0), jnp.ones(50))
    for layer, n in {"hidden_0": 50, "hidden_1": 400, "readout": 400}.items():
        for leaf in ("kernel", "bias"):
            w = np.asarray(theta[layer][leaf]) * n**0.5
            assert abs(w).max() <= 1 + 1e-6  # rounding of float32
        w = np.asarray(theta[layer]["kernel"]) * n**0.5
        assert w.min() < -0.98 and w.max() > 0.98 and np.mean(w) == pytest.approx(0, abs=0.06)
        assert np.std(w) == pytest.approx(3**-0.5, rel=0.05)
    assert np.std(np.asarray(theta["hidden_0"]["bias"])) * 50**0.5 == pytest.approx(3**-0.5, rel=0.1)


def test_standard_layers_of_flax_begin_as_flax_begins_them():
    x = jnp.ones(50)
    theta = networks.mlp(outputs=3, width=400, parametrization="standard", init="flax").init(jax.random.key(0), x)
    theirs = nn.Dense(400, name="hidden_0").init(jax.random.key(7), x)["params"]
    assert not theta["hidden_0"]["bias"].any() and not theirs["bias"].any()
    ours, theirs = (np.sort(np.ravel(a)) for a in (theta["hidden_0"]["kernel"], theirs["kernel"]))
    np.testing.assert_allclose(ours[::100], theirs[::100], atol=0.02)  # the same quantiles, the largest included
    assert ours[-1] == pytest.approx(theirs[-1], rel=0.01)


def test_the_standard_layer_adds_up_as_torch_does():
    x = jax.random.normal(jax.random.key(1), (5,))
    for init in ("torch", "flax"):
        network = networks.mlp(outputs=2, width=8, parametrization="standard", init=init)
        theta = jax.tree.map(lambda a: a + 0.1, network.init(jax.random.key(0), x))
        W0, b0, W1, b1 = (theta[layer][leaf] for layer in ("hidden_0", "readout") for leaf in ("kernel", "bias"))
        np.testing.assert_allclose(network.apply(theta, x), jax.nn.relu(x @ W0 + b0) @ W1 + b1, rtol=1e-12)
