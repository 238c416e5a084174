"""The error budget: terms by hand, the script on a few images, the table behind its claims."""

import json
from pathlib import Path

import numpy as np
import pytest
from cases import load_script

from ntkcl.metrics.error_budget import budget

ROOT = Path(__file__).parents[3]
TINY = (
    "source=digits",
    "widths=[4,8]",
    "seeds=[0]",
    "tasks=2",
    "per_class=1",
    "steps=5",
    "batch_size=3",
)


def test_the_terms_of_a_budget_by_hand():
    ladder = {
        "measured": np.array([3.0, -1.0]),
        "near": np.array([2.0, -1.0]),
        "far": np.array([2.0, 1.0]),
    }
    near, far = budget(ladder)
    assert (near["name"], far["name"]) == ("near", "far")
    assert near["rms"] == pytest.approx(0.5**0.5) and far["rms"] == pytest.approx(2**0.5)
    assert near["share"] == pytest.approx(1 / 8) and far["share"] == pytest.approx(4 / 8)
    assert near["along"] == pytest.approx(1 / 5) and far["along"] == pytest.approx(4 / 5)
    assert near["r2"] == pytest.approx(1 - 1 / 8) and far["r2"] == pytest.approx(1 - 5 / 8)


@pytest.fixture(scope="module")
def script():
    return load_script("figures/error_budget")


@pytest.mark.slow
def test_the_terms_add_up_to_the_error_of_a_run(run_figure, script, tmp_path):
    run_figure(script, *TINY)
    stored = json.loads((tmp_path / "tables" / "error_budget.json").read_text())
    assert stored["claims"][0]["holds"] and len(stored["cells"]) == 2
    for cell in stored["cells"]:
        assert [term["name"] for term in cell["terms"]] == list(script.MEANING)
        assert sum(term["along"] for term in cell["terms"]) == pytest.approx(1.0)
        assert all(
            term["rms"] > 0 for term in cell["terms"]
        )  # each experiment leaves out something
    assert (tmp_path / "figures" / "error_budget.png").stat().st_size > 10_000


def test_the_committed_table_backs_its_claims(script):
    stored = json.loads((ROOT / "results" / "tables" / "error_budget.json").read_text())
    assert all(claim["holds"] for claim in stored["claims"])
    assert stored["claims"] == script.claims(stored["settings"], stored["cells"])
    assert (ROOT / "results" / "tables" / "error_budget.md").read_text() == script.markdown(stored)
