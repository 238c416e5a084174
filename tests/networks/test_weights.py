"""Files of weights are read without running anything in them; what is none is said in a line."""

import io
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
from cases import ROOT

from ntkcl.networks import weights

FIXTURES = ROOT / "tests" / "networks" / "pretrained"
BERT = str(FIXTURES / "bert_tiny.safetensors")
LITE = str(FIXTURES / "lite_tiny.pth")


def test_both_formats_of_pytorch_safetensors_and_a_zip_of_it_are_read(tmp_path):
    old, new = weights.read(FIXTURES / "lite_tiny_before_zip.pth"), weights.read(LITE)
    assert old.keys() == new.keys() and {a.dtype.name for a in new.values()} == {"float32"}
    for key in new:
        np.testing.assert_array_equal(old[key], new[key])
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.write(BERT, "model.safetensors")
    zipped, plain = weights.read(tmp_path / "model.zip"), weights.read(BERT)
    assert zipped.keys() == plain.keys()
    assert all((zipped[key] == plain[key]).all() for key in plain)


def tensors(content, storage=b""):
    """A state dictionary as PyTorch writes it, in its zip format."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return obj[1:] if isinstance(obj, tuple) and obj[:1] == ("of",) else None

    data, file = io.BytesIO(), io.BytesIO()
    Pickler(data, 2).dump(content)
    # Names of PyTorch, which is not here to be pickled.
    named = data.getvalue().replace(b"cnumpy\ndtype\n", b"ctorch\nFloatStorage\n")
    named = named.replace(b"cos\nlstat\n", b"ctorch._utils\n_rebuild_tensor_v2\n")
    named = named.replace(b"cposix\nlstat\n", b"ctorch._utils\n_rebuild_tensor_v2\n")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", named)
        archive.writestr("a/data/0", storage)
    return file.getvalue()


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def tensor(offset, shape, strides, size=6):
    storage = ("of", "storage", np.dtype, "0", "cpu", size)
    return Call(os.lstat, storage, offset, shape, strides, False, None)


def test_a_tensor_that_is_a_view_of_its_storage_is_taken_by_its_strides(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(tensors({"w": {"t": tensor(1, (2, 2), (1, 2))}}, np.arange(6.0, dtype="f4")))
    np.testing.assert_array_equal(weights.read(path)["w.t"], [[1, 3], [2, 4]])


BEYOND = dict(offset=tensor(3, (2, 2), (2, 1)), stride=tensor(0, (2, 2), (-1, 1)))
BEYOND |= dict(huge=tensor(0, (10**9, 10**9), (0, 0)), short=tensor(0, (7,), (1,), 7))


@pytest.mark.parametrize("case", BEYOND)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, case):
    path = tmp_path / "a.pt"
    path.write_bytes(tensors({"w": BEYOND[case]}, np.zeros(6, np.float32)))
    with pytest.raises(ValueError, match=r"network.weights=.*a.pt: it cannot be read"):
        weights.read(path)


@pytest.mark.parametrize("form", ["zip", "before zip"])
def test_a_pickle_that_runs_something_is_refused_and_runs_nothing(tmp_path, form):
    path, mark = tmp_path / "evil.pth", tmp_path / "ran"
    evil = {"w": Call(os.mkdir, str(mark))}
    parts = [evil] if form == "before zip" else []
    legacy = weights.LEGACY + pickle.dumps(1001) + b"".join(pickle.dumps(p) for p in [{}, *parts])
    path.write_bytes(tensors(evil) if form == "zip" else legacy)
    with pytest.raises(ValueError, match=r"asks for \w+.mkdir, which is not run; expected") as told:
        weights.read(path)
    assert "\n" not in str(told.value) and not mark.exists()


def objects():
    file = io.BytesIO()
    np.savez(file, w=np.array([{}], object))
    return file.getvalue()


NO_WEIGHTS = {
    "text": lambda path: path.write_text("hello"),
    "empty": lambda path: path.write_bytes(b""),
    "objects": lambda path: path.write_bytes(objects()),
    "no arrays": lambda path: path.write_bytes(tensors({"epoch": 3})),
    "cut": lambda path: path.write_bytes((FIXTURES / "lite_tiny_before_zip.pth").read_bytes()[:-9]),
    "damaged": lambda path: path.write_bytes(b"\xff" * 8 + b"{}"),
}


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_a_file_that_is_no_weights_is_said_in_a_line(tmp_path, case):
    NO_WEIGHTS[case](tmp_path / "w")
    with pytest.raises(ValueError, match=r"it cannot be read .* expected safetensors, npz") as told:
        weights.read(tmp_path / "w")
    assert "\n" not in str(told.value)


def test_a_reader_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match="safetensors is not installed; expected `pip install"):
        weights.read(BERT)
