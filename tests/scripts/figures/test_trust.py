"""How well the verdict knew: the table by hand, and the committed one behind what README says."""

import json
from pathlib import Path

import numpy as np
import pytest
from cases import load_script

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/trust")


def test_the_table_by_hand(script):
    drift = {"good": [0.9, 0.8, 1.0], "poor": [0.1]}
    rows = [
        {
            "anchor": "init",
            "stream": "split",
            "verdict": verdict,
            "drift_r2": value,
            "change_r2": value / 2,
        }
        | {"trial_r2": value, "halved_r2": -value, "condition": None if value < 0.2 else 1 / value}
        for verdict, values in drift.items()
        for value in values
    ]
    good, poor = script.by_verdict(rows)
    assert (
        good["forecasts"],
        good["drift_r2_lowest"],
        good["drift_r2_median"],
        good["change_r2_highest"],
    ) == (3, 0.8, 0.9, 0.5)
    assert (poor["verdict"], poor["forecasts"], poor["drift_r2_median"]) == ("poor", 1, 0.1)
    ranks = {row["sign"]: (row["null"], row["all"], row["split"]) for row in script.ranked(rows)}
    assert ranks == {
        "trial_r2": (0, 1.0, 1.0),
        "halved_r2": (0, -1.0, -1.0),
        "condition": (1, 1.0, 1.0),
    }


def test_good_forecasts_from_initialisation_came_out_better_than_fair_and_poor_ones(script):
    rows = json.loads((ROOT / "results" / "tables" / "trust.json").read_text())
    assert len(rows) == 72
    assert all(
        row["condition"] is None or row["condition"] < 1 / np.finfo(np.float32).eps for row in rows
    )  # else it is singular
    medians = {
        row["verdict"]: row["drift_r2_median"]
        for row in script.by_verdict(rows)
        if row["anchor"] == "init"
    }
    assert medians["good"] > medians["fair"] > medians["poor"]
    assert (ROOT / "results" / "tables" / "trust.md").read_text() == script.markdown(rows)
