"""One experiment: exact where the theory is exact, and blind to what it predicts."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import linear, quadratic_features, random_stream

from ntkcl import dynamics, experiment, forecast, kernels, losses, networks, optimizers, resources
from ntkcl.experiment import record
from ntkcl.experiment.compare import compare
from ntkcl.experiment.events import AnchorForecast, Measurement, Plan
from ntkcl.experiment.scores import score_matrices
from ntkcl.training import loop
from ntkcl.training.problem import Anchor
from ntkcl.training.settings import Training, steps_of
from ntkcl.types import Dataset, Rows

STREAM = random_stream(jax.random.key(5), [6, 3, 8])
LOSS = losses.squared_error()
LINEAR = linear(quadratic_features, 2)


def events(
    stream=STREAM,
    network=LINEAR,
    key=0,
    anchors=("init", "boundary"),
    form="auto",
    infinite=None,
    segments=1,
    **training,
):
    settings = Training(**(dict(steps=25) | training))
    network = network._replace(infinite=infinite) if infinite else network
    effort = forecast.Effort(segments=segments)
    recorded = dict(anchors=anchors, form=form, effort=effort)
    return experiment.run(
        jax.random.key(key), stream, network, LOSS, optimizers.sgd(), settings, **recorded
    )


def recorded(stream=STREAM, steps=25, **settings):
    return record.gather(events(stream, steps=steps, **settings), stream)


@functools.cache
def told_once(heads=None):
    """The linear model's run on a stream with these heads, and the stream."""
    stream = random_stream(jax.random.key(5), [6, 3, 8], heads=heads)
    return recorded(stream, steps=60), stream


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("anchor", ["init", "boundary"])
@pytest.mark.parametrize("heads", [None, ((1, 0), (0, 1), (1, 1))])
def test_a_model_linear_in_its_parameters_is_forecast_exactly(anchor, part, heads):
    run, stream = told_once(heads)
    numbers = compare(run, anchor, stream, part, LOSS)
    assert 1 - numbers["drift_r2"] < 1e-10 and 1 - numbers["skill"] < 1e-10
    np.testing.assert_allclose(
        numbers["forgetting_predicted"], numbers["forgetting_measured"], atol=1e-12
    )
    measured = score_matrices(run.measured, stream, part, LOSS)
    np.testing.assert_allclose(numbers["R_loss"], measured["R_loss"], atol=1e-12)
    np.testing.assert_array_equal(numbers["R"], measured["R"])
    assert numbers["spearman_offdiagonal"] == numbers["spearman_samples"] == pytest.approx(1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_loss_falls_as_the_quadratic_form_of_the_kernel_says(momentum):
    network = networks.mlp(outputs=2, width=16, activation="erf", b_std=0.1)
    rule = optimizers.sgd(momentum, nesterov=momentum > 0)
    settings = Training(steps=5, learning_rate=1e-5, learning_rate_fraction=None)
    given = jax.random.key(0), STREAM, network, LOSS, rule, settings
    run = record.gather(experiment.run(*given, anchors=["boundary"]), STREAM)
    assert (run.slopes > 0.01).all()
    np.testing.assert_allclose(run.loss_slopes, -(run.slopes**2), rtol=1e-3)


def test_the_smallest_eigenvalue_is_that_of_the_tasks_kernel():
    network = networks.mlp(outputs=2, width=16, activation="erf", b_std=0.1)
    theta = network.init(jax.random.fold_in(jax.random.key(0), 0), STREAM[0].train.x[0])
    grams = [kernels.structured(network)(theta, task.train.x) for task in STREAM]
    sizes = [2 * len(task.train.x) for task in STREAM]
    expected = [
        np.linalg.eigvalsh(np.asarray(gram).reshape(size, size))[0]
        for gram, size in zip(grams, sizes, strict=True)
    ]
    found = recorded(network=network, anchors=["init"]).numerics["init"]["smallest_eigenvalue"]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("training", [dict(batch_size=3), dict(steps=1)])
def test_no_slope_is_measured_where_the_first_step_is_not_along_it(training):
    assert np.isnan(recorded(**training).loss_slopes).all()


def test_the_forecast_tends_to_the_measurement_as_the_network_widens():
    stream = random_stream(jax.random.key(5), [6, 6, 6], d=8, c=1)
    widths, missed = (32, 2048), []
    for width in widths:
        network = networks.mlp(outputs=1, width=width, activation="erf", b_std=0.1, centred=True)
        run = recorded(stream, network=network, steps=40, anchors=["init"])
        missed.append(1 - compare(run, "init", stream, "train", LOSS)["drift_r2"])
    assert missed[1] < missed[0] * widths[0] / widths[1] and missed[1] < 1e-3


def test_the_first_boundary_is_the_initialisation():
    run = recorded(network=networks.mlp(outputs=2, width=16))
    np.testing.assert_allclose(run.changes["boundary"][0], run.changes["init"][0], atol=1e-13)
    assert not np.allclose(run.changes["boundary"][1], run.changes["init"][1], rtol=1e-3)


def test_the_infinite_anchor_is_the_init_one_of_a_kernel_of_infinite_width():
    """And a wide network comes near."""
    shape = dict(activation="erf", b_std=0.1)
    limit = kernels.infinite(**shape).ntk
    wide = networks.mlp(outputs=2, width=4096, **shape)
    run = recorded(network=wide, anchors=["infinite", "init"])

    def block(inputs):
        return kernels.with_outputs(limit(run_inputs, run_inputs[inputs]), 2)

    run_inputs = jnp.concatenate(
        [task.train.x for task in STREAM] + [task.test.x for task in STREAM]
    )
    first = STREAM[0].train
    rate = run.plan.learning_rate * LOSS.rate(1.0, len(first.x), STREAM[0].head)
    step = dynamics.Step(
        np.arange(len(first.x)), first.y, np.broadcast_to(STREAM[0].head, first.y.shape)
    )
    solve = dynamics.one_task(
        block, jnp.zeros((len(run_inputs), 2)), step, dynamics.gradient_descent(rate, 25)
    )
    np.testing.assert_allclose(run.changes["infinite"][0], solve.change, atol=1e-10)

    init = run.changes["init"]
    assert np.linalg.norm(run.changes["infinite"] - init) < 0.1 * np.linalg.norm(init)


@pytest.mark.slow
def test_the_path_is_what_training_did_up_to_the_square_of_its_steps():
    """A narrow network, from whose kernel at either end its training is far; with any loss, and any
    rule on any batches."""
    network = networks.mlp(outputs=2, width=8, activation="erf", b_std=0.1)
    one_hot = [
        task.train._replace(y=jax.nn.one_hot(jnp.argmax(task.train.y, 1), 2)) for task in STREAM
    ]
    stream = tuple(task._replace(train=train) for task, train in zip(STREAM, one_hot, strict=True))

    def gap(rule, anchors=("boundary", "path"), **training):
        recorded = experiment.run(
            jax.random.key(0),
            stream,
            network,
            losses.cross_entropy(),
            rule,
            Training(**training),
            anchors=anchors,
        )
        run = record.gather(recorded, stream)
        changes = np.diff(run.measured, axis=0)
        return [
            np.linalg.norm(run.changes[anchor] - changes) / np.linalg.norm(changes)
            for anchor in anchors
        ]

    coarse, fine = (
        gap(optimizers.sgd(), steps=steps, learning_rate=40 / steps) for steps in (40, 160)
    )
    assert fine[1] < coarse[1] / 12 and fine[1] < 1e-3 < 0.05 < fine[0]
    assert gap(optimizers.adam(), ["path"], steps=100, batch_size=3, learning_rate=0.01)[0] < 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(batch_size=3),
        dict(form="linearised"),
        dict(segments=3),
        dict(anchors=("infinite", "init", "boundary"), infinite=lambda x1, x2: x1 @ x2.T),
    ],
    ids=["closed", "batches", "linearised", "segments", "infinite"],
)
def test_every_forecast_is_made_before_the_training_it_predicts(settings, monkeypatch):
    """Poison: from the first training on, the trainer gets shuffled NaN-free garbage. No forecast
    made before may change."""
    clean = list(events(**settings))
    trained = []
    honest = loop.segments

    def poisoned(key, state, dataset, head, **settings):
        if (
            settings["apply"] is not LINEAR.apply
        ):  # a baseline's linear model is predicted, and not the network
            return honest(key, state, dataset, head, **settings)
        trained.append(len(trained))
        garbage = Dataset(-dataset.x[::-1], 7.0 - dataset.y)
        return honest(key, state, garbage, head, **settings)

    monkeypatch.setattr(loop, "segments", poisoned)
    seen, before = [], []
    for event in events(**settings):
        seen.append(event)
        before.append(len(trained))
    predicted = [(e, n) for e, n in zip(seen, before, strict=True) if isinstance(e, AnchorForecast)]
    assert all(
        n <= e.first for e, n in predicted
    )  # nothing of task `first` or later had been trained
    pairs = [(a, b) for a, b in zip(clean, seen, strict=True) if isinstance(a, AnchorForecast)]
    unchanged = [np.array_equal(a.changes, b.changes) for a, b in pairs]
    assert unchanged == [
        e.first == 0 for e, _ in pairs
    ]  # later boundaries start from the poisoned network
    measured = [
        (a, b) for a, b in zip(clean, seen, strict=True) if isinstance(a, Measurement) and a.task
    ]
    assert not any(np.array_equal(a.outputs, b.outputs) for a, b in measured)


