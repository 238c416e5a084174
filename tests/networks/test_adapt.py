"""A part of a network is trained: what theta holds, that the rest is frozen and carried as
arguments, and that kernels, trainings and forecasts are right for it."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from ntkcl import experiment, forecast, kernels, losses, methods, networks, optimizers, training
from ntkcl.experiment.events import AnchorForecast, Measurement
from ntkcl.networks.parametrization import Layers
from ntkcl.training.settings import Training
from ntkcl.types import Dataset, Task

WIDTH, TOKENS, OUTPUTS = 8, 4, 3
STANDARD = Layers(parametrization="standard")


class Block(nn.Module):
    @nn.compact
    def __call__(self, h):
        a = nn.LayerNorm(name="norm")(h)
        q, k, v = (nn.Dense(WIDTH, name=name)(a) for name in ("query", "key", "value"))
        return h + jax.nn.softmax(q @ k.T / WIDTH**0.5) @ v


class Encoder(nn.Module):
    """Two blocks of attention on embedded tokens, a mean over them, and a head."""

    @nn.compact
    def __call__(self, tokens):
        h = nn.Embed(9, WIDTH, name="embed")(tokens)
        for i in range(2):
            h = Block(name=f"layer_{i}")(h)
        return nn.Dense(OUTPUTS, name="head")(h.mean(0))


class Layered(nn.Module):
    """One layer of each kind that low-rank terms go beside."""

    @nn.compact
    def __call__(self, x):  # [6, 6, 2]
        h = nn.tanh(nn.Conv(4, (3, 2), strides=(2, 1), kernel_dilation=(1, 2), name="conv")(x))
        h = nn.tanh(networks.Conv(5, 2, 2, "VALID", STANDARD, name="ours")(h))
        h = nn.tanh(nn.DenseGeneral((2, 3), axis=(-2, -1), name="general")(h)).reshape(-1, 6)
        h = nn.tanh(nn.Dense(4, name="dense")(h))
        h = nn.tanh(networks.Dense(4, STANDARD, name="own")(h))
        return nn.Dense(2, name="head")(h.ravel())


def noise(tree, size, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(size * rng.standard_normal(a.shape)), tree)


def pretrained(module, x):
    """Float64 parameters away from an initialisation."""
    theta = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return noise(theta, 0.4)


MODULE = Encoder()
X = jnp.asarray(np.random.default_rng(1).integers(0, 9, (5, TOKENS)))
THETA = pretrained(MODULE, X[0])
BASE = networks.network(MODULE)
HEAD = {"head/kernel", "head/bias"}
ADDED = {
    f"layer_{i}/{name}/lora_{part}/kernel"
    for i in range(2) for name in ("query", "value") for part in "ab"
}  # fmt: skip
PARTS = {
    "head": HEAD,
    "lora": HEAD | ADDED,
    "layer_1/(query|norm)|head": HEAD | {
        f"layer_1/{name}" for name in ("query/kernel", "query/bias", "norm/scale", "norm/bias")
    },
    "key/kernel": {"layer_0/key/kernel", "layer_1/key/kernel"},
}  # fmt: skip


def paths(theta):
    return {"/".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(theta)}


def outputs(network, theta, x=X):
    return jax.vmap(network.apply, (None, 0))(theta, x)


def adapted(trainable, **settings):
    network = networks.adapt(MODULE, THETA, trainable=trainable, **(dict(rank=3) | settings))
    return network, network.init(jax.random.key(2), X[0])


@pytest.mark.parametrize("trainable", PARTS)
def test_theta_holds_what_is_trained_alone_and_starts_from_the_pretrained_model(trainable):
    network, theta = adapted(trainable, head_std=None)
    assert paths(theta) == PARTS[trainable]
    np.testing.assert_allclose(outputs(network, theta), outputs(BASE, THETA), rtol=1e-12)


def test_all_of_it_is_the_network_itself():
    network, theta = adapted("all", head_std=None)
    assert jax.tree.structure(theta) == jax.tree.structure(THETA)
    np.testing.assert_array_equal(outputs(network, theta), outputs(BASE, THETA))


def test_a_new_head_and_the_low_rank_factors_are_drawn_from_the_key():
    network, theta = adapted("lora", rank=8)
    A, B = (
        theta["layer_1"]["value"]["lora_a"]["kernel"],
        theta["layer_1"]["value"]["lora_b"]["kernel"],
    )
    assert A.shape == (WIDTH, 8) and B.shape == (8, WIDTH) and not np.any(B)
    assert 0.9 / WIDTH**0.5 < np.abs(A).max() <= 1 / WIDTH**0.5
    assert np.std(A) == pytest.approx((3 * WIDTH) ** -0.5, rel=0.2)
    assert np.std(theta["head"]["kernel"]) == pytest.approx(0.02, rel=0.5)
    assert not np.any(theta["head"]["bias"])
    again, other = (network.init(jax.random.key(k), X[0]) for k in (2, 3))
    np.testing.assert_array_equal(ravel_pytree(theta)[0], ravel_pytree(again)[0])
    assert np.all(theta["head"]["kernel"] != other["head"]["kernel"])
    assert np.all(other["layer_1"]["value"]["lora_a"]["kernel"] != A)


def test_low_rank_terms_are_a_product_added_to_the_weights_of_each_kind_of_layer():
    module, x = Layered(), jax.random.normal(jax.random.key(0), (3, 6, 6, 2))
    theta, names = pretrained(module, x[0]), ("conv", "ours", "general", "dense", "own")
    network = networks.adapt(
        module, theta, trainable="lora", targets="conv|ours|general|dense|own", rank=2, alpha=3.0
    )
    trained = noise(network.init(jax.random.key(1), x[0]), 0.5, seed=5)
    merged = theta | {"head": trained["head"]}
    for name in names:
        A, B = (trained[name][f"lora_{part}"]["kernel"] for part in "ab")
        added = 1.5 * jnp.tensordot(A, B, 1)
        assert added.shape == theta[name]["kernel"].shape and A.shape[-1] == B.shape[0] == 2
        merged[name] = theta[name] | {"kernel": theta[name]["kernel"] + added}
    expected = outputs(networks.network(module), merged, x)
    np.testing.assert_allclose(outputs(network, trained, x), expected, rtol=1e-9)
    structured, dense = (
        kind(network)(trained, x) for kind in (kernels.structured, kernels.contraction)
    )
    np.testing.assert_allclose(structured, dense, atol=1e-10 * np.abs(dense).max())
    assert "rest" not in kernels.layers(network)(trained, x)


@pytest.mark.parametrize("trainable", PARTS)
def test_its_kernels_are_those_of_dense_jacobians(trainable):
    network, theta = adapted(trainable)
    theta = noise(theta, 0.5, seed=3)
    K = oracles.kernel(network.apply, theta, X, X)
    for name in ("structured", "contraction", "vector_products"):
        found = kernels.empirical(network, implementation=name)(theta, X)
        np.testing.assert_allclose(found, K, atol=1e-12 * np.abs(K).max(), err_msg=name)


def test_a_layer_of_which_a_part_is_trained_enters_by_its_gradients():
    network, theta = adapted("key/kernel|query")
    assert set(kernels.layers(network)(theta, X)) == {"layer_0/query", "layer_1/query", "rest"}


class Wide(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        scale = self.variable("statistics", "scale", lambda: 1.0).value
        x = nn.tanh(nn.Dense(self.width, name="wide")(x) * scale)
        return nn.Dense(2, name="head")(nn.Dense(4, name="query")(x))


def test_frozen_weights_are_arguments_of_programs_and_not_written_into_them():
    x = jnp.ones((3, 5))

    def sizes(width):
        module = Wide(width)
        variables = module.init(jax.random.key(0), x[0])
        network = networks.adapt(
            module, variables["params"], trainable="lora", rank=2,
            constants={"statistics": {"scale": jnp.full(width, 2.0)}},
        )  # fmt: skip
        theta = network.init(jax.random.key(1), x[0])
        kinds = [kind(network) for kind in kernels_of_any_network()]
        programs = [jax.jit(applied).lower(network.apply, theta, x[0])]
        for kernel in kinds:
            programs.append(kernel.factors.func.lower(*kernel.factors.args, theta, x))
            programs.append(kernel.gram.lower(kernel.factors(theta, x)))
        return np.array([len(program.as_text()) for program in programs])

    small, large = sizes(10), sizes(1000)
    assert np.all(large - small < 1000)  # more digits in shapes, no weights


def applied(apply, theta, x):
    return apply(theta, x)


def kernels_of_any_network():
    return kernels.structured, kernels.contraction, kernels.vector_products


def test_stored_kernels_of_other_frozen_weights_are_others(tmp_path):
    other = jax.tree.map(lambda a: 1.1 * a, THETA)
    _, theta = adapted("head")
    found = []
    for whole in (THETA, other):
        network = networks.adapt(MODULE, whole, trainable="head")
        found.append(np.array(kernels.empirical(network, store=tmp_path)(theta, X)))
        np.testing.assert_array_equal(found[-1], kernels.empirical(network)(theta, X))
    assert np.abs(found[0] - found[1]).max() > 0.1


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        (
            dict(trainable="layr_1"),
            "trainable=layr_1: expected head, lora, all or a pattern .* there are embed/embedding",
        ),
        (dict(trainable="(head"), r"network.trainable=\(head: no regular expression"),
        (dict(trainable=""), "network.trainable=: expected a text"),
        (
            dict(trainable="head", head="top"),
            "network.head=top: no layer has this name; there are .*layer_0/key",
        ),
        (
            dict(trainable="lora", targets="qkv"),
            "network.targets=qkv: found in the path of no layer; there are .*layer_0/key",
        ),
        (dict(trainable="lora", targets="head"), "targets=head: found in the path of no layer"),
        (dict(trainable="lora", rank=0), "network.rank=0: expected a whole number of at least 1"),
        (
            dict(trainable="lora", rank=9),
            "network.rank=9: expected at most 8, the rank of layer_0/query",
        ),
        (dict(trainable="lora", alpha=float("nan")), "network.alpha=nan: expected a finite number"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_said_in_one_line(settings, reported):
    with pytest.raises(ValueError, match=reported) as raised:
        adapted(**settings)
    assert "\n" not in str(raised.value)


def test_a_target_of_another_kind_is_refused():
    class Depthwise(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Conv(4, (3,), feature_group_count=4, name="query")(x)
            return nn.Dense(2, name="head")(h.ravel())

    x = jnp.ones((5, 4))
    network = networks.adapt(Depthwise(), pretrained(Depthwise(), x), trainable="lora", rank=1)
    with pytest.raises(ValueError, match=r"network.targets: query is a Conv.* without groups"):
        network.init(jax.random.key(0), x)


class Normalised(nn.Module):
    """Written for batches; batch norm with running averages."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(
            nn.BatchNorm(use_running_average=True, name="norm")(nn.Dense(5, name="query")(x))
        )
        return nn.Dense(2, name="head")(h)


