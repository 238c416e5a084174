"""The committed table of what forecasts reached, and its claims."""

import json
from pathlib import Path

import pytest
from cases import load_script

TABLES = Path(__file__).parents[3] / "results" / "tables"


@pytest.fixture(scope="module")
def script():
    return load_script("figures/reached")


def test_the_committed_table_holds_every_command_and_its_claims(script):
    stored = json.loads((TABLES / "reached.json").read_text())
    assert {(row["preset"], row["width"]) for row in stored["rows"]} == {
        claim[:2] for claim in script.CLAIMS
    }
    assert script.judge(stored["rows"]) == stored["claims"] and all(
        claim["holds"] for claim in stored["claims"]
    )
    assert (TABLES / "reached.md").read_text() == script.markdown(stored)


def test_a_claim_fails_by_one_run_that_falls_short_and_by_none_at_all(script):
    stored = json.loads((TABLES / "reached.json").read_text())
    (first, *others), preset = stored["rows"], "minibatch_split"
    short = [
        row | {"drift_r2": 0.9} if row["preset"] == preset and row["anchor"] == "boundary" else row
        for row in [first, *others]
    ]
    none = [row for row in [first, *others] if row["preset"] != preset]
    for rows in (short, none):
        assert [claim["holds"] for claim in script.judge(rows)] == [
            name != preset for name, *_ in script.CLAIMS
        ]
