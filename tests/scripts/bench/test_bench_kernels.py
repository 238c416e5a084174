"""The benchmark runs and keeps to its schema; the stored table backs the documentation."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STORED = ROOT / "results" / "bench" / "kernels.json"
FORMS = {"structured", "contraction", "vector_products"}
NUMBERS = ("seconds", "matmul_fraction", "peak_mib")
KEYS = {
    "case",
    "n1",
    "n2",
    "symmetric",
    "implementation",
    "neural_tangents",
    "max_relative_difference",
    "skipped",
    *NUMBERS,
}
WIDTHS = ("mlp-256", "mlp-1024", "mlp-4096")


def meets_schema(stored):
    assert {"rows", "machine", "command", "versions"} <= set(stored)
    assert stored["machine"]["cores"] >= 1 and "jax" in stored["versions"] and stored["rows"]
    for row in stored["rows"]:
        assert set(row) >= KEYS and row["implementation"] in FORMS and row["n1"] == row["n2"] >= 1
        if row["seconds"] is None:
            assert row["skipped"] and all(row[key] is None for key in NUMBERS)
        else:
            assert row["skipped"] is None and all(
                math.isfinite(row[key]) and row[key] > 0 for key in NUMBERS
            )
            low, high = row["seconds_range"]
            assert low <= row["seconds"] <= high
        if row["neural_tangents"] is not None:
            assert set(row["neural_tangents"]) == {"1", "2", "3"}
            for name, seconds in row["neural_tangents"].items():
                assert seconds > 0 if seconds is not None else row["neural_tangents_skipped"][name]
    labels = [
        (row["case"], row["n1"], row["symmetric"], row["implementation"]) for row in stored["rows"]
    ]
    assert len(set(labels)) == len(labels)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    command = [
        sys.executable,
        str(ROOT / "scripts" / "bench" / "kernels.py"),
        "--quick",
        "--without-peer",
        "--repeats",
        "1",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "results" / "bench"


@pytest.fixture(scope="module")
def stored():
    return json.loads(STORED.read_text())


@pytest.fixture(scope="module")
def row_of(stored):
    def find(case, n, symmetric=False, implementation="structured"):
        wanted = dict(case=case, n1=n, symmetric=symmetric, implementation=implementation)
        return next(row for row in stored["rows"] if wanted.items() <= row.items())

    return find


@pytest.mark.slow
def test_a_quick_run_writes_rows_of_the_schema_and_their_table(quick):
    written = json.loads((quick / "kernels_quick.json").read_text())
    meets_schema(written)
    assert {row["implementation"] for row in written["rows"]} == FORMS
    assert all(row["seconds"] and row["neural_tangents"] is None for row in written["rows"])
    table = (quick / "kernels_quick.md").read_text()
    assert table.count("\n| mlp-8") == 2 and table.count("\n| cnn-2") == 1
    assert not (quick / "kernels.json").exists()


@pytest.mark.slow
def test_the_counted_multiply_adds_are_those_of_the_forms_by_hand(quick):
    rows = json.loads((quick / "kernels_quick.json").read_text())["rows"]
    counted = {
        (row["case"], row["symmetric"], row["implementation"]): row["multiply_adds"] for row in rows
    }
    n, c, d, m = 6, 10, 12, 8
    pair = (d + c**2 * m) + (m + c**2 * m) + m
    assert counted["mlp-8", False, "structured"] == n * n * pair
    assert counted["mlp-8", True, "structured"] == n * (n + 1) / 2 * pair
    p = d * m + m * m + m * c
    assert counted["mlp-8", False, "contraction"] == n * n * c**2 * p
    assert counted["mlp-8", False, "vector_products"] == n * n * c * 2 * p

    # 8x8 inputs: 64, 16 and 4 positions, 3x3 patches of 1, 2 and 2 channels with their bias, then 8
    # numbers and a bias to the readout.
    n, layers = 3, [(64, 10, 2), (16, 19, 2), (4, 19, 2)]
    by_positions = [n * n * P**2 * (k + c**2 * m) for P, k, m in layers]
    by_gradients = [n * n * c**2 * k * m + 2 * n * c * P * k * m for P, k, m in layers]
    assert (
        counted["cnn-2", False, "structured"]
        == sum(map(min, by_positions, by_gradients)) + n * n * 9
    )


def test_the_stored_table_meets_the_schema_and_holds_every_case(stored):
    meets_schema(stored)
    sizes = {(row["case"], row["n1"]) for row in stored["rows"]}
    assert {(case, 1024) for case in WIDTHS} <= sizes
    assert {
        (case, n) for case in ("cnn-32", "resnet-18-8", "transformer-2") for n in (32, 128)
    } <= sizes


def test_both_sides_computed_the_same_kernels(stored):
    compared = [row for row in stored["rows"] if row["max_relative_difference"] is not None]
    assert {row["case"] for row in compared} >= {*WIDTHS, "cnn-32", "resnet-18-8", "transformer-2"}
    assert all(row["max_relative_difference"] < 1e-4 for row in compared)


def test_a_dense_block_is_half_again_as_fast_as_structured_derivatives_elsewhere(row_of):
    row = row_of("mlp-1024", 512)
    assert row["neural_tangents"]["3"] / row["seconds"] >= 1.5


def test_a_dense_block_reaches_three_fifths_of_the_matrix_product_rate(row_of):
    assert row_of("mlp-1024", 512)["matmul_fraction"] >= 0.6


def test_a_symmetric_block_takes_three_fifths_of_the_time(row_of):
    assert (
        row_of("mlp-1024", 512, symmetric=True)["seconds"] / row_of("mlp-1024", 512)["seconds"]
        <= 0.6
    )


@pytest.mark.parametrize("n", [32, 128])
def test_a_small_cnn_is_faster_than_the_best_of_three_elsewhere(n, row_of):
    ours = row_of("cnn-32", n)
    assert (
        min(seconds for seconds in ours["neural_tangents"].values() if seconds) / ours["seconds"]
        >= 1.0
    )


def test_forecasts_of_a_grid_of_methods_cost_less_than_training_one_of_them():
    record = json.loads((STORED.parent / "forecast.json").read_text())
    assert record["cells"] >= 30 and record["ratio"] == pytest.approx(
        record["seconds"]["forecast"] / record["seconds"]["train_one_cell_again"]
    )
    assert record["ratio"] < 1
