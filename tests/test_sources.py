"""Sources: real data, counted; files that are damaged are named."""

import gzip
import hashlib
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from ntkcl import sources

CONF = Path(__file__).parents[1] / "conf" / "source"
FASHION = yaml.safe_load((CONF / "fashion_mnist.yaml").read_text())
FILES = [stem for stems in sources.IDX_FILES.values() for stem in stems]


def idx_bytes(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    """A small IDX folder: 30 + 12 images of 4 x 5 pixels, 3 classes; the test files unpacked, the train files gz."""
    rng = np.random.default_rng(0)
    arrays = {}
    for (images, labels), n in zip(sources.IDX_FILES.values(), (30, 12), strict=True):
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
    return sources.idx(str(folder), **(dict(mean=0.0, sd=1.0, classes=3, data_dir=str(tmp_path / "tfds")) | settings))


def test_digits_are_all_there_and_their_pixel_statistics_are_those_of_the_config():
    settings = yaml.safe_load((CONF / "digits.yaml").read_text())
    settings.pop("_target_")
    source = sources.digits(**settings)
    x = np.concatenate([source.train.x, source.test.x])
    assert x.shape == (1797, 8, 8) and x.min() == 0 and x.max() == 1
    assert (round(float(x.mean()), 5), round(float(x.std()), 5)) == (settings["mean"], settings["sd"])
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
    assert sorted(p.stat().st_mtime_ns for p in (tmp_path / "tfds").rglob("*") if p.is_file()) == prepared


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
        ("train-images-idx3-ubyte.gz", lambda b: b[:-40], "train-images-idx3-ubyte.gz: truncated or damaged gz"),
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
        ("t10k-images-idx3-ubyte", lambda b: b + b"x", "t10k-images-idx3-ubyte: truncated or padded"),
        ("t10k-images-idx3-ubyte", lambda b: b"", "t10k-images-idx3-ubyte: not an IDX file"),
        ("t10k-labels-idx1-ubyte", lambda b: b"PNG" + b[3:], "t10k-labels-idx1-ubyte: not an IDX file"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x07", "t10k-labels-idx1-ubyte: label 7 is outside 0 .. 2"),
        ("t10k-labels-idx1-ubyte", lambda b: idx_bytes(np.zeros(11)), "t10k-labels-idx1-ubyte: expected 12 labels"),
        ("t10k-images-idx3-ubyte", lambda b: idx_bytes(np.zeros(12)), "t10k-images-idx3-ubyte: expected images of 3 axes"),
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


@pytest.mark.parametrize("harm", [lambda b: b[:40], lambda b: b[: len(b) // 4] + bytes(len(b) // 2) + b[-(len(b) // 4) :]])
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
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz or t10k-labels-idx1-ubyte is missing"):
        load(folder, tmp_path)


def test_an_unknown_name_gets_a_suggestion_and_no_network():
    with pytest.raises(ValueError, match=r"source.name=fasion_mnist: .* did you mean fashion_mnist"):
        sources.from_tfds("fasion_mnist", mean=0.0, sd=1.0)


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
    with pytest.raises(ValueError, match=r"source.name=mnist: no prepared .* source.download=false; .*ntkcl\[data\]"):
        sources.from_tfds("mnist", mean=0.0, sd=1.0, data_dir=str(tmp_path), download=False)
    with pytest.raises(ValueError, match=r"nor is there a folder of IDX files at source.idx_dir=/nowhere"):
        sources.tfds_or_idx("fashion_mnist", "/nowhere", mean=0.0, sd=1.0, data_dir=str(tmp_path), download=False)


def test_without_a_network_the_folder_of_idx_files_is_the_last_resort(folder, tmp_path, monkeypatch):
    """TensorFlow is there, so TFDS may try to download; the connection fails, as requests' errors do, with an OSError."""
    tries = []

    def offline(builder, *_, **__):
        tries.append(builder.name)
        raise ConnectionError("Max retries exceeded")

    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(sources.tfds.core.DatasetBuilder, "download_and_prepare", offline)
    settings = dict(mean=0.0, sd=1.0, data_dir=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"source.name=fashion_mnist: .* downloading failed \(ConnectionError\)"):
        sources.from_tfds("fashion_mnist", **settings)
    assert tries == ["fashion_mnist"]
    monkeypatch.undo()
    load(folder, tmp_path)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(sources.tfds.core.DatasetBuilder, "download_and_prepare", offline)
    source = sources.tfds_or_idx("fashion_mnist", str(folder), classes=3, **(settings | dict(data_dir=str(tmp_path / "tfds"))))
    assert source.train.x.shape == (30, 4, 5)


def test_a_prepared_tfds_set_is_read_by_name_without_tensorflow(folder, tmp_path):
    """Any prepared set will do: here our own, opened as a user opens a stock one, through its name and data_dir."""
    load(folder, tmp_path)
    config = next((tmp_path / "tfds" / "idx_folder").iterdir()).name
    code = (
        "import sys; from ntkcl import sources;"
        f"s = sources.from_tfds('idx_folder/{config}:1.0.0', mean=0., sd=1., data_dir={str(tmp_path / 'tfds')!r});"
        "print(s.train.x.shape, s.test.y.sum(), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(30, 4, 5) 12.0 False"
    with pytest.raises(ValueError, match="cannot read split 'validation'; it has train, test"):
        sources.from_tfds(f"idx_folder/{config}:1.0.0", mean=0.0, sd=1.0, data_dir=str(tmp_path / "tfds"), test_split="validation")


def test_tfds_own_copy_goes_before_the_folder(folder, tmp_path, monkeypatch):
    prepared = load(folder, tmp_path)
    monkeypatch.setattr(sources, "from_tfds", lambda name, **_: prepared)
    assert sources.tfds_or_idx("fashion_mnist", str(folder), mean=0.0, sd=1.0) is prepared


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
