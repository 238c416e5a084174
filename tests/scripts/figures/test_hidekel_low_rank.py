"""The forecast of Hidekel, Raviv 2026: two tasks by hand, the committed table backs the claims."""

import json
from pathlib import Path

import hydra
import jax.numpy as jnp
import numpy as np
import pytest
from cases import load_script, tiny_source
from flax import linen as nn

from ntkcl import networks
from ntkcl.types import Dataset, Task

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf"
TINY = (
    "source=digits",
    "widths=[4,8]",
    "features=8",
    "samples=6",
    "steps=3",
    "seeds=[0,1]",
    "scenarios=[class]",
)


@pytest.fixture(scope="module")
def script():
    return load_script("figures/hidekel_low_rank")


@pytest.mark.slow
def test_the_script_writes_table_and_figure_and_redraws_from_the_table_alone(
    run_figure, script, tmp_path, monkeypatch, capsys
):
    code = run_figure(script, *TINY)
    stored = json.loads((tmp_path / "tables" / "hidekel_low_rank.json").read_text())
    assert code == (0 if all(claim["holds"] for claim in stored["claims"]) else 1)
    assert (
        len(stored["scatter"]["class"]["8"]["measured"])
        == 6 * 4
        == len(stored["energies"]["class"])
    )
    assert "source" not in stored["settings"] and stored["images"]["train set"] == 1437
    table = (tmp_path / "tables" / "hidekel_low_rank.md").read_text()
    assert table in capsys.readouterr().out and "linear head" in table

    figure = tmp_path / "figures" / "hidekel_low_rank.png"
    figure.unlink()
    monkeypatch.setattr(script, "compute", lambda settings, source: pytest.fail("drawing trained"))
    assert run_figure(script, *TINY, "draw=true") == 0
    assert figure.stat().st_size > 10_000


@pytest.mark.parametrize(
    "override, message",
    [
        ("samples=5", "samples=5: expected an even number"),
        ("scenarios=[both]", "scenarios=both: expected domain, class or task"),
        ("scenarios=[]", "expected at least one"),
        ("widths=[8]", "widths=\\[8\\]: expected at least 2, increasing"),
        ("seeds=[1,0]", "increasing"),
        ("learning_rate_fraction=1.5", "learning_rate_fraction=1.5: expected at most 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(run_figure, script, override, message):
    with pytest.raises(ValueError, match=message):
        run_figure(script, *TINY, override)


def test_two_tasks_worked_out_by_hand(script):
    """Phi_A = [[1,0,1],[0,1,0]], y_A = (1,-1), Phi_B = [[1,1,0],[0,1,1]], y_B = (0,2).

    Then the drift is (1, 1), half in each mode of K_AA.
    """
    inputs = ([[1.0, 0, 1], [0, 1, 0]], [[1.0, 1, 0], [0, 1, 1]])
    targets = ([[1.0], [-1]], [[0.0], [2]])
    trains = [Dataset(jnp.array(x), jnp.array(y)) for x, y in zip(inputs, targets, strict=True)]
    pair = tuple(Task(train, train, jnp.ones(1)) for train in trains)
    net = networks.network(
        nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros, param_dtype=jnp.float64)
    )

    made = script.measure({"steps": 200, "learning_rate_fraction": 0.5}, pair, net, 0)
    for drift in (
        made["measured"],
        made["predicted"]["steps"],
        made["predicted"]["converged"],
        made["predicted"]["constant shift"],
    ):
        np.testing.assert_allclose(drift, np.ones((2, 1)), atol=1e-8)
    np.testing.assert_allclose(made["energies"], [0.5, 0.5], atol=1e-8)
    rate = 0.5 * 2 / 3  # half the limit, lam_max of K_BB being 3
    assert made["learning rate"] == pytest.approx(rate * 2)
    ridge = 1 / (rate * 200)
    np.testing.assert_allclose(
        made["predicted"]["ridge"], np.full((2, 1), 3 / (3 + ridge)), atol=1e-8
    )

    early = script.measure({"steps": 7, "learning_rate_fraction": 0.15}, pair, net, 0)  # h = .1
    np.testing.assert_allclose(early["predicted"]["steps"], early["measured"], atol=1e-12)
    assert not np.allclose(early["predicted"]["converged"], early["measured"], atol=0.01)


def test_the_linear_head_is_predicted_to_rounding(script):
    settings = {"samples": 6, "features": 16, "steps": 20, "learning_rate_fraction": 0.5}
    made = script.linear_head(settings, script.standardised(tiny_source()), "class", 0)
    assert made["miss"]["steps"] < script.LARGEST_MISS < made["miss"]["input cosine"]


def test_separate_heads_drift_through_the_hidden_layer_and_are_compared_on_the_old_head_alone(
    script,
):
    settings = {"steps": 20, "learning_rate_fraction": 0.5}
    pair = script.tasks(script.standardised(tiny_source()), "task", 6, 0, np.float64)
    made = script.measure(settings, pair, networks.mlp(outputs=4, width=64, centred=False), 0)
    assert made["measured"].shape == (6, 2) and made["energies"].shape == (12,)
    assert np.abs(made["measured"]).max() > 1e-3
    assert (
        not made["predicted"]["input cosine"].any()
        and script.scores(made)["miss"]["input cosine"] == 1
    )


def test_a_miss_is_one_minus_the_cosine_to_all_digits(script):
    a, b = np.array([[3.0, 4.0]]), np.array([[4.0, 3.0]])
    assert script.miss(a, b) == pytest.approx(1 - 24 / 25)
    assert script.miss(a, -a) == pytest.approx(2) and script.miss(a, 0 * a) == 1
    assert script.miss(a, 2 * a * (1 + np.array([[0.0, 1e-10]]))) == pytest.approx(
        0.5 * (0.48e-10) ** 2, rel=1e-4
    )


def test_modes_are_counted_to_the_share(script):
    energies = np.array([0.1, 0.5, 0.05, 0.35])
    assert [script.modes_needed(energies, share) for share in (0.49, 0.84, 0.9)] == [1, 2, 3]
    assert [script.leading_needed(energies, share) for share in (0.05, 0.5, 0.9)] == [1, 2, 4]


@pytest.mark.parametrize("holds", [True, False])
def test_claims_are_judged_by_the_numbers(script, holds):
    """Scores made up to keep every claim, and the same with every number on the wrong side."""

    def row(width):
        steps = 0.5 / width if holds else width / 100
        return {
            "miss": {"steps": steps, "constant shift": 0.6, "input cosine": 0.3},
            "modes": {"50%": 2 if holds else 7, "90%": 30},
        }

    scored = {"domain": {str(width): {"0": row(width), "1": row(width)} for width in (16, 64)}}
    linear = {"domain": {"0": {"miss": {"steps": 1e-20 if holds else 1e-9}}}}
    assert [claim["holds"] for claim in script.judge({}, scored, linear)] == [holds] * 5


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "results" / "tables" / "hidekel_low_rank.json").read_text())


