"""The kernel at task switches: metrics by plain algebra, and claims that fail where they should."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from cases import load_script, tiny_source

ROOT = Path(__file__).parents[3]
SETTINGS = {"tasks": 3, "steps": 8, "every": 2}  # four looks a task


@pytest.fixture(scope="module")
def script():
    return load_script("figures/reactivation")


def centred_cosine(a, b):
    H = np.eye(len(a)) - 1 / len(a)
    a, b = H @ a @ H, H @ b @ H
    return np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))


def test_metrics_of_a_sequence_of_kernels(script):
    rng = np.random.default_rng(0)
    roots, y = rng.normal(size=(3, 5, 7)), np.eye(2)[[0, 1, 1, 0, 1]]
    K = roots @ roots.transpose(0, 2, 1)
    found = script.metrics_of(jnp.asarray(K), y, every=4)
    expected = {
        "norm": [np.linalg.norm(k, 2) for k in K],
        "distance": [1 - centred_cosine(k, K[0]) for k in K],
        "velocity": [(1 - centred_cosine(*K[i : i + 2])) / 4 for i in range(2)],
        "alignment": [centred_cosine(k, y @ y.T) for k in K],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-8)


def test_frequencies_change_and_images_do_not(script):
    settings = {"tasks": 2, "train": 4, "shares": [0.5, 0.75]}
    first = script.new_classes(settings, tiny_source(), seed=0)[0]
    same, changed = script.frequencies(settings, first)
    np.testing.assert_array_equal(same.train.x, first.train.x)
    assert changed.train.y.argmax(1).tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(changed.train.x, first.train.x[np.array([0, 1, 0, 2])])


def run(after=0.8, before=0.1, down=0.5, end=2.0):
    """Of three tasks: velocity `after` a switch and `before` it, the norm goes down, then up."""
    velocity = [before] * 12
    velocity[4] = velocity[8] = after
    norm = [1, *([1.0] * 4), down, 1, 1, 1.0, down, 1, 1, end]
    norm[8] = 1.0
    return {"velocity": velocity, "norm": norm}


def test_a_spike_is_measured_against_the_velocity_before_it(script):
    np.testing.assert_allclose(np.exp(script.heights(SETTINGS, [run()])), [[8, 8]])
    np.testing.assert_allclose(np.exp(script.peaks(SETTINGS, [run()])), [0.8])
    moved = [measure(SETTINGS, [run()])[0] for measure in (script.down_of, script.up_of)]
    np.testing.assert_allclose(np.exp(moved), [0.5, np.sqrt(2 * 4)])
    by_width = {"10": [run(after=0.8)] * 2, "1000": [run(after=0.008)] * 2}
    assert script.slope(SETTINGS, by_width)[0] == pytest.approx(-1)


def test_each_claim_fails_on_numbers_that_break_it(script):
    def holds(published, changed):
        found = {"published": {"8": [published] * 2}, "frequencies": {"8": [changed] * 2}}
        return [claim["holds"] for claim in script.judge(SETTINGS, found)]

    slow = run(after=0.15)
    assert all(holds(run(), slow))
    assert holds(run(after=0.18), slow) == [False, True, True, True, True]
    assert holds(run(down=1.1), slow) == [True, False, True, True, True]
    assert holds(run(end=0.1), slow) == [True, True, False, True, True]
    assert holds(run(after=0.4), run(after=0.5)) == [True, True, True, False, False]


def test_the_committed_table_backs_its_claims(script):
    stored = json.loads((ROOT / "results" / "tables" / "reactivation.json").read_text())
    assert script.judge(stored["settings"], stored["runs"]) == stored["claims"]
