"""What training on new arrays does to old outputs: predicted, and trained by the same arguments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import linear, quadratic_features
from flax import linen as nn
from flax import nnx

from ntkcl import forecast, losses, networks, optimizers, training
from ntkcl.validation import SettingError

C = 3


class Flax(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(C)(jnp.tanh(nn.Dense(self.width)(x)))


def data(n=8, d=4, dtype=jnp.float64):
    """Old inputs, new inputs and one-hot targets."""
    keys = jax.random.split(jax.random.key(7), 3)
    y = jax.nn.one_hot(jax.random.randint(keys[2], n, 0, C), C, dtype=dtype)
    return (
        jax.random.normal(keys[0], (n - 2, d), dtype),
        (jax.random.normal(keys[1], (n, d), dtype), y),
    )


def trained(network, theta, old, new, **settings):
    """The measured change of the outputs on old inputs."""
    outputs = jax.vmap(getattr(network, "apply", network), (None, 0))
    return outputs(training.fit(network, theta, new, **settings), old) - outputs(theta, old)


def r2(measured, predicted):
    return 1 - np.sum((measured - predicted) ** 2) / np.sum((measured - measured.mean()) ** 2)


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(head=[1, 0, 1]),
        dict(optimizer=optimizers.sgd(0.8)),
        dict(optimizer=optimizers.sgd(0.8, True), batch_size=8, form="simulated"),
        dict(batch_size=3, learning_rate=0.02, key=jax.random.key(5)),
        dict(loss=losses.cross_entropy()),
        dict(loss=losses.cross_entropy(), optimizer=optimizers.sgd(0.5), batch_size=3),
        dict(optimizer=optimizers.adam(), learning_rate=0.01),
        dict(form="matrix_free"),
        dict(form="linearised", batch_size=3, learning_rate=0.02),
    ],
    ids=lambda settings: " ".join(settings) or "default",
)
def test_it_is_exact_for_a_model_that_is_linear_in_its_parameters(settings):
    old, new = data()
    network = linear(quadratic_features, C)
    theta = network.init(jax.random.key(1), new[0][0])
    settings = dict(learning_rate=0.1, steps=25) | settings
    form = {"form": settings.pop("form")} if "form" in settings else {}
    predicted = forecast.change(network, theta, old, new, **settings, **form)
    measured = trained(network, theta, old, new, **settings)
    assert predicted.shape == (6, C) and predicted.dtype == np.float64
    assert np.abs(measured).max() > 0.1
    assert 1 - r2(measured, predicted) < 1e-10


def test_the_batches_are_those_of_the_key():
    old, new = data()
    network = linear(quadratic_features, C)
    theta = network.init(jax.random.key(1), new[0][0])
    settings = dict(learning_rate=0.02, steps=5, batch_size=3)
    changes = [
        forecast.change(network, theta, old, new, **settings, key=key)
        for key in (None, jax.random.key(0), jax.random.key(1))
    ]
    np.testing.assert_array_equal(changes[0], changes[1])
    assert np.abs(changes[0] - changes[2]).max() > 1e-3


def test_a_wide_network_changes_as_predicted_and_the_same_examples_change_most():
    old, new = data(12, dtype=jnp.float32)
    network = networks.network(Flax(512))
    theta = network.init(jax.random.key(1), new[0][0])
    settings = dict(learning_rate=0.02, steps=50)
    predicted = forecast.change(network, theta, old, new, **settings)
    measured = trained(network, theta, old, new, **settings)
    assert measured.dtype == jnp.float32
    assert np.abs(measured).max() > 0.1 and r2(measured, predicted) > 0.95
    most = [set(np.argsort(np.linalg.norm(each, axis=1))[-3:]) for each in (predicted, measured)]
    assert most[0] == most[1]


def test_nnx_equinox_and_plain_functions_give_what_linen_gives():
    old, new = data()
    network = networks.network(Flax(6))
    linen = jax.tree.map(jnp.float64, network.init(jax.random.key(1), new[0][0]))
    by_shape = {leaf.shape: leaf for leaf in jax.tree.leaves(linen)}
    w1, b1, w2, b2 = (by_shape[shape] for shape in ((4, 6), (6,), (6, C), (C,)))

    class Nnx(nnx.Module):
        def __init__(self):
            self.first, self.last = (nnx.Linear(*sizes, rngs=nnx.Rngs(0)) for sizes in SIZES)

        def __call__(self, x):
            return self.last(jnp.tanh(self.first(x)))

    graph, state = nnx.split(Nnx())
    state = jax.tree.map(lambda leaf: by_shape[leaf.shape], state)
    model = eqx.nn.MLP(4, C, 6, 1, jnp.tanh, key=jax.random.key(0))
    transposed = by_shape | {(6, 4): w1.T, (C, 6): w2.T}
    arrays, static = eqx.partition(model, eqx.is_array)
    arrays = jax.tree.map(lambda leaf: transposed[leaf.shape], arrays)
    models = {
        "linen": (network, linen),
        "nnx": (lambda theta, x: nnx.merge(graph, theta)(x), state),
        "equinox": (lambda theta, x: eqx.combine(theta, static)(x), arrays),
        "plain": (lambda t, x: jnp.tanh(x @ t[0] + t[1]) @ t[2] + t[3], [w1, b1, w2, b2]),
    }
    settings = dict(learning_rate=0.05, steps=10)
    changes = {
        name: forecast.change(*model, old, new, **settings) for name, model in models.items()
    }
    measured = {name: trained(*model, old, new, **settings) for name, model in models.items()}
    for name in models:
        np.testing.assert_allclose(changes[name], changes["linen"], atol=1e-12, err_msg=name)
        np.testing.assert_allclose(measured[name], measured["linen"], atol=1e-12, err_msg=name)


SIZES = [(4, 6), (6, C)]


def test_it_does_not_depend_on_the_default_floating_type():
    old, new = data(dtype=jnp.float32)
    network = networks.network(Flax(6))
    theta = network.init(jax.random.key(1), new[0][0])
    settings = dict(learning_rate=0.05, steps=10, batch_size=3)
    settings |= dict(optimizer=optimizers.sgd(0.5))
    wide = forecast.change(network, theta, old, new, **settings)
    fitted = training.fit(network, theta, new, **settings)
    with jax.enable_x64(False):
        narrow = forecast.change(network, theta, old, new, **settings)
        np.testing.assert_allclose(narrow, wide, rtol=1e-12)
        again = training.fit(network, theta, new, **settings)
    for one, other in zip(*(jax.tree.leaves(tree) for tree in (fitted, again)), strict=True):
        assert one.dtype == other.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


OLD, (X, Y) = data()
NETWORK = linear(quadratic_features, C)
THETA = NETWORK.init(jax.random.key(1), X[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(old=OLD[:, :3]), r"old: inputs of shape \(3,\) float64 beside .*\(4,\)"),
        (dict(old=OLD[:0]), r"old has shape \(0, 4\); expected \[n, "),
        (dict(old=OLD.at[0, 0].set(jnp.nan)), "old holds 1 NaN or infinite"),
        (dict(new=(X[:0], Y[:0])), r"new: x has shape \(0, 4\)"),
        (dict(new=X), r"new: .*expected \(x, y\)"),
        (dict(new=(X, Y[:, :2])), r"new: y has shape \(8, 2\); expected targets \(8, 3\)$"),
        (dict(new=(X, Y[:5])), r"new: y has shape \(5, 3\); expected targets \(8, 3\)$"),
        (dict(new=(X, np.argmax(Y, 1))), r"new: y has shape \(8,\).*one_hot\(y, 3\)"),
        (dict(new=(X, Y.at[0, 0].set(jnp.inf))), "new: y holds 1 NaN or infinite"),
        (dict(new=(X, 2 * Y), loss=losses.cross_entropy()), "no distribution.*one-hot"),
        (dict(loss=losses.cross_entropy), r"loss=.*expected one such as .*cross_entropy\(\)"),
        (dict(optimizer="adam"), r"optimizer='adam': expected one such as .*adam\(\)"),
        (dict(old=[["a"] * 4]), "old holds <U1; expected numbers"),
        (dict(new=(X, [["b"] * C] * 8)), "new: y holds <U1; expected numbers"),
        (dict(theta=THETA.at[0, 0].set(jnp.nan)), "theta holds NaN"),
        (dict(theta=THETA[:, :2]), "parameters of another model"),
        (dict(network=NETWORK._replace(centred=True)), "centred=True trains f - f_0"),
        (dict(batch_size=9), "batch_size=9: expected at most 8"),
        (dict(steps=0), "steps=0: expected a whole number"),
        (dict(learning_rate=-1.0), "learning_rate=-1.0: expected a finite number above 0"),
        (dict(head=[1, 1]), r"head has shape \(2,\); expected \(3,\)"),
        (dict(head=[0, 0, 0]), "head=.*at least one 1"),
        (dict(form="closed", loss=losses.cross_entropy()), "forecast.form=closed: the loss"),
        (dict(form="open"), "forecast.form=open: expected auto"),
    ],
)
def test_what_does_not_fit_is_one_line(given, message):
    known = dict(network=NETWORK, theta=THETA, old=OLD, new=(X, Y), learning_rate=0.1, steps=5)
    with pytest.raises(SettingError, match=message) as caught:
        forecast.change(**(known | given))
    assert "\n" not in str(caught.value)


def test_a_learning_rate_above_the_limit_is_refused_where_the_limit_is_exact():
    given, settings = (NETWORK, THETA, OLD, (X, Y)), dict(learning_rate=1e3, steps=200)
    with pytest.raises(SettingError, match=r"learning_rate=1000: above .*use at most") as caught:
        forecast.change(*given, **settings)
    most = float(str(caught.value).split("at most ")[1])
    assert np.abs(forecast.change(*given, **settings | dict(learning_rate=0.99 * most))).max() < 1e2
    blown = training.fit(NETWORK, THETA, (X, Y), **settings | dict(learning_rate=1.1 * most))
    assert np.abs(blown).max() > 1e3
    # One step has no time to diverge, and is exact at any rate.
    once = dict(learning_rate=1e3, steps=1)
    measured = trained(*given, **once)
    assert 1 - r2(measured, forecast.change(*given, **once)) < 1e-10


def test_a_learning_rate_above_a_limit_that_is_only_sufficient_is_a_warning():
    with pytest.warns(UserWarning, match="learning_rate=1: above .* known to be safe"):
        forecast.change(
            NETWORK, THETA, OLD, (X, Y), learning_rate=1.0, steps=2, loss=losses.cross_entropy()
        )


def test_a_network_that_scales_its_learning_rate_does_so_here():
    given = (THETA, OLD, (X, Y))
    scaled = NETWORK._replace(rate_scale=0.25)
    plain = forecast.change(NETWORK, *given, learning_rate=0.1, steps=5)
    settings = dict(learning_rate=0.4, steps=5)
    np.testing.assert_allclose(forecast.change(scaled, *given, **settings), plain, rtol=1e-12)
    np.testing.assert_allclose(trained(scaled, *given, **settings), plain, atol=1e-10)
    with pytest.raises(SettingError, match="mup: how the learning rate scales"):
        forecast.change(scaled, *given, optimizer=optimizers.adam(), **settings)
