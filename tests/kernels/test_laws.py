"""Laws of empirical kernels, over every kind of model: each implementation gives the same numbers,
whatever the tiles."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import mostly_slow
from flax import linen as nn
from models import LINEN, MODELS, model
from oracles import kernel as oracle

from ntkcl import kernels, networks
from ntkcl.kernels import kernel
from ntkcl.types import Network

TOLERANCE = 1e-10  # of the largest entry, in float64


@cache
def contracted(name):
    """The reference: K(x, x) [5, c, 5, c] by contraction, and its largest entry."""
    network, theta, x = model(name)
    K = np.asarray(kernels.contraction(network)(theta, x, x))
    return K, TOLERANCE * abs(K).max()


@cache
def structured(name):
    network, theta, x = model(name)
    return np.asarray(kernels.structured(network)(theta, x))


@pytest.mark.parametrize("name", ["CNN", "transformer", "tied weights", "plain function", "NNX"])
def test_contraction_is_the_pair_by_pair_definition(name):
    network, theta, x = model(name)
    K, atol = contracted(name)
    np.testing.assert_allclose(K[:2, :, :3], oracle(network.apply, theta, x[:2], x[:3]), atol=atol)


@pytest.mark.parametrize("name", LINEN)
def test_the_structured_kernel_is_the_contracted_one(name):
    K, atol = contracted(name)
    np.testing.assert_allclose(structured(name), K, atol=atol)


@pytest.mark.parametrize("name", MODELS)
def test_vector_products_over_a_basis_give_the_contracted_kernel(name):
    network, theta, x = model(name)
    K, atol = contracted(name)
    np.testing.assert_allclose(kernels.vector_products(network)(theta, x[:2], x), K[:2], atol=atol)


@pytest.mark.parametrize("name", LINEN)
def test_the_layers_add_up(name):
    network, theta, x = model(name)
    K, atol = contracted(name)
    by_layer = kernels.layers(network)(theta, x[:2], x)
    np.testing.assert_allclose(sum(by_layer.values()), K[:2], atol=atol)
    for block in kernels.layers(network)(theta, x[:2]).values():
        gram = np.asarray(block).reshape(2 * [block.shape[0] * block.shape[1]])
        assert np.linalg.eigvalsh(gram)[0] > -atol  # each layer's share is a kernel of its own


@pytest.mark.parametrize("name", mostly_slow(["CNN", "residual", "shared layer"], "shared layer"))
def test_a_linearised_network_shows_its_layers_as_they_were_at_the_anchor(name):
    network, theta, x = model(name)
    linearised, away = (
        networks.linearised(network, theta),
        jax.tree.map(lambda a: 1.3 * a + 0.1, theta),
    )
    K, atol = contracted(name)
    np.testing.assert_allclose(kernels.structured(linearised)(away, x), K, atol=atol)
    layers = linearised.taps.survey(away, x[0]).layers
    f, phi, _ = linearised.taps.read(layers, away, {}, x[0])
    np.testing.assert_allclose(f, linearised.apply(away, x[0]), atol=atol)
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, phi, network.taps.read(layers, theta, {}, x[0])[1])
    )


@pytest.mark.parametrize("name", MODELS)
def test_kernels_are_symmetric_and_positive_semi_definite(name):
    K, atol = (structured(name), contracted(name)[1]) if name in LINEN else contracted(name)
    gram = K.reshape(2 * [K.shape[0] * K.shape[1]])
    np.testing.assert_allclose(gram, gram.T, atol=atol)
    assert np.linalg.eigvalsh(gram)[0] > -atol and abs(gram).max() > 0.1


@pytest.mark.parametrize("name", LINEN)
def test_swapping_the_sides_transposes_and_tiles_of_the_cache_change_nothing(name, monkeypatch):
    """Three samples a tile of five: the last tile overlaps, those on the diagonal come in three
    strips, those below it are mirrored."""
    network, theta, x = model(name)
    K, atol = contracted(name)
    monkeypatch.setitem(kernel.EDGE, "cpu", 4 * K.shape[1])
    kernel_fn = kernels.structured(network)
    np.testing.assert_allclose(kernel_fn(theta, x), K, atol=atol)
    upper, lower = kernel_fn(theta, x, x[:2]), kernel_fn(theta, x[:2], x)
    np.testing.assert_allclose(upper, lower.transpose(2, 3, 0, 1), atol=atol)
    np.testing.assert_allclose(lower, K[:2], atol=atol)


def test_the_readout_needs_no_signals_and_positions_are_chosen_where_they_are_few():
    forms = {}
    for name in ("ours, erf and biases", "two positions", "CNN"):
        network, theta, x = model(name)
        terms = kernels.structured(network).factors(theta, x).samples
        forms |= {(name, layer): type(term).__name__ for layer, term in terms.items()}
    assert forms["ours, erf and biases", "readout"] == "ReadoutTerm"
    assert forms["ours, erf and biases", "hidden_1"] in ("PositionsTerm", "CommutingTerm")
    assert forms["two positions", "Dense_0"] == "PositionsTerm"
    assert forms["CNN", "Conv_0"] == "GradientTerm"


class Gated(nn.Module):
    """A readout whose signal depends on the input, though its shape is a readout's."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x) * jnp.maximum(x[0], 0.0)


