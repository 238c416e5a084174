"""Fig. 3 of Jacot, Gabriel, Hongler 2018: components, the way along one, and claims that fail."""

import json
from pathlib import Path

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import load_script

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "depth": 2,
    "b_std": 0.1,
    "seed": 0,
    "time": 6,
    "every": 2,
    "widths": [8],
    "trials": [1],
    "learning_rates": [1],
}


@pytest.fixture(scope="module")
def script():
    return load_script("figures/jacot_fig3")


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "results" / "tables" / "jacot_fig3.json").read_text())


def test_components_are_eigenvectors_of_the_kernel_over_n(script):
    a = np.random.default_rng(0).standard_normal((7, 7))
    kernel = a @ a.T
    values, vectors = script.components(kernel)
    np.testing.assert_allclose(kernel @ vectors / 7, vectors * values, atol=1e-10)
    np.testing.assert_allclose(np.mean(vectors**2, 0), 1)
    assert list(values) == sorted(values, reverse=True) and values[0] > np.trace(kernel) / 49


def test_what_is_left_of_the_way_is_that_of_descent_written_by_hand(script):
    """1/(2n) sum_i (f(x_i) - f_0(x_i) - v_i / 2)^2 for unit rate, split along v and across it."""
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    second = np.array([1.0, -1, 1, -1, 1, -1])
    found = script.trained(SETTINGS, 8, 1, 1.0, x, second)
    network = script.mlp(SETTINGS, 8, 2)
    theta = network.init(jax.random.split(jax.random.fold_in(jax.random.key(0), 8), 1)[0], x[0])

    def f(theta):
        return jax.vmap(network.apply, (None, 0))(theta, jnp.asarray(x, jnp.float32))[:, 0]

    goal = f(theta) + second / 2
    for look in range(4):
        left = np.asarray(f(theta) - goal, float)
        g = left @ second / 6
        assert found["along"][0][look] == pytest.approx(abs(g), abs=5e-6)
        h = np.sqrt(np.mean((left - g * second) ** 2))
        assert found["away"][0][look] == pytest.approx(h, abs=5e-6)
        for _ in range(2):
            gradient = jax.grad(lambda theta: 0.5 * jnp.mean((f(theta) - goal) ** 2))(theta)
            theta = jax.tree.map(lambda a, b: a - b, theta, gradient)
    assert found["along"][0][0] == pytest.approx(0.5, abs=1e-6) and found["away"][0][-1] > 1e-3


@pytest.mark.parametrize(
    "override, message",
    [
        ("trials=[1]", r"trials=\[1\]: expected a number for each of the widths"),
        ("every=7", "every=7: expected a divisor of time=400"),
        ("learning_rates=[3,3]", "learning_rates, 3: expected a divisor of every=20"),
        ("widths=[8]", "at least 2"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(run_figure, script, override, message):
    with pytest.raises(ValueError, match=message):
        run_figure(script, "size=small", override)


def test_the_committed_table_was_made_with_the_preset(script, stored):
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert script.check(hydra.compose("figure/jacot_fig3")) == stored["settings"]


def test_the_committed_table_backs_its_claims_and_widths_exchanged_do_not(script, stored):
    assert script.judge(stored) == stored["claims"]
    assert all(claim["holds"] for claim in stored["claims"])
    names = list(stored["networks"])
    exchanged = dict(zip(names, list(stored["networks"].values())[::-1], strict=True))
    broken = stored | {
        "networks": exchanged,
        "eigenvalues": [0.002, 0.001, 0.0008],
        "of other draws": {
            depth: (2 * np.array(values)).tolist()
            for depth, values in stored["of other draws"].items()
        },
    }
    assert not any(claim["holds"] for claim in script.judge(broken))
