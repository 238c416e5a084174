"""Images from IDX files: the format of MNIST and its relatives."""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from ntkcl.sources.checks import source
from ntkcl.sources.tfds import (
    ARRAY_RECORD,
    _first_line,
    _folder,
    _quiet,
    _read,
    _Unprepared,
    from_tfds,
)
from ntkcl.types import Source
from ntkcl.validation import SettingError, text, whole

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx(
    idx_dir: str,
    *,
    mean: float,
    sd: float,
    classes: int = 10,
    data_dir: str | None = None,
    sha256: Mapping[str, str] | None = None,
) -> Source:
    """A folder of the four IDX files of MNIST's family (gz or not), prepared once as a TFDS dataset
    of ours.

    Arguments:
      idx_dir: the folder; files are named as MNIST's are, with or without .gz.
      classes: labels lie in 0 .. classes - 1.
      data_dir: as for `from_tfds`; the prepared copy is keyed by the files' bytes, so a changed
        folder is prepared anew.
      sha256: checksums of the unpacked files by name, where they are known.
    Raises ValueError naming the file that is missing, truncated, mislabelled or of another content.
    """
    text("source.idx_dir", idx_dir)
    whole("source.classes", classes)
    files = {stem: _idx_path(idx_dir, stem) for stems in IDX_FILES.values() for stem in stems}
    digest = hashlib.sha256(
        b"".join(hashlib.sha256(_unpacked(path)).digest() for path in files.values())
    )
    digest.update(repr((classes, sorted((sha256 or {}).items()))).encode())
    config = IdxConfig(
        name=digest.hexdigest()[:16], files=files, classes=classes, sha256=dict(sha256 or {})
    )
    with _quiet():
        builder = IdxFolder(config=config, data_dir=_folder(data_dir), **ARRAY_RECORD)
        if not builder.is_prepared():
            config.arrays()  # checked as a whole before TFDS writes anything
            try:
                builder.download_and_prepare()
            except Exception as error:  # a full disk reaches us as whatever the writer made of it
                raise SettingError(
                    f"source.data_dir={builder.data_dir}: cannot be written ({_first_line(error)})"
                ) from error
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
    """TFDS's own copy if it is prepared or can be; else the folder of IDX files. Arguments as in
    `from_tfds` and `idx`."""
    try:
        return from_tfds(name, mean=mean, sd=sd, data_dir=data_dir, download=download)
    except _Unprepared as missing:
        if not Path(idx_dir).is_dir():
            package = " (Debian: apt-get install dataset-fashion-mnist)"
            raise SettingError(
                f"{missing}; nor is there a folder of IDX files at source.idx_dir={idx_dir}"
                f"{package if name == 'fashion_mnist' else ''}"
            ) from missing
        return idx(idx_dir, mean=mean, sd=sd, classes=classes, data_dir=data_dir, sha256=sha256)


def _idx_path(folder, stem) -> Path:
    if not Path(folder).is_dir():
        raise SettingError(
            f"source.idx_dir={folder}: no such folder; expected one with {stem}[.gz] and its three "
            "companions"
        )
    for path in (Path(folder) / f"{stem}.gz", Path(folder) / stem):
        if path.is_file():
            return path
    raise SettingError(f"source.idx_dir={folder}: {stem}.gz or {stem} is missing")


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, gz or not: two zero bytes, type 0x08, number of axes, a
    big-endian uint32 for each, the data.

    Raises ValueError naming the file where header and length do not agree.
    """
    raw = _unpacked(path)
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise SettingError(f"{path}: not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    body = len(raw) - 4 - 4 * raw[3]
    if body != math.prod(shape):
        raise SettingError(
            f"{path}: truncated or padded, its header promises {math.prod(shape)} bytes and {body} "
            "follow"
        )
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _unpacked(path) -> bytes:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise SettingError(f"{path}: cannot be read ({error.strerror})") from error
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SettingError(f"{path}: truncated or damaged gz file ({error})") from error


@dataclass(eq=False, kw_only=True)
class IdxConfig(tfds.core.BuilderConfig):
    """One folder's files; `name` is the digest of their bytes, so that two folders never share a
    prepared copy."""

    files: dict = field(default_factory=dict)
    classes: int = 10
    sha256: dict = field(default_factory=dict)

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Images and labels by split, checked against each other and against the checksums."""
        for stem, expected in self.sha256.items():
            found = hashlib.sha256(_unpacked(self.files[stem])).hexdigest()
            if found != expected:
                raise SettingError(
                    f"{self.files[stem]}: SHA-256 of the unpacked bytes is {found[:12]}..., "
                    f"expected {expected[:12]}..."
                )
        pairs = {split: self._pair(*stems) for split, stems in IDX_FILES.items()}
        train, test = (x.shape[1:] for x, _ in pairs.values())
        if train != test:
            raise SettingError(
                f"{self.files[IDX_FILES['test'][0]]}: expected images of {train} as in the train "
                f"set, found {test}"
            )
        return pairs

    def _pair(self, images, labels):
        x, y = read_idx(self.files[images]), read_idx(self.files[labels])
        if x.ndim != 3 or 0 in x.shape:
            raise SettingError(
                f"{self.files[images]}: expected images [n, h, w], none of them 0, found shape "
                f"{x.shape}"
            )
        if y.shape != x.shape[:1]:
            raise SettingError(
                f"{self.files[labels]}: expected {len(x)} labels on one axis, found shape {y.shape}"
            )
        if y.max() >= self.classes:
            raise SettingError(
                f"{self.files[labels]}: label {y.max()} is outside 0 .. {self.classes - 1} "
                "(source.classes)"
            )
        return x, y


class IdxFolder(tfds.core.GeneratorBasedBuilder):
    """A folder of IDX files as a TFDS dataset, prepared without TensorFlow: index i of a split is
    index i of its file."""

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
        return {
            split: self._generate_examples(*pair)
            for split, pair in self.builder_config.arrays().items()
        }

    def _generate_examples(self, images, labels):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}
