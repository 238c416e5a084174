"""Lee et al., Fig. 1: how far weights will go, and claims that fail where they should."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import load_script

from ntkcl import dynamics, kernels, networks
from ntkcl.types import Dataset

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/lee_fig1")


@pytest.fixture
def found():
    return json.loads((ROOT / "results" / "tables" / "lee_fig1.json").read_text())["changes"]


def test_the_forecast_is_where_descent_takes_the_linearised_weights(script):
    rng, steps, rate = np.random.default_rng(0), 7, 0.05
    x, y = jnp.asarray(rng.normal(size=(5, 4))), jnp.asarray(rng.normal(size=(5, 1)))
    network = networks.mlp(outputs=1, width=6, depth=3, centred=False)
    theta = network.init(jax.random.key(0), x[0])
    f = np.asarray(networks.forward(network.apply, theta, x))
    leaves = jax.vmap(lambda one: jax.grad(lambda theta: network.apply(theta, one)[0])(theta))(x)
    rows = {layer: np.asarray(leaf["kernel"]).reshape(len(x), -1) for layer, leaf in leaves.items()}
    jacobian = np.concatenate(list(rows.values()), 1)
    moved = np.zeros(jacobian.shape[1])
    for _ in range(steps):
        moved -= rate * jacobian.T @ (f[:, 0] + jacobian @ moved - np.asarray(y)[:, 0])
    ends = np.cumsum([row.shape[1] for row in rows.values()])[:-1]
    own = dict(zip(rows, np.split(moved, ends), strict=True))
    hidden = np.concatenate([own["hidden_1"], own["hidden_2"]])
    expected = [np.linalg.norm(part) for part in (own["hidden_0"], hidden, own["readout"])]
    by_layer = kernels.layers(network)(theta, x)
    rule = dynamics.gradient_descent(rate, steps)
    forecast = script.predicted(by_layer, f, Dataset(x, y), rule)
    np.testing.assert_allclose(forecast, expected, rtol=1e-9)


def test_slopes_are_the_powers_that_changes_follow(script):
    laws = {"input": -0.5, "hidden": -1, "output": -0.5, "theta": -0.6, "features": -0.9}
    drawn = {
        str(width): {
            seed: {key: factor * width**power for key, power in laws.items()}
            for seed, factor in (("0", 1.0), ("1", 1.1))
        }
        for width in (10, 100, 1000)
    }
    for key, power in laws.items():
        assert script.slope(drawn, key) == pytest.approx([power, 0], abs=1e-6)


def test_the_committed_table_backs_its_claims(script, found):
    stored = json.loads((ROOT / "results" / "tables" / "lee_fig1.json").read_text())
    assert script.judge(found) == stored["claims"]


@pytest.mark.parametrize(
    ("key", "power", "broken"),
    [
        ("input", 0.2, 0),
        ("output", 0.2, 0),
        ("hidden", 0.5, 1),
        ("theta", 1, 2),
        ("features", 1, 2),
    ],
)
def test_other_powers_of_the_width_fail_their_claim(script, found, key, power, broken):
    for width, rows in found.items():
        for row in rows.values():
            row[key] *= float(width) ** power
    assert not script.judge(found)[broken]["holds"]


def test_a_forecast_that_misses_fails_its_claim(script, found):
    for rows in found.values():
        for row in rows.values():
            row["forecast"]["hidden"] *= 1.3
    assert not script.judge(found)[3]["holds"]
