"""The benchmark of what forecasts cost runs at tiny sizes; the stored one holds its claims."""

import json
import subprocess
import sys

import pytest
from cases import ROOT


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
