"""Steele: the angle of two tasks, and claims that fail where they should."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import load_script, random_stream

from ntkcl import networks

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/steele_angles")


def test_the_cosine_is_that_of_the_largest_gradient_directions(script):
    first, second = random_stream(jax.random.key(0), [6, 7], d=5, c=1)
    network = networks.mlp(outputs=1, width=8)
    theta = network.init(jax.random.key(1), first.train.x[0])

    def directions(x, rank):
        rows = jax.vmap(lambda one: jax.grad(lambda theta: network.apply(theta, one)[0])(theta))(x)
        flat = np.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(rows)], 1)
        return np.linalg.svd(flat, full_matrices=False)[2][:rank]

    for rank in (1, 3):
        bases = [directions(task.train.x, rank) for task in (first, second)]
        expected = np.linalg.svd(bases[0] @ bases[1].T, compute_uv=False)[0]
        found = script.largest_cosine(network, theta, (first, second), rank)
        assert found == pytest.approx(expected, abs=1e-8)
    assert script.largest_cosine(network, theta, (first, first), 2) == pytest.approx(1)


def test_the_committed_table_backs_its_claims_and_a_shuffled_forecast_does_not(script):
    stored = json.loads((ROOT / "results" / "tables" / "steele_angles.json").read_text())
    pairs = stored["pairs"]
    assert script.judge(script.summarise(pairs), pairs) == stored["claims"]
    assert stored["claims"][1]["holds"] and stored["claims"][2]["holds"]
    for rows in pairs.values():
        for one, value in zip(rows, [row["predicted"] for row in rows][::-1], strict=True):
            one["predicted"] = value
    assert not script.judge(script.summarise(pairs), pairs)[1]["holds"]
