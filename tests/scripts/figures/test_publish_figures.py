"""The frame of the figures' scripts: a stored table gives its files again, nothing is computed."""

import json
import re
from pathlib import Path

import pytest
from cases import load_script, mostly_slow

ROOT = Path(__file__).parents[3]
TABLES = ROOT / "results" / "tables"
PRESETS = (
    "jacot_fig1",
    "jacot_fig2",
    "jacot_fig3",
    "explain",
    "lee_fig1",
    "lee_fig2",
    "lee_linearisation",
    "hidekel_low_rank",
    "hidekel_methods",
    "error_budget",
    "bennani_ogd",
    "doan_overlap",
    "karakida_curves",
    "li_hiratani_orders",
    "steele_angles",
    "theory_checked",
    "graldi_gamma0",
    "width_and_training",
    "kirkpatrick_fig2",
    "reactivation",
)
RUNS = ("fashion_width", "guha_width", "learners", "trust", "reached", "plans")
WITHOUT_FIGURE = ("reached", "plans")
QUICKLY_DRAWN = ("steele_angles", "guha_width", "trust", "reached", "plans")


@pytest.fixture
def main(monkeypatch):
    """The main of a script with a command line: its exit code, or what it says as it gives up."""

    def call(script, *arguments):
        monkeypatch.setattr("sys.argv", ["script", *map(str, arguments)])
        try:
            script.main()
        except SystemExit as stop:
            return stop.code
        return 0

    return call


@pytest.mark.parametrize("name", mostly_slow(PRESETS + RUNS, *QUICKLY_DRAWN))
def test_a_stored_table_gives_its_files_again(run_figure, main, tmp_path, name):
    """Also those whose claims do not all hold: that is for the run that computes to say."""
    script, stored = load_script(f"figures/{name}"), (TABLES / f"{name}.json").read_bytes()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / f"{name}.json").write_bytes(stored)
    code = run_figure(script, "draw=true") if name in PRESETS else main(script, tmp_path, "--draw")
    assert code == 0
    assert (tmp_path / "tables" / f"{name}.json").read_bytes() == stored
    assert (tmp_path / "tables" / f"{name}.md").read_text() == (TABLES / f"{name}.md").read_text()
    figure = tmp_path / "figures" / f"{name}.png"
    assert not figure.exists() if name in WITHOUT_FIGURE else figure.stat().st_size > 10_000


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_states_its_claim_command_time_and_numbers_to_expect(name):
    header = (ROOT / "conf" / "figure" / f"{name}.yaml").read_text()
    for word in ("claim", "command", "expect", "time", "source"):
        assert re.search(rf"^# {word} +\S", header, re.M), word
    assert "TBD" not in header and f"python scripts/figures/{name}.py" in header


def test_make_redraws_every_figure_and_runs_every_benchmark():
    makefile = (ROOT / "Makefile").read_text()
    listed = {key: names.split() for key, names in re.findall(r"^(\w+) := (.*)$", makefile, re.M)}
    figures = {path.stem for path in (ROOT / "scripts" / "figures").glob("*.py")}
    figures -= {"publish", "papers"}
    assert set(listed["FIGURES"]) == set(PRESETS) and set(listed["TABLES"]) == set(RUNS)
    assert figures == set(PRESETS + RUNS)
    benchmarks = (ROOT / "scripts" / "bench").glob("*.py")
    helpers = {"publish", "kernels_worker", "kernels_report", "training_torch"}
    assert set(listed["BENCHMARKS"]) == {path.stem for path in benchmarks} - helpers


@pytest.mark.parametrize("name", ["steele_angles", "trust"])
def test_a_table_of_an_older_version_is_refused_with_the_command(run_figure, main, tmp_path, name):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / f"{name}.json").write_text('{"settings": {}}')
    script = load_script(f"figures/{name}")
    said = run_figure(script, "draw=true") if name in PRESETS else main(script, tmp_path, "--draw")
    assert said.endswith(f"make it anew: python scripts/figures/{name}.py") and "\n" not in said
    assert not (tmp_path / "figures" / f"{name}.png").exists()


def test_without_a_stored_table_it_says_what_to_do(main, tmp_path):
    assert "run without --draw first" in main(load_script("figures/trust"), tmp_path, "--draw")


