"""Lee et al., Fig. 2: the process in time, and claims that fail where they should."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from cases import load_script

from ntkcl import kernels
from ntkcl.types import Dataset

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/lee_fig2")


@pytest.fixture
def stored():
    return json.loads((ROOT / "results" / "tables" / "lee_fig2.json").read_text())


@pytest.fixture(scope="module")
def given(script):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(9, 6)))
    limit = kernels.infinite(depth=2, activation="erf")
    data = Dataset(x[3:], jnp.asarray(rng.normal(size=(6, 1))))
    return script.Problem(data, x[:3], np.asarray(limit.ntk(x)), np.asarray(limit.nngp(x)), 0.3)


def test_coordinates_in_the_span_keep_every_inner_product(script):
    rng = np.random.default_rng(0)
    x, mix = rng.normal(size=(4, 7)), rng.normal(size=(3, 4))
    own, others = script.coordinates(x, mix @ x)
    assert own.shape == (4, 4) and others.shape == (3, 4)
    both, raw = np.concatenate([own, others]), np.concatenate([x, mix @ x])
    np.testing.assert_allclose(both @ both.T / 4, raw @ raw.T / 7, atol=1e-12)


def test_the_process_is_what_steps_in_function_space_make_of_a_gaussian(script, given):
    y = np.asarray(given.data.y)[:, 0]
    carried, shift = np.eye(9), np.zeros(9)  # f_t = carried f_0 + shift
    for steps in range(6):
        mean, sd = script.process(given, given.tangent, steps)
        np.testing.assert_allclose(mean, shift, atol=1e-12)
        variance = np.diag(carried @ given.covariance @ carried.T)
        np.testing.assert_allclose(sd, np.sqrt(variance), rtol=1e-9)
        loss = np.mean((shift[3:] - y) ** 2 + variance[3:]) / 2
        assert script.expected_loss(given, steps) == pytest.approx(loss)
        push = given.rate * given.tangent[:, 3:]
        carried, shift = carried - push @ carried[3:], shift - push @ (shift[3:] - y)


def test_scores_of_draws_are_what_an_interval_of_95_percent_promises(script, given):
    settings = {"times": [0, 2, 5, 40], "networks": 30, "repeats": 40, "seed": 1}
    limit = script.on_the_line(given, given.tangent, settings["times"])
    draws = np.random.default_rng(0).normal(size=(4000, 30, 4, 3)) * limit["sd"] + limit["mean"]
    drawn = [script.scores({"mean": f.mean(0), "sd": f.std(0, ddof=1)}, limit, 30) for f in draws]
    for key in ("mean", "sd"):
        assert np.mean([one[key] for one in drawn]) == pytest.approx(0.95, abs=0.005)
    chance = script.by_chance(settings, given, limit)
    assert 0 < chance["mean"] < 1 and 0 < chance["sd"] < 1 and 0.05 < chance["distance"] < 1


def test_the_committed_table_backs_its_claims(script, stored):
    assert script.judge(stored["settings"], stored) == stored["claims"]


def holds(script, stored):
    return [claim["holds"] for claim in script.judge(stored["settings"], stored)]


def test_other_ensembles_fail_the_claims(script, stored):
    widest, limit = list(stored["ensembles"].values())[-1], stored["limit"]
    widest["mean"] = (np.array(widest["mean"]) + 0.5 * np.array(limit["sd"])).tolist()
    widest["sd"] = (1.5 * np.array(widest["sd"])).tolist()
    widest["loss"] = (3 * np.array(widest["loss"])).tolist()
    assert holds(script, stored)[:3] == [False] * 3 and not holds(script, stored)[4]
    widest |= stored["last layer"]
    assert not holds(script, stored)[3]
