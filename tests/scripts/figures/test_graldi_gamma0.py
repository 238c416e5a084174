"""Graldi: gamma_0 as an argument, heads of their own, and claims that fail where they should."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import load_script, random_stream, tiny_source
from jax.tree_util import Partial

from ntkcl import experiment, losses, networks, optimizers
from ntkcl.experiment import record
from ntkcl.training.settings import Training

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/graldi_gamma0")


def test_training_at_gamma0_is_that_of_the_networks_own_parametrization(script):
    stream = random_stream(jax.random.key(0), [6, 6], c=2, heads=[[1, 0], [0, 1]])
    settings = dict(outputs=2, width=32, w_std=script.W_STD, parametrization="mup", centred=False)
    plain, rich = networks.mlp(**settings), networks.mlp(**settings, gamma0=3.0)
    theta = script.lazy_start(plain, 5, stream[0].train.x[0])
    assert not np.asarray(jax.tree.leaves(theta["readout"])).any()
    rich = rich._replace(init=lambda key, x: theta)
    training = Training(steps=50, learning_rate=0.05)
    events = experiment.run(
        jax.random.key(0), stream, rich, losses.squared_error(), optimizers.sgd(), training,
        anchors=["init"],
    )  # fmt: skip
    run = record.gather(events, stream)
    apply = Partial(script.divided(plain.apply), 3.0)
    rate = 0.05 * plain.rate_scale
    found = script.trained(apply, theta, stream, rate * 3.0**2, 50)
    np.testing.assert_allclose(found, run.measured, atol=1e-8)

    def rule(t):
        return script.dynamics.gradient_descent(rate / 6, 50)

    predicted = script.forecast(script.kernel_of(plain, theta, stream), stream, rule)
    np.testing.assert_allclose(predicted, run.outputs("init"), atol=1e-8)


def test_tasks_of_permuted_images_have_heads_of_their_own(script):
    settings = {"samples": 20, "tested": 10}
    first, second = script.permuted_stream(2, settings, tiny_source(classes=10), 0)
    assert first.head.tolist() == [1] * 10 + [0] * 10
    assert second.head.tolist() == [0] * 10 + [1] * 10
    for task in (first, second):
        assert (
            np.all(np.asarray(task.train.y) @ np.asarray(task.head) == 1)
            and len(task.train.x) == 20
        )


def test_the_committed_table_backs_its_claims_and_broken_numbers_do_not(script):
    stored = json.loads((ROOT / "results" / "tables" / "graldi_gamma0.json").read_text())
    settings, widths, similar = (stored[key] for key in ("settings", "widths", "similar"))
    assert script.judge(settings, widths, similar) == stored["claims"]
    broken = [
        row | {"CFr": 0.1 + 0.001 * (row["width"] == 64), "AA": row["gamma0"], "r2": 0.9}
        for row in widths
    ]
    tilted = [row | {"AA": -row["similarity"] * row["gamma0"]} for row in similar]
    assert not any(claim["holds"] for claim in script.judge(settings, broken, tilted))
