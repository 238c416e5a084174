"""Forecasts that linearise anew: between one linearisation and training itself, both exactly."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import linear, quadratic_features, random_stream

from ntkcl import experiment, forecast, kernels, losses, methods, metrics, networks, optimizers
from ntkcl.training.problem import Anchor, batch_order, carried_optimizer_state, consolidate, train
from ntkcl.training.settings import Training
from ntkcl.types import Dataset

STEPS, RATE = 6, 0.3
RANDOM = random_stream(jax.random.key(5), [4, 4], d=3, c=2)
STREAM = tuple(
    task._replace(train=Dataset(task.train.x, jax.nn.one_hot(jnp.argmax(task.train.y, 1), 2)))
    for task in RANDOM
)
CURVED = networks.mlp(outputs=2, width=4, activation="tanh", b_std=0.3, centred=False)
LINEAR = linear(quadratic_features, 2)
CROSS_ENTROPY, ADAM = losses.cross_entropy(), optimizers.adam()
PLAIN = dict(loss=losses.squared_error(), optimizer=optimizers.sgd())


def begun(
    network=CURVED,
    loss=CROSS_ENTROPY,
    optimizer=ADAM,
    method=experiment.NAIVE,
    **settings,
):
    """The problem, and the untrained network as an anchor."""
    training = Training(**dict(steps=STEPS) | settings)
    rules = loss, optimizer, training, method, forecast.Effort()
    start = experiment.initialise(jax.random.key(0), STREAM, network, *rules, kernels.contraction)
    f = jnp.asarray(start.outputs(start.theta))
    return start.problem.at(RATE), Anchor(start.theta, (), (f,)), start.outputs


def outcomes(begin, **effort):
    problem, anchor, _ = begin
    return forecast.linearised(None, forecast.Effort(**effort))(problem, anchor, len(STREAM))


def changes(begin, **effort):
    return np.stack([one.change for one in outcomes(begin, **effort)])


def measured(begin):
    """What training does, task by task."""
    problem, anchor, outputs = begin
    theta, memory, state, history = *anchor[:2], None, [anchor.history[0]]
    for t in range(len(STREAM)):
        fitted = train(problem, t, problem.trained, theta, memory, state)
        memory = consolidate(problem, t, problem.network, fitted)
        theta, state = fitted.theta, carried_optimizer_state(problem, fitted)
        history.append(outputs(theta))
    return np.diff(np.stack(history), axis=0)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(dict(optimizer=optimizers.sgd(0.9), batch_size=3), id="momentum, batches"),
        pytest.param(dict(batch_size=3, optimizer_state="carry"), id="adam, batches, carried on"),
        pytest.param(dict(method=methods.replay(2)), id="replay"),
        pytest.param(PLAIN, id="sgd", marks=pytest.mark.slow),
        pytest.param(dict(method=methods.si(0.3)), id="si, which observes", marks=pytest.mark.slow),
        pytest.param(dict(method=methods.ewc_diagonal(0.3)), id="ewc", marks=pytest.mark.slow),
    ],
)
def test_as_many_segments_as_steps_are_training_itself(settings):
    begin = begun(**settings)
    expected = measured(begin)
    assert np.abs(expected).max((1, 2)).min() > 0.05
    np.testing.assert_allclose(changes(begin, segments=STEPS), expected, atol=1e-12)


def test_of_a_model_linear_in_its_parameters_all_segments_are_one_and_auto_is_content_with_two():
    begin = begun(LINEAR, optimizer=optimizers.sgd(0.9), batch_size=3)
    expected = measured(begin)
    for segments in (1, 4, "auto"):
        made = outcomes(begin, segments=segments)
        np.testing.assert_allclose([one.change for one in made], expected, atol=1e-12)
        assert {one.kernels for one in made} == {2 if segments == "auto" else segments}


def by_hand(theta, x, y, parts):
    """Parameters after Adam on the batches of all `parts`, linearised where each part begins."""
    rule, apply = optax.adam(RATE), jax.vmap(CURVED.apply, (None, 0))

    def mean_loss(theta, begin, x, y):
        away = jax.tree.map(jnp.subtract, theta, begin)
        f, change = jax.jvp(lambda p: apply(p, x), (begin,), (away,))
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(f + change), 1))

    slope, state = jax.jit(jax.grad(mean_loss)), rule.init(theta)
    for part in parts:
        begin = theta
        for rows in part:
            updates, state = rule.update(slope(theta, begin, x[rows], y[rows]), state)
            theta = optax.apply_updates(theta, updates)
    return theta


def test_each_segment_is_linearised_where_the_one_before_has_led():
    """And the network is read there, or by one segment its linearisation."""
    problem, anchor, outputs = begin = begun(batch_size=3)
    own, order = STREAM[0].train, batch_order(problem, 0)
    at_theta0 = networks.linearised(CURVED, anchor.theta).apply

    def predicted(*cuts):
        return by_hand(anchor.theta, *own, np.split(order, cuts))

    four, one = (outcomes(begin, segments=m)[0] for m in (4, 1))
    assert one.resegmented is None and four.resegmented is None
    linearised = networks.forward(at_theta0, predicted(), problem.x)
    for found, expected in (
        (four.change, outputs(predicted(1, 3, 4))),
        (one.change, linearised),
    ):
        np.testing.assert_allclose(found, expected - anchor.history[0], atol=1e-12)


def test_auto_doubles_until_twice_as_many_segments_predict_the_same(monkeypatch):
    """The errors of 1, 2, 4, 8 segments stand in for a network's."""
    module, f = sys.modules["ntkcl.forecast.linearised"], np.linspace(-1, 1, 6).reshape(3, 2)
    asked: list[int] = []

    def by(error):
        def in_segments(problem, anchor, count, m):
            asked.append(m)
            return [forecast.Outcome(f * (1 + error[m]), 0.0, 0.0)]

        monkeypatch.setattr(module, "_in_segments", in_segments)
        (one,) = outcomes(begun(steps=20), segments="auto")
        return one.kernels, float(one.change[2, 1]), float(one.resegmented()[2, 1])

    assert by({1: 5.0, 2: 1.0, 4: 0.1, 8: 0.0}) == (8, 1.0, 1.1)
    assert asked == [2, 1, 4, 8]  # each once
    assert by({1: np.inf, 2: np.nan, 4: 1.0, 8: -1.0, 16: 9.0})[0] == 16
    assert by({1: 0.2, 2: 0.0})[0] == 2


def test_segments_of_longer_steps_are_training_with_longer_steps():
    fewer = begun(steps=STEPS // 2)
    longer = fewer[0].at(2 * RATE), *fewer[1:]
    made = changes(begun(), segments=STEPS // 2, coarsen=2)
    np.testing.assert_allclose(made, measured(longer), atol=1e-12)


@pytest.mark.parametrize(
    ("segments_r2", "grade"), [(0.99, "good"), (0.96, "fair"), (0.94, "poor"), (-np.inf, "poor")]
)
def test_a_forecast_that_segments_change_is_not_trusted(segments_r2, grade):
    unknown = [float("nan")]
    found, reasons = metrics.verdict(
        *unknown * 2, [True], unknown, unknown, segments_r2=segments_r2
    )
    assert found == grade and ("raise forecast.segments" in " ".join(reasons)) == (grade != "good")
