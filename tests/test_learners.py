"""Laws that every method keeps, and each method without a closed twin against a slow loop or numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import random_stream

from ntkcl import losses, methods, train
from ntkcl.types import Dataset, Network

LOSS, SOFTMAX = losses.squared_error(), losses.cross_entropy()
STEPS, SIZES = 4, [6, 6]


def init(key, x):
    a, b = jax.random.split(key)
    return {"in": jax.random.normal(a, (4, len(x)), x.dtype), "out": jax.random.normal(b, (3, 4), x.dtype) / 2}


# Written out, for a linen module takes longer to trace than this one to train.
NETWORK = Network(init, lambda theta, x: theta["out"] @ jnp.tanh(theta["in"] @ x))
RATE = optax.sgd(0.1)
KEY = jax.random.key(0)

FIXED = {  # memory of fixed shapes: one compilation serves all tasks
    "SI": methods.si(0.5),
    "MAS": methods.mas(0.3),
}
GROWING = {
    "naive": methods.naive(),
    "joint": methods.joint(),
    "replay": methods.replay(3),
    "functional": methods.functional(),
    "L2": methods.l2(0.1),
    "EWC": methods.ewc(),
    "EWC diagonal": methods.ewc_diagonal(),
    "LwF": methods.lwf(),
    "OGD": methods.ogd(1),
    "OGD+": methods.ogd_plus(1),
    "PCA-OGD": methods.pca_ogd(2, per_task=2),
}
ALL = FIXED | GROWING
PLAIN_AT_FIRST = [name for name in ALL if name not in ("L2",)]
OFF = {"SI": methods.si(0.0), "MAS": methods.mas(0.0)}  # with nothing of them left


@functools.cache
def stream(dtype=jnp.float64):
    return random_stream(jax.random.key(3), SIZES, d=4, c=3, dtype=dtype)


@functools.cache
def theta0(dtype=jnp.float64):
    return NETWORK.init(jax.random.key(1), stream(dtype)[0].train.x[0])


def trained(method, tasks=None, *, loss=LOSS, network=NETWORK, theta=None, batch_size=2, steps=STEPS, transform=RATE, key=KEY):
    """[(theta, memory before the task, memory after its last step, memory after it)] of each task."""
    tasks = stream() if tasks is None else tasks
    theta, memory, ended = theta0() if theta is None else theta, (), []
    for t, task in enumerate(tasks):
        begun = method.begin(memory, network.apply, theta, task)
        fitted = train.fit(
            jax.random.fold_in(key, t), theta, task.train, task.head, memory=begun, apply=network.apply, loss=loss,
            transform=transform, steps=steps, batch_size=batch_size, method=method,
        )  # fmt: skip
        theta = fitted.theta
        memory = method.consolidate(fitted.state.memory, network, loss, theta, task)
        ended.append((theta, begun, fitted.state.memory, memory))
    return ended


@functools.cache
def known(name, dtype=jnp.float64):
    before = train.advance._cache_size()
    ended = trained(ALL[name], stream(dtype), theta=theta0(dtype))
    return ended, train.advance._cache_size() - before


def leaves(theta):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(theta)]


def flat(theta):
    return np.concatenate([leaf.ravel() for leaf in leaves(theta)])


def away(a, b):
    return np.max(np.abs(flat(a) - flat(b)))


@pytest.mark.parametrize("name", PLAIN_AT_FIRST)
def test_the_first_task_is_plain_training(name):
    assert away(known(name)[0][0][0], known("naive")[0][0][0]) < 1e-14
    if name != "naive":
        assert away(known(name)[0][-1][0], known("naive")[0][-1][0]) > 1e-5  # and the last one is not


@pytest.mark.parametrize("name", OFF)
def test_a_method_of_strength_zero_is_plain_training(name):
    assert away(trained(OFF[name])[-1][0], known("naive")[0][-1][0]) < 1e-14


@pytest.mark.parametrize("name", FIXED)
def test_the_same_seeds_give_the_same_bits_and_tasks_of_one_size_share_a_compilation(name):
    ended, compilations = known(name)
    assert compilations == 1
    np.testing.assert_array_equal(flat(trained(ALL[name])[-1][0]), flat(ended[-1][0]))


@pytest.mark.parametrize("name", ALL)
def test_parameters_and_memory_keep_the_floating_type(name):
    ended, _ = known(name, jnp.float32)
    floating = [leaf.dtype for leaf in jax.tree.leaves(ended[-1]) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {jnp.dtype(jnp.float32)} == set(floating)
    assert away(ended[-1][0], theta0(jnp.float32)) > 1e-3


def mean_loss(theta, batch, head, loss=LOSS):
    return jnp.mean(jax.vmap(lambda x, y: loss.value(NETWORK.apply(theta, x), y, head))(batch.x, batch.y))


own_slope = jax.jit(jax.grad(mean_loss))


def test_si_is_the_path_integral_of_zenke():
    """Importances by a NumPy loop over every step of two tasks, the second one with the penalty of the first."""
    head, theta, importance, strength = jnp.ones(3), flat(theta0()), 0.0, 0.5
    back = jax.flatten_util.ravel_pytree(theta0())[1]
    for t, task in enumerate(stream()):
        before, path = theta, 0.0
        for index in train.batches(jax.random.fold_in(KEY, t), 6, 2, STEPS):
            own = flat(own_slope(back(theta), Dataset(task.train.x[index], task.train.y[index]), head))
            step = -0.1 * (own + 2 * strength * importance * (theta - before))
            path = path - own * step
            theta = theta + step
        importance = importance + path / ((theta - before) ** 2 + 0.1)
        ended, _, _, memory = known("SI")[0][t]
        np.testing.assert_allclose(flat(ended), theta, atol=1e-13)
        np.testing.assert_allclose(flat(memory.importance), importance, rtol=1e-9, atol=1e-13)


def test_the_path_integral_adds_up_to_the_fall_of_the_loss():
    task = stream()[0]
    theta, _, memory, _ = trained(methods.si(), [task], batch_size=None, steps=400, transform=optax.sgd(1e-3))[0]
    fall = mean_loss(theta0(), task.train, task.head) - mean_loss(theta, task.train, task.head)
    np.testing.assert_allclose(flat(memory.path).sum(), fall, rtol=1e-3)


def test_mas_takes_absolute_values_sample_by_sample():
    expected = 0.0
    for task, (theta, *_, memory) in zip(stream(), known("MAS")[0], strict=True):
        for x in task.train.x:
            expected = expected + np.abs(flat(squared_norm_slope(theta, x))) / len(task.train.x)
        np.testing.assert_allclose(flat(memory.importance), expected, rtol=1e-12)
    last = known("MAS")[0][-1]
    value = ALL["MAS"].objective(last[1], NETWORK.apply, LOSS, last[0], None, None, 2.0)
    earlier = flat(known("MAS")[0][0][3].importance)
    np.testing.assert_allclose(value, 2 + 0.3 * np.sum(earlier * (flat(last[0]) - flat(last[1].before)) ** 2))


squared_norm_slope = jax.jit(jax.grad(lambda theta, x: jnp.sum(NETWORK.apply(theta, x) ** 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.si(-1.0), "method.strength=-1.0: expected a finite number of at least 0"),
        (lambda: methods.si(1.0, damping=0.0), "method.damping=0.0: expected a finite number above 0"),
        (lambda: methods.mas(float("nan")), "method.strength=nan"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
