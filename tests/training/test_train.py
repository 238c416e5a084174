"""The trainer is gradient descent, step by step."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import linear, quadratic_features, random_stream
from oracles import train_linear

from ntkcl import losses, networks, optimizers
from ntkcl.compilation import convolves, portable
from ntkcl.training import loop
from ntkcl.types import Dataset

LOSS = losses.squared_error()
MODEL = linear(quadratic_features, 2)


def fit(task, theta, **settings):
    settings = dict(apply=MODEL.apply, loss=LOSS, transform=optax.sgd(0.05), steps=30) | settings
    return loop.train(jax.random.key(3), theta, task.train, task.head, **settings)


def test_full_batch_training_of_a_linear_model_is_the_plain_loop():
    task = random_stream(jax.random.key(0), [7])[0]
    theta = MODEL.init(jax.random.key(1), task.train.x[0])
    phi = np.asarray(jax.vmap(quadratic_features)(task.train.x))
    fitted = fit(task, theta)
    for a in range(2):  # outputs are independent; eta_eff = eta / (n c)
        expected = train_linear(
            [phi], [np.asarray(task.train.y[:, a])], np.asarray(theta[:, a]), 0.05 / (7 * 2), 30
        )[0]
        np.testing.assert_allclose(fitted.theta[:, a], expected, atol=1e-12)
    first = 0.5 * np.mean((phi @ theta - task.train.y) ** 2)
    np.testing.assert_allclose(fitted.losses[0], first)
    assert np.all(np.diff(fitted.losses) < 0)


def test_a_masked_output_is_not_trained_and_does_not_dilute_the_rate():
    task = random_stream(jax.random.key(0), [6], heads=[[0.0, 1.0]])[0]
    theta = MODEL.init(jax.random.key(1), task.train.x[0])
    fitted = fit(task, theta)
    np.testing.assert_array_equal(fitted.theta[:, 0], theta[:, 0])
    phi = np.asarray(jax.vmap(quadratic_features)(task.train.x))
    expected = train_linear(
        [phi], [np.asarray(task.train.y[:, 1])], np.asarray(theta[:, 1]), 0.05 / 6, 30
    )[0]
    np.testing.assert_allclose(fitted.theta[:, 1], expected, atol=1e-12)


def test_batches_cover_every_sample_once_an_epoch():
    order = np.asarray(loop.batches(jax.random.key(0), 10, 4, 15)).ravel()
    assert len(order) == 60
    for epoch in range(6):
        assert sorted(order[epoch * 10 : (epoch + 1) * 10]) == list(range(10))
    assert not np.array_equal(order[:10], order[10:20])


def test_minibatch_training_follows_its_batches():
    task = random_stream(jax.random.key(0), [10])[0]
    theta = MODEL.init(jax.random.key(1), task.train.x[0])
    fitted = fit(task, theta, batch_size=4, steps=15)
    phi, y, slow = (
        np.asarray(jax.vmap(quadratic_features)(task.train.x)),
        np.asarray(task.train.y),
        np.asarray(theta),
    )
    for batch in np.asarray(loop.batches(jax.random.key(3), 10, 4, 15)):
        slow = slow - 0.05 * phi[batch].T @ (phi[batch] @ slow - y[batch]) / 8
    np.testing.assert_allclose(fitted.theta, slow, atol=1e-12)


def test_the_whole_task_as_one_batch_is_full_batch_training():
    task = random_stream(jax.random.key(0), [5])[0]
    theta = MODEL.init(jax.random.key(1), task.train.x[0])
    np.testing.assert_allclose(
        fit(task, theta, batch_size=5).theta, fit(task, theta).theta, atol=1e-12
    )


def test_tasks_of_one_size_share_a_compilation_and_the_same_key_gives_the_same_bits():
    first, second = random_stream(jax.random.key(0), [8, 8])
    theta = MODEL.init(jax.random.key(1), first.train.x[0])
    transform = optax.sgd(0.01)
    before = loop.advance._cache_size()
    runs = [fit(task, theta, transform=transform, batch_size=3) for task in (first, second, first)]
    assert loop.advance._cache_size() == before + 1
    np.testing.assert_array_equal(runs[0].theta, runs[2].theta)


def test_divergence_is_data():
    task = random_stream(jax.random.key(0), [6])[0]
    fitted = fit(
        task, MODEL.init(jax.random.key(1), task.train.x[0]), transform=optax.sgd(1e6), steps=100
    )
    assert not jnp.isfinite(fitted.losses[-1])


def test_any_optimizer_of_optax_is_found_by_its_name_and_trains_as_it_does_itself():
    task = random_stream(jax.random.key(0), [6])[0]
    theta = MODEL.init(jax.random.key(1), task.train.x[0])
    named = optimizers.by_name("adamw", {"weight_decay": 0.3}).transform(0.02)
    own = optax.adamw(0.02, weight_decay=0.3)
    np.testing.assert_array_equal(
        fit(task, theta, transform=named).theta, fit(task, theta, transform=own).theta
    )
    assert not np.allclose(
        fit(task, theta, transform=named).theta, fit(task, theta, transform=optax.adamw(0.02)).theta
    )
    adam = optimizers.adam(b1=0.8).transform(0.02)
    np.testing.assert_array_equal(
        fit(task, theta, transform=adam).theta,
        fit(task, theta, transform=optax.adam(0.02, b1=0.8)).theta,
    )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "adamx",
            None,
            "optimizer.name=adamx: no optimizer of Optax; the nearest names are adamax, adam, "
            "adamaxw",
        ),
        ("clip", None, "optimizer.name=clip: no optimizer of Optax"),
        ("scale_by_adam", None, "optimizer.name=scale_by_adam: no optimizer"),
        (
            "lion",
            {"momentum": 0.9},
            r"optimizer.name=lion, optimizer.settings={'momentum': 0.9}: .*'momentum'; it takes "
            r"b1, b2, mu_dtype",
        ),
        ("sgd", {"learning_rate": 0.1}, "optimizer.name=sgd, .*multiple values"),
        (
            "adamw",
            {"weight_decay": "much"},
            "optimizer.name=adamw, optimizer.settings={'weight_decay': 'much'}: ",
        ),
        ("lbfgs", None, "optimizer.name=lbfgs, .*'value'"),
    ],
)
def test_what_is_no_optimizer_of_optax_or_not_set_as_it_wants_is_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        optimizers.by_name(name, settings)


@pytest.mark.parametrize(
    "make",
    [networks.mlp, networks.lenet, networks.resnet, networks.vit],
    ids=["mlp", "lenet", "resnet", "vit"],
)
def test_a_step_computed_in_bfloat16_multiplies_in_nothing_else_and_keeps_the_types_of_its_state(
    make,
):
    network, x = make(outputs=2), jnp.ones((2, 12, 12, 1), jnp.float32)
    theta = jax.eval_shape(network.init, jax.random.key(0), x[0])
    settings = dict(
        apply=networks.computed_in(network.apply, "bfloat16"), loss=LOSS, count=3, method=None
    )
    rule = optax.adam(0.1)

    def trained(theta):
        task = Dataset(x, jnp.ones((2, 2), jnp.float32))
        return loop.advance(
            loop.at_rest(theta, rule),
            task,
            jnp.ones(2, jnp.float32),
            None,
            transform=portable(rule),
            **settings,
        )

    products = re.findall(
        r":(\w+)\[[^]]*\] = (?:dot_general|conv_general_dilated)",
        str(jax.make_jaxpr(trained)(theta)),
    )
    assert len(products) > 3 and set(products) == {"bf16"}
    state, losses = jax.eval_shape(trained, theta)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.theta, losses))} == {jnp.dtype("float32")}


def test_schedules_of_optax_are_factors_of_the_learning_rate():
    steps = jnp.arange(6)
    cosine = optimizers.schedule("cosine_decay_schedule", decay_steps=4)
    np.testing.assert_allclose(
        jax.vmap(cosine)(steps), [*(0.5 + 0.5 * np.cos(np.pi * np.arange(4) / 4)), 0, 0], atol=1e-12
    )
    warm = optimizers.schedule("warmup_constant_schedule", warmup_steps=4)
    np.testing.assert_allclose(jax.vmap(warm)(steps), [0, 0.25, 0.5, 0.75, 1, 1])
    stairs = optimizers.schedule(
        "piecewise_constant_schedule", boundaries_and_scales={2: 0.1}, init_value=3.0
    )
    np.testing.assert_allclose(jax.vmap(stairs)(steps), [3, 3, *[0.3] * 4])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dict(name="cosine"),
            "training.schedule.name=cosine: no schedule of Optax; the nearest names are "
            "cosine_decay_schedule, ",
        ),
        (
            dict(name="cosine_decay_schedule"),
            r"training.schedule={'name': 'cosine_decay_schedule'}: .*'decay_steps'; it takes",
        ),
        (
            dict(name="cosine_decay_schedule", steps=3),
            r"training.schedule={'name': 'cosine_decay_schedule', 'steps': 3}: .*'steps'",
        ),
        (
            dict(name="cosine_decay_schedule", decay_steps="few"),
            "training.schedule={.*'decay_steps': 'few'}",
        ),
    ],
    ids=["name", "missing", "unknown", "kind"],
)
def test_what_is_no_schedule_of_optax_or_not_set_as_it_wants_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        optimizers.schedule(**settings)


@pytest.mark.slow
def test_eight_devices_share_each_batch_and_come_to_what_one_comes_to(tmp_path):
    """In a process of its own, which sees eight."""
    script, out = Path(__file__).parent / "train_on_devices.py", tmp_path / "found.npz"
    eight = "--xla_force_host_platform_device_count=8"
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {eight}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(script), str(out)],
        env=os.environ | flags,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    assert found["devices"] == 8
    for batch_size in (None, 16):
        for name in ("losses", "measured"):
            one, eight = (found[f"{name} {batch_size} {devices}"] for devices in (1, "all"))
            np.testing.assert_allclose(eight, one, atol=1e-12)
            assert np.isfinite(one).all() and not np.array_equal(
                one, eight
            )  # sums in another order
        assert found[f"hidden {batch_size}"].tolist() == [
            True,
            False,
        ]  # activations of an eighth of the batch, and of no more
        assert found[f"replicated {batch_size}"]


def test_convolutions_are_trained_step_by_step_without_a_loop_and_come_to_the_same(monkeypatch):
    """A loop's body has slow derivatives of convolutions on a CPU, see `compilation.convolves`."""
    network = networks.cnn(outputs=2, width=3, depth=2)
    x, y = (
        jax.random.normal(jax.random.key(0), (6, 5, 5)),
        jax.random.normal(jax.random.key(1), (6, 2)),
    )
    theta = network.init(jax.random.key(2), x[0])
    settings = dict(
        apply=network.apply, loss=losses.squared_error(), transform=optax.sgd(0.1, momentum=0.9)
    )
    ones, rule = jnp.ones(2), settings["transform"]

    def lowered(count):
        order = np.zeros((count, 4), int)
        given = settings | {name: portable(settings[name]) for name in ("apply", "transform")}
        return loop.advance.lower(
            loop.at_rest(theta, rule), Dataset(x, y), ones, order, count=count, method=None, **given
        ).as_text()

    assert ["stablehlo.while" in lowered(count) for count in (1, 2)] == [False, True]

    def trained(every=None):
        about = dict(steps=7, batch_size=4, every=every)
        return list(
            loop.segments(
                jax.random.key(3),
                loop.at_rest(theta, rule),
                Dataset(x, y),
                ones,
                **about,
                **settings,
            )
        )

    stepped, looked = trained(), trained(every=3)
    assert [fit.step for fit in looked] == [3, 6, 7] and stepped[-1].losses.shape == (7,)
    monkeypatch.setattr(loop, "convolves", lambda *_: False)
    (looped,) = trained()
    for ours in (stepped[-1], looked[-1]):
        for a, b in zip(
            jax.tree.leaves((ours.state, ours.losses)),
            jax.tree.leaves((looped.state, looped.losses)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_what_convolves_is_known_by_what_it_computes():
    x = jnp.ones((8, 8))
    for network, does in (
        (networks.cnn(outputs=2, width=2), True),
        (networks.mlp(outputs=2, width=2), False),
    ):
        assert convolves(network.apply, network.init(jax.random.key(0), x), x) is does
