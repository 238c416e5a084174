"""What a forecast is compared with: the numbers of theory, and each baseline against its
definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import linear, quadratic_features, random_stream

from ntkcl import dynamics, experiment, losses, metrics, optimizers
from ntkcl.experiment import record
from ntkcl.experiment.compare import compare
from ntkcl.experiment.events import AnchorForecast, Baselines, Measurement
from ntkcl.kernels import geometry
from ntkcl.metrics import baselines
from ntkcl.training.settings import Training
from ntkcl.types import Rows

STREAM = random_stream(jax.random.key(5), [6, 3, 8], heads=((1, 0), (0, 1), (1, 1)))
LINEAR = linear(quadratic_features, 2)
K_AA, K_AB, K_BB = jnp.diag(jnp.array([2.0, 1])), jnp.ones((2, 2)), jnp.array([[2.0, 1], [1, 2]])


@functools.cache
def events(form="auto"):
    training, sgd = Training(steps=25), optimizers.sgd()
    return list(
        experiment.run(
            jax.random.key(0),
            STREAM,
            LINEAR,
            losses.squared_error(),
            sgd,
            training,
            form=form,
            anchors=["init"],
        )
    )


def baseline(form="auto"):
    (reported,) = (e for e in events(form) if isinstance(e, Baselines))
    return reported


def test_cross_energy_is_that_of_theory_12_2_and_cka_the_same_of_centred_features():
    rows = [[K_AA, K_AB], [K_AB.T, K_BB]]
    energies = np.array([[baselines.energy(K[:, None, :, None]) for K in row] for row in rows])
    assert baselines.similarity(energies[..., 0])[0, 1] == pytest.approx(0.5656854249, abs=1e-10)
    H = np.eye(2) - 0.5
    norms = np.array([[np.linalg.norm(H @ K @ H) for K in row] for row in rows])
    np.testing.assert_allclose(energies[..., 1], norms**2, atol=1e-14)
    np.testing.assert_allclose(np.diag(baselines.similarity(energies[..., 0])), 1)


def test_skills_by_hand():
    measured = [np.array([[1.0], [3.0]]), np.array([[0.0], [2.0]])]
    predicted = [np.array([[1.0], [2.0]]), np.array([[1.0], [2.0]])]  # squared error 2
    guesses = {
        "zero_drift": baselines.zero_drift(measured),
        "constant_shift": baselines.constant_shift(measured),
    }
    reported = baselines.skills(measured, predicted, guesses)
    assert reported["zero_drift"] == pytest.approx({"skill": 1 - 2 / 14, "r2": 1 - 14 / 5})
    assert reported["constant_shift"] == pytest.approx({"skill": 1 - 2 / 4, "r2": 1 - 4 / 5})
    assert reported["constant_shift"]["skill"] == pytest.approx(
        metrics.agreement(measured, predicted)["skill"]
    )
    exploded = baselines.skills(
        measured, predicted, {"input_cosine": [m * np.inf for m in predicted]}
    )
    assert all(np.isnan(value) for value in exploded["input_cosine"].values())
    assert np.isnan(baselines.skills([], [], {"zero_drift": []})["zero_drift"]["skill"])


def test_ranks_look_above_the_diagonal_only_and_say_nothing_of_two_pairs():
    measured = np.array([[9.0, 1, 2], [9, 9, 3], [9, 9, 9]])
    reported = baselines.ranks(
        measured,
        {
            "same": measured,
            "opposite": -measured,
            "constant": np.ones((3, 3)),
            "missing": measured * np.nan,
        },
    )
    assert (reported["same"], reported["opposite"]) == pytest.approx((1, -1))
    assert np.isnan(reported["constant"]) and np.isnan(reported["missing"])
    assert np.isnan(baselines.ranks(measured[:2, :2], {"same": measured[:2, :2]})["same"])


def test_the_input_cosine_is_the_same_solve_with_the_inputs_kernel():
    """On a network that does not start at zero, with heads: trained from the inputs, solved from X
    X^T / n_0 (x) I."""
    x = np.concatenate([task.train.x for task in STREAM] + [task.test.x for task in STREAM])
    plan, untrained = events()[0], events()[1]
    K = np.einsum("id,jd,ab->iajb", x, x, np.eye(2)) / x.shape[1]
    steps, rules = [], []
    for task, own in zip(STREAM, Rows.of(STREAM).train, strict=True):
        inputs, weights = (
            np.arange(own.start, own.stop),
            np.broadcast_to(np.asarray(task.head), task.train.y.shape),
        )
        step = dynamics.Step(inputs, task.train.y, weights)
        steps.append(lambda fs, step=step: step)
        rules.append(
            dynamics.gradient_descent(
                plan.learning_rate / (len(inputs) * float(task.head.sum())), 25
            )
        )
    solves = dynamics.sequence(
        lambda inputs: jnp.asarray(K[:, :, inputs]), jnp.asarray(untrained.outputs), steps, rules
    )
    assert np.abs(untrained.outputs).max() > 0.1
    np.testing.assert_allclose(
        baseline().input_cosine, [solve.change for solve in solves], atol=1e-10
    )


def test_similarities_are_those_of_the_kernels_at_initialisation_and_none_where_none_is_held():
    theta = LINEAR.init(jax.random.fold_in(jax.random.key(0), 0), STREAM[0].train.x[0])
    J = []
    for task in STREAM:  # rows of active outputs
        jacobian = jax.vmap(jax.jacrev(LINEAR.apply), (None, 0))(theta, task.train.x)[
            :, np.flatnonzero(task.head)
        ]
        J.append(jacobian.reshape(jacobian.shape[0] * jacobian.shape[1], -1))
    for form in ("closed", "simulated"):
        for s, t in ((0, 1), (0, 2), (1, 2)):
            expected = geometry.cross_energy(J[s] @ J[s].T, J[s] @ J[t].T, J[t] @ J[t].T)
            centred = [j - j.mean(0)[None] for j in (J[s], J[t])]
            cka = geometry.cross_energy(
                *(a @ b.T for a, b in ((centred[0],) * 2, centred, (centred[1],) * 2))
            )
            assert baseline(form).cross_energy[s, t] == pytest.approx(float(expected), abs=1e-12)
            assert baseline(form).cka[s, t] == pytest.approx(float(cka), abs=1e-12)
    held_none = baseline("linearised")
    assert np.isnan(held_none.cka).all() and np.isnan(held_none.cross_energy).all()
    np.testing.assert_allclose(held_none.input_cosine, baseline().input_cosine, atol=1e-12)


def test_the_slope_is_the_gradient_with_which_the_next_task_begins():
    slopes = [e.slope for e in events() if isinstance(e, Measurement)]
    phi, y = jax.vmap(quadratic_features)(STREAM[1].train.x), STREAM[1].train.y
    f = events()[-3].outputs[Rows.of(STREAM).train[1]]  # after task 0
    assert isinstance(events()[-3], Measurement) and events()[-3].task == 1
    gradient = phi.T @ (STREAM[1].head[None] * (f - y)) / len(y)
    assert slopes[1] == pytest.approx(float(jnp.linalg.norm(gradient)))
    assert np.isnan(slopes[-1]) and np.isfinite(slopes[:-1]).all()


def test_the_summary_compares_the_forecast_with_every_baseline_and_ranks_by_hand():
    reported = record.gather(events(), STREAM)
    numbers = compare(reported, "init", STREAM, "train", losses.squared_error())
    compared = numbers["baselines"]
    assert set(compared) == {
        "zero_drift",
        "constant_shift",
        "input_cosine",
        "new_task_kernel",
        "gradient",
        "cka",
        "cross_energy",
    }
    assert compared["constant_shift"]["skill"] == pytest.approx(numbers["skill"])
    assert numbers["spearman_pairs"] == pytest.approx(1) and compared["zero_drift"][
        "skill"
    ] == pytest.approx(1)
    rows, (ahead,) = (
        Rows.of(STREAM).train,
        (e for e in events() if isinstance(e, AnchorForecast)),
    )
    pairs, active = ((0, 1), (0, 2), (1, 2)), ([0], [1], [0, 1])
    squared = [
        np.mean(
            (reported.measured[t + 1, rows[s]] - reported.measured[t, rows[s]])[:, active[s]] ** 2
        )
        for s, t in pairs
    ]
    own = [np.mean(ahead.changes[t, rows[t]][:, active[t]] ** 2) for _, t in pairs]
    assert compared["new_task_kernel"]["spearman_pairs"] == pytest.approx(
        metrics.spearman(squared, own)
    )
    gradient = [reported.slopes[t] for _, t in pairs]
    assert compared["gradient"]["spearman_pairs"] == pytest.approx(
        metrics.spearman(squared, gradient)
    )
    cka = [baseline().cka[s, t] for s, t in pairs]
    assert compared["cka"]["spearman_pairs"] == pytest.approx(metrics.spearman(squared, cka))
