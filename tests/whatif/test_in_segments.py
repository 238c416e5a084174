"""A candidate predicted along its own path: laws that hold at both ends, one segment and all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl import metrics, networks, optimizers, whatif
from ntkcl.validation import SettingError

RECIPE = whatif.Recipe(
    0.05, epochs=2, batch_size=4, optimizer=optimizers.adam(), schedule="linear", clip=0.5
)
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def asked():
    network = networks.mlp(outputs=3, width=6, depth=1, activation="tanh", centred=False)
    theta = network.init(jax.random.key(0), jnp.zeros(5, float))
    key = np.random.default_rng(0)
    old, new = ((key.normal(size=(n, 5)), np.eye(3)[key.integers(0, 3, n)]) for n in (8, 12))
    return whatif.question(network, theta, old, new)


def outputs(asked, network, theta):
    return np.asarray(networks.forward(network.apply, theta, asked.old.x))


def test_as_many_segments_as_steps_are_training_itself(asked):
    _, theta = whatif.in_segments(asked, RECIPE, STEPS)
    true = whatif.train(asked, RECIPE)[-1]
    for one, two in zip(jax.tree.leaves(theta), jax.tree.leaves(true), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-10)


def test_one_segment_is_the_training_of_the_linearised_network(asked):
    network, theta = whatif.in_segments(asked, RECIPE)
    linear = networks.linearised(asked.network, asked.theta)
    true = whatif.train(asked._replace(network=linear), RECIPE)[-1]
    np.testing.assert_allclose(
        outputs(asked, network, theta), outputs(asked, linear, true), atol=1e-10
    )


def test_more_segments_come_nearer_to_training(asked):
    recipe = RECIPE._replace(learning_rate=0.2)

    def change(theta):
        f, before = (outputs(asked, asked.network, at) for at in (theta, asked.theta))
        return np.ravel(f - before)

    true = change(whatif.train(asked, recipe)[-1])
    one, three = (change(whatif.in_segments(asked, recipe, m)[1]) for m in (1, 3))
    assert metrics.r2(true, three) > max(0.9, metrics.r2(true, one))


@pytest.mark.parametrize("segments", [0, STEPS + 1])
def test_segments_are_some_of_the_steps(asked, segments):
    with pytest.raises(SettingError, match=r"whatif\.segments"):
        whatif.in_segments(asked, RECIPE, segments)
