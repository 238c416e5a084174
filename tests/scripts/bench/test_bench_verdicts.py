"""The survey of verdicts: its cells, its words, and what is stored of it."""

import json
import subprocess
import sys

import pytest
from cases import ROOT, load_script


def stored(name: str = "verdicts") -> list[dict]:
    return json.loads((ROOT / "results" / "bench" / f"{name}.json").read_text())["rows"]


@pytest.mark.slow
def test_a_quick_run_writes_two_cells(tmp_path):
    script = str(ROOT / "scripts" / "bench" / "verdicts.py")
    given = [sys.executable, script, "--quick", "--folder", str(tmp_path)]
    subprocess.run(given, check=True, capture_output=True)
    rows = json.loads((tmp_path / "verdicts_quick.json").read_text())["rows"]
    assert {row["network"] for row in rows} == {"mlp 1", "vit"}
    assert all(row["seconds"] > 0 and row["verdict"] != "unknown" for row in rows)


@pytest.mark.parametrize("name", ["verdicts", "verdicts_chosen"])
def test_stored_verdicts_are_those_of_their_signs(name):
    verdicts = load_script("bench/verdicts")
    for row in stored(name):
        grade, reasons = verdicts.regraded(row)
        assert (grade, list(reasons)) == (row["verdict"], row["reasons"])


def test_cells_are_stored_in_their_order_and_nothing_that_is_trusted_is_bad():
    verdicts, rows = load_script("bench/verdicts"), stored()
    expected = [
        [*cell["names"].values(), form]
        for cell in verdicts.cells(quick=False)
        for form in cell["forms"]
    ]
    keys = ("network", "stream", "loss", "rule", "scaling", "source", "method", "form")
    assert [[row[key] for key in keys] for row in rows] == expected
    assert len(rows) > 60
    for same in (rows, stored("verdicts_chosen")):
        numbers = verdicts.summed(same)
        assert numbers["unknown"] == 0 and numbers["good or fair that are bad"] == 0
        assert numbers["bad"] > 10 and numbers["bad that are poor"] == numbers["bad"]
        assert numbers["good or fair"] > 10 and numbers["median cost of a check"] < 0.1


def test_a_forecast_is_bad_by_its_drift_or_by_a_forgetting_that_no_rerun_explains():
    is_bad = load_script("bench/verdicts").is_bad
    right = dict(r2=0.9, predicted=1.2, measured=1.0, rerun=1.0)
    assert not is_bad(right) and is_bad(right | {"r2": 0.79}) and is_bad(right | {"r2": None})
    assert is_bad(right | {"predicted": 1.4})
    assert not is_bad(right | {"predicted": 1.4, "rerun": 1.5})
