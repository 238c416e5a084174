"""What a forecast will take is said as it will be solved, and changes nothing of it."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_stream

from ntkcl import experiment, forecast, losses, networks, optimizers
from ntkcl.experiment.events import AnchorForecast, Plan
from ntkcl.forecast import gram_solvers
from ntkcl.training.settings import Training

NETWORK = networks.mlp(outputs=2, width=16)


def predicted(
    explain=True,
    sizes=(6, 8),
    form="auto",
    optimizer=optimizers.sgd,
    coarsen=1,
    segments=1,
    **training,
):
    """The plan and the forecast from the untrained network."""
    stream = random_stream(jax.random.key(0), sizes, dtype=jnp.float32)
    events = experiment.predict(
        key=jax.random.key(1),
        stream=stream,
        network=NETWORK,
        loss=losses.squared_error(),
        optimizer=optimizer(),
        training=Training(**{"steps": 20} | training),
        form=form,
        effort=forecast.Effort(explain=explain, coarsen=coarsen, segments=segments),
    )
    return [event for event in events if isinstance(event, (Plan, AnchorForecast))]


@pytest.mark.parametrize(
    ("settings", "form", "how"),
    [
        ({}, "closed", "Gram matrices of 16 rows by structured, all their eigenvectors"),
        (dict(form="simulated"), "simulated", "the 20 steps one by one in dual coefficients"),
        (dict(form="linearised"), "linearised", "the linearised network is trained, 20 steps"),
        (
            dict(optimizer=optimizers.adam, learning_rate=0.01),
            "linearised",
            "the linearised network is trained",
        ),
    ],
)
def test_the_form_and_how_it_is_solved_are_said(settings, form, how):
    estimate = predicted(**settings)[0].estimate
    assert estimate.form == form and how in estimate.how
    assert estimate.seconds > 0 and 50 < estimate.mib < 1e5
    assert str(estimate).startswith(f"forecast by form={form}: ")
    assert str(estimate).endswith("MiB once it is compiled")


def test_a_solve_by_products_is_said_where_it_will_be_one(monkeypatch):
    monkeypatch.setattr(sys.modules["ntkcl.forecast.estimate"], "DIAGONALISED", 0)
    monkeypatch.setattr(gram_solvers, "GRAM_RATE", 1e30)
    assert predicted()[0].estimate.how.endswith("Lanczos by products with the matrix")
    monkeypatch.setattr(gram_solvers, "GRAM_RATE", 1e-3)
    assert predicted()[0].estimate.how.endswith("16 rows a task, no matrix held")


def test_longer_trainings_and_more_samples_take_longer_where_they_do():
    short, long = (predicted(form="linearised", steps=s)[0].estimate for s in (100, 1000))
    assert long.seconds == pytest.approx(10 * short.seconds)
    coarse = predicted(form="linearised", steps=1000, coarsen=5)[0].estimate
    assert coarse.seconds == pytest.approx(1.6 / 5 / 1.1 * long.seconds)  # with the check
    fine = predicted(form="linearised", steps=1000, segments="auto")[0].estimate
    assert fine.seconds == pytest.approx(5 * long.seconds) and "up to 16 segments" in fine.how
    few, many = (predicted(sizes=(n, n))[0].estimate for n in (10, 100))
    assert many.seconds > few.seconds
    same = predicted(sizes=(10, 10), steps=1000)[0].estimate
    assert same.seconds == pytest.approx(few.seconds)  # a closed form knows no steps


def test_nothing_of_a_forecast_changes_and_nothing_is_said_unasked():
    (silent, before), (_, after) = predicted(explain=False), predicted()
    assert silent.estimate is None
    np.testing.assert_array_equal(before.changes, after.changes)