def test_a_forecast_never_reads_targets_of_tests_or_of_later_tasks():
    def spoiled(t, part):
        task = STREAM[t]
        return (
            *STREAM[:t],
            task._replace(**{part: getattr(task, part)._replace(y=getattr(task, part).y + 100.0)}),
            *STREAM[t + 1 :],
        )

    base = recorded().changes["init"]
    np.testing.assert_array_equal(recorded(spoiled(1, "test")).changes["init"], base)
    last = recorded(spoiled(2, "train")).changes["init"]
    np.testing.assert_array_equal(last[:2], base[:2])
    assert not np.allclose(last[2], base[2])


def test_the_events_come_in_the_order_of_the_story():
    kinds = [
        type(e).__name__ + (f":{e.anchor}{e.first}" if isinstance(e, AnchorForecast) else "")
        for e in events()
    ]
    tasks = [k for t in range(3) for k in (f"AnchorForecast:boundary{t}", "Measurement")]
    assert kinds == ["Plan", "Measurement", "AnchorForecast:init0", "Baselines", *tasks]
    assert "Baselines" not in [type(e).__name__ for e in events(anchors=[])]


def test_the_learning_rate_is_a_fraction_of_the_limit_of_the_largest_task_kernel():
    plan = next(events(learning_rate_fraction=0.25))
    assert isinstance(plan, Plan)
    phi = [np.asarray(jax.vmap(quadratic_features)(task.train.x)) for task in STREAM]
    limit = min(
        2 * 2 * len(p) / np.linalg.eigvalsh(p @ p.T)[-1] for p in phi
    )  # rate = eta / (n c) < 2 / lam_max
    assert plan.limit == pytest.approx(limit) and plan.learning_rate == pytest.approx(limit / 4)


