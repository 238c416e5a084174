"""The theory, checked: formulas hold for other numbers too, and a wrong one is found."""

import json
from pathlib import Path

import numpy as np
import pytest
from cases import load_script

from ntkcl import dynamics

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/theory_checked")


def test_every_formula_holds_for_other_numbers(script):
    rows = script.exact({"seed": 7})
    assert len(rows) == 10
    for row in rows:
        assert row.found <= row.bound, row


def test_a_wrong_formula_is_found(script, monkeypatch):
    rng = np.random.default_rng(0)
    (row,) = script.flow(rng)
    assert row.found <= row.bound
    monkeypatch.setattr(dynamics, "gradient_flow", descent_in_tenths)
    (row,) = script.flow(rng)
    assert row.found > row.bound


def descent_in_tenths(rate, time):
    return dynamics.gradient_descent(rate / 10, int(10 * time))


def test_the_committed_table_backs_every_claim_and_others_fail(script):
    stored = json.loads((ROOT / "results" / "tables" / "theory_checked.json").read_text())
    assert script.judge(stored["exact"], stored["limits"]) == stored["claims"]
    assert all(claim["holds"] for claim in stored["claims"])
    stored["exact"][3]["found"] = 1.0
    for by_width in stored["limits"].values():
        for row in by_width.values():
            row |= {"kernel": [0.1, 0.01], "linearised": [0.1, 0.01], "least eigenvalue": 0.0}
    assert not any(claim["holds"] for claim in script.judge(stored["exact"], stored["limits"]))
