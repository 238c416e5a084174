"""Width and training: the forecast, the kernel of wide networks, and claims that fail where they
should."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import load_script, random_stream

from ntkcl import dynamics, kernels, networks

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/width_and_training")


def test_the_forecast_is_the_block_solve_of_the_kernel_for_every_output(script):
    stream = random_stream(jax.random.key(0), [6, 5], c=3, heads=[[1, 1, 0], [1, 1, 1]])
    x = np.asarray(script.inputs_of(stream))
    kernel = x @ x.T + np.eye(len(x))
    block = kernel[:, None, :, None] * np.eye(3)[None, :, None, :]
    rules = dynamics.gradient_descent(0.01, 40), dynamics.gradient_descent(0.01, 5000, stop=0.5)
    places = np.arange(6), 6 + np.arange(5)
    steps = [
        lambda _, own=own, task=task: dynamics.Step(
            own, task.train.y, np.broadcast_to(np.asarray(task.head, float), task.train.y.shape)
        )
        for own, task in zip(places, stream, strict=True)
    ]
    solves = dynamics.sequence(
        lambda own: block[:, :, own], jnp.zeros((len(x), 3)), steps, list(rules)
    )
    expected = np.cumsum([solve.change for solve in solves], axis=0)
    found = script.forecast(kernel, stream, lambda t: rules[t])
    np.testing.assert_allclose(found[1:], expected, atol=1e-10)
    last = found[-1][places[1]] - np.asarray(stream[1].train.y)
    assert 0.4 < 0.5 * np.sum(last**2) <= 0.5  # trained down to the loss, and hardly further


@pytest.mark.parametrize("name", ["ntk", "standard"])
def test_kernels_of_networks_tend_to_the_wide_one(script, name):
    x = np.asarray(jax.random.normal(jax.random.key(0), (6, 10)))
    width = 20_000
    parts = kernels.InfiniteWidth(
        *(np.asarray(one(x)) for one in kernels.infinite(depth=1, w_std=script.W_STD))
    )
    network = networks.mlp(outputs=1, width=width, w_std=script.W_STD, parametrization=name)
    theta = network.init(jax.random.key(1), x[0])
    found = np.asarray(kernels.structured(network)(theta, x))[:, 0, :, 0]
    expected = script.wide_kernel(parts, name, width, d=10)
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_training_goes_down_to_the_matched_loss_or_for_its_steps(script):
    stream = random_stream(jax.random.key(0), [6, 6], c=1, dtype=jnp.float32)
    network = networks.mlp(outputs=1, width=64, w_std=script.W_STD)
    settings = {"target": 0.3, "most_steps": 500}
    outputs, steps = script.trained(network, stream, 20, 0.1, settings, 0)
    assert steps == [20, 20] and outputs.shape == (3, 18, 1)
    outputs, steps = script.trained(network, stream, script.MATCHED, 0.5, settings, 0)
    assert all(step % script.EVERY == 0 and step < 500 for step in steps)
    for t, task in enumerate(stream):
        own = outputs[t + 1, 6 * t : 6 * (t + 1)]
        loss = 0.5 * np.mean((own - np.asarray(task.train.y)) ** 2)
        assert loss <= 0.3 * script.zero_loss(task)


def test_the_committed_table_backs_its_claims_and_broken_numbers_do_not(script):
    stored = json.loads((ROOT / "results" / "tables" / "width_and_training.json").read_text())
    settings, rows, held = (stored[key] for key in ("settings", "rows", "held"))
    assert script.judge(settings, rows, held) == stored["claims"]
    turned = [row | {"forgetting": 3 * np.log2(row["width"])} for row in rows]
    turned = [
        row | {"forgetting": -row["forgetting"] if row["stop"] == "matched" else row["forgetting"]}
        for row in turned
    ]
    assert not any(claim["holds"] for claim in script.judge(settings, turned, held)[:6])
    near = {row["width"]: row["width"] == settings["widths"][0] for row in rows}
    off = [
        row | {"predicted": {"forgetting": row["forgetting"] + (1 if near[row["width"]] else 9)}}
        for row in rows
    ]
    assert not any(claim["holds"] for claim in script.judge(settings, off, held)[6:])
