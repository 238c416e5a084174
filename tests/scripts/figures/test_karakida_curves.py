"""Karakida and Akaho: theory's numbers, and claims that fail where they should."""

import json
from pathlib import Path

import numpy as np
import pytest
from cases import load_script

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/karakida_curves")


def test_the_average_case_matches_theory_12_7(script):
    four = script.Spectrum(np.array([0.4, 0.3, 0.2, 0.1]), np.ones(4))
    for rho, forward, backward in (
        (0.5, 0.4450870062, 0.7635242629),
        (0.9, 0.2656954495, 0.3293828908),
        (1.0, 0.2208475603, 0.2208475603),
    ):
        errors = script.average_case(four, 2, 2, rho)
        assert errors.alone_a == errors.alone_b == pytest.approx(0.4450870062, abs=1e-9)
        assert errors.forward == pytest.approx(forward, abs=1e-8)
        assert errors.backward == pytest.approx(backward, abs=1e-7)
    power = script.power_law(1.3, 1200)
    found = [script.critical(power, n) for n in (20, 60, 200)]
    np.testing.assert_allclose(found, [0.929757, 0.961510, 0.977478], atol=1e-6)


def test_the_kernel_on_the_sphere_has_one_eigenvalue_a_degree_which_add_up_to_it(script):
    spectrum = script.on_the_sphere(10)
    assert spectrum.sum(spectrum.e) == pytest.approx(1, abs=1e-9)
    assert spectrum.multiplicity[:3].tolist() == [1, 10, 54]
    assert np.all(spectrum.e[3:-1:2] < 1e-12)  # ReLU, no bias: no odd degrees above 1


def test_regression_by_the_block_solve_lies_on_the_line(script):
    power = script.power_law(1.3, 300)
    line = script.average_case(power, 20, 20, 0.5)
    alone, forward, backward = np.mean(script.regression(power, 20, 20, 0.5, 60, 0), axis=0)
    assert alone == pytest.approx(line.alone_a, rel=0.15)
    assert forward == pytest.approx(line.forward, rel=0.15)
    assert backward == pytest.approx(line.backward, rel=0.15)


def test_a_point_off_its_line_fails_the_claim(script):
    stored = json.loads((ROOT / "results" / "tables" / "karakida_curves.json").read_text())
    assert script.judge(stored["settings"], stored) == stored["claims"]
    assert all(claim["holds"] for claim in stored["claims"])
    for points in stored["regression"].values():
        for rho, errors in points.items():
            errors["forward"][0] *= 1.0 + float(rho)
            errors["backward"][0] *= 1.3
    stored["unequal"]["10"]["backward"][0] = 0.2
    stored["unequal"]["120"]["backward"][0] = 0.3
    stored["networks"]["0.5"]["alone"][0] *= 1.2
    assert not any(claim["holds"] for claim in script.judge(stored["settings"], stored))
