"""Jacot et al., Fig. 2: the limit's process, and claims that fail where they should."""

import json
from pathlib import Path

import numpy as np
import pytest
from cases import load_script

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/jacot_fig2")


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "results" / "tables" / "jacot_fig2.json").read_text())


def test_the_limit_passes_through_the_points_and_is_what_draws_become(script, stored):
    settings = stored["settings"] | {"angles": 5}
    on_points = settings | {"points": [np.pi / 2], "targets": [0.3]}
    mean, sd = script.limit(on_points)  # the angles are -pi, -pi/2, 0, pi/2, pi
    assert mean[3] == pytest.approx(0.3) and sd[3] == pytest.approx(0, abs=1e-7)
    # one point x_0: f(x) - a f(x_0) with a = Theta(x, x_0) / Theta(x_0, x_0)
    a, x = 0.0643537701 / 0.2825, script.circle(np.array([-np.pi / 2]))
    assert x[0] == pytest.approx([0, -1])
    variance = 0.08125 - 2 * a * 0.0480965898 + a**2 * 0.08125
    assert mean[1] == pytest.approx(0.3 * a) and sd[1] == pytest.approx(variance**0.5)


def test_the_committed_table_backs_every_claim(script, stored):
    assert script.judge(stored) == stored["claims"]
    assert all(claim["holds"] for claim in stored["claims"])


def test_other_curves_fail_the_claims(script, stored):
    wide = stored["networks"]["1000"]
    far = (np.array(wide["curves"]) + 0.3).tolist()
    moved = stored | {"networks": {"1000": {"curves": far, "missed": 0.3}}}
    share, through, _ = script.judge(moved)
    assert not share["holds"] and not through["holds"]
    alike = stored | {"networks": {"1000": wide | {"curves": [wide["curves"][0]] * 3}}}
    assert not script.judge(alike)[2]["holds"]
