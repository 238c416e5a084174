"""Sources: real data, counted; files that are damaged are named."""

import gzip
import hashlib
import io
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from cases import ROOT
from PIL import Image

from ntkcl import networks, sources, streams
from ntkcl.sources import tfds
from ntkcl.sources.idx import IDX_FILES

CONF = ROOT / "conf" / "source"
FASHION = yaml.safe_load((CONF / "fashion_mnist.yaml").read_text())
FILES = [stem for stems in IDX_FILES.values() for stem in stems]


def idx_bytes(array):
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def folder(tmp_path):
    """A small IDX folder: 30 + 12 images of 4 x 5 pixels, 3 classes; the test files unpacked, the
    train files gz."""
    rng = np.random.default_rng(0)
    arrays = {}
    for (images, labels), n in zip(IDX_FILES.values(), (30, 12), strict=True):
        arrays |= {images: rng.integers(0, 256, (n, 4, 5)), labels: np.arange(n) % 3}
    home = tmp_path / "idx"
    home.mkdir()
    for stem, array in arrays.items():
        if stem.startswith("train"):
            (home / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (home / stem).write_bytes(idx_bytes(array))
    return home


def load(folder, tmp_path, **settings):
    return sources.idx(
        str(folder),
        **(dict(mean=0.0, sd=1.0, classes=3, data_dir=str(tmp_path / "tfds")) | settings),
    )


def test_digits_are_all_there_and_their_pixel_statistics_are_those_of_the_config():
    settings = yaml.safe_load((CONF / "digits.yaml").read_text())
    settings.pop("_target_")
    source = sources.digits(**settings)
    x = np.concatenate([source.train.x, source.test.x])
    assert x.shape == (1797, 8, 8) and x.min() == 0 and x.max() == 1
    assert (round(float(x.mean()), 5), round(float(x.std()), 5)) == (
        settings["mean"],
        settings["sd"],
    )
    counts = source.train.y.sum(0) + source.test.y.sum(0)
    assert counts.min() == 174 and counts.max() == 183
    again = sources.digits(**settings)
    np.testing.assert_array_equal(source.test.x, again.test.x)
    assert not np.array_equal(source.test.x, sources.digits(**(settings | dict(seed=1))).test.x)


def test_an_idx_folder_is_read_in_its_own_order_and_prepared_once(folder, tmp_path):
    source = load(folder, tmp_path)
    raw = sources.read_idx(folder / "train-images-idx3-ubyte.gz")
    np.testing.assert_allclose(source.train.x, raw / 255.0, atol=1e-7)
    np.testing.assert_array_equal(source.train.y.argmax(1), np.arange(30) % 3)
    assert source.test.x.shape == (12, 4, 5)
    prepared = sorted(p.stat().st_mtime_ns for p in (tmp_path / "tfds").rglob("*") if p.is_file())
    np.testing.assert_array_equal(load(folder, tmp_path).train.x, source.train.x)
    assert (
        sorted(p.stat().st_mtime_ns for p in (tmp_path / "tfds").rglob("*") if p.is_file())
        == prepared
    )


def test_a_changed_folder_is_prepared_anew(folder, tmp_path):
    load(folder, tmp_path)
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(12)))
    assert load(folder, tmp_path).test.y.sum(0).tolist() == [12, 0, 0]


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("stem", "change", "message"),
    [
        (
            "train-images-idx3-ubyte.gz",
            lambda b: b[:-40],
            "train-images-idx3-ubyte.gz: truncated or damaged gz",
        ),
        (
            "train-images-idx3-ubyte.gz",
            lambda b: b[:60] + bytes(20) + b[80:],
            "train-images-idx3-ubyte.gz: truncated or damaged gz",
        ),
        (
            "t10k-images-idx3-ubyte",
            lambda b: b[:-1],
            "t10k-images-idx3-ubyte: truncated or padded, its header promises 240 bytes and 239",
        ),
        (
            "t10k-images-idx3-ubyte",
            lambda b: b + b"x",
            "t10k-images-idx3-ubyte: truncated or padded",
        ),
        ("t10k-images-idx3-ubyte", lambda b: b"", "t10k-images-idx3-ubyte: not an IDX file"),
        (
            "t10k-labels-idx1-ubyte",
            lambda b: b"PNG" + b[3:],
            "t10k-labels-idx1-ubyte: not an IDX file",
        ),
        (
            "t10k-labels-idx1-ubyte",
            lambda b: b[:-1] + b"\x07",
            "t10k-labels-idx1-ubyte: label 7 is outside 0 .. 2",
        ),
        (
            "t10k-labels-idx1-ubyte",
            lambda b: idx_bytes(np.zeros(11)),
            "t10k-labels-idx1-ubyte: expected 12 labels",
        ),
        (
            "t10k-images-idx3-ubyte",
            lambda b: idx_bytes(np.zeros(12)),
            r"t10k-images-idx3-ubyte: expected images \[n, h, w\]",
        ),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_prepared(folder, tmp_path, stem, change, message):
    damage(folder / stem, change)
    with pytest.raises(ValueError, match=message):
        load(folder, tmp_path)
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))


