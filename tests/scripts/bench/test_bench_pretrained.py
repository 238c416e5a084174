"""The benchmark of pretrained models: its tables are those of its rows, which hold its claims."""

import json
import subprocess
import sys

import pytest
from cases import ROOT, load_script

BENCH = ROOT / "results" / "bench"


@pytest.fixture(scope="module")
def bench():
    return load_script("bench/pretrained")


@pytest.fixture(scope="module")
def rows():
    """Of both cases, {(case, row): trainings}."""
    made: dict = {}
    for case in ("text", "vision"):
        for row in json.loads((BENCH / f"pretrained_{case}.json").read_text())["rows"]:
            made.setdefault((case, row["row"]), []).append(row)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("case", ["text", "vision"])
def test_a_quick_run_writes_a_cell(case, tmp_path):
    script, done = str(ROOT / "scripts" / "bench" / "pretrained.py"), tmp_path / "done.jsonl"
    texts = str(ROOT / "tests" / "data" / "debian_texts.csv")
    given = [sys.executable, script, "--quick", "--case", case, "--table", texts]
    for _ in range(2):  # the second takes what is done
        subprocess.run([*given, "--folder", tmp_path, "--done", done], check=True)
    stored = json.loads((tmp_path / f"pretrained_quick_{case}.json").read_text())
    (row,) = stored["rows"]
    assert row == json.loads(done.read_text())
    assert row["scores"]["8"]["r2"] > 0.9 and row["seconds"]["train"] > 0
    assert str(tmp_path) not in stored["command"]
    assert "| 8 segments |" in (tmp_path / f"pretrained_quick_{case}.md").read_text()


@pytest.mark.parametrize("case", ["text", "vision"])
def test_the_stored_cells_and_tables_are_those_of_the_script(bench, case):
    stored = json.loads((BENCH / f"pretrained_{case}.json").read_text())
    cells = [(row["row"], row["pair"], row["seed"]) for row in stored["rows"]]
    assert cells == bench.cells(case, quick=False)
    assert (BENCH / f"pretrained_{case}.md").read_text() == bench.markdown(stored)


def test_one_linearisation_is_exact_for_a_head_and_near_it_for_sgd(bench, rows):
    for m in ("1", "4", "8"):
        assert max(1 - r2 for r2 in bench.many(rows["text", "head, AdamW 1e-2"], m)) < 1e-6
    assert bench.median(bench.many(rows["text", "LoRA, SGD .2, squared error"], "1")) >= 0.99


def test_one_linearisation_ranks_losses_of_a_gentle_fine_tuning(bench, rows):
    gentle = rows["text", "LoRA, AdamW 3e-4"]
    assert bench.median(bench.many(gentle, "1")) >= 0.8
    assert bench.median(bench.many(gentle, "1", "rank")) >= 0.9


def test_eight_segments_are_about_as_right_as_a_second_training(bench, rows):
    """By median R2 and F1 of flips."""
    least = {"text": 0.95, "vision": 0.85}
    assert len(rows) == 8
    for (case, name), own in rows.items():
        eight, second = (bench.median(bench.many(own, way)) for way in ("8", "second"))
        assert eight >= max(least[case], second), name
        flips, again = (bench.median(bench.many(own, way, "f1")) for way in ("8", "second"))
        assert flips >= again - 0.05, name


def test_a_forecast_costs_about_a_training_and_an_epoch_tells_less_of_texts(bench, rows):
    for (case, name), own in rows.items():
        assert all(bench.cost(own, m) < 1.5 for m in bench.SEGMENTS), name
        if case == "text":
            epoch, eight = (bench.median(bench.many(own, way)) for way in ("pilot", "8"))
            assert epoch < eight - 0.1, name