def test_a_gated_readout_is_not_taken_for_a_constant_one():
    network = networks.network(Gated())
    x = jax.random.normal(jax.random.key(1), (4, 3))
    theta = jax.tree.map(jnp.float64, network.init(jax.random.key(0), x[0]))
    expected = kernels.contraction(network)(theta, x)
    np.testing.assert_allclose(kernels.structured(network)(theta, x), expected, atol=1e-12)


RAW = {
    "jit": lambda layer, x: jax.jit(lambda x: jnp.tanh(layer(x)))(x),
    "checkpoint": lambda layer, x: jax.checkpoint(lambda x: jnp.tanh(layer(x)))(x),
    "scan": lambda layer, x: jax.lax.scan(
        lambda h, _: (jnp.tanh(layer(h)), None), x, None, length=2
    )[0],
    "grad": lambda layer, x: jax.grad(lambda x: jnp.tanh(layer(x)).sum())(x),
}


class CalledInside(nn.Module):
    """A layer that is called inside one of JAX's own transformations."""

    transform: str

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(3)
        return nn.Dense(2)(layer(x) + RAW[self.transform](layer, x))


@pytest.mark.parametrize("transform", RAW)
def test_a_layer_inside_a_transformation_of_the_models_own_goes_through_its_jacobian(transform):
    network = networks.network(CalledInside(transform))
    x = jax.random.normal(jax.random.key(1), (3, 3))
    theta = jax.tree.map(jnp.float64, network.init(jax.random.key(0), x[0]))
    expected = kernels.contraction(network)(theta, x)
    np.testing.assert_allclose(kernels.structured(network)(theta, x), expected, atol=1e-12)


def test_a_leaf_that_is_not_used_adds_nothing():
    network, theta, x = model("plain function")
    K, atol = contracted("plain function")
    np.testing.assert_allclose(
        kernels.contraction(network)(theta | {"spare": theta["spare"] * 7}, x), K, atol=atol
    )


def test_a_second_call_compiles_nothing():
    for kind in (kernels.structured, kernels.contraction, kernels.vector_products):
        network, theta, x = model("plain linen MLP")
        kernel_fn = kind(network)
        kernel_fn(theta, x)
        jitted = kernel_fn.factors.func, kernel_fn.gram
        programs = [one._cache_size() for one in jitted]
        kernel_fn(jax.tree.map(lambda a: a + 1, theta), x + 1)
        assert [one._cache_size() for one in jitted] == programs


def test_kernels_can_be_called_under_jit():
    network, theta, x = model("CNN")
    K, atol = contracted("CNN")
    for kind in (kernels.structured, kernels.contraction):
        np.testing.assert_allclose(jax.jit(kind(network).__call__)(theta, x), K, atol=atol)


