"""Checks of a forecast at a few inputs: what they read, and what the verdict makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import linear, quadratic_features, random_stream

from ntkcl import experiment, forecast, kernels, losses, methods, metrics, networks, optimizers
from ntkcl.experiment import record
from ntkcl.experiment.compare import compare
from ntkcl.forecast import spot_check
from ntkcl.forecast.stability import limit_share
from ntkcl.training.problem import Anchor
from ntkcl.training.settings import Training

STEPS, NAN = 8, float("nan")
STREAM = random_stream(jax.random.key(5), [5, 4], d=3, c=2)
CURVED = networks.mlp(outputs=2, width=4, activation="tanh", b_std=0.3, centred=False)
LINEAR = linear(quadratic_features, 2)
SGD, SQUARED = optimizers.sgd(), losses.squared_error()


def played(network=CURVED, optimizer=SGD, method=experiment.NAIVE, form="auto", **settings):
    effort = forecast.Effort(segments=settings.pop("segments", 1))
    stream = settings.pop("stream", STREAM)
    training = Training(**dict(steps=STEPS, learning_rate=0.05) | settings)
    events = experiment.run(
        jax.random.key(0),
        stream,
        network,
        SQUARED,
        optimizer,
        training,
        method=method,
        form=form,
        effort=effort,
        kernel=kernels.contraction,
    )
    return record.gather(events, stream)


def begun(network=CURVED, optimizer=SGD, rate=0.05, method=experiment.NAIVE, stream=STREAM):
    """The problem, and the untrained network as an anchor."""
    rules = SQUARED, optimizer, Training(steps=STEPS), method, forecast.Effort()
    start = experiment.initialise(jax.random.key(0), stream, network, *rules, kernels.contraction)
    f = jnp.asarray(start.outputs(start.theta))
    return start.problem.at(rate), Anchor(start.theta, (), (f,)), start


def test_a_check_looks_at_evenly_spaced_train_inputs_of_each_task_and_never_at_fewer_than_eight():
    problem, anchor, _ = begun()
    tasks = [problem.tasks[0]._replace(inputs=np.arange(100))] * 2
    problem = problem._replace(tasks=tuple(tasks), steps=(1000, 1000))
    places = spot_check.rows(problem, anchor.ahead(2), 100.0)
    trained, passes = 2 * 1000 * 100, 100
    expected = spot_check.SHARE * spot_check.STEP_PASSES * trained / (passes * 2)
    assert len(places) == 2 * min(int(expected), spot_check.MOST) == 2 * spot_check.MOST
    assert len(spot_check.some(problem, 2, 0.1)) == 2 * spot_check.FEWEST
    np.testing.assert_array_equal(spot_check.some(problem, 1, 10.0)[[0, -1]], [0, 99])


def test_the_lower_order_of_segments_is_the_sum_of_their_changes_along_tangents():
    problem, anchor, _ = begun()
    (one,) = forecast.linearised(None, forecast.Effort(segments=2))(problem, anchor, 1)
    theta, expected = anchor.theta, 0.0
    for _ in range(2):
        network = networks.linearised(CURVED, theta)
        half = problem._replace(steps=(STEPS // 2,) * 2)
        (end,) = forecast.linearised(None, forecast.Effort())(half, anchor._replace(theta=theta), 1)
        reached = networks.forward(network.apply, end.theta, problem.x)
        expected += np.asarray(reached - networks.forward(CURVED.apply, theta, problem.x))
        theta = end.theta
    np.testing.assert_allclose(one.lower_order[:5], expected[:5], atol=1e-12)
    assert np.isnan(one.lower_order[5:]).all() and one.theta is None
    assert np.abs(one.lower_order[:5] - one.change[:5]).max() > 1e-4


def test_a_forecast_that_linearises_once_is_tried_at_the_parameters_it_predicts():
    problem, anchor, start = begun()
    outcomes = forecast.linearised(None, forecast.Effort())(problem, anchor, 2)
    trial = forecast.trial(problem, anchor, outcomes, start.outputs)
    true = [np.asarray(anchor.history[0]), *(start.outputs(one.theta) for one in outcomes)]
    np.testing.assert_allclose(trial[:, :9], np.diff(np.stack(true), axis=0)[:, :9], atol=1e-12)
    assert np.isnan(trial[:, 9:]).all()
    assert np.abs(trial[0, :9] - np.asarray(outcomes[0].change)[:9]).max() > 1e-4


def test_a_form_that_does_not_say_how_parameters_move_is_tried_along_the_shortest_way():
    problem, anchor, start = begun(method=methods.ogd(2))
    change = jax.random.normal(jax.random.key(1), (len(problem.x), 2)) * 0.1
    outcome = forecast.Outcome(np.asarray(change), 0.0, 0.0)
    (trial,) = forecast.trial(problem, anchor, [outcome], start.outputs)
    J = jax.jacobian(lambda p: networks.forward(CURVED.apply, p, problem.x[:5]))(anchor.theta)
    leaves, tree = jax.tree.flatten(anchor.theta)
    flat = np.concatenate([np.reshape(leaf, (10, -1)) for leaf in jax.tree.leaves(J)], 1)
    u = np.linalg.pinv(flat) @ np.asarray(change)[:5].ravel()
    parts = np.split(u, np.cumsum([leaf.size for leaf in leaves])[:-1])
    moved = [leaf + part.reshape(leaf.shape) for leaf, part in zip(leaves, parts, strict=True)]
    ends = start.outputs(jax.tree.unflatten(tree, moved))
    expected = (ends - np.asarray(anchor.history[0]))[:5]
    np.testing.assert_allclose(trial[:5], expected, atol=1e-3)
    assert np.abs(expected - np.asarray(change)[:5]).max() > 5e-3 and np.isnan(trial[5:]).all()


def test_the_lower_order_of_the_integrator_is_without_its_correction():
    """Of a linear network one stride is two, and nothing is corrected."""
    gaps = {}
    for name, network in {"linear": LINEAR, "curved": CURVED}.items():
        problem, anchor, start = begun(network, rate=0.2)
        form = forecast.integrated(start.kernel_fn, forecast.Effort(kernels=1, tolerance=0.5))
        (one,) = form(problem, anchor, 1)
        gaps[name] = np.abs(one.lower_order - one.change)[:5].max()
    assert gaps["linear"] < 1e-12 and gaps["curved"] > 1e-5


@pytest.mark.parametrize("sampled", [24, 2])
def test_the_rate_is_held_against_the_limit_of_the_kernel_at_the_anchor(monkeypatch, sampled):
    """By some of its inputs, which here are all the same one."""
    monkeypatch.setattr("ntkcl.forecast.stability.SAMPLED", sampled)
    problem, anchor, start = begun(rate=0.3)
    same = np.repeat(np.asarray(problem.x)[:1], len(problem.x), axis=0)
    problem = problem._replace(x=problem.x if sampled > 5 else jnp.asarray(same))
    exact = 0.3 / forecast.limits(problem.reordered([0]), anchor.theta, start.kernel_fn)[0]
    assert 0.9 * exact < limit_share(problem, anchor) <= exact * (1 + 1e-9)
    assert np.isnan(limit_share(begun(optimizer=optimizers.adam())[0], anchor))


def test_a_boundary_over_the_limit_is_forecast_in_segments_and_the_verdict_says_so():
    first, last = STREAM
    wider = last._replace(train=last.train._replace(x=2 * last.train.x))
    problem, _, start = begun(stream=(first, wider))
    limits = forecast.limits(problem, start.theta, start.kernel_fn)
    assert limits[1] < 0.7 * limits[0]
    settings = dict(form="linearised", allow_unstable=True, stream=(first, wider))
    over = played(learning_rate=0.9 * limits[0], **settings)
    shares, segments = (over.numerics["boundary"][key] for key in ("limit_share", "kernels"))
    assert shares[1] > 1 and segments[0] == 1 and segments[1] > 1
    reasons = " ".join(compare(over, "boundary", (first, wider), "train", SQUARED)["reasons"])
    said = f"the learning rate is {shares[1]:.2f} of the stability limit at the anchor"
    assert f"{said}: linearised anew, in {segments[1]} segments" in reasons
    within = played(learning_rate=0.3 * limits[1], **settings)
    assert within.numerics["boundary"]["kernels"] == [1, 1]


@pytest.mark.parametrize(
    "settings",
    [
        dict(form="linearised"),
        dict(form="linearised", segments=2),
        dict(form="linearised", segments="auto"),
        dict(form="simulated", batch_size=2),
        dict(form="integrated"),
        dict(form="closed", method=methods.ogd(2)),
    ],
    ids=lambda settings: " ".join(map(str, list(settings.values())[:1] + list(settings)[1:])),
)
def test_no_form_is_unknown(settings):
    run = played(learning_rate=1e-3, **settings)
    for anchor in ("init", "boundary"):
        small = compare(run, anchor, STREAM, "train", SQUARED)
        assert small["verdict"] in ("good", "fair"), small["reasons"]


SIGNS = dict(trial_r2=0.99, own_r2=0.99, forgetting_miss=0.01, balance=1.0)
SEGMENTS = dict(lower_order_r2=0.99, own_r2=0.99, forgetting_miss=0.01, balance=1.0)

GIVEN = dict(segments=[4, 8])


@pytest.mark.parametrize(
    ("signs", "grade", "reason"),
    [
        (SIGNS, "good", ""),
        (SEGMENTS, "good", ""),
        (SIGNS | {"trial_r2": 0.94}, "fair", "linearisation fails at the predicted parameters"),
        (SIGNS | {"trial_r2": 0.85}, "poor", "linearisation fails at the predicted parameters"),
        (SEGMENTS | {"lower_order_r2": 0.95}, "fair", "tangents of its own segments"),
        (SEGMENTS | {"lower_order_r2": 0.5}, "poor", "tangents of its own segments"),
        (SIGNS | {"own_r2": 0.8}, "fair", "of the new inputs themselves"),
        (SEGMENTS | {"own_r2": 0.75}, "poor", "of the new inputs themselves"),
        (SIGNS | {"own_r2": 0.1, "halved_r2": 0.99}, "good", ""),
        (SIGNS | {"forgetting_miss": 0.3}, "fair", "forgetting is elsewhere by 30%"),
        (SIGNS | {"forgetting_miss": 0.4}, "poor", "forgetting is elsewhere by 40%"),
        (SEGMENTS | {"forgetting_miss": 0.25}, "fair", "forgetting is elsewhere by 25%"),
        (SEGMENTS | {"forgetting_miss": 0.15, "balance": 0.5}, "poor", "is elsewhere by 30%"),
        (SIGNS | {"balance": 0.1}, "poor", "mean forgetting is unsure by 100%"),
        (SIGNS | {"trial_r2": 0.5, "better": "no change is nearer to it"}, "poor", "no change is"),
        (SEGMENTS | GIVEN | {"lower_order_r2": 0.996}, "good", ""),
        (SEGMENTS | GIVEN | {"lower_order_r2": 0.992}, "fair", "take forecast.segments=auto"),
        (SEGMENTS | GIVEN | {"lower_order_r2": 0.98}, "poor", "take forecast.segments=auto"),
        (SEGMENTS | GIVEN | {"segments_r2": 0.99}, "good", ""),
        (
            SEGMENTS | GIVEN | {"limit_share": [NAN, 2.3], "segments_r2": 0.99},
            "good",
            "2.30 of the",
        ),
        (SIGNS | {"limit_share": [2.3]}, "fair", "later kernels may lower"),
        ({}, "unknown", "there was no trial"),
    ],
)
def test_each_sign_has_its_reason(signs, grade, reason):
    found, reasons = metrics.verdict(**signs)
    assert (found, reason in " ".join(reasons)) == (grade, True)
    assert bool(reasons) == bool(reason)