def test_without_runs_it_says_which_command_makes_them(main, tmp_path):
    for name, command in (
        ("trust", "ntkcl experiment=trust"),
        ("guha_width", "ntkcl experiment=guha_width"),
        ("fashion_width", "ntkcl experiment=rotated_fashion"),
    ):
        assert command in main(load_script(f"figures/{name}"), tmp_path)
        assert not (tmp_path / "tables" / f"{name}.json").exists()


@pytest.mark.parametrize("holds, code", [(True, 0), (False, 1)])
def test_a_claim_that_fails_ends_the_run_that_computes_it(main, monkeypatch, tmp_path, holds, code):
    script = load_script("figures/reached")
    rows = json.loads((TABLES / "reached.json").read_text())["rows"]
    monkeypatch.setattr(script, "collect", lambda root: rows if holds else rows[2:])
    assert main(script, tmp_path) == code
    assert json.loads((tmp_path / "tables" / "reached.json").read_text())["rows"]


def test_the_table_of_papers_is_made_of_the_stored_tables():
    papers = load_script("figures/papers")
    readme = (ROOT / "results" / "README.md").read_text()
    assert f"{papers.BEGIN}\n{papers.table(ROOT / 'results')}\n{papers.END}" in readme


def test_a_claim_that_fails_is_said_to_differ_and_why():
    papers = load_script("figures/papers")
    claim = {"claim": "a", "published": "1", "ours": "2", "holds": False, "because": "of b"}
    assert papers.claim_cells(claim) == ["a", "1", "2", "differs: of b"]
    printed = {"claim": "GD: 3 %, below 10 % (printed: 4 %)", "holds": True}
    assert papers.claim_cells(printed) == ["GD: 3 %, below 10 %", "4 %", "", "reproduced"]


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("jacot_fig2", "size=medium", "size=medium: expected paper or small"),
        ("jacot_fig2", "widths=5", "widths=5: expected a list"),
        ("jacot_fig2", "points=[1,1]", r"points=\[1, 1\]: expected a list of at least 1 different"),
        ("bennani_ogd", "many.memory=2000", "many.samples=1000: expected a multiple of 10, and at"),
        ("doan_overlap", "memory=300", "memory=300, pca_samples=100, samples=200: expected them"),
        ("karakida_curves", "samples=[]", r"samples=\[\]: expected a list of at least 1"),
        ("karakida_curves", "similarities=[0.5]", r"similarities=\[0.5\]: expected a list of at"),
        ("li_hiratani_orders", "stream.tasks=2", "stream.tasks=2: expected"),
        ("li_hiratani_orders", "seeds=[0]", r"seeds=\[0\]: expected a list of at least 2"),
        ("steele_angles", "patches=[1,99]", r"patches=\[1, 99\]: expected numbers from 2 to 28"),
        ("steele_angles", "inputs=[0.0,3.0]", r"inputs=\[0.0, 3.0\]: expected numbers from 0 to 1"),
        ("hidekel_methods", "validation_seed=1", "validation_seed=1: expected one that is not in"),
        ("hidekel_methods", "candidates.LwF=[]", "candidates=.*: expected at least one for each"),
        ("hidekel_methods", "candidates.EWC=[{penalty: 0}]", "method.penalty=0: expected"),
        ("kirkpatrick_fig2", "compared=[8,9]", r"compared=\[8, 9\]: expected two of patches"),
        ("reactivation", "shares=[0.5]", r"shares=\[0.5\]: expected 5 numbers, one a task"),
        ("lee_fig1", "widths=[64]", r"widths=\[64\]: expected a list of at least 2"),
        ("lee_fig2", "times=[4,8,16,32]", r"times=\[4, 8, 16, 32\]: expected four, the first"),
        ("theory_checked", "widths=[64]", r"widths=\[64\]: expected a list of at least 2"),
    ],
)
def test_bad_settings_are_named_before_anything_is_computed_or_written(
    run_figure, tmp_path, name, override, message
):
    script = load_script(f"figures/{name}")
    with pytest.raises(ValueError, match=message):
        run_figure(script, override)
    assert not list(tmp_path.rglob("*.json"))