def test_float32_inputs_and_parameters_give_a_float32_kernel_near_the_exact_one():
    for name in ("CNN", "transformer"):
        network, theta, x = model(name)
        K, _ = contracted(name)
        single = kernels.structured(network)(
            jax.tree.map(jnp.float32, theta), x if name == "transformer" else jnp.float32(x)
        )
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, K, atol=1e-5 * abs(K).max())


BAD_CALLS = {
    "other shape": (
        lambda theta, x: (theta, x, x[:, :3]),
        r"inputs of shape \(4,\) float64 in x1 and \(3,\)",
    ),
    "other type": (
        lambda theta, x: (theta, x, jnp.float32(x)),
        "float64 in x1 and .4,. float32 in x2",
    ),
    "no inputs": (lambda theta, x: (theta, x[:0]), r"x1 has shape \(0, 4\)"),
    "no inputs in x2": (lambda theta, x: (theta, x, x[:0]), r"x2 has shape \(0, 4\)"),
    "a number": (lambda theta, x: (theta, jnp.float64(1.0)), r"x1 has shape \(\)"),
    "one input": (lambda theta, x: (theta, x[0]), "does not take|another model|expected"),
    "nan input": (lambda theta, x: (theta, x.at[2, 1].set(jnp.nan)), "x1 holds NaN"),
    "infinite x2": (
        lambda theta, x: (theta, x, x.at[0, 0].set(jnp.inf)),
        "x2 holds NaN or infinite",
    ),
    "infinite theta": (
        lambda theta, x: (jax.tree.map(lambda a: a / 0, theta), x),
        "theta holds NaN or infinite",
    ),
    "integers": (
        lambda theta, x: (theta, jnp.arange(8).reshape(2, 4)),
        "inputs are int64, and this model takes reals",
    ),
    "bytes": (
        lambda theta, x: (theta, np.zeros((2, 4), np.uint8)),
        "inputs are uint8, and this model takes reals",
    ),
    "a list": (lambda theta, x: (theta, [[1.0, 2.0, 3.0, 4.0]]), "x1 is a list; expected an array"),
    "a counter among the parameters": (
        lambda theta, x: ((theta, jnp.arange(3)), x),
        r"theta\[1\] is int64; expected arrays of reals",
    ),
    "a Python number among the parameters": (
        lambda theta, x: ((theta, 1.0), x),
        r"theta\[1\] is float; expected arrays of reals",
    ),
    "no parameters": (lambda theta, x: ({}, x), "no parameters"),
    "no entries": (lambda theta, x: (jnp.zeros(0), x), "no parameters"),
    "shapes alone": (
        lambda theta, x: (theta, jax.ShapeDtypeStruct(x.shape, x.dtype)),
        "x1 is a ShapeDtypeStruct; expected an array",
    ),
    "shapes of parameters": (
        lambda theta, x: (jax.eval_shape(lambda: theta), x),
        "is ShapeDtypeStruct; expected arrays",
    ),
}


@pytest.mark.parametrize("bad", BAD_CALLS)
@pytest.mark.parametrize("name", ["plain linen MLP", "Equinox"])
def test_bad_input_is_told_in_one_line(bad, name):
    network, theta, x = model(name)
    arguments, message = BAD_CALLS[bad]
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message) as reported:
        (kernels.structured if network.taps else kernels.contraction)(network)(*arguments(theta, x))
    assert "\n" not in str(reported.value)


def test_parameters_of_another_model_are_refused():
    network, theta, x = model("plain linen MLP")
    _, other, _ = model("residual")
    with pytest.raises(ValueError, match="parameters of another model"):
        kernels.structured(network)(other, x)
    with pytest.raises(ValueError, match="parameters of another model"):
        kernels.structured(network)(theta | {"Dense_3": theta["Dense_0"]}, x)
    plain, _, _ = model("plain function")
    with pytest.raises(ValueError, match="does not take these parameters"):
        kernels.contraction(plain)(theta, x)


