"""SGD, OGD and OGD+: scores are the metrics' own, and claims fail where they should."""

import json
from pathlib import Path

import numpy as np
import pytest
from cases import load_script, tiny_source

from ntkcl import metrics

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/bennani_ogd")


def test_scores_are_average_accuracy_and_backward_transfer_of_the_metrics(script):
    each = np.random.default_rng(0).random((3, 4, 4))
    found = script.scores([{"measured": script.parts(R)} for R in each])
    for values, metric in zip(found, (metrics.average_accuracy, metrics.bwt_gem), strict=True):
        np.testing.assert_allclose(values, [100 * metric(R) for R in each], atol=2e-3)
    seen = script.parts(each[0])["seen"]
    assert seen[1] == pytest.approx(50 * each[0][1, :2].sum(), abs=1e-3)


def test_a_pooled_image_holds_the_means_of_squares(script):
    source = tiny_source(side=6)
    x, smaller = source.train.x, script.pooled(source, 3)
    assert smaller.train.x.reshape(-1, 2, 2)[5, 0, 1] == pytest.approx(x[5, :3, 3:].mean())
    assert smaller.train.y is source.train.y


def test_a_linear_model_forgets_nothing_by_ogd(script):
    given = {"tasks": 2, "samples": 10, "steps": 3}
    found = script.of_linear_model(given, tiny_source(classes=10, n=2), 0)
    assert found["ogd"] < script.NOTHING and found["sgd"] > 1e-3


def test_the_committed_table_backs_its_claims_and_other_numbers_do_not(script):
    stored = json.loads((ROOT / "results" / "tables" / "bennani_ogd.json").read_text())
    assert script.judge(stored) == stored["claims"]
    runs = [*stored["streams"].values(), stored["two layers"]]
    for by_method in runs:
        for worse, method in enumerate(by_method):
            for run in by_method[method]:
                for side in run.values():
                    side["learned"] = [80.0] * len(side["learned"])
                    side["final"] = [60.0 - worse] * len(side["final"])
    for run in stored["linear"]:
        run["ogd"] = 1e-9
    assert not any(claim["holds"] for claim in script.judge(stored))
