"""The benchmark of training and the test by kills run at tiny sizes; stored ones hold."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from cases import load_script

ROOT = Path(__file__).parents[3]
BENCH = ROOT / "results" / "bench"
KEYS = {
    "case", "method", "steps_per_second", "samples_per_second", "overhead_over_sgd",
    "pytorch_steps_per_second", "pytorch_loader_steps_per_second",
}  # fmt: skip


def run(name, *options, folder):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "bench" / f"{name}.py"),
        *options,
        "--folder",
        str(folder),
    ]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def meets_schema(stored):
    for row in stored["rows"]:
        assert (
            set(row) >= KEYS
            and math.isfinite(row["overhead_over_sgd"])
            and row["steps_per_second"] > 0
        )
    labels = [(row["case"], row["method"]) for row in stored["rows"]]
    assert len(set(labels)) == len(labels)
    return dict(zip(labels, stored["rows"], strict=True))


@pytest.mark.slow
def test_a_quick_run_writes_rows_of_the_schema(tmp_path):
    table = run("training", "--quick", "--without-peer", "--case", "mlp-256", folder=tmp_path)
    rows = meets_schema(json.loads((tmp_path / "training_quick_mlp-256.json").read_text()))
    assert {
        ("mlp-256", name) for name in ("sgd", "bare", "ewc_diagonal", "er", "ogd", "gpm")
    } <= set(rows)
    assert (
        all(row["pytorch_steps_per_second"] is None for row in rows.values())
        and "| mlp-256 | er |" in table
    )


def test_the_stored_benchmark_holds_every_case_and_its_claims():
    rows = meets_schema(json.loads((BENCH / "training.json").read_text()))
    assert {case for case, _ in rows} == {"mlp-100", "mlp-256", "mlp-1024", "cnn-32"}
    ours = rows["mlp-256", "sgd"]
    assert ours["overhead_over_bare"] < 0.05
    for key, times in (("pytorch_steps_per_second", 1.4), ("pytorch_loader_steps_per_second", 1.7)):
        assert ours["steps_per_second"] > times * ours[key]
    # Five times PyTorch is more than the matrix products of a step allow on that machine.
    assert (
        5 * ours["pytorch_steps_per_second"] * ours["matmul_fraction"] / ours["steps_per_second"]
        > 1
    )


@pytest.mark.slow
def test_a_run_that_was_killed_and_started_again_ends_as_one_that_was_not(tmp_path):
    table = run("kill_runs", "--kills", "1", "--steps", "40", "--every", "10", folder=tmp_path)
    stored = json.loads((tmp_path / "kill_runs.json").read_text())
    assert (
        len(stored["kills"]) == 1
        and [run["differing_bytes"] for run in stored["completions"]][-1] == 0
    )
    assert stored["compared_bytes"]["arrays.npz"] > 10_000 and "| 1 |" in table


def test_in_the_stored_figures_thirty_kills_changed_no_byte():
    stored = json.loads((BENCH / "kill_runs.json").read_text())
    assert len(stored["kills"]) >= 30 and sum(
        run["lives"] - 1 for run in stored["completions"]
    ) == len(stored["kills"])
    assert sum(kill["newest"] is not None for kill in stored["kills"]) >= 10
    assert all(run["differing_bytes"] == 0 for run in stored["completions"])


@pytest.mark.parametrize("name, at, expected", [("arrays.npz", 3, 1), ("rows.parquet", None, 2)])
def test_bytes_that_differ_are_counted(name, at, expected):
    kills = load_script("bench/kill_runs")
    one = {file: bytes(range(10)) for file in kills.COMPARED}
    other = dict(one)
    other[name] = (
        one[name][:at] + b"\xff" + one[name][at + 1 :] if at is not None else one[name] + b"ab"
    )
    assert kills.differing(one, other) == expected and kills.differing(one, one) == 0