def test_the_committed_table_was_made_with_the_preset(script, stored):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert script.check(hydra.compose("figure/hidekel_low_rank")) == stored["settings"]


def test_the_committed_scores_back_the_claims_but_for_two_of_separate_heads(script, stored):
    """Cosine and modes, as the README says too."""
    claims = script.judge(stored["settings"], stored["scores"], stored["linear"])
    assert claims == stored["claims"]
    apart, modes = (claim for claim in claims if not claim["holds"])
    assert apart["claim"] == "separate heads: at width 1024 the cosine is above 0.99"
    assert modes["claim"].startswith("separate heads: at most 6 eigenmodes")
    assert modes["ours"].startswith("1 to 8 hold half")
    assert (ROOT / "results" / "tables" / "hidekel_low_rank.md").read_text() == script.markdown(
        stored
    )
    assert (ROOT / "results" / "figures" / "hidekel_low_rank.png").exists()


def test_the_committed_drifts_have_the_scores_beside_them(script, stored):
    """The stored scatter (six decimals) and energies of the first seed, scored again."""
    settings = stored["settings"]
    first, widest = str(settings["seeds"][0]), str(settings["widths"][-1])
    for scenario, by_width in stored["scatter"].items():
        for width, sides in by_width.items():
            measured, predicted = (np.array(sides[side]) for side in ("measured", "predicted"))
            row = stored["scores"][scenario][width][first]
            assert script.miss(measured, predicted) == pytest.approx(row["miss"]["steps"], rel=1e-3)
            assert np.sqrt(np.mean(measured**2)) == pytest.approx(row["rms drift"], rel=1e-3)
        energies, row = (
            np.array(stored["energies"][scenario]),
            stored["scores"][scenario][widest][first],
        )
        assert row["modes"] == {
            f"{share:.0%}": script.modes_needed(energies, share) for share in script.SHARES
        }
