"""What sweeps were measured to cost and to survive, and a small run of the benchmark."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cases import load_script

ROOT = Path(__file__).parents[3]
BENCH = ROOT / "results" / "bench"
STORED = {
    name: json.loads((BENCH / f"{name}.json").read_text()) for name in ("sweep", "kill_sweep")
}


kill_sweep = load_script("bench/kill_sweep")


BENCHMARKS = {
    "forecast": "forecast",
    "kernels": "kernels_report",
    "matrix_free": "matrix_free",
    "tiles": "tiles",
    "training": "training",
    "sweep": "sweep",
    "kill_runs": "kill_runs",
    "kill_sweep": "kill_sweep",
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_tables_are_those_of_the_stored_numbers(name):
    stored = json.loads((BENCH / f"{name}.json").read_text())
    assert (BENCH / f"{name}.md").read_text() == load_script(f"bench/{BENCHMARKS[name]}").markdown(
        stored
    )


def test_nothing_was_lost_doubled_or_changed_by_twenty_kills():
    record = STORED["kill_sweep"]
    assert record["runs"] == 24 and len(record["kills"]) == 20
    assert all(one["runs"] == 24 and not one["left_behind"] for one in record["completions"])
    assert (
        sum(
            one[key]
            for one in record["completions"]
            for key in ("lost", "doubled", "differing_bytes")
        )
        == 0
    )


def test_a_run_costs_little_beside_itself():
    for row in STORED["sweep"]["launching"]:
        assert row["cold_seconds"] < 3 and row["shared_seconds"] < 0.3, row
    evaluations = STORED["sweep"]["looking"]
    assert (
        evaluations["table_seconds"] < 5
        and evaluations["report_seconds"] < 10
        and evaluations["report_megabytes"] < 20
    )


def test_a_changed_byte_and_a_run_made_twice_are_seen(tmp_path):
    place = tmp_path / "runs" / "main" / "a"
    place.mkdir(parents=True)
    for file in ("config.yaml", "rows.parquet"):
        (place / file).write_bytes(b"same")
    (place / "summary.json").write_text('{"R": [1], "seconds": {"total": 3}}')
    (place / "arrays.npz").write_bytes(b"abc")
    one, stamp = kill_sweep.compared(place), kill_sweep.stamps(tmp_path)
    assert kill_sweep.stamps(tmp_path) == stamp
    (place / "arrays.npz").write_bytes(b"abd")
    assert (
        kill_sweep.differing(one, kill_sweep.compared(place)) == 1
        and kill_sweep.stamps(tmp_path) != stamp
    )
    (place / "arrays.npz").write_bytes(b"abc")
    (place / "summary.json").write_text('{"R": [1], "seconds": {"total": 4}}')
    assert kill_sweep.compared(place) == one


@pytest.mark.slow
def test_a_small_run_of_the_benchmark_writes_its_rows(tmp_path):
    call = [
        sys.executable,
        ROOT / "scripts" / "bench" / "sweep.py",
        "--runs",
        "3",
        "--cold",
        "1",
        "--evaluations",
        "1",
        "--folder",
        tmp_path,
    ]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert (
        stored["command"] == "python scripts/bench/sweep.py --runs 3 --cold 1 --evaluations 1"
        and len(stored["launching"]) == 2
    )
    assert all(row["cold_seconds"] > 0 and row["shared_seconds"] > 0 for row in stored["launching"])
