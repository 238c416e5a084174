"""The benchmark of what-if answers: its summary is that of its rows, which hold its claims."""

import json

import pytest
from cases import ROOT, load_script

from ntkcl.whatif import answers

BENCH = ROOT / "results" / "bench"


@pytest.fixture(scope="module")
def scratch():
    return json.loads((BENCH / "whatif_scratch.json").read_text())


def test_the_stored_summary_and_table_are_those_of_the_rows(scratch):
    bench = load_script("bench/whatif")
    assert bench.summarise(scratch["rows"]) == pytest.approx(scratch["summary"])
    assert (BENCH / "whatif_scratch.md").read_text() == bench.markdown(scratch)


def test_along_a_base_candidates_are_followed_nearer_than_the_base_is_to_them(scratch):
    said = scratch["summary"]
    assert said["of these, nearer than the base's own outcome"] >= 0.9
    assert said["of these, median R2 of the change from the base"] >= 0.6
    assert said["median Spearman of accuracy lost"] >= 0.95


def test_what_the_verdict_calls_good_has_an_r2_of_at_least_08_but_for_one(scratch):
    """The bounds were found on seed 0 alone."""
    for seed, missed in ((0, 0), (1, 1)):
        rows = [row for row in scratch["rows"] if row["seed"] == seed]
        good = [
            row
            for row in rows
            if row["coarse_r2"] >= answers.AGREED and row["distance"] <= answers.FAR
        ]
        assert len(good) > 0.6 * len(rows)
        assert sum(row["r2"] < 0.8 for row in good) == missed
        assert sum(row["r2"] < 0.8 for row in rows) >= 20