@pytest.mark.parametrize("side", [0.99, 1.01])
def test_the_stability_limit_is_where_training_turns(side):
    stream = STREAM[2:]
    run = recorded(stream, steps=4000, learning_rate_fraction=side, allow_unstable=True, anchors=[])
    assert (run.losses[0, -1] > run.losses[0, 0]) == (side > 1)


def test_over_the_limit_is_refused_with_both_numbers_unless_allowed():
    limit = next(events()).limit
    with pytest.raises(
        ValueError,
        match=rf"training\.learning_rate={3 * limit:g}: .* limit {limit:.6g} .*allow_unstable=true",
    ):
        next(events(learning_rate=3 * limit))
    with pytest.raises(ValueError, match=r"training.learning_rate_fraction=1.5.*use at most 1,"):
        next(events(learning_rate_fraction=1.5))
    assert next(
        events(learning_rate=3 * limit, allow_unstable=True)
    ).learning_rate == pytest.approx(3 * limit)


def test_divergence_ends_the_run_and_is_recorded():
    run = recorded(learning_rate_fraction=1e6, allow_unstable=True, steps=200)
    assert run.status == "diverged"
    scores = score_matrices(run.measured, STREAM, "test", LOSS)
    assert np.isnan(scores["R"]).all() and np.isfinite(scores["b"]).all()
    numbers = compare(run, "init", STREAM, "train", LOSS)
    assert np.isnan(numbers["drift_r2"]) and np.isnan(numbers["spearman_samples"])


