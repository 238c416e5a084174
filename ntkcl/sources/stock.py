"""Any TFDS name, and a folder of IDX files as a TFDS dataset of ours. The one door to TFDS.

TFDS is read through array_record, without TensorFlow; only preparing its stock image sets needs the extra `data`.
"""

import contextlib
import difflib
import gzip
import hashlib
import importlib.util
import io
import logging
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from ntkcl.settings import flag, text, whole
from ntkcl.sources.checks import dataset, source
from ntkcl.types import Dataset, Source

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
REMAKE = "delete that folder to have it prepared anew"
ARRAY_RECORD = {"file_format": "array_record"}  # TFDS's default, tfrecord, has no random access and needs TensorFlow


def from_tfds(
    name: str,
    *,
    mean: float,
    sd: float,
    train_split: str = "train",
    test_split: str = "test",
    data_dir: str | None = None,
    download: bool = True,
) -> Source:
    """Any labelled image set of TensorFlow Datasets, by name.

    Arguments:
      name: `mnist`, `cifar10`, ...; with a config or version as TFDS writes them.
      train_split, test_split: TFDS split expressions.
      data_dir: where prepared sets lie; null is TFDS's own default (TFDS_DATA_DIR or ~/tensorflow_datasets).
      download: whether a set that is not prepared may be downloaded and prepared, which needs the extra `data`.
    Raises ValueError for an unknown name or split, and for a set that is not prepared and cannot be.
    """
    flag("source.download", download)
    builder = _stock_builder(text("source.name", name), _folder(data_dir))
    with _quiet():
        if not builder.is_prepared():
            _prepare(name, builder, download)
    return source(_read(builder, train_split), _read(builder, test_split), mean, sd)


def idx(
    idx_dir: str,
    *,
    mean: float,
    sd: float,
    classes: int = 10,
    data_dir: str | None = None,
    sha256: Mapping[str, str] | None = None,
) -> Source:
    """A folder of the four IDX files of MNIST's family (gz or not), prepared once as a TFDS dataset of ours.

    Arguments:
      idx_dir: the folder; files are named as MNIST's are, with or without .gz.
      classes: labels lie in 0 .. classes - 1.
      data_dir: as for `from_tfds`; the prepared copy is keyed by the files' bytes, so a changed folder is prepared anew.
      sha256: checksums of the unpacked files by name, where they are known.
    Raises ValueError naming the file that is missing, truncated, mislabelled or of another content.
    """
    text("source.idx_dir", idx_dir)
    whole("source.classes", classes)
    files = {stem: _idx_path(idx_dir, stem) for stems in IDX_FILES.values() for stem in stems}
    digest = hashlib.sha256(b"".join(hashlib.sha256(_unpacked(path)).digest() for path in files.values()))
    digest.update(repr((classes, sorted((sha256 or {}).items()))).encode())
    config = IdxConfig(name=digest.hexdigest()[:16], files=files, classes=classes, sha256=dict(sha256 or {}))
    with _quiet():
        builder = IdxFolder(config=config, data_dir=_folder(data_dir), **ARRAY_RECORD)
        if not builder.is_prepared():
            config.arrays()  # checked as a whole before TFDS writes anything
            try:
                builder.download_and_prepare()
            except Exception as error:  # a full disk reaches us as whatever the writer made of it
                raise ValueError(f"source.data_dir={builder.data_dir}: cannot be written ({_first_line(error)})") from error
    return source(_read(builder, "train"), _read(builder, "test"), mean, sd)


def tfds_or_idx(
    name: str,
    idx_dir: str,
    *,
    mean: float,
    sd: float,
    classes: int = 10,
    data_dir: str | None = None,
    download: bool = True,
    sha256: Mapping[str, str] | None = None,
) -> Source:
    """TFDS's own copy if it is prepared or can be; else the folder of IDX files. Arguments as in `from_tfds` and `idx`."""
    try:
        return from_tfds(name, mean=mean, sd=sd, data_dir=data_dir, download=download)
    except _Unprepared as missing:
        if not Path(idx_dir).is_dir():
            raise ValueError(f"{missing}; nor is there a folder of IDX files at source.idx_dir={idx_dir}") from missing
        return idx(idx_dir, mean=mean, sd=sd, classes=classes, data_dir=data_dir, sha256=sha256)


class _Unprepared(ValueError):
    """The set is known to TFDS, but there is no copy here and none could be made."""