def test_modules_of_batches_and_with_constants_are_adapted():
    x = jax.random.normal(jax.random.key(0), (4, 6))
    module = Normalised()
    constants = {"batch_stats": {"norm": {"mean": jnp.full(5, 0.3), "var": jnp.full(5, 2.0)}}}
    theta = pretrained(module, x)
    settings = dict(constants=constants, batched=True)
    network = networks.adapt(module, theta, trainable="lora", rank=2, head_std=None, **settings)
    trained = network.init(jax.random.key(1), x[0])
    expected = module.apply({"params": theta} | constants, x)
    np.testing.assert_allclose(outputs(network, trained, x), expected, rtol=1e-12)
    np.testing.assert_allclose(network.batched(trained, x), expected, rtol=1e-12)
    K = kernels.empirical(network)(trained, x)
    np.testing.assert_allclose(K, oracles.kernel(network.apply, trained, x, x), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (networks.mlp, dict(trainable="lora", targets="hidden_1")),
        (networks.cnn, dict(trainable="conv_1|readout")),
        (networks.vit, dict(trainable="lora", targets="block_.*_(query|value)$")),
    ],
)
def test_networks_of_this_package_are_adapted(make, settings):
    x = jax.random.normal(jax.random.key(0), (3, 4, 4))
    base = make(outputs=2, width=4, depth=2)
    theta = jax.tree.map(jnp.float64, base.init(jax.random.key(1), x[0]))
    network = networks.adapt(base, theta, rank=2, head_std=None, **settings)
    trained = network.init(jax.random.key(2), x[0])
    np.testing.assert_allclose(outputs(network, trained, x), outputs(base, theta, x), rtol=1e-12)
    assert network.centred and network.infinite is None
    K = kernels.structured(network)(trained, x)
    np.testing.assert_allclose(K, kernels.contraction(network)(trained, x), atol=1e-12)


