"""Attribution of forgetting: the script runs on two tasks, the committed table backs the claims."""

import json
import re
from functools import partial
from pathlib import Path

import hydra
import numpy as np
import pytest
from cases import load_script, tiny_source

from ntkcl.reporting.explanation import as_image
from ntkcl.runs.settings import UNHASHED_DEFAULTS

ROOT = Path(__file__).parents[3]
TINY = (
    "seeds=[0]",
    "network.width=8",
    "stream.train_per_class=6",
    "stream.test_per_class=2",
    "steps=20",
    "removed=3",
    "draws=2",
)


@pytest.fixture(scope="module")
def script():
    return load_script("figures/explain")


@pytest.fixture
def run(script, monkeypatch, run_figure):
    """The script with overrides on random images, results in tmp_path: its exit code."""
    real = script.instantiate
    monkeypatch.setattr(
        script,
        "instantiate",
        lambda node, **more: tiny_source() if "idx_dir" in node else real(node, **more),
    )
    return partial(run_figure, script)


@pytest.mark.slow
def test_the_script_explains_and_redraws_from_the_table_alone(
    run, tmp_path, monkeypatch, script, capsys
):
    code = run(*TINY)
    stored = json.loads((tmp_path / "tables" / "explain.json").read_text())
    assert code == (0 if all(claim["holds"] for claim in stored["claims"]) else 1)
    (run_of_seed,) = stored["seeds"].values()
    assert stored["claims"][0]["holds"] and len(run_of_seed["harm"]) == 12
    ranked = [sample["harm"] for sample in run_of_seed["shown"]["harmful"]]
    assert ranked == sorted(run_of_seed["harm"], reverse=True)[: len(ranked)]
    assert run_of_seed["shown"]["harmless"][0]["harm"] == min(run_of_seed["harm"])
    assert sum(run_of_seed["harm"]) == pytest.approx(run_of_seed["all kept"]["predicted"])
    assert (tmp_path / "tables" / "explain.md").read_text() in capsys.readouterr().out

    figure = tmp_path / "figures" / "explain.png"
    figure.unlink()
    monkeypatch.setattr(script, "compute", lambda cfg, settings: pytest.fail("drawing trained"))
    assert run("draw=true") == 0 and figure.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stream.tasks=3", "stream.tasks=3: expected 2"),
        ("removed=0", "removed=0"),
        ("seeds=[]", "seeds="),
    ],
)
def test_settings_that_cannot_be_meant_are_named(run, override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(*TINY, override)


@pytest.mark.parametrize(
    ("shape", "image"),
    [((5, 7), (5, 7)), ((9,), (3, 3)), ((4, 4, 1), (4, 4)), ((8,), None), ((2, 2, 2), None)],
)
def test_inputs_are_shown_where_they_are_images(shape, image):
    shown = as_image(np.zeros(shape))
    assert (None if shown is None else shown.shape) == image


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "results" / "tables" / "explain.json").read_text())


def test_the_committed_table_was_made_with_the_preset_and_backs_every_claim(script, stored):
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = script.check(hydra.compose("figure/explain"))
    made = stored["settings"] | {
        "network": UNHASHED_DEFAULTS["network"] | stored["settings"]["network"]
    }  # settings that had no other value then
    assert settings == made
    assert script.judged(stored["seeds"]) == stored["claims"] and all(
        claim["holds"] for claim in stored["claims"]
    )
    assert (ROOT / "results" / "tables" / "explain.md").read_text() == script.markdown(stored)


def test_a_choice_that_does_no_better_than_chance_fails_its_claim(script, stored):
    seed, run_of_seed = next(iter(stored["seeds"].items()))
    swapped = run_of_seed | {
        "check": run_of_seed["check"]
        | {"harmful": run_of_seed["check"]["harmless"], "harmless": run_of_seed["check"]["harmful"]}
    }
    sums, order = script.judged({seed: swapped})
    assert sums["holds"] and not order["holds"]