def _stock_builder(name, data_dir):
    known = tfds.list_builders(with_community_datasets=False)
    base = name.split("/")[0].split(":")[0]
    if base not in known and not (Path(data_dir or tfds.core.constants.DATA_DIR) / base).is_dir():
        near = difflib.get_close_matches(base, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see the TFDS catalogue, or use source=idx with a folder"
        raise ValueError(f"source.name={name}: TensorFlow Datasets has no such data set; {hint}")
    try:
        with _quiet():
            return tfds.builder(name, data_dir=data_dir, **ARRAY_RECORD)
    except Exception as error:  # TFDS asserts, parses and looks up: a version that does not exist, a broken dataset_info.json
        raise ValueError(f"source.name={name}: TFDS cannot open it ({_first_line(error)})") from error


def _prepare(name, builder, download):
    """Download and prepare, or say in one line why not. TFDS needs TensorFlow to encode the images of its stock sets."""
    remedy = (
        "prepare it on a machine with network: pip install -e '.[data]' in a checkout of ntkcl, and "
        f"source.name={name}, or copy its folder there"
    )
    missing = f"source.name={name}: no prepared array_record copy in {builder.data_dir}"
    if not download:
        raise _Unprepared(f"{missing} and source.download=false; {remedy}")
    if importlib.util.find_spec("tensorflow") is None:
        raise _Unprepared(f"{missing} and TensorFlow, needed to prepare one, is not installed; {remedy}")
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS's own download errors share no other base class
        raise _Unprepared(f"{missing} and downloading failed ({type(error).__name__}); {remedy}") from error


def _read(builder, split) -> Dataset:
    """One split as arrays, read in one call: iterating takes three times as long."""
    name = builder.info.full_name
    try:
        with _quiet():
            data = builder.as_data_source(split)
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise ValueError(f"{name}: cannot read split {split!r}; it has {known}") from error
    image, label = builder.info.supervised_keys or ("image", "label")
    features = dict(builder.info.features)
    labelled = isinstance(features.get(label), tfds.features.ClassLabel)
    if not labelled or len(getattr(features.get(image), "shape", ())) not in (2, 3):
        raise ValueError(f"{name}: expected images with class labels, but its features are {', '.join(features)}")
    promised = builder.info.splits[split].num_examples
    try:
        records = data.__getitems__(range(len(data)))
    except Exception as error:  # the array_record reader raises what its C++ side threw
        raise ValueError(f"{builder.data_dir}: the prepared copy is damaged ({_first_line(error)}); {REMAKE}") from error
    if len(records) != promised:
        raise ValueError(f"{builder.data_dir}: {split} holds {len(records)} examples, {promised} are promised; {REMAKE}")
    shapes = {np.shape(record[image]) for record in records}
    if len(shapes) != 1:
        raise ValueError(f"{name}: images of one shape are needed, but {split} has {len(shapes)} shapes")
    x = np.stack([record[image] for record in records])
    y = np.array([record[label] for record in records])
    scale = 255.0 if x.dtype == np.uint8 else 1.0
    return dataset(x / np.float32(scale), y, features[label].num_classes, f"{name} {split}")


def _folder(data_dir):
    return None if data_dir is None else text("source.data_dir", data_dir)


def _first_line(error) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:160]


def _idx_path(folder, stem) -> Path:
    if not Path(folder).is_dir():
        raise ValueError(f"source.idx_dir={folder}: no such folder; expected one with {stem}[.gz] and its three companions")
    for path in (Path(folder) / f"{stem}.gz", Path(folder) / stem):
        if path.is_file():
            return path
    raise ValueError(f"source.idx_dir={folder}: {stem}.gz or {stem} is missing")


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, gz or not: two zero bytes, type 0x08, number of axes, a big-endian uint32 for each, the data.

    Raises ValueError naming the file where header and length do not agree.
    """
    raw = _unpacked(path)
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    body = len(raw) - 4 - 4 * raw[3]
    if body != math.prod(shape):
        raise ValueError(f"{path}: truncated or padded, its header promises {math.prod(shape)} bytes and {body} follow")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _unpacked(path) -> bytes:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: truncated or damaged gz file ({error})") from error


@dataclass(eq=False, kw_only=True)
class IdxConfig(tfds.core.BuilderConfig):
    """One folder's files; `name` is the digest of their bytes, so that two folders never share a prepared copy."""

    files: dict = field(default_factory=dict)
    classes: int = 10
    sha256: dict = field(default_factory=dict)

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Images and labels by split, checked against each other and against the checksums."""
        for stem, expected in self.sha256.items():
            found = hashlib.sha256(_unpacked(self.files[stem])).hexdigest()
            if found != expected:
                raise ValueError(f"{self.files[stem]}: SHA-256 of the unpacked bytes is {found[:12]}..., expected {expected[:12]}...")
        pairs = {split: self._pair(*stems) for split, stems in IDX_FILES.items()}
        train, test = (x.shape[1:] for x, _ in pairs.values())
        if train != test:
            raise ValueError(f"{self.files[IDX_FILES['test'][0]]}: expected images of {train} as in the train set, found {test}")
        return pairs

    def _pair(self, images, labels):
        x, y = read_idx(self.files[images]), read_idx(self.files[labels])
        if x.ndim != 3 or 0 in x.shape:
            raise ValueError(f"{self.files[images]}: expected images [n, h, w], none of them 0, found shape {x.shape}")
        if y.shape != x.shape[:1]:
            raise ValueError(f"{self.files[labels]}: expected {len(x)} labels on one axis, found shape {y.shape}")
        if y.max() >= self.classes:
            raise ValueError(f"{self.files[labels]}: label {y.max()} is outside 0 .. {self.classes - 1} (source.classes)")
        return x, y


class IdxFolder(tfds.core.GeneratorBasedBuilder):
    """A folder of IDX files as a TFDS dataset, prepared without TensorFlow: index i of a split is index i of its file."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: list[IdxConfig] = []

    def _info(self):
        config = self.builder_config
        shape = read_idx(config.files[IDX_FILES["train"][0]]).shape[1:]
        features = {
            "image": tfds.features.Tensor(shape=shape, dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=config.classes),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images and labels from a folder of IDX files.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(*pair) for split, pair in self.builder_config.arrays().items()}

    def _generate_examples(self, images, labels):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


@contextlib.contextmanager
def _quiet():
    """TFDS logs and draws progress bars; a run has one progress display, its own."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        tfds.enable_progress_bar()
