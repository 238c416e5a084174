"""Any TFDS name, and a folder of IDX files as a TFDS dataset of ours. The one door to TFDS.

TFDS is read through array_record, without TensorFlow; only preparing its stock sets needs the extra
`data`.
"""

import contextlib
import difflib
import importlib.util
import io
import logging
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from ntkcl.sources.checks import dataset, source
from ntkcl.sources.tokens import tokenised
from ntkcl.types import Dataset, Source
from ntkcl.validation import SettingError, flag, text

REMAKE = "delete that folder to have it prepared anew"
# TFDS's default, tfrecord, has no random access and needs TensorFlow.
ARRAY_RECORD = {"file_format": "array_record"}


def from_tfds(
    name: str,
    *,
    mean: float,
    sd: float,
    train_split: str = "train",
    test_split: str = "test",
    data_dir: str | None = None,
    download: bool = True,
    tokenizer: str | None = None,
    length: int = 64,
) -> Source:
    """Any labelled set of images or texts of TensorFlow Datasets, by name.

    Arguments:
      name: `mnist`, `cifar10`, `ag_news_subset`, ...; with a config or version as TFDS writes them.
      mean, sd: of a pixel; of no use to texts.
      train_split, test_split: TFDS split expressions.
      data_dir: where prepared sets lie; null is TFDS's own default (TFDS_DATA_DIR or
        ~/tensorflow_datasets).
      download: whether a set that is not prepared may be downloaded and prepared, which needs the
        extra `data`.
      tokenizer, length: of texts, as of `ntkcl.sources.tokens.tokenised`.
    Raises ValueError for an unknown name or split, and for a set that is not prepared and cannot
      be.
    """
    flag("source.download", download)
    builder = _stock_builder(text("source.name", name), _folder(data_dir))
    with _quiet():
        if not builder.is_prepared():
            _prepare(name, builder, download)
    if _is_text(builder.info.features[_keys(builder)[0]]):
        return _read_texts(builder, (train_split, test_split), tokenizer, length)
    return source(_read(builder, train_split), _read(builder, test_split), mean, sd)


class _Unprepared(ValueError):
    """The set is known to TFDS, but there is no copy here and none could be made."""


def _stock_builder(name, data_dir):
    known = tfds.list_builders(with_community_datasets=False)
    base = name.split("/")[0].split(":")[0]
    if base not in known and not (Path(data_dir or tfds.core.constants.DATA_DIR) / base).is_dir():
        near = difflib.get_close_matches(base, known, n=3)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else "see the TFDS catalogue, or use source=idx with a folder"
        )
        raise SettingError(f"source.name={name}: TensorFlow Datasets has no such data set; {hint}")
    try:
        with _quiet():
            return tfds.builder(name, data_dir=data_dir, **ARRAY_RECORD)
    # TFDS asserts, parses and looks up: a version that does not exist, a broken dataset_info.json.
    except Exception as error:
        raise SettingError(
            f"source.name={name}: TFDS cannot open it ({_first_line(error)})"
        ) from error


def _prepare(name, builder, download):
    """Download and prepare, or say in one line why not. TFDS needs TensorFlow to encode the images
    of its stock sets."""
    remedy = (
        "prepare it on a machine with network: pip install -e '.[data]' in a checkout of ntkcl, "
        "and "
        f"source.name={name}, or copy its folder there"
    )
    missing = f"source.name={name}: no prepared array_record copy in {builder.data_dir}"
    if not download:
        raise _Unprepared(f"{missing} and source.download=false; {remedy}")
    if importlib.util.find_spec("tensorflow") is None:
        raise _Unprepared(
            f"{missing} and TensorFlow, needed to prepare one, is not installed; {remedy}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS's own download errors share no other base class
        raise _Unprepared(
            f"{missing} and downloading failed ({type(error).__name__}); {remedy}"
        ) from error


def _read(builder, split) -> Dataset:
    """One split of images as arrays."""
    (image, label), records = _keys(builder), _records(builder, split)
    name, shapes = builder.info.full_name, {np.shape(record[image]) for record in records}
    if len(shapes) != 1:
        raise SettingError(
            f"{name}: images of one shape are needed, but {split} has {len(shapes)} shapes"
        )
    x = np.stack([record[image] for record in records])
    y = np.array([record[label] for record in records])
    scale = 255.0 if x.dtype == np.uint8 else 1.0
    classes = builder.info.features[label].num_classes
    return dataset(x / np.float32(scale), y, classes, f"{name} {split}")


def _read_texts(builder, splits, tokenizer, length) -> Source:
    """The train and the test split of texts as token ids, tokenised at once: what is cut is said
    once."""
    text, label = _keys(builder)
    parts = [_records(builder, split) for split in splits]
    texts = [bytes(record[text]).decode("utf8") for records in parts for record in records]
    x = tokenised(texts, tokenizer=tokenizer, length=length)
    classes, name = builder.info.features[label].num_classes, builder.info.full_name
    train, test = (
        dataset(ids, np.array([record[label] for record in records]), classes, f"{name} {split}")
        for ids, records, split in zip(np.split(x, [len(parts[0])]), parts, splits, strict=True)
    )
    return source(train, test, 0.0, 1.0)


def _keys(builder) -> tuple[str, str]:
    """The names of input and label; SettingError where these are no images or texts with class
    labels."""
    features = dict(builder.info.features)
    names = builder.info.supervised_keys or ("text" if "text" in features else "image", "label")
    kind, labels = (features.get(name) for name in names)
    pictures = len(getattr(kind, "shape", ())) in (2, 3)
    if not isinstance(labels, tfds.features.ClassLabel) or not (pictures or _is_text(kind)):
        raise SettingError(
            f"{builder.info.full_name}: expected images or texts with class labels, but its "
            f"features are {', '.join(features)}"
        )
    return names


def _is_text(feature) -> bool:
    return isinstance(feature, tfds.features.Text)


def _records(builder, split):
    """One split, read in one call: iterating takes three times as long."""
    name = builder.info.full_name
    try:
        with _quiet():
            data = builder.as_data_source(split)
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise SettingError(f"{name}: cannot read split {split!r}; it has {known}") from error
    promised = builder.info.splits[split].num_examples
    try:
        records = data.__getitems__(range(len(data)))
    except Exception as error:  # the array_record reader raises what its C++ side threw
        raise SettingError(
            f"{builder.data_dir}: the prepared copy is damaged ({_first_line(error)}); {REMAKE}"
        ) from error
    if len(records) != promised:
        raise SettingError(
            f"{builder.data_dir}: {split} holds {len(records)} examples, {promised} are promised; "
            f"{REMAKE}"
        )
    return records


def _folder(data_dir):
    return None if data_dir is None else text("source.data_dir", data_dir)


def _first_line(error) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:160]


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