def test_token_models_take_integers_and_say_so_of_reals():
    network, theta, x = model("embedding")
    with pytest.raises(ValueError, match="does not take these parameters and an input"):
        kernels.structured(network)(theta, jnp.float64(x))


@pytest.mark.parametrize("n", [1, 3])
def test_a_model_that_mixes_the_samples_of_a_batch_is_found_out(n):
    def minus_mean(theta, x):
        return (x - x.mean(0, keepdims=True)) @ theta

    apply = kernels.one_by_one(minus_mean)
    x, theta = jax.random.normal(jax.random.key(1), (n, 4)), jnp.ones((4, 2))
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        kernels.contraction(apply)(theta, x)
    honest = kernels.one_by_one(lambda theta, x: x @ theta)
    np.testing.assert_allclose(
        kernels.contraction(honest)(theta, x)[:, 0, :, 0], x @ x.T, atol=1e-12
    )


@pytest.mark.parametrize("mixing", [False, True])
def test_outputs_that_are_nan_at_zero_do_not_hide_that_samples_mix(mixing):
    def directions(theta, x):
        u = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        return (u - mixing * u[:1]) @ theta

    call = kernels.contraction(kernels.one_by_one(directions))
    theta, x = jnp.ones((4, 2)), jax.random.normal(jax.random.key(1), (3, 4))
    if mixing:
        with pytest.raises(ValueError, match="mixes the samples of a batch"):
            call(theta, x)
    else:
        u = x / np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_allclose(call(theta, x)[:, 0, :, 0], u @ u.T, atol=1e-12)


@pytest.mark.parametrize(
    "outputs", [lambda theta, x: jnp.argmax(theta * x)[None], lambda theta, x: theta * x * 1j]
)
def test_outputs_that_are_not_real_are_refused(outputs):
    for kind in (kernels.contraction, kernels.vector_products):
        with pytest.raises(ValueError, match=r"the model's outputs are .*; expected reals"):
            kind(outputs)(jnp.ones(3), jnp.ones((2, 3)))


def test_batch_norm_in_training_mode_is_refused():
    from models import Normalised

    x = jnp.ones((2, 4))
    variables = jax.tree.map(jnp.float64, Normalised().init(jax.random.key(0), x))
    theta, constants = variables["params"], {"batch_stats": variables["batch_stats"]}
    network = networks.network(Normalised(train=True), batched=True, constants=constants)
    with pytest.raises(ValueError, match="batch norm in training mode"):
        kernels.structured(network)(theta, x)
    with pytest.raises(ValueError, match=r"keeps batch_stats .*, and use_running_average=True"):
        networks.network(Normalised(), batched=True).init(jax.random.key(0), x[0])


@pytest.mark.parametrize(
    "outputs",
    [
        lambda theta, x: theta @ x,
        lambda theta, x: jnp.outer(x, x) * theta[0],
        lambda theta, x: (x, x),
    ],
)
def test_a_model_without_a_vector_of_outputs_is_refused(outputs):
    with pytest.raises(ValueError, match=r"expected outputs \[c\]"):
        kernels.contraction(outputs)(jnp.ones(3), jnp.ones((2, 3)))


def test_structured_says_what_to_use_for_a_network_without_taps():
    with pytest.raises(ValueError, match=r"no taps; use kernels.contraction"):
        kernels.structured(Network(None, lambda theta, x: theta * x))
    with pytest.raises(ValueError, match=r"no taps; use kernels.contraction"):
        kernels.structured(lambda theta, x: theta * x)


class Named(nn.Module):
    """A layer called what the leaves outside of layers are called."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="rest")(x) * self.param("scale", nn.initializers.ones, ())


def test_a_layer_of_a_taken_name_is_refused_and_not_overwritten():
    network, x = networks.network(Named()), jnp.ones((2, 3))
    theta = jax.tree.map(jnp.float64, network.init(jax.random.key(0), x[0]))
    with pytest.raises(ValueError, match="two layers share a name among rest, rest; rename one"):
        kernels.structured(network)(theta, x)
