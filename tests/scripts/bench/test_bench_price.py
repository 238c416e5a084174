"""The benchmark of what forecasts cost runs at tiny sizes; the stored one holds its claims."""

import json
import subprocess
import sys

import pytest
from cases import ROOT, load_script

BENCH = ROOT / "results" / "bench"


@pytest.mark.slow
def test_a_quick_run_writes_every_case_and_a_figure_and_one_case_joins_them(tmp_path):
    script = str(ROOT / "scripts" / "bench" / "price.py")
    given = [sys.executable, script, "--quick", "--folder", str(tmp_path)]
    subprocess.run(given, check=True, capture_output=True)
    before = json.loads((tmp_path / "price_quick.json").read_text())["cases"]
    subprocess.run([*given, "--case", "mlp 8"], check=True, capture_output=True)
    after = json.loads((tmp_path / "price_quick.json").read_text())["cases"]
    assert list(before) == list(after) == ["mlp 4", "mlp 8"]
    assert before["mlp 4"] == after["mlp 4"] and before["mlp 8"] != after["mlp 8"]
    assert all(case["seconds"]["train"] > 0 and case["peak_mib"] > 0 for case in after.values())
    assert "| mlp 8 | 2 x 20 |" in (tmp_path / "price_quick.md").read_text()
    assert (tmp_path / "price_quick.png").stat().st_size > 1000


def test_the_stored_benchmark_holds_every_case_and_its_claims():
    price = load_script("bench/price")
    stored = json.loads((BENCH / "price.json").read_text())
    cases = stored["cases"]
    assert set(cases) == set(price.CASES)
    assert all(tuple(case["settings"]) == price.CASES[name][0] for name, case in cases.items())
    assert (BENCH / "price.md").read_text() == price.markdown(stored)
    ratios = {name: price.ratio(case) for name, case in cases.items()}
    assert ratios["mlp 64"] < 0.5 and ratios["mlp 256"] < 0.2
    assert ratios["mlp 1024"] < 0.08 and ratios["mlp 4096"] < 0.08
    assert ratios["mlp 1024"] < ratios["mlp 256"] < ratios["mlp 64"] < 1
    assert all(
        ratios[name] < 0.5 for name in cases if name.split()[0] in ("lenet", "cnn", "resnet", "vit")
    )
    assert all(ratios[name] <= 2.5 for name in cases if name.startswith("adam"))
    # A forecast of 10,000 samples a task, 100,000 rows: less than its training, in 3 GiB.
    assert ratios["samples 10000"] < 1 and cases["samples 10000"]["peak_mib"] < 3 * 1024
    for name, case in cases.items():
        if not any("method=" in setting for setting in case["settings"]):
            estimate = case["estimate"]
            assert 0.5 < estimate["seconds"] / case["seconds"]["forecast_init"] < 2, name
            assert 0.5 < estimate["mib"] / estimate["peak_mib"] < 2, name
    for case in cases.values():  # the limit never costs more than the training
        assert case["seconds"]["plan"] < case["seconds"]["train"]