def test_the_same_key_gives_the_same_bits_and_another_key_does_not():
    network = networks.mlp(outputs=2, width=16, centred=True)
    one, two, three = (
        recorded(STREAM[:2], network=network, key=k, batch_size=3, anchors=["init"])
        for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.measured, two.measured)
    np.testing.assert_array_equal(one.changes["init"], two.changes["init"])
    assert not np.array_equal(one.measured, three.measured)


def test_one_task_has_a_forecast_and_no_drift():
    stream = STREAM[:1]
    run = recorded(stream)
    numbers = compare(run, "init", stream, "train", LOSS)
    assert np.isnan(numbers["drift_r2"]) and numbers["forgetting_predicted"] == []
    np.testing.assert_allclose(run.outputs("init"), run.measured, atol=1e-10)


@pytest.mark.parametrize("anchor", ["init", "boundary"])
def test_every_number_of_a_narrow_network_follows_from_its_outputs_by_hand(anchor):
    """Where forecast and measurement differ, sample by sample: what each anchor starts from and
    what it adds up."""
    run = recorded(network=networks.mlp(outputs=2, width=16))
    measured, changes = run.measured, run.changes[anchor]
    numbers = compare(run, anchor, STREAM, "train", LOSS)
    scores = score_matrices(measured, STREAM, "train", LOSS)
    drift, forgotten, lost, gained = ([], []), ([], []), 0.0, 0.0
    for s, own in enumerate(Rows.of(STREAM).train[:-1]):
        y = np.asarray(STREAM[s].train.y)
        start = (
            measured[0, own] + changes[: s + 1, own].sum(0)
            if anchor == "init"
            else measured[s + 1, own]
        )
        for side, (f, d) in enumerate(
            [
                (measured[s + 1, own], measured[3, own] - measured[s + 1, own]),
                (start, changes[s + 1 :, own].sum(0)),
            ]
        ):
            drift[side].append(d.ravel())
            forgotten[side].append(0.5 * np.mean((f + d - y) ** 2) - 0.5 * np.mean((f - y) ** 2))
        right = [measured[i, own].argmax(1) == y.argmax(1) for i in (s + 1, 3)]
        lost, gained = np.mean(right[0] & ~right[1]), np.mean(~right[0] & right[1])
        assert lost - gained == pytest.approx(scores["R"][s, s] - scores["R"][2, s])
    m, p = (np.concatenate(side) for side in drift)
    assert (
        numbers["drift_r2"] == pytest.approx(1 - np.sum((m - p) ** 2) / np.sum((m - m.mean()) ** 2))
        and numbers["drift_r2"] < 0.999
    )
    np.testing.assert_allclose(numbers["forgetting_measured"], forgotten[0])
    np.testing.assert_allclose(numbers["forgetting_predicted"], forgotten[1])
    for i in range(3):
        for j, own in enumerate(Rows.of(STREAM).train):
            y = np.asarray(STREAM[j].train.y)
            f = (
                measured[0, own] + changes[: i + 1, own].sum(0)
                if anchor == "init"
                else measured[i, own] + changes[i, own]
            )
            assert numbers["R_loss"][i, j] == pytest.approx(0.5 * np.mean((f - y) ** 2))
            assert numbers["R"][i, j] == np.mean(f.argmax(1) == y.argmax(1))
    rows = Rows.of(STREAM).train
    where = [(0, 1), (0, 2), (1, 2)]  # old task, later task
    m = np.concatenate(
        [(measured[t + 1, rows[s]] - measured[t, rows[s]]).ravel() for s, t in where]
    )
    p = np.concatenate([changes[t, rows[s]].ravel() for s, t in where])
    assert numbers["change_r2"] == pytest.approx(
        1 - np.sum((m - p) ** 2) / np.sum((m - m.mean()) ** 2)
    )
    before = np.concatenate(
        [scores["b_loss"][None], (numbers if anchor == "init" else scores)["R_loss"][:-1]]
    )
    rises = (
        scores["R_loss"] - np.concatenate([scores["b_loss"][None], scores["R_loss"][:-1]]),
        numbers["R_loss"] - before,
    )
    ranks = [np.argsort(np.argsort(rise[~np.eye(3, dtype=bool)])) for rise in rises]
    assert numbers["spearman_offdiagonal"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    np.testing.assert_allclose(run.drift(anchor, 0, 2, rows[0]), changes[1:, rows[0]].sum(0))
    np.testing.assert_allclose(
        run.drift("measured", 0, 2, rows[0]), measured[3, rows[0]] - measured[1, rows[0]]
    )


def test_minibatches_get_a_limit_that_no_batch_exceeds():
    phi = [np.asarray(jax.vmap(quadratic_features)(task.train.x)) for task in STREAM]
    worst = max(np.max(np.sum(p**2, 1)) for p in phi)
    plan = next(events(batch_size=2))
    assert plan.limit == pytest.approx(
        2 * 2 / worst
    )  # a batch of the worst sample alone: rate = eta / c < 2 / |phi|^2
    assert plan.limit < next(events()).limit
    assert (
        recorded(batch_size=1, steps=3000, learning_rate_fraction=0.99, anchors=[]).status
        == "completed"
    )
    assert (
        recorded(
            batch_size=1, steps=3000, learning_rate_fraction=30.0, allow_unstable=True, anchors=[]
        ).status
        == "diverged"
    )


def test_a_loss_that_explodes_and_comes_back_has_diverged(monkeypatch):
    """Far over the limit every ReLU may die after a few steps, and a dead network has a small and
    finite loss again."""
    honest = loop.segments

    def exploding(*arguments, **settings):
        for fitted in honest(*arguments, **settings):
            yield fitted._replace(losses=fitted.losses.at[3].multiply(1e9))

    assert recorded(anchors=[]).status == "completed"
    monkeypatch.setattr(loop, "segments", exploding)
    run = recorded(anchors=[])
    assert (
        run.status == "diverged"
        and np.isfinite(run.measured[1]).all()
        and np.isnan(run.measured[2]).all()
    )


def test_looking_at_the_outputs_within_a_task_changes_nothing_and_tells_the_curve():
    plain = recorded(batch_size=2, steps=7, anchors=[])
    looked = recorded(batch_size=2, steps=7, anchors=[], evaluate_every=3)
    np.testing.assert_array_equal(looked.measured, plain.measured)
    np.testing.assert_array_equal(looked.losses, plain.losses)
    assert [(e.task, e.step) for e in looked.evaluations] == [
        (t, step) for t in range(3) for step in (3, 6)
    ]
    shorter = recorded(
        batch_size=2, steps=3, anchors=[]
    )  # other batches would be drawn, were they drawn by the number of steps
    first = Rows.of(STREAM).test[0].start
    after_three = looked.evaluations[0].outputs
    np.testing.assert_allclose(after_three, shorter.measured[1, first:], atol=1e-12)
    rows = record.curves(looked, STREAM, LOSS)
    matrices = score_matrices(looked.measured, STREAM, "test", LOSS)
    assert [row["step"] for row in rows[::3]] == [0, 3, 6, 7, 10, 13, 14, 17, 20, 21]
    ends = {(row["step"], row["evaluated"]): row["loss"] for row in rows}
    assert [ends[7 * (t + 1), j] for t in range(3) for j in range(3)] == matrices[
        "R_loss"
    ].ravel().tolist()


@pytest.mark.parametrize("form", ["auto", "linearised"])
def test_momentum_carried_over_a_boundary_is_predicted_and_is_one_long_training(form):
    """A linear model, the same task twice: with the velocity carried over it is trained as once for
    twice as long."""
    task = STREAM[0]

    def run(stream, steps, **settings):
        settings = Training(steps=steps, learning_rate=0.05, allow_unstable=True, **settings)
        momentum = optimizers.sgd(momentum=0.9)
        return record.gather(
            experiment.run(jax.random.key(0), stream, LINEAR, LOSS, momentum, settings, form=form),
            stream,
        )

    carried, reset = (run((task, task), 10, optimizer_state=state) for state in ("carry", "reset"))
    long = run((task,), 20)
    np.testing.assert_allclose(carried.measured[2, :6], long.measured[1, :6], atol=1e-12)
    assert np.abs(reset.measured[2, :6] - long.measured[1, :6]).max() > 1e-3
    for anchor in ("init", "boundary"):
        np.testing.assert_allclose(
            carried.changes[anchor], np.diff(carried.measured, axis=0), atol=1e-10
        )


@pytest.mark.parametrize("centred", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bfloat16_is_of_the_passes_in_training_alone(centred):
    network = networks.mlp(outputs=2, width=64, centred=centred)
    full, low = (
        recorded(
            network=network,
            steps=60,
            learning_rate_fraction=0.1,
            anchors=("init", "path"),
            compute=c,
        )
        for c in (None, "bfloat16")
    )
    np.testing.assert_array_equal(low.measured[0], full.measured[0])
    np.testing.assert_array_equal(low.changes["init"], full.changes["init"])
    gap = np.linalg.norm(low.measured - full.measured) / np.linalg.norm(
        full.measured - full.measured[0]
    )
    assert 1e-5 < gap < 0.03
    np.testing.assert_allclose(low.losses, full.losses, rtol=0.02, atol=1e-3)
    path = np.linalg.norm(low.changes["path"] - np.diff(low.measured, axis=0)) / np.linalg.norm(
        np.diff(low.measured, axis=0)
    )
    assert path < gap  # the path followed is that of this training


def test_epochs_count_passes_over_the_task():
    same = random_stream(jax.random.key(5), [6, 6])
    assert recorded(same, epochs=2, batch_size=4, anchors=[]).losses.shape == (2, 3)
    assert recorded(same, epochs=3, anchors=[]).losses.shape == (2, 3)
    assert recorded(same, epochs=3, steps=None, anchors=[]).losses.shape == (2, 3)


def test_more_steps_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(resources, "memory_gib", lambda: 1.0)
    message = r"training\.steps=100000000: the losses and batches of 100000000 steps take 1\.86 GiB"
    with pytest.raises(ValueError, match=message):
        events(steps=10**8, batch_size=3)
    assert steps_of(Training(steps=10**8), STREAM) == (10**8,) * 3


def test_tasks_of_unequal_sizes_take_steps_of_their_own_and_are_predicted_exactly():
    for form, batch_size in (("closed", None), ("simulated", 2), ("linearised", 2)):
        settings = dict(form=form, batch_size=batch_size, epochs=4, evaluate_every=5)
        run = recorded(**settings)
        assert run.plan.steps == ((4, 4, 4) if batch_size is None else (12, 6, 16))
        assert np.isfinite(run.losses).sum(1).tolist() == list(run.plan.steps)
        np.testing.assert_allclose(run.outputs("init"), run.measured, atol=1e-10)
        np.testing.assert_allclose(
            run.changes["boundary"], np.diff(run.measured, axis=0), atol=1e-10
        )
    rows = record.curves(run, STREAM, LOSS)
    assert [row["step"] for row in rows[::3]] == [0, 5, 10, 12, 17, 18, 23, 28, 33, 34]
    initialised = experiment.initialise(
        *(
            jax.random.key(0),
            STREAM,
            LINEAR,
            LOSS,
            optimizers.sgd(),
            Training(epochs=4, batch_size=2),
        ),
        *(experiment.NAIVE, experiment.EFFORT, kernels.contraction),
    )
    assert initialised.problem.reordered((2, 0)).steps == (16, 12)
    setting, start = (
        initialised.problem.at(0.1)._replace(batch_size=None),
        jnp.asarray(initialised.outputs(initialised.theta)),
    )
    start = Anchor(initialised.theta, (), (start,))
    how = initialised.kernel_fn, initialised.effort
    for mean, step_by_step in zip(
        *(form(*how)(setting, start, 3) for form in (forecast.closed, forecast.simulated)),
        strict=True,
    ):
        np.testing.assert_allclose(mean.change, step_by_step.change, atol=1e-10)


def test_a_dead_network_and_one_that_overflows_are_named():
    with pytest.raises(ValueError, match="kernel of task 0 is zero"):
        next(events(network=networks.mlp(outputs=2, width=1, depth=8)))
    with pytest.raises(ValueError, match="kernel of task 0 is not finite"):
        next(events(network=networks.mlp(outputs=2, width=4, output_scale=1e200)))


def test_a_rate_over_the_limit_of_a_task_is_marked():
    predicted = [
        e
        for e in events(learning_rate_fraction=1.3, allow_unstable=True, steps=2)
        if isinstance(e, AnchorForecast)
    ]
    assert not all(predicted[0].stable) and max(
        predicted[0].rate_times_eigenvalue
    ) == pytest.approx(2.6)
    assert all(
        e.negative_mass == pytest.approx([0.0] * len(e.stable), abs=1e-12) for e in predicted
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(steps=0), "training.steps=0"),
        (dict(steps=None), "training.steps=null and training.epochs=null: expected one of them"),
        (dict(steps=10**20), "training.steps=1[0]+: expected at most 2147483647"),
        (dict(epochs=0), "training.epochs=0"),
        (
            dict(epochs=1e300, steps=None),
            r"training.epochs=1e\+300: more than 2147483647 steps a task",
        ),
        (
            dict(epochs=1e308, steps=None, batch_size=1),
            r"training.epochs=1e\+308: more than 2147483647",
        ),
        (dict(evaluate_every=0), "training.evaluate_every=0"),
        (dict(optimizer_state="kept"), "training.optimizer_state=kept"),
        (dict(compute="float16"), "training.compute=float16: expected null or bfloat16"),
        (dict(optimizer_state="carry", form="closed"), "forecast.form=closed"),
        (dict(batch_size=4), "training.batch_size=4: expected at most 3"),
        (dict(learning_rate=-1.0), "training.learning_rate=-1.0"),
        (
            dict(learning_rate_fraction=None),
            "learning_rate=null and training.learning_rate_fraction=null",
        ),
        (
            dict(anchors=["middle"]),
            "forecast.anchors=middle: expected infinite, init, boundary or path",
        ),
        (
            dict(anchors=["infinite"]),
            "infinite is for networks whose kernel of infinite width is known; expected "
            "network=mlp",
        ),
        (
            dict(anchors=["infinite"], infinite=jnp.dot, form="linearised"),
            "infinite has no parameters for form=linearised to follow",
        ),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        next(events(**settings))


def test_batches_that_devices_cannot_share_evenly_are_named(monkeypatch):
    device = SimpleNamespace(memory_stats=dict)
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 4)
    with pytest.raises(
        ValueError,
        match=r"training.devices=all: 4 devices cannot share a batch of 3 samples evenly",
    ):
        events(devices="all", batch_size=3)
    with pytest.raises(
        ValueError, match=r"training.devices=2: 2 devices cannot share a batch of 3 samples evenly"
    ):
        events(devices=2)  # full batches of 6, 3 and 8


def test_values_that_are_not_finite_are_found_before_anything_runs():
    holed = STREAM[1]._replace(
        test=STREAM[1].test._replace(x=STREAM[1].test.x.at[0, 0].set(jnp.nan))
    )
    with pytest.raises(ValueError, match=r"task 1, test\.x holds 1 NaN or infinite values"):
        next(events((STREAM[0], holed)))
    with pytest.raises(ValueError, match="stream: task 1 has a head without active outputs"):
        next(events((STREAM[0], STREAM[1]._replace(head=jnp.zeros(2)))))