def test_a_file_of_another_content_fails_its_checksum(folder, tmp_path):
    stem = "t10k-labels-idx1-ubyte"
    good = hashlib.sha256((folder / stem).read_bytes()).hexdigest()
    load(folder, tmp_path, sha256={stem: good})
    damage(folder / stem, lambda b: b[:-1] + bytes([(b[-1] + 1) % 3]))
    with pytest.raises(ValueError, match=f"{stem}: SHA-256 of the unpacked bytes"):
        load(folder, tmp_path, sha256={stem: good})


@pytest.mark.parametrize(
    "harm",
    [lambda b: b[:40], lambda b: b[: len(b) // 4] + bytes(len(b) // 2) + b[-(len(b) // 4) :]],
)
def test_a_damaged_prepared_copy_is_named(folder, tmp_path, harm):
    load(folder, tmp_path)
    shard = next((tmp_path / "tfds").rglob("*train.array_record*"))
    damage(shard, harm)
    with pytest.raises(ValueError, match=r"tfds/idx_folder.*delete that folder"):
        load(folder, tmp_path)


def test_missing_files_and_folders_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"source.idx_dir=/nowhere: no such folder"):
        load("/nowhere", tmp_path)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        ValueError, match=r"t10k-labels-idx1-ubyte.gz or t10k-labels-idx1-ubyte is missing"
    ):
        load(folder, tmp_path)


def test_an_unknown_name_gets_a_suggestion_and_no_network():
    with pytest.raises(
        ValueError, match=r"source.name=fasion_mnist: .* did you mean fashion_mnist"
    ):
        sources.from_tfds("fasion_mnist", mean=0.0, sd=1.0)


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"source.name=mnist: no prepared .* source.download=false; .*\.\[data\]",
    ):
        sources.from_tfds("mnist", mean=0.0, sd=1.0, data_dir=str(tmp_path), download=False)
    with pytest.raises(
        ValueError,
        match=r"IDX files at source.idx_dir=/nowhere \(Debian: apt-get install",
    ):
        sources.tfds_or_idx(
            "fashion_mnist", "/nowhere", mean=0.0, sd=1.0, data_dir=str(tmp_path), download=False
        )


def test_without_a_network_the_folder_of_idx_files_is_the_last_resort(
    folder, tmp_path, monkeypatch
):
    """TensorFlow is there, so TFDS may try to download; the connection fails, as requests' errors
    do, with an OSError."""
    tries = []

    def offline(builder, *_, **__):
        tries.append(builder.name)
        raise ConnectionError("Max retries exceeded")

    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds.tfds.core.DatasetBuilder, "download_and_prepare", offline)
    settings = dict(mean=0.0, sd=1.0, data_dir=str(tmp_path / "empty"))
    with pytest.raises(
        ValueError, match=r"source.name=fashion_mnist: .* downloading failed \(ConnectionError\)"
    ):
        sources.from_tfds("fashion_mnist", **settings)
    assert tries == ["fashion_mnist"]
    monkeypatch.undo()
    load(folder, tmp_path)
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds.tfds.core.DatasetBuilder, "download_and_prepare", offline)
    source = sources.tfds_or_idx(
        "fashion_mnist",
        str(folder),
        classes=3,
        **(settings | dict(data_dir=str(tmp_path / "tfds"))),
    )
    assert source.train.x.shape == (30, 4, 5)


