"""The survey of forecasts that linearise anew: its cells, its words, and what is stored of it."""

import json
import subprocess
import sys

import pytest
from cases import ROOT, load_script


def stored() -> dict:
    return json.loads((ROOT / "results" / "bench" / "segments.json").read_text())


@pytest.mark.slow
def test_a_quick_run_writes_two_cells(tmp_path):
    script = str(ROOT / "scripts" / "bench" / "segments.py")
    given = [sys.executable, script, "--quick", "--folder", str(tmp_path)]
    subprocess.run(given, check=True, capture_output=True)
    rows = json.loads((tmp_path / "segments_quick.json").read_text())["rows"]
    assert [row["network"] for row in rows] == ["mlp 1", "lenet"]
    assert all(row["seconds"]["8"] > 0 and row["r2"]["rerun"] is not None for row in rows)
    assert "| auto |" in (tmp_path / "segments_quick.md").read_text()


def test_every_cell_is_stored_and_no_forecast_that_is_trusted_is_far_off():
    segments, rows = load_script("bench/segments"), stored()["rows"]
    cells = segments.cells(quick=False)
    axes = ("network", "stream", "rule", "scaling", "source")
    assert [[row[key] for key in axes] for row in rows] == [
        [cell[key] for key in axes] for cell in cells
    ]
    made = segments.graded(rows)
    trusted = [one for one in made if one["verdict"] in ("good", "fair")]
    assert len(trusted) > 60 and min(one["r2"] for one in trusted) > 0.8
    by_eight = [one for one in made if one["segments"] == "8"]
    assert sum(one["r2"] >= 0.9 for one in by_eight) >= 0.8 * len(rows)
    assert sum(one["forgetting"] <= 0.25 for one in by_eight) >= 0.8 * len(rows)
    timed = [row["seconds"] for row in rows if row["seconds"]]
    assert sum(each["8"] <= 3 * each["train"] for each in timed) >= 0.9 * len(timed) > 20
    bad = [one for one in made if one["r2"] < 0.8]
    assert len(bad) > 30 and {one["verdict"] for one in bad} == {"poor"}


def test_forgetting_is_off_by_what_a_rerun_does_not_explain():
    missed = load_script("bench/segments").missed
    assert missed(2.5, 2.0, 1.4) == 0.0 and missed(3.0, 2.0, 1.4) == 0.5
    assert missed(3.0, 2.0, 1.4, 3.0) == 0.0
    assert missed(None, 2.0, 1.4) == float("inf")
