"""Fig. 1 of Jacot, Gabriel, Hongler 2018: the script runs, the committed table backs the claims."""

import json
from functools import partial
from pathlib import Path

import hydra
import numpy as np
import pytest
from cases import load_script

ROOT = Path(__file__).parents[3]
TINY = ("widths=[4,64]", "initialisations=3", "inputs=5", "steps=3", "angles=5", "depth=1")


@pytest.fixture(scope="module")
def script():
    return load_script("figures/jacot_fig1")


@pytest.fixture
def run(script, run_figure):
    return partial(run_figure, script)


def test_the_script_writes_table_and_figure_and_redraws_from_the_table_alone(
    run, tmp_path, monkeypatch, script, capsys
):
    code = run(*TINY)
    stored = json.loads((tmp_path / "tables" / "jacot_fig1.json").read_text())
    assert code == (0 if all(claim["holds"] for claim in stored["claims"]) else 1)
    assert np.array(stored["curves"]["64"]["after"]).shape == (3, 5)
    assert stored["settings"]["steps"] == 3 and stored["settings"]["widths"] == [4, 64]
    table = (tmp_path / "tables" / "jacot_fig1.md").read_text()
    assert table in capsys.readouterr().out and "| 64 |" in table

    figure = tmp_path / "figures" / "jacot_fig1.png"
    figure.unlink()
    monkeypatch.setattr(script, "compute", lambda settings: pytest.fail("drawing trained"))
    assert run(*TINY, "draw=true") == 0
    assert figure.stat().st_size > 10_000


def test_the_figure_holds_every_initialisation_and_the_limit(script, stored):
    for axis in script.draw(stored).axes:
        assert len(axis.lines) == 2 * 10 + 1
        np.testing.assert_array_equal(axis.lines[-1].get_ydata(), stored["limit"])


def test_redrawing_without_a_table_says_what_to_do(run):
    assert "run without draw=true first" in run("draw=true")


@pytest.mark.parametrize(
    "override, message",
    [
        ("angles=4", "angles=4: expected an odd number"),
        ("widths=[8]", "at least 2"),
        ("widths=[8,8]", "2 different numbers"),
        ("widths=[8,4]", "increasing"),
        ("initialisations=1", "initialisations=1"),
        ("learning_rate=-1", "learning_rate=-1"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(run, override, message):
    with pytest.raises(ValueError, match=message):
        run(*TINY, override)


@pytest.mark.parametrize("scale, holds", [(1.0, True), (3.0, False)])
def test_claims_are_judged_by_the_numbers(script, scale, holds):
    """Curves made up to keep every claim, and curves made up to fail each of them.

    The latter spread too far at large width, are off the limit, and shrink in training.
    """
    rng, limit = np.random.default_rng(0), np.array([0.1, 0.2, 0.3, 0.2, 0.1])
    curves = {}
    for width in (100, 400, 1600):
        noise = rng.standard_normal((10, 1))
        before = limit + (noise - noise.mean() + scale - 1) / noise.std() * width**-0.5
        spread = 1 if holds else width
        curves[str(width)] = {
            "before": before * spread,
            "after": before * spread * (1 + (10 if holds else -10) / width),
        }
    claims = script.judge(script.summarise(curves, limit), limit)
    assert [claim["holds"] for claim in claims] == [holds] * 6


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "results" / "tables" / "jacot_fig1.json").read_text())


def test_the_committed_table_was_made_with_the_preset(script, stored):
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert script.check(hydra.compose("figure/jacot_fig1")) == stored["settings"]


def test_the_committed_curves_back_every_claim_but_the_means_of_ten(script, stored):
    """Ten draws of width 500 that are alike: README of the results says so too."""
    limit = script.limit(stored["settings"])
    np.testing.assert_allclose(stored["limit"], limit, atol=1e-9)
    np.testing.assert_allclose(limit[[32, -1]], [0.2825, 0.0643537701], atol=1e-9)
    rows = script.summarise(stored["curves"], limit)
    (failed,) = (claim for claim in script.judge(rows, limit) if not claim["holds"])
    assert failed["ours"] == "7.3 / 1.2" and failed in stored["claims"]
    for width, row in stored["summary"].items():
        assert rows[width] == pytest.approx(row, rel=1e-3)  # curves are stored with six decimals
    assert (ROOT / "results" / "tables" / "jacot_fig1.md").read_text() == script.markdown(stored)
    assert (ROOT / "results" / "figures" / "jacot_fig1.png").exists()


def test_the_stored_kernels_are_those_of_the_networks(script, stored):
    """The narrowest width again: the curves before training come from this code."""
    settings = stored["settings"] | {"steps": 1}
    again = script.measure(settings, stored["settings"]["widths"][0])["before"]
    np.testing.assert_allclose(
        again, stored["curves"][str(stored["settings"]["widths"][0])]["before"], atol=5e-6
    )