def test_a_prepared_tfds_set_is_read_by_name_without_tensorflow(folder, tmp_path):
    """Any prepared set will do: here our own, opened as a user opens a stock one, through its name
    and data_dir."""
    load(folder, tmp_path)
    config = next((tmp_path / "tfds" / "idx_folder").iterdir()).name
    code = (
        "import sys; from ntkcl import sources;"
        f"s = sources.from_tfds('idx_folder/{config}:1.0.0', mean=0., sd=1., "
        f"data_dir={str(tmp_path / 'tfds')!r});"
        "print(s.train.x.shape, s.test.y.sum(), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(30, 4, 5) 12.0 False"
    with pytest.raises(ValueError, match="cannot read split 'validation'; it has train, test"):
        sources.from_tfds(
            f"idx_folder/{config}:1.0.0",
            mean=0.0,
            sd=1.0,
            data_dir=str(tmp_path / "tfds"),
            test_split="validation",
        )


def test_tfds_own_copy_goes_before_the_folder(folder, tmp_path, monkeypatch):
    prepared = load(folder, tmp_path)
    idx = sys.modules["ntkcl.sources.idx"]  # the package's face has a function of that name
    monkeypatch.setattr(idx, "from_tfds", lambda name, **_: prepared)
    assert sources.tfds_or_idx("fashion_mnist", str(folder), mean=0.0, sd=1.0) is prepared


PRESETS = {
    "mnist": (1, 10),
    "kmnist": (1, 10),
    "emnist": (1, 47),
    "cifar10": (3, 10),
    "cifar100": (3, 100),
    "svhn": (3, 10),
}


class SmallColoured(tfds.tfds.core.GeneratorBasedBuilder):
    """PNG images, class labels and an id, as CIFAR's stock builders have them."""

    VERSION = tfds.tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.tfds.features
        described = {
            "id": features.Text(),
            "image": features.Image(shape=(4, 5, 3)),
            "label": features.ClassLabel(num_classes=3),
        }
        reported = dict(
            features=features.FeaturesDict(described),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )
        return tfds.tfds.core.DatasetInfo(builder=self, **reported)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(3)}

    def _generate_examples(self, n):
        for index in range(n):
            png = io.BytesIO()
            Image.fromarray(np.full((4, 5, 3), [10 * index, 1, 255], np.uint8)).save(png, "PNG")
            png.seek(0)
            yield index, {"id": str(index), "image": png, "label": index % 3}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    builder = SmallColoured(data_dir=str(tmp_path_factory.mktemp("coloured")), **tfds.ARRAY_RECORD)
    with tfds._quiet():
        builder.download_and_prepare()
    return builder


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_a_stock_set_of_labelled_images_and_hands_on_its_two_numbers(
    preset, coloured, tmp_path, monkeypatch
):
    settings = yaml.safe_load((CONF / f"{preset}.yaml").read_text())
    assert settings.pop("_target_") == "ntkcl.sources.from_tfds"
    known = tfds._stock_builder(settings["name"], str(tmp_path))
    channels, classes = PRESETS[preset]
    assert (
        known.info.supervised_keys == ("image", "label")
        and known.info.features["image"].shape[-1] == channels
    )
    assert known.info.features["label"].num_classes == classes
    with pytest.raises(
        ValueError, match=f"source.name={settings['name']}: no prepared array_record copy"
    ):
        sources.from_tfds(**(settings | dict(data_dir=str(tmp_path), download=False)))
    monkeypatch.setattr(tfds, "_stock_builder", lambda name, data_dir: coloured)
    source = sources.from_tfds(**settings)
    assert (
        (source.mean, source.sd) == (settings["mean"], settings["sd"])
        and 0.1 < source.mean < 0.5
        and 0.15 < source.sd < 0.4
    )
    assert source.train.x.shape == (6, 4, 5, 3) and source.test.y.argmax(1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(source.train.x[5, 3, 4], np.array([50, 1, 255]) / 255, atol=1e-7)


def arrays(n=20, m=8, seed=0):
    rng = np.random.default_rng(seed)
    x_train, x_test = (rng.integers(0, 256, (k, 4, 5), dtype=np.uint8) for k in (n, m))
    return dict(x_train=x_train, y_train=np.arange(n) % 4, x_test=x_test, y_test=np.arange(m) % 4)


def load_npz(tmp_path, contents, **settings):
    np.savez(tmp_path / "own.npz", **contents)
    return sources.npz(str(tmp_path / "own.npz"), **(dict(mean=0.0, sd=1.0) | settings))


def test_an_npz_file_is_read_as_labels_or_one_hot_bytes_or_reals(tmp_path):
    own = arrays()
    source = load_npz(tmp_path, own, mean=0.3, sd=0.4)
    np.testing.assert_allclose(source.train.x, own["x_train"] / 255, atol=1e-7)
    np.testing.assert_array_equal(source.test.y, np.eye(4)[own["y_test"]])
    assert (source.mean, source.sd, source.train.x.dtype) == (0.3, 0.4, np.float32)
    other = own | dict(
        x_train=own["x_train"] / 255.0,
        x_test=own["x_test"] / 255.0,
        y_train=np.eye(4)[own["y_train"]],
    )
    same = load_npz(tmp_path, other | dict(y_test=own["y_test"][:, None].astype(float)))
    np.testing.assert_array_equal(same.train.x, source.train.x)
    np.testing.assert_array_equal(same.train.y, source.train.y)
    np.testing.assert_array_equal(same.test.y, source.test.y)
    assert load_npz(tmp_path, own, classes=6).test.y.shape == (8, 6)


def test_the_classes_of_an_npz_file_are_its_distinct_labels_in_their_order(tmp_path):
    own = arrays()
    spread = {
        name: a if name[0] == "x" else np.array([3, 1000, 2000, 7])[a] for name, a in own.items()
    }
    source = load_npz(tmp_path, spread)
    order = np.array([0, 2, 3, 1])  # of 3, 1000, 2000, 7
    np.testing.assert_array_equal(source.train.y, np.eye(4)[order[own["y_train"]]])
    np.testing.assert_array_equal(source.test.y, np.eye(4)[order[own["y_test"]]])
    one_sided = load_npz(tmp_path, own | dict(y_test=np.full(8, 2000)))
    assert one_sided.train.y.shape[1] == 5 and set(one_sided.test.y.argmax(1)) == {4}
    alone = load_npz(tmp_path, dict(x=own["x_train"], y=1000 * own["y_train"]))
    assert alone.train.y.shape[1] == alone.test.y.shape[1] == 4 and alone.train.y.sum(0).min() > 0
    with pytest.raises(ValueError, match="labels run from 3 to 2000; expected 0 to 3"):
        load_npz(tmp_path, spread, classes=4)


def test_an_npz_file_may_hold_vectors_of_features(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 6)), np.arange(24) % 3
    source = load_npz(tmp_path, dict(x=x, y=y), test_fraction=0.5)
    assert source.train.x.shape == source.test.x.shape == (12, 6)
    sizes = dict(tasks=2, train_per_class=2, test_per_class=2)
    first, second = streams.permuted(source, **sizes)
    order = np.random.default_rng([0, 1]).permutation(np.arange(6))
    np.testing.assert_array_equal(second.train.x, first.train.x[:, order])
    assert not np.array_equal(order, np.arange(6))
    network = networks.mlp(outputs=3, width=4)
    theta = network.init(jax.random.key(0), jnp.asarray(first.train.x[0]))
    assert network.apply(theta, jnp.asarray(first.train.x[0])).shape == (3,)
    with pytest.raises(
        ValueError, match=r"an input has shape \(6,\); expected one image .* or network=mlp"
    ):
        networks.cnn(outputs=3, width=4).init(jax.random.key(0), jnp.asarray(first.train.x[0]))
    with pytest.raises(
        ValueError, match=r"stream=rotated: images of shape \(6,\) cannot be rotated"
    ):
        streams.rotated(source, **sizes)
    with pytest.raises(
        ValueError, match=r"stream\.patch=2: vectors of shape \(6,\) have no centre; expected null"
    ):
        streams.permuted(source, patch=2, **sizes)


