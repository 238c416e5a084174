"""Li and Hiratani: the theorem's numbers, the rules, and claims that fail where they should."""

import json
from pathlib import Path

import numpy as np
import pytest
from cases import load_script

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/li_hiratani_orders")


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "results" / "tables" / "li_hiratani_orders.json").read_text())


@pytest.mark.parametrize("solve", ["theorem", "by_block_solve"])
def test_the_theorem_and_the_block_solve_match_theory_12_4(script, solve):
    def of(inputs, targets):
        return getattr(script, solve)(np.array(inputs), np.array(targets))

    for c, s, error in ((0.5, 0.0, 0.3125), (0.5, 1.0, 0.0625), (0.8, 0.5, 0.5376)):
        assert of([[1, c], [c, 1]], [[1, s], [s, 1]]) == pytest.approx(error, abs=1e-10)
    gaps = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    assert of(0.5**gaps, 0.3**gaps) == pytest.approx(0.74409375, abs=1e-10)


def test_rules_put_the_unlike_task_first_and_unlike_tasks_side_by_side(script):
    transfer = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])  # task 2 is the periphery
    orders = [[0, 1, 2], [2, 0, 1], [0, 2, 1]]
    run = {"inputs": np.eye(3), "targets": np.eye(3), "transfer": transfer, "orders": orders}
    found = script.costs(run | {"predicted": [0.3, 0.1, 0.2]})
    assert np.argmin(found["forecast"]) == 1 and np.argmin(found["periphery"]) == 1
    assert np.argmin(found["max_path"]) == 2
    assert script.greedy(run) == (2, 0, 1)


def test_the_regret_of_a_rule_that_ties_is_the_mean_of_its_orders(script):
    orders, same = [[0, 1], [1, 0]], np.array([[1, 0.5], [0.5, 1]])
    run = {"inputs": np.eye(2), "targets": np.eye(2), "transfer": same, "orders": orders}
    found = script.regrets(run | {"predicted": [0.1, 0.2], "measured": [0.1, 0.3]})
    assert found["forecast"] == 0 and found["reverse"] == 1
    assert found["max_path"] == found["random"] == pytest.approx(0.5)


def test_the_committed_table_backs_its_claims(script, stored):
    summary = script.summarise(stored["runs"])
    off = stored["theorem against block solve"]
    assert script.judge(summary, off, stored["runs"]) == stored["claims"]
    assert stored["claims"][0]["holds"] and stored["claims"][1]["holds"]


def test_a_forecast_that_ranks_at_random_fails_its_claim(script, stored):
    runs = {
        seed: run | {"predicted": np.random.default_rng(0).permutation(run["predicted"]).tolist()}
        for seed, run in stored["runs"].items()
    }
    assert not script.judge(script.summarise(runs), 0.0, runs)[1]["holds"]
