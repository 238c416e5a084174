"""Kirkpatrick Fig. 2: overlaps by dense algebra, and claims that fail where they should."""

import copy
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
    return load_script("figures/kirkpatrick_fig2")


def root(F):
    """F^(1/2) of a symmetric matrix without negative eigenvalues."""
    lam, U = np.linalg.eigh(F)
    return (U * np.sqrt(np.maximum(lam, 0))) @ U.T


def test_the_kernel_has_the_overlap_of_the_whole_matrices_of_each_layer(script):
    stream = random_stream(jax.random.key(0), [4, 4], d=3, c=2)
    network = networks.mlp(outputs=2, width=4, centred=False)
    theta = network.init(jax.random.key(1), stream[0].train.x[0])
    found, _ = script.of_kernel(network, theta, stream, 4)
    rows = [jax.vmap(jax.jacobian(network.apply), (None, 0))(theta, t.train.x) for t in stream]
    for layer, value in zip(("hidden_0", "readout"), found, strict=True):
        J = [np.asarray(one[layer]["kernel"]).reshape(8, -1) for one in rows]
        a, b = (own.T @ own / np.sum(own**2) for own in J)
        # The root of what is zero up to rounding: half of the digits.
        assert value == pytest.approx(np.trace(root(root(a) @ b @ root(a))), abs=1e-4)
    assert script.of_kernel(network, theta, stream[:1] * 2, 4)[0] == pytest.approx([1, 1])


def test_diagonals_overlap_by_the_part_that_they_share(script):
    for a, b, expected in (
        ([1.0, 3.0], [2.0, 6.0], 1),
        ([1.0, 0.0], [0.0, 2.0], 0),
        ([1.0, 1.0], [5.0, 0.0], 0.5**0.5),
    ):
        found = script.of_diagonals({"b": np.array(a)}, {"b": np.array(b)})
        assert found == pytest.approx(expected)


def test_the_penalty_is_that_of_the_highest_accuracy_of_its_panel(script):
    validation = {"EWC": {"1": [0.5, 0.8], "10.0": [0.7, 0.6]}}
    assert [script.best(validation, "EWC", panel) for panel in "AB"] == [10, 1]
    assert script.best(validation, "SGD", "A") is None


def test_the_committed_table_backs_its_claims_and_broken_numbers_fail_each(script):
    table = json.loads((ROOT / "results" / "tables" / "kirkpatrick_fig2.json").read_text())
    assert script.judge(table["settings"], table) == table["claims"]
    one, nine = [[[0.9] * 10] * 10] * 3, [[[0.1] * 10] * 10] * 3
    good = copy.deepcopy(table)
    good["A"] = {"SGD": descending(0.3), "L2": descending(0.6, last=0.2), "EWC": one}
    good["B"] = {"SGD": nine, "EWC": one, "EWC, one centre": one}
    good["kernel"] = good["cosines"] = good["fisher"] = layered(table["settings"])
    claims = script.judge(table["settings"], good)
    assert all(claim["holds"] for claim in claims)
    bad = copy.deepcopy(good)
    bad["A"] = {"SGD": one, "L2": one, "EWC": nine}
    bad["B"] = {"SGD": one, "EWC": nine, "EWC, one centre": one}
    bad["fisher"] = layered(table["settings"], larger=0.3, closer=-0.05)
    assert not any(claim["holds"] for claim in script.judge(table["settings"], bad))


def descending(first, last=0.9):
    """R of three tasks, of which the first falls to `first`, the third reaches `last`."""
    return [
        [[0.9, 0.1, 0.1], [0.5, 0.9, 0.1], [first + seed / 100, 0.6, last]] for seed in range(3)
    ]


def layered(settings, larger=-0.3, closer=0.05):
    """Overlaps that change by `larger` from no patch to the largest, by `closer` a layer."""
    most = max(settings["patches"])
    return [
        {
            str(patch): [
                0.6 + patch / most * (larger + closer * layer) + seed / 1000 for layer in range(5)
            ]
            for patch in settings["patches"]
        }
        for seed in range(3)
    ]