def test_an_npz_file_of_one_set_is_split_by_class_and_seed(tmp_path):
    own = arrays(n=40)
    whole = dict(x=own["x_train"], y=own["y_train"])
    one, again, other = (
        load_npz(tmp_path, whole, test_fraction=0.3, seed=seed) for seed in (1, 1, 2)
    )
    assert set(one.test.y.sum(0)) == {3.0} and set(one.train.y.sum(0)) == {7.0}
    np.testing.assert_array_equal(one.test.x, again.test.x)
    assert not np.array_equal(one.test.x, other.test.x)
    everything = {
        x.tobytes(): y.argmax()
        for part in (one.train, one.test)
        for x, y in zip(*part, strict=True)
    }
    expected = {
        np.float32(x / np.float32(255)).tobytes(): label
        for x, label in zip(whole["x"], whole["y"], strict=True)
    }
    assert everything == expected and len(everything) == 40


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            dict(y_test=None, labels=np.zeros(8)),
            {},
            "expected the arrays x_train, y_train, x_test, y_test, or x, y alone; found labels, "
            "x_test, x_train, y_train",
        ),
        (
            dict(x=np.zeros((2, 4, 5)), y=np.zeros(2, int), y_test=None),
            {},
            "x, y alone; found x, x_test, x_train, y, y_train",
        ),
        (
            dict(x_test=np.zeros((8, 5, 5), np.uint8)),
            {},
            r"found x_train of \(4, 5\) and x_test of \(5, 5\)",
        ),
        (
            dict(x_train=np.zeros(20, np.uint8)),
            {},
            r"x_train of shape \(20,\); expected images \[n, h, w\]",
        ),
        (
            dict(x_train=np.zeros((20, 0))),
            {},
            r"x_train of shape \(20, 0\); expected .* or vectors \[n, d\]",
        ),
        (
            dict(x_train=np.zeros((20, 20), np.uint8)),
            {},
            r"found x_train of \(20,\) and x_test of \(4, 5\)",
        ),
        (dict(x_train=np.zeros((20, 4, 5), int)), {}, "x_train of type int64; expected bytes"),
        (
            dict(x_test=np.full((8, 4, 5), np.nan)),
            {},
            "x_test, y_test: 160 pixels are NaN or infinite",
        ),
        (dict(y_train=np.arange(19) % 4), {}, "x_train has 20 images and y_train 19 labels"),
        (
            dict(y_train=np.full(20, 0.5)),
            {},
            "y_train: label 0.5 of image 0; expected whole numbers from 0",
        ),
        (
            dict(y_train=-np.arange(20)),
            {},
            "y_train: label -1 of image 1; expected whole numbers from 0",
        ),
        (dict(y_train=np.full(20, np.nan)), {}, "y_train: label nan of image 0"),
        (dict(y_train=np.full((20, 4), 0.25)), {}, "y_train: row 0 is not one-hot"),
        (
            dict(y_train=np.array(["a"] * 20)),
            {},
            "y_train of shape .20,. and type <U1; expected labels",
        ),
        (
            dict(y_train=np.eye(4)[np.zeros(20, int)]),
            dict(classes=5),
            "one-hot of 4 classes, but source.classes=5",
        ),
        ({}, dict(classes=3), "labels run from 0 to 3; expected 0 to 2"),
        (
            {},
            dict(test_fraction=1.0),
            "source.test_fraction=1.0: expected a number between 0 and 1",
        ),
        (dict(y_train=np.array([None] * 20)), {}, "own.npz: not an npz file of plain arrays"),
    ],
)
def test_what_is_wrong_with_an_npz_file_is_named(tmp_path, change, settings, message):
    with pytest.raises(ValueError, match=message) as reported:
        load_npz(
            tmp_path,
            {name: a for name, a in (arrays() | change).items() if a is not None},
            **settings,
        )
    assert "\n" not in str(reported.value)


