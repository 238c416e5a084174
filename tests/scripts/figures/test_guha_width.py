"""The two ways of counting by hand, and the committed table behind the README of the results."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import load_script

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/guha_width")


def test_scores_by_epochs_count_every_epoch_and_nothing_before_a_task_was_trained(
    script,
):
    """Two tasks, two epochs each; accuracies in the order (training, step, evaluated)."""
    accuracies = {
        (0, 0): (0.1, 0.9),
        (0, 1): (0.5, 0.95),
        (0, 2): (0.4, 0.99),
        (1, 3): (0.3, 0.6),
        (1, 4): (0.2, 0.8),
    }
    curves = pd.DataFrame(
        {"training": t, "step": step, "evaluated": j, "accuracy": value}
        for (t, step), values in accuracies.items()
        for j, value in enumerate(values)
    )
    R = np.array([[0.4, 0.99], [0.2, 0.8]])
    counted = script.by_epochs(curves, R)
    assert counted["LA by epochs"] == pytest.approx(100 * np.mean([0.5, 0.4, 0.6, 0.8]))
    assert counted["AF by epochs"] == pytest.approx(100 * np.mean([0.5 - 0.2, 0.0]))
    assert script.at_the_ends(R) == pytest.approx({"AA": 50, "AF": 10, "LA": 60})


@pytest.mark.parametrize("off, holds", [(1.4, True), (1.6, False)])
def test_a_published_number_is_met_within_a_point_and_a_half(script, off, holds):
    def row(width, slope):
        aa, af, la = (value + off for value in script.PUBLISHED[width])
        values = {
            "AA": aa + slope,
            "AF": af - slope,
            "LA": la + slope,
            "AF by epochs": af,
            "LA by epochs": la,
        }
        scores = {key: {"mean": value, "sd": 0.1} for key, value in values.items()}
        return {"width": width, "seeds": 3} | scores

    claims = script.judge([row(32, 0.0), row(2048, 0.05)])
    assert [claim["holds"] for claim in claims] == [holds] * 5 + [True] * 3
    backwards = script.judge([row(32, 0.0), row(2048, 0.05) | {"AA": row(32, -1)["AA"]}])
    assert not backwards[5]["holds"] and backwards[5]["claim"] == "AA rises from width 32 to 2048"


def test_the_committed_table_meets_what_is_published(script):
    stored = json.loads((ROOT / "results" / "tables" / "guha_width.json").read_text())
    assert [(row["width"], row["seeds"]) for row in stored["table"]] == [
        (width, 3) for width in (32, 128, 512, 2048)
    ]
    assert script.summarise(stored["runs"]) == stored["table"]
    assert script.judge(stored["table"]) == stored["claims"]
    assert (ROOT / "results" / "tables" / "guha_width.md").read_text() == script.markdown(stored)
    met = {
        claim["claim"].split(" within")[0]: claim["holds"]
        for claim in stored["claims"]
        if " within " in claim["claim"]
    }
    assert met == {"AA": True, "AF": True, "LA": False, "AF by epochs": True, "LA by epochs": True}