Y = jax.nn.one_hot(jnp.arange(5) % OUTPUTS, OUTPUTS, dtype=jnp.float64)
OLD = jnp.asarray(np.random.default_rng(2).integers(0, 9, (4, TOKENS)))


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(form="simulated", batch_size=2),
        dict(form="linearised", loss=losses.cross_entropy()),
        dict(optimizer=optimizers.adam(), learning_rate=0.01),
    ],
    ids=str,
)
def test_what_training_the_head_alone_will_do_is_forecast_exactly(settings):
    network, theta = adapted("head")
    settings = dict(learning_rate=0.1, steps=20) | settings
    form = {"form": settings.pop("form")} if "form" in settings else {}
    predicted = forecast.change(network, theta, OLD, (X, Y), **settings, **form)
    after = training.fit(network, theta, (X, Y), **settings)
    measured = outputs(network, after, OLD) - outputs(network, theta, OLD)
    assert np.abs(measured).max() > 0.05
    np.testing.assert_allclose(predicted, measured, atol=1e-6 * np.abs(measured).max())


def test_what_training_low_rank_terms_will_do_is_forecast_where_they_move_little():
    network, theta = adapted("lora", head_std=None)
    settings = dict(learning_rate=0.002, steps=3)
    predicted = forecast.change(network, theta, OLD, (X, Y), **settings)
    after = training.fit(network, theta, (X, Y), **settings)
    assert np.any(after["layer_0"]["query"]["lora_b"]["kernel"])
    measured = outputs(network, after, OLD) - outputs(network, theta, OLD)
    np.testing.assert_allclose(predicted, measured, atol=0.02 * np.abs(measured).max())


STREAM = tuple(Task(Dataset(x, Y[: len(x)]), Dataset(x[:2], Y[:2]), np.ones(3)) for x in (X, OLD))
METHODS = {
    "naive": methods.naive(),
    "ewc": methods.ewc(),
    "ogd": methods.ogd(),
    "replay": methods.replay(per_task=3),
}


@pytest.mark.parametrize("method", METHODS)
def test_two_tasks_of_the_head_alone_are_forecast_exactly(method):
    events = run(adapted("head")[0], METHODS[method])
    ahead = next(e for e in events if isinstance(e, AnchorForecast) and e.first == 1)
    _, before, after = (e.outputs for e in events if isinstance(e, Measurement))
    np.testing.assert_allclose(ahead.changes[0], after - before, atol=1e-5)


def run(network, method):
    settings = Training(steps=20)
    parts = losses.squared_error(), optimizers.sgd(), settings
    return list(
        experiment.run(
            jax.random.key(0), STREAM, network, *parts, method=method, anchors=["boundary"]
        )
    )