def test_a_file_that_is_no_npz_or_not_there_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text.npz", "one.npy"):
        with pytest.raises(ValueError, match=f"{name}: not an npz file of plain arrays"):
            sources.npz(str(tmp_path / name), mean=0.0, sd=1.0)
    with pytest.raises(ValueError, match=r"source.path=/nowhere.npz: no such file"):
        sources.npz("/nowhere.npz", mean=0.0, sd=1.0)
    with pytest.raises(ValueError, match="class 2 has one image; a split"):
        load_npz(tmp_path, dict(x=np.zeros((5, 4, 5)), y=np.array([0, 0, 1, 1, 2])))


@pytest.mark.slow
@pytest.mark.skipif(
    not Path(FASHION["idx_dir"]).is_dir(),
    reason="the Debian package dataset-fashion-mnist is not installed (.ci/run installs it)",
)
def test_fashion_mnist_is_whole(prepared):
    settings = FASHION | dict(data_dir=str(prepared), download=False)
    settings.pop("_target_")
    source = sources.tfds_or_idx(**settings)
    assert source.train.x.shape == (60000, 28, 28) and source.test.x.shape == (10000, 28, 28)
    assert set(source.train.y.sum(0)) == {6000} and set(source.test.y.sum(0)) == {1000}
    assert float(source.train.x.mean(dtype=np.float64)) == pytest.approx(FASHION["mean"], abs=1e-5)
    assert float(source.train.x.std(dtype=np.float64)) == pytest.approx(FASHION["sd"], abs=1e-5)
    raw = sources.read_idx(Path(FASHION["idx_dir"]) / "train-images-idx3-ubyte.gz")
    np.testing.assert_allclose(source.train.x[[0, -1]], raw[[0, -1]] / 255.0, atol=1e-7)
