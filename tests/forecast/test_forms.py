"""The forms of a forecast against numbers worked out on paper, against each other, and against
training."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import linear, random_stream

from ntkcl import (
    dynamics,
    experiment,
    forecast,
    kernels,
    losses,
    methods,
    metrics,
    networks,
    optimizers,
)
from ntkcl.experiment import record
from ntkcl.experiment.compare import compare
from ntkcl.experiment.events import Measurement
from ntkcl.training.problem import Anchor
from ntkcl.training.settings import Training
from ntkcl.types import Dataset, Task

SIZES = [5, 5, 5]
CONTRACTION = functools.cache(kernels.contraction)  # one of each network, compiled once


def one_hot(stream):
    """The same stream with classes for targets."""

    def classes(data, head):
        return Dataset(
            data.x,
            jax.nn.one_hot(
                jnp.argmax(jnp.where(head > 0, data.y, -jnp.inf), 1),
                data.y.shape[1],
                dtype=data.y.dtype,
            ),
        )

    return tuple(
        task._replace(train=classes(task.train, task.head), test=classes(task.test, task.head))
        for task in stream
    )


@functools.cache
def linearised_mlp():
    """One network, so that what one test has compiled serves the next."""
    x = random_stream(jax.random.key(3), SIZES[:1], d=4, c=3)[0].train.x[0]
    network = networks.mlp(outputs=3, width=9, activation="tanh", b_std=0.4)
    return networks.linearised(network, network.init(jax.random.key(1), x))


def recorded(
    form="auto",
    loss=None,
    optimizer=None,
    method=experiment.NAIVE,
    heads=None,
    krylov_order=40,
    effort=(),
    tasks=3,
    kernel=CONTRACTION,
    **settings,
):
    loss, optimizer = loss or losses.squared_error(), optimizer or optimizers.sgd()
    stream = random_stream(jax.random.key(3), SIZES[:tasks], d=4, c=3, heads=heads)
    stream = stream if loss.quadratic else one_hot(stream)
    network = linearised_mlp()
    training = Training(**(dict(steps=30) | settings))
    events = experiment.run(
        jax.random.key(0),
        stream,
        network,
        loss,
        optimizer,
        training,
        method=method,
        form=form,
        effort=forecast.Effort(*(effort or (krylov_order,))),
        kernel=kernel,
    )
    return record.gather(events, stream)


def predicted_exactly(run):
    assert run.status == "completed" and np.abs(run.measured[-1] - run.measured[0]).max() > 0.05
    np.testing.assert_allclose(run.outputs("init"), run.measured, atol=1e-10)
    np.testing.assert_allclose(run.changes["boundary"], np.diff(run.measured, axis=0), atol=1e-10)


def test_cross_entropy_matches_theory_12_2():
    a, b = np.array([[1, 0, 1], [0, 1, 0]], float), np.array([[1, 1, 0], [0, 1, 1]], float)
    phi = np.concatenate([a, b])
    K = jnp.asarray(np.einsum("ij,ab->iajb", phi @ phi.T, np.eye(2)))
    labels, f, loss = np.eye(2)[[0, 1, 1, 1]], jnp.zeros((4, 2)), losses.cross_entropy()
    seen = []
    for own in (slice(0, 2), slice(2, 4)):
        settings = dict(loss=loss, transform=optax.sgd(0.5), steps=10)
        alpha = dynamics.simulate(
            K[own, :, own], f[own], jnp.asarray(labels[own]), jnp.ones(2), **settings
        )
        f = f + dynamics.read_out(K[:, :, own], alpha)
        seen.append(f)
    np.testing.assert_allclose(
        seen[0][:, 0], [1.1316217273, -0.7757307312, -0.2099198675, -0.2099198675], atol=1e-9
    )
    np.testing.assert_allclose(
        seen[1][:, 0], [0.3535490009, -1.5538034576, -1.3770289571, -1.3770289571], atol=1e-9
    )
    np.testing.assert_allclose(seen[1][:, 1], -seen[1][:, 0], atol=1e-12)
    entropy = [
        float(
            jnp.mean(
                jax.vmap(loss.value, (0, 0, None))(f[:2], jnp.asarray(labels[:2]), jnp.ones(2))
            )
        )
        for f in seen
    ]
    np.testing.assert_allclose(entropy, [0.1455860389, 0.2222868356], atol=1e-9)


OVERLAPPING = [[1, 1, 0], [0, 1, 1], [1, 0, 1]]


@pytest.mark.parametrize(
    ("momentum", "heads"),
    [
        pytest.param((0.0, False), OVERLAPPING, marks=pytest.mark.slow),
        ((0.8, False), None),
        pytest.param((0.8, True), None, marks=pytest.mark.slow),
    ],
)
def test_the_forms_agree_on_what_all_can_do(momentum, heads):
    forms = [form for form in forecast.FORMS if form != "integrated" or momentum == (0.0, False)]
    runs = [recorded(form, optimizer=optimizers.sgd(*momentum), heads=heads) for form in forms]
    for run in runs:
        predicted_exactly(run)


@pytest.mark.parametrize("form", ["simulated", "linearised"])
@pytest.mark.parametrize(
    ("loss", "batch_size", "heads"),
    [
        (losses.squared_error(), 3, None),
        (losses.cross_entropy(), None, OVERLAPPING),
        (losses.cross_entropy(), 3, None),
    ],
    ids=["squared error, batches", "cross-entropy, heads", "cross-entropy, batches"],
)
def test_losses_and_batches_are_followed_step_by_step(form, heads, batch_size, loss):
    predicted_exactly(recorded(form, loss, optimizers.sgd(0.7), heads=heads, batch_size=batch_size))


def test_the_linearised_trainer_follows_any_rule_and_method():
    method = methods.ogd(2)
    predicted_exactly(
        recorded(
            loss=losses.cross_entropy(),
            optimizer=optimizers.adam(),
            method=method,
            batch_size=3,
            learning_rate=0.02,
            tasks=2,
        )
    )


TRAINED = dict(optimizer=optimizers.adam(), schedule=lambda step: 1 / (1 + 0.01 * step))


def test_steps_taken_together_are_training_with_fewer_and_longer_ones():
    """Every second step of twice the learning rate, where the schedule stands then; and how far
    every fourth is from it."""
    settings = TRAINED | {"learning_rate": 0.01, "steps": 32}
    coarse = recorded("linearised", effort=(10, 8, 0.1, False, 2), **settings)
    np.testing.assert_array_equal(coarse.measured, recorded("linearised", **settings).measured)
    for name, k in (("changes", 2), ("coarser", 4)):
        fewer = settings | {
            "learning_rate": 0.01 * k,
            "steps": 32 // k,
            "schedule": lambda step, k=k: 1 / (1 + 0.01 * k * step),
        }
        for anchor in ("init", "boundary"):
            found, expected = getattr(coarse, name)[anchor], recorded("linearised", **fewer)
            first = found if anchor == "init" else found[:1]  # later boundaries differ
            own = expected.changes[anchor][: len(first)]
            np.testing.assert_allclose(first, own, atol=1e-12)
    assert np.isnan(recorded("linearised", **settings).coarser["init"]).all()


@pytest.mark.parametrize(
    ("learning_rate", "grade"), [(0.01, "good"), pytest.param(1.0, "poor", id="too coarse")]
)
def test_the_error_of_steps_taken_together_is_stated(learning_rate, grade):
    stream = random_stream(jax.random.key(3), SIZES, d=4, c=3)
    settings = TRAINED | {"learning_rate": learning_rate, "steps": 32}
    run = recorded("linearised", effort=(10, 8, 0.1, False, 2), **settings)
    compared = compare(run, "init", stream, "train", losses.squared_error())
    assert compared["verdict"] == grade and (compared["coarse_r2"] > 0.95) == (grade == "good")
    assert ("half as many steps" in " ".join(compared["reasons"])) == (grade == "poor")


COSINE = optimizers.schedule("warmup_cosine_decay_schedule", warmup_steps=10, decay_steps=40)


@pytest.mark.parametrize(
    "momentum",
    [
        pytest.param((0.0, False), id="plain"),
        pytest.param((0.8, False), id="heavy ball", marks=pytest.mark.slow),
        pytest.param((0.8, True), id="nesterov", marks=pytest.mark.slow),
    ],
)
def test_every_form_follows_a_schedule_of_the_learning_rate(momentum):
    forms = [form for form in forecast.FORMS if form != "integrated" or momentum == (0.0, False)]
    for form in forms:
        run = recorded(form, optimizer=optimizers.sgd(*momentum), schedule=COSINE)
        predicted_exactly(run)
    assert (
        np.abs(
            run.measured - recorded("linearised", optimizer=optimizers.sgd(*momentum)).measured
        ).max()
        > 1e-2
    )


@pytest.mark.slow
def test_a_schedule_is_followed_by_any_rule_on_any_batches_with_any_method_and_over_boundaries():
    predicted_exactly(
        recorded(optimizer=optimizers.adam(), learning_rate=0.02, batch_size=3, schedule=COSINE)
    )
    predicted_exactly(recorded(method=methods.replay(3), schedule=COSINE))
    predicted_exactly(
        recorded(optimizer=optimizers.sgd(0.5), schedule=COSINE, optimizer_state="carry", steps=15)
    )
    halves = recorded("closed", steps=31, schedule=COSINE)
    np.testing.assert_allclose(halves.halves["init"], halves.trials["init"], atol=1e-10)


@pytest.mark.slow
def test_the_stability_limit_is_that_of_the_largest_rate_of_a_schedule():
    plain, late = (
        recorded("closed", steps=8),
        optimizers.schedule("linear_schedule", end_value=4.0, transition_steps=6),
    )
    run = recorded("closed", steps=8, schedule=late)
    assert run.plan.limit == pytest.approx(plain.plan.limit / 4)
    np.testing.assert_allclose(
        run.numerics["init"]["rate_times_eigenvalue"],
        plain.numerics["init"]["rate_times_eigenvalue"],
        rtol=1e-12,
    )
    carried = optimizers.schedule(
        "linear_schedule", end_value=4.0, transition_steps=24
    )  # reached in the third task
    with pytest.raises(ValueError, match=r"training.learning_rate_fraction=1.1"):
        recorded(schedule=carried, optimizer_state="carry", steps=8, learning_rate_fraction=1.1)
    limits = [
        recorded(schedule=carried, optimizer_state=state, steps=8).plan.limit
        for state in ("carry", "reset")
    ]
    assert limits == pytest.approx(
        [plain.plan.limit / (1 + 3 * 23 / 24), plain.plan.limit / (1 + 3 * 7 / 24)]
    )


def test_the_linearised_trainer_follows_an_optimizer_by_its_name():
    predicted_exactly(
        recorded(
            optimizer=optimizers.by_name("adamw", {"weight_decay": 0.3}),
            learning_rate=0.02,
            tasks=2,
        )
    )


def test_a_forecast_of_the_true_batches_is_not_that_of_their_mean_path():
    true, mean = recorded("simulated", batch_size=2), recorded("closed", batch_size=2)
    predicted_exactly(true)
    assert np.abs(mean.outputs("init") - mean.measured).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        (dict(), "closed"),
        (dict(full_batches=False), "simulated"),
        (dict(loss=losses.cross_entropy()), "simulated"),
        (dict(method=methods.replay(3)), "closed"),
        (dict(method=methods.replay(3), loss=losses.cross_entropy()), "linearised"),
        (dict(method=methods.ewc_diagonal()), "linearised"),
        (dict(optimizer=optimizers.adam()), "linearised"),
    ],
)
def test_auto_takes_the_first_form_that_is_exact(settings, form):
    default = dict(
        loss=losses.squared_error(),
        optimizer=optimizers.sgd(),
        method=methods.naive(),
        full_batches=True,
    )
    assert forecast.form_of("auto", **(default | settings)) == form


def test_auto_holds_no_kernel_larger_than_it_should():
    """60,000 images in five tasks, ten outputs: a block of 313 GiB."""
    plain = losses.squared_error(), optimizers.sgd(), methods.naive()
    assert forecast.form_of("auto", *plain, True, 20_000) == "closed"
    assert forecast.form_of("auto", *plain, True, 30_000) == "closed"  # by products
    assert (
        forecast.form_of("auto", *plain, True, 30_000, by_products=lambda: False)
        == forecast.form_of("auto", *plain, False, 30_000)
        == forecast.form_of("auto", *plain[:2], methods.ewc(), True, 30_000)
        == "linearised"
    )
    assert (
        forecast.form_of("closed", *plain, True, 30_000) == "closed"
    )  # on the user's own responsibility


def test_the_size_that_auto_goes_by_is_that_of_the_stream(monkeypatch):
    def known():  # where the form is closed
        of_each = recorded("auto", method=methods.l2()).numerics["init"]["negative_mass"]
        return np.isfinite(of_each).all()

    assert known()
    monkeypatch.setattr(sys.modules["ntkcl.forecast.forms"], "HELD_ROWS", 1)
    assert not known()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dict(form="closed", loss=losses.cross_entropy()),
            "forecast.form=closed: the loss is not squared error; use simulated or linearised or "
            "auto",
        ),
        (
            dict(form="closed", optimizer=optimizers.adam(), learning_rate=0.1),
            "forecast.form=closed: the optimizer has no rule",
        ),
        (
            dict(form="simulated", method=methods.replay(3)),
            "forecast.form=simulated: a method other than naive",
        ),
        (
            dict(form="closed", method=methods.ewc_diagonal()),
            "forecast.form=closed: the method has a kernel-space equivalent for training to the "
            "end",
        ),
        (
            dict(form="matrix_free", method=methods.replay(3)),
            "forecast.form=matrix_free: a method other than naive",
        ),
        (dict(form="matrix_free", krylov_order=0), "forecast.krylov_order=0"),
        (
            dict(form="integrated", optimizer=optimizers.sgd(0.5)),
            "forecast.form=integrated: the optimizer has a memory",
        ),
        (
            dict(form="integrated", batch_size=2),
            "forecast.form=integrated: the batches are not full",
        ),
        (dict(form="integrated", effort=(10, 0)), "forecast.kernels=0"),
        (dict(form="integrated", effort=(10, 1, 0.0)), "forecast.tolerance=0.0"),
        (dict(effort=(10, 1, 0.1, False, 0)), "forecast.coarsen=0"),
        (dict(effort=(10, 1, 0.1, False, 5)), "forecast.coarsen=5: form=closed takes no steps"),
        (
            dict(form="linearised", effort=(10, 1, 0.1, False, 4)),
            "forecast.coarsen=4: expected 2 x 4 to divide the steps of each task, 30",
        ),
        (
            dict(form="linearised", batch_size=2, steps=40, effort=(10, 1, 0.1, False, 10)),
            "forecast.coarsen=10: so few batches do not see all of a task; expected at most",
        ),
        (
            dict(effort=(10, 1, 0.1, False, 1, 0)),
            "forecast.segments=0: expected a whole number of at least 1, or auto",
        ),
        (dict(effort=(10, 1, 0.1, False, 1, "all")), "forecast.segments=all: expected a whole"),
        (
            dict(form="closed", effort=(10, 1, 0.1, False, 1, 4)),
            "forecast.segments=4: form=closed linearises once; expected 1, or form=linearised or "
            "auto",
        ),
        (
            dict(effort=(10, 1, 0.1, False, 1, 31)),
            "forecast.segments=31: expected at most 30, the steps of a task, or auto",
        ),
        (
            dict(form="dense"),
            "forecast.form=dense: expected auto, closed, matrix_free, simulated, linearised or "
            "integrated",
        ),
        (
            dict(schedule=lambda step: -1.0),
            "training.schedule: values from -1 to -1 over the training",
        ),
        (dict(schedule=lambda step: 0.0), "training.schedule: values from 0 to 0"),
        (
            dict(optimizer=optimizers.adam()),
            "training.learning_rate=null: this optimizer has no stability limit",
        ),
    ],
)
def test_a_form_that_cannot_predict_this_training_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        recorded(**settings)


@pytest.mark.parametrize(
    "method",
    [
        methods.naive(),
        methods.ogd(2),
        pytest.param(methods.l2(0.1, "zero"), marks=pytest.mark.slow),
        pytest.param(methods.replay(3), marks=pytest.mark.slow),
    ],
)
def test_large_gram_matrices_are_solved_by_lanczos_to_the_same_digits(method, monkeypatch):
    """From five products on, doubled until the rest no longer counts."""
    closed = sys.modules["ntkcl.forecast.closed_form"]
    monkeypatch.setattr(closed, "prepare", functools.partial(closed.prepare, diagonalised=0))
    predicted_exactly(recorded("closed", method=method, krylov_order=5))


@pytest.mark.parametrize("method", [methods.naive(), methods.l2(0.1, "zero"), methods.ewc(0.3)])
def test_large_gram_matrices_are_not_held_where_products_are_faster(method, monkeypatch):
    solvers, shapes = sys.modules["ntkcl.forecast.gram_solvers"], []
    closed = sys.modules["ntkcl.forecast.closed_form"]
    monkeypatch.setattr(closed, "prepare", functools.partial(closed.prepare, diagonalised=0))
    monkeypatch.setattr(solvers, "GRAM_RATE", 1e-3)
    monkeypatch.setattr(solvers.dynamics, "prepared", lambda *_: shapes.append("held"))
    predicted_exactly(recorded("closed", method=method, heads=OVERLAPPING, krylov_order=5))
    assert not shapes
    monkeypatch.setattr(solvers, "HELD_ROWS", 0)
    monkeypatch.setattr(solvers, "GRAM_RATE", 1e30)
    predicted_exactly(recorded("closed", method=method, krylov_order=5))
    assert not shapes


@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_limit_of_a_large_task_is_that_of_a_small_one(batch_size, monkeypatch):
    """Read off products in place of the matrix."""
    small = recorded("linearised", heads=OVERLAPPING, batch_size=batch_size, steps=1)
    solvers = sys.modules["ntkcl.forecast.gram_solvers"]
    monkeypatch.setattr(solvers, "DIAGONALISED", 0)
    monkeypatch.setattr(solvers, "GRAM_RATE", 1e-3)
    assert recorded(
        "linearised", heads=OVERLAPPING, batch_size=batch_size, steps=1
    ).plan.limit == pytest.approx(small.plan.limit, rel=1e-10)


def test_targets_that_are_no_distribution_are_named():
    stream = random_stream(jax.random.key(3), SIZES)
    network = networks.mlp(outputs=2, width=4)
    with pytest.raises(
        ValueError,
        match="the targets of task 0 are no distribution over its outputs; use one_hot targets",
    ):
        experiment.run(
            jax.random.key(0), stream, network, losses.cross_entropy(), optimizers.sgd(), Training()
        )


def test_cross_entropy_knows_only_the_active_outputs():
    loss, f, y = losses.cross_entropy(), jnp.array([1.0, 50.0, -0.5]), jnp.array([1.0, 0.0, 0.0])
    head = jnp.array([1.0, 0.0, 1.0])
    value, gradient = jax.value_and_grad(loss.value)(f, y, head)
    p = np.exp([1.0, -0.5]) / np.exp([1.0, -0.5]).sum()
    assert float(value) == pytest.approx(-np.log(p[0]))
    np.testing.assert_allclose(gradient, [p[0] - 1, 0, p[1]], atol=1e-14)
    curvature = np.linalg.eigvalsh(jax.hessian(loss.value)(jnp.zeros(3), y, head))[-1]
    assert curvature == pytest.approx(loss.curvature)  # reached at even odds of two classes


def test_the_cross_entropy_limit_is_on_the_safe_side_of_where_training_turns():
    stable = recorded(loss=losses.cross_entropy(), learning_rate_fraction=0.98, steps=3000)
    assert stable.status == "completed" and (np.diff(stable.losses[0]) < 1e-12).all()


@pytest.mark.parametrize(
    ("form", "method"),
    [
        ("closed", methods.replay(3)),
        ("simulated", methods.naive()),
        ("matrix_free", methods.naive()),
    ],
)
def test_a_linear_network_moved_as_predicted_arrives_where_it_was_predicted(form, method):
    run = recorded(form, method=method)
    for anchor in ("init", "boundary"):
        np.testing.assert_allclose(run.trials[anchor], run.changes[anchor], atol=1e-10)


def test_two_strides_of_two_steps_are_training_itself_and_of_a_linear_network_what_one_is():
    stream = random_stream(jax.random.key(3), SIZES, d=4, c=3)
    run = played(
        stream,
        networks.mlp(outputs=3, width=4, activation="tanh"),
        Training(steps=2, learning_rate_fraction=0.9),
    )
    for anchor in ("init", "boundary"):
        np.testing.assert_allclose(run.halves[anchor], np.diff(run.measured, axis=0), atol=1e-12)
        assert np.abs(run.trials[anchor] - run.halves[anchor]).max() > 1e-3
    linear = recorded("closed", steps=31)
    np.testing.assert_allclose(linear.halves["init"], linear.trials["init"], atol=1e-10)
    momentum = recorded(
        "closed", optimizer=optimizers.sgd(0.9)
    )  # which starts anew with each stride: two of them are another training
    assert np.isnan(momentum.halves["init"]).all() and np.isfinite(momentum.trials["init"]).all()


def test_a_trial_that_blows_up_is_not_one_that_there_was_not():
    stream = random_stream(jax.random.key(3), SIZES[:1], d=4, c=3)
    network, plain = (
        networks.mlp(outputs=3, width=4),
        (losses.squared_error(), optimizers.sgd(), Training(steps=2), methods.naive()),
    )
    initialised = experiment.initialise(
        jax.random.key(0), stream, network, *plain, forecast.Effort(), kernels.contraction
    )
    here, setting = (
        Anchor(initialised.theta, (), (jnp.asarray(initialised.outputs(initialised.theta)),)),
        initialised.problem.at(0.1),
    )
    form = forecast.closed(initialised.kernel_fn, initialised.effort)
    outcomes = form(setting, here, 1)
    for moved in (forecast.trial, forecast.halved):
        assert np.isposinf(moved(setting, here, outcomes, lambda *_: np.full((8, 3), np.nan))).all()


def test_no_block_of_a_kernel_outlives_its_task_and_no_gram_matrix_its_forecast(monkeypatch):
    def held(*shape):
        return sum(array.shape == shape for array in jax.live_arrays())

    stream = random_stream(jax.random.key(3), [7, 7], d=4, c=3)
    closed, before = sys.modules["ntkcl.forecast.closed_form"], []

    def prepare(order):
        def prepared(*step):
            before.append(held(20, 3, 7, 3))
            return forecast.prepare(order)(*step)

        return prepared

    monkeypatch.setattr(closed, "prepare", prepare)
    plain = losses.squared_error(), optimizers.sgd(), Training(steps=2)
    events = experiment.run(
        jax.random.key(0),
        stream,
        networks.mlp(outputs=3, width=4),
        *plain,
        kernel=kernels.contraction,
    )
    after = [
        (held(20, 3, 7, 3), held(21, 21)) for event in events if isinstance(event, Measurement)
    ]
    assert before == [0] * 4 and after == [(0, 0)] * 3


def test_the_condition_number_is_that_of_the_gram_matrix_and_a_singular_one_is_told():
    stream = random_stream(jax.random.key(3), SIZES, d=4, c=3)
    network = networks.mlp(outputs=3, width=4, activation="tanh")
    twice = stream[1].train._replace(x=stream[1].train.x.at[1].set(stream[1].train.x[0]))
    stream = (stream[0], stream[1]._replace(train=twice), stream[2])
    run = played(stream, network, Training(steps=5))
    theta, x = (
        network.init(jax.random.fold_in(jax.random.key(0), 0), stream[0].train.x[0]),
        stream[0].train.x,
    )
    condition = np.linalg.cond(kernels.contraction(network)(theta, x).reshape(15, 15))
    np.testing.assert_allclose(run.numerics["init"]["condition"][0], condition, rtol=1e-6)
    assert run.numerics["init"]["condition"][1] > 1e12
    numbers = compare(run, "init", stream, "train", losses.squared_error())
    assert any("singular" in reason for reason in numbers["reasons"]) and np.isfinite(
        numbers["drift_r2"]
    )


@pytest.mark.parametrize(("smallest", "condition"), [(1e-7, 1e14), (2e-8, float("inf"))])
def test_a_kernel_is_singular_up_to_the_rounding_of_the_solve(smallest, condition):
    data = Dataset(jnp.diag(jnp.array([1.0, 1.0, smallest])), jnp.ones((3, 1)))
    run = played((Task(data, data, jnp.ones(1)),), linear(lambda x: x, 1), Training(steps=2))
    assert run.numerics["init"]["condition"] == pytest.approx([condition])


@pytest.mark.parametrize(("form", "method"), [("closed", methods.ogd(2)), ("linearised", None)])
def test_every_form_is_tried_at_some_inputs_and_a_linear_network_is_where_it_was_predicted(
    form, method
):
    run = recorded(form, method=method or experiment.NAIVE)
    for anchor in ("init", "boundary"):
        trial, predicted = run.trials[anchor], run.changes[anchor]
        known = ~np.isnan(trial)
        old = slice(0, sum(SIZES[:2]))
        assert known[-1, old].all() and not known[-1, sum(SIZES) :].any()
        np.testing.assert_allclose(trial[known], predicted[known], atol=1e-10)


def test_there_are_no_two_strides_where_a_method_moves_the_parameters_otherwise():
    assert np.isnan(recorded("closed", method=methods.replay(3)).halves["init"]).all()


@pytest.mark.slow
def test_a_narrow_network_departs_from_its_linearisation_and_the_verdict_says_so():
    stream = random_stream(jax.random.key(3), SIZES, d=4, c=3)
    seen = {}
    for width in (3, 3000):
        network = networks.mlp(outputs=3, width=width, activation="tanh")
        events = experiment.run(
            jax.random.key(0),
            stream,
            network,
            losses.squared_error(),
            optimizers.sgd(),
            Training(steps=60),
            kernel=kernels.structured,
        )
        numbers = compare(
            record.gather(events, stream), "init", stream, "train", losses.squared_error()
        )
        seen[width] = numbers["trial_r2"], numbers["verdict"], numbers["drift_r2"]
    assert seen[3][1] == "poor" and seen[3000][1] == "good"
    assert seen[3][0] < 0.8 < 0.95 < seen[3000][0] and seen[3][2] < 0.8 < 0.95 < seen[3000][2]


@pytest.mark.parametrize(
    ("signs", "recorded"),
    [
        ((0.99, 0.99, [True], [0.0], [1e3]), "good"),
        ((0.9, 0.99, [True], [0.0], [1e3]), "fair"),
        ((0.5, 0.99, [True], [0.0], [1e3]), "poor"),
        ((0.99, 0.99, [True, False], [0.0, 0.0], [1e3, 1e3]), "poor"),
        ((0.99, 0.99, [True], [0.1], [1e3]), "poor"),
        ((0.99, 0.9, [True], [0.0], [1e3]), "fair"),
        ((0.99, float("-inf"), [True], [0.0], [1e3]), "poor"),
        ((0.99, float("nan"), [True], [0.0], [1e3]), "good"),
        ((float("-inf"), float("nan"), [True], [0.0], [1e3]), "poor"),
        ((float("nan"), float("nan"), [True], [float("nan")], [float("nan")]), "unknown"),
        ((0.99, 0.99, [True], [0.0], [1e3], [0.5, float("nan")]), "good"),
        ((0.99, 0.99, [True], [0.0], [1e3], [0.9]), "good"),
        ((0.99, 0.99, [True] * 2, [0.0], [1e3], [0.5, 0.91]), "fair"),
        ((0.9, 0.99, [True], [0.0], [1e3], [0.91]), "fair"),
        ((0.5, 0.99, [True], [0.0], [1e3], [0.91]), "poor"),
        ((float("nan"), float("nan"), [True], [0.0], [1e3], [0.91]), "unknown"),
    ],
)
def test_the_verdict_follows_from_its_signs(signs, recorded):
    verdict, reasons = metrics.verdict(*signs)
    assert verdict == recorded and bool(reasons) == (recorded != "good")


@pytest.mark.parametrize(("fraction", "share"), [(0.5, None), (0.95, "0.95")])
def test_a_rate_near_the_stability_limit_is_a_reason(fraction, share):
    run = recorded("closed", learning_rate_fraction=fraction)  # of a linear network: it is exact
    assert max(run.numerics["init"]["limit_share"]) == pytest.approx(fraction)
    stream = random_stream(jax.random.key(3), SIZES, d=4, c=3)
    numbers = compare(run, "init", stream, "train", losses.squared_error())
    assert numbers["verdict"] == ("fair" if share else "good") and numbers["trial_r2"] > 0.999
    reason = f"the learning rate is {share} of the stability limit, which later kernels may lower"
    assert numbers["reasons"] == ([reason] if share else [])


def played(stream, network, training, **settings):
    plain = losses.squared_error(), optimizers.sgd(), training
    return record.gather(
        experiment.run(
            jax.random.key(0), stream, network, *plain, kernel=kernels.contraction, **settings
        ),
        stream,
    )


def narrow(form, effort=(), steps=40, width=4):
    stream = random_stream(jax.random.key(3), SIZES, d=4, c=3)
    network = networks.mlp(outputs=3, width=width, depth=2, activation="tanh")
    training = Training(steps=steps, learning_rate_fraction=0.3)
    run = played(stream, network, training, form=form, effort=forecast.Effort(*effort))
    return run, compare(run, "init", stream, "train", losses.squared_error())["drift_r2"]


def test_an_integrator_without_tolerance_is_training_itself():
    run, _ = narrow("integrated", (100, 1, 1e-300), steps=9)
    np.testing.assert_allclose(run.outputs("init"), run.measured, atol=1e-10)
    assert run.numerics["init"]["kernels"] == [1, 1, 1] and run.numerics["init"]["gradients"] == [
        13,
        13,
        13,
    ]  # 4 pairs and one


@pytest.mark.slow
def test_strides_that_linearise_anew_predict_a_narrow_network_better_than_one_kernel():
    _, once = narrow("closed", steps=150)
    _, rough = narrow("integrated", (100, 3, 0.1), steps=150)
    fine, near = narrow("integrated", (100, 3, 0.03), steps=150)
    assert once < 0.85 < 0.95 < rough < near and near > 0.999
    assert (
        max(fine.numerics["init"]["kernels"]) == 3
        and sum(fine.numerics["init"]["gradients"]) < 3 * 150
    )


def test_an_integrator_does_not_hide_training_that_blows_up():
    stream = random_stream(jax.random.key(3), SIZES[:1], d=4, c=3)
    network = networks.mlp(outputs=3, width=4, activation="relu", output_scale=30.0)
    training = Training(steps=200, learning_rate_fraction=50.0, allow_unstable=True)
    with np.errstate(over="ignore", invalid="ignore"):
        run = played(stream, network, training, form="integrated")
    assert (
        run.status == "diverged" and not np.abs(run.changes["init"]).max() < 1e6
    )  # NaN or huge, never small


@pytest.mark.slow
def test_an_integrator_says_the_eigenvalues_at_its_anchor_and_not_those_on_its_way():
    walked, closed = (narrow(form)[0] for form in ("integrated", "closed"))
    own, first = (run.numerics["init"]["rate_times_eigenvalue"] for run in (walked, closed))
    np.testing.assert_allclose(own, first, rtol=1e-10)
    ahead = walked.numerics["boundary"]["rate_times_eigenvalue"]
    assert np.abs(np.array(ahead[1:]) / own[1:] - 1).min() > 0.03  # by then the kernel is another
    np.testing.assert_allclose(
        ahead, closed.numerics["boundary"]["rate_times_eigenvalue"], rtol=1e-10
    )


@pytest.mark.parametrize(
    ("form", "method"),
    [("closed", methods.naive()), ("closed", methods.ogd(2)), ("simulated", methods.naive())],
)
def test_no_block_of_all_inputs_is_computed(form, method):
    """What training does to all 24 inputs is read off by products with the Jacobian."""
    rows = []

    def watched(network):
        kernel_fn = kernels.contraction(network)

        def watching(theta, x1, x2=None):
            rows.append(len(x1))
            return kernel_fn(theta, x1, x2)

        return watching

    run = recorded(form, method=method, kernel=watched)
    predicted_exactly(run)
    assert rows and max(rows) <= sum(SIZES) < run.measured.shape[1]
