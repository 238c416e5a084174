"""Scores, kernels and forecasts by other ways, and the committed table behind its claims."""

import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from cases import load_script, random_stream

from ntkcl import experiment, forecast, kernels, losses, networks, optimizers
from ntkcl.experiment import record, references
from ntkcl.training.settings import Training

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return load_script("figures/guha_width")


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "results" / "tables" / "guha_width.json").read_text())


def test_scores_by_epochs_count_every_epoch_and_nothing_before_a_task_was_trained(
    script,
):
    """Two tasks, two epochs each; accuracies in the order (training, step, evaluated)."""
    accuracies = {
        (0, 0): (0.1, 0.9),
        (0, 1): (0.5, 0.95),
        (0, 2): (0.4, 0.99),
        (1, 3): (0.3, 0.6),
        (1, 4): (0.2, 0.8),
    }
    curves = pd.DataFrame(
        {"training": t, "step": step, "evaluated": j, "accuracy": value}
        for (t, step), values in accuracies.items()
        for j, value in enumerate(values)
    )
    R = np.array([[0.4, 0.99], [0.2, 0.8]])
    counted = script.by_epochs(curves, R)
    assert counted["LA by epochs"] == pytest.approx(100 * np.mean([0.5, 0.4, 0.6, 0.8]))
    assert counted["AF by epochs"] == pytest.approx(100 * np.mean([0.5 - 0.2, 0.0]))
    assert script.at_the_ends(R) == pytest.approx({"AA": 50, "AF": 10, "LA": 60})


def test_the_kernel_of_a_width_is_the_mean_of_those_of_pytorchs_initialisation(script):
    n, d, draws = 24, 20, 60
    x = np.random.default_rng(0).random((4, d)).astype(np.float32)
    network = networks.mlp(outputs=2, width=n, parametrization="standard", init="torch")
    kernel = kernels.structured(network)
    drawn = np.array(
        [kernel(network.init(jax.random.key(i), x[0]), x)[:, 0, :, 0] for i in range(draws)]
    )
    s, h = script.kernel_terms(d)(x)
    off = np.mean(drawn, 0) - (3 * n * s + 3 * d * h + 1 - n / d)
    assert (np.abs(off) < 4 * np.std(drawn, 0) / draws**0.5).all()


def test_forecast_at_as_many_units_as_pixels_is_that_of_infinite_width_for_the_control(script):
    """By the anchor `infinite`, three tasks, whose outputs begin at 0 by centring."""
    d, c, rate, sizes = 6, 3, 0.02, [5, 5, 5]
    stream = jax.tree.map(
        lambda a: jax.nn.softmax(a) if a.shape[-1] == c and a.ndim == 2 else a,
        random_stream(jax.random.key(3), sizes, d=d, c=c),
    )
    control = dict(width=7, w_std=3**-0.5, b_std=(3 * d) ** -0.5)
    training = Training(steps=8, batch_size=2, learning_rate=3 * d * rate, allow_unstable=True)
    given = jax.random.key(0), stream, networks.mlp(outputs=c, **control), losses.cross_entropy()
    given += optimizers.sgd(), training
    events = experiment.run(*given, anchors=["infinite"], form="simulated")
    expected = record.gather(events, stream).outputs("infinite")
    started = experiment.initialise(
        *given, experiment.NAIVE, forecast.Effort(), kernels.contraction
    )
    found = script.forecast(started.problem.at(rate), (4, d))[d]
    tests = slice(sum(sizes), None)
    np.testing.assert_allclose(found[1:, tests], expected[1:, tests], atol=1e-5)
    assert np.abs(expected[-1]).max() > 0.1


def test_joint_accuracy_by_epochs_ends_where_the_joint_reference_does(script):
    """Two tasks of six samples, nine steps each, on batches of two: three epochs of the union."""
    loss = losses.cross_entropy()
    stream = jax.tree.map(
        lambda a: jax.nn.one_hot(a.argmax(1), 3) if a.shape[-1] == 3 and a.ndim == 2 else a,
        random_stream(jax.random.key(0), [6, 6], d=4, c=3),
    )
    training = Training(steps=9, batch_size=2, learning_rate=0.5, allow_unstable=True)
    given = jax.random.key(0), stream, networks.mlp(outputs=3, width=5), loss, optimizers.sgd()
    given += training, experiment.NAIVE, forecast.Effort(), kernels.contraction
    started = experiment.initialise(*given)
    accuracies = script.joint_by_epochs(started._replace(problem=started.problem.at(0.5)))
    assert len(accuracies) == 3 and len(set(accuracies)) > 1
    ended = references.score(references.joint(started, 0.5), stream, loss)["accuracy"]
    assert accuracies[-1] == pytest.approx(100 * np.mean(ended))


@pytest.mark.parametrize("off, holds", [(1.4, True), (-1.4, True), (1.6, False), (-1.6, False)])
def test_a_published_number_is_met_within_a_point_and_a_half(script, off, holds):
    rows = [
        {"width": n, "seeds": 3, "AA": {"mean": script.published(n, "AA") + one, "sd": 0.1}}
        for n, one in ((32, 0.0), (2048, off))
    ]
    assert script.met(rows, "AA")["holds"] == holds


FAILED = [
    "LA within",
    "JA within",
    "JA by epochs",
    "NTK parametrization: LA rises",
    "forecast: AA rises",
    "forecast: AF falls",
    "AA gains less",
    "the control at widths",
    "the kernel of each width forecasts",
]


def test_the_committed_table_follows_from_its_runs_and_says_what_is_met(script, stored):
    assert script.store(stored["runs"]) == stored
    assert (ROOT / "results" / "tables" / "guha_width.md").read_text() == script.markdown(stored)
    widths = {
        series: [row["width"] for row in script.of(stored["table"], series)]
        for series in (script.ALL, script.SOME, script.CONTROL, script.FORECAST, script.LIMIT)
    }
    assert list(widths.values()) == [
        [32, 128, 512, 2048],
        [32, 512, 2048, 4096, 8192],
        [32, 512, 2048],
        [32, 512, 2048, 4096, 8192],
        [None],
    ]
    failed = [claim["claim"] for claim in stored["claims"] if not claim["holds"]]
    assert all(text.startswith(start) for text, start in zip(failed, FAILED, strict=True))
    assert all(claim["because"] for claim in stored["claims"] if not claim["holds"])


ENDS = {"all images": (32, 2048), "10,000 images": (2048, 8192), "NTK parametrization": (32, 2048)}
ENDS["forecast"] = ENDS["10,000 images"]
OFF = {"all images": 5.0, "forecast": 50.0, "forecast of the control": -50.0}


def broken(row):
    """The same score with the ends of its series exchanged, and off the published and forecast."""
    ends = dict([ENDS.get(row["series"], (0, 0)), ENDS.get(row["series"], (0, 0))[::-1]])
    off = OFF.get(row["series"], 0.0)
    scores = {key: value + off for key, value in row.items() if key[:2] in ("AA", "AF", "LA", "JA")}
    return row | scores | {"width": ends.get(row["width"], row["width"])}


def test_broken_numbers_break_every_claim(script, stored):
    claims = script.store([broken(row) for row in stored["runs"]])["claims"]
    assert len(claims) == len(stored["claims"])
    for before, after in zip(stored["claims"], claims, strict=True):
        assert not (before["holds"] and after["holds"]), before["claim"]
