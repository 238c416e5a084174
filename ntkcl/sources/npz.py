"""Arrays of one's own, in an npz file."""

import zipfile
from pathlib import Path

import numpy as np

from ntkcl import validation
from ntkcl.sources.checks import dataset, held_out, source
from ntkcl.types import Source
from ntkcl.validation import SettingError, fraction, text, whole

APART = ("x_train", "y_train", "x_test", "y_test")
TOGETHER = ("x", "y")

# What numpy raises for one array, pickles, no zip at all.
UNREADABLE = (AttributeError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile)


def npz(
    path: str,
    *,
    mean: float,
    sd: float,
    classes: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Source:
    """Labelled images that lie in an npz file as `x_train`, `y_train`, `x_test`, `y_test`; or as
    `x`, `y`, split here.

    Images [n, h, w] or [n, h, w, channels], or vectors of features [n, d], which mlp takes: bytes
    are divided by 255, reals taken as they are. Labels [n] are whole numbers from 0, or
    [n, classes] one-hot.

    Arguments:
      mean, sd: of a pixel, after that division; 0 and 1 leave it as it is.
      classes: how many there are, labels being 0 to classes - 1; null takes the distinct labels of
        both sets, in their order: of 0, 1000, 2000 the classes are 0, 1, 2.
      test_fraction: of each class, where `x` and `y` are split, drawn by `seed`: rounded, but one
        image at least on either side.
    Raises ValueError naming the file and the array that is missing, or of another shape, type or
      value.
    """
    arrays, names = _read(text("source.path", path))
    share = fraction("source.test_fraction", test_fraction)
    validation.seed("source.seed", seed)
    parts, count = _numbered(path, _pairs(path, arrays, names, classes), classes)
    if "" in parts:
        x, labels = parts[""]
        test = held_out(f"source.path={path}", labels, share, seed)
        parts = {"_train": (x[~test], labels[~test]), "_test": (x[test], labels[test])}
    shapes = {x.shape[1:] for x, _ in parts.values()}
    if len(shapes) > 1:
        theirs = " and ".join(f"x{part} of {x.shape[1:]}" for part, (x, _) in parts.items())
        raise SettingError(f"source.path={path}: images of one shape are needed, found {theirs}")
    train, test_set = (
        dataset(x, labels, count, f"source.path={path}: x{part}, y{part}")
        for part, (x, labels) in parts.items()
    )
    return source(train, test_set, mean, sd)


def _pairs(path, arrays, names, classes) -> dict:
    """{part of the names: (images, (labels, classes of one-hot rows or None))}."""
    if set(TOGETHER) <= set(arrays) and not set(APART) & set(arrays):
        parts = [""]
    elif set(APART) <= set(arrays):
        parts = ["_train", "_test"]
    else:
        found = ", ".join(sorted(names)) or "nothing"
        raise SettingError(
            f"source.path={path}: expected the arrays {', '.join(APART)}, or {', '.join(TOGETHER)} "
            f"alone; found {found}"
        )
    pairs = {}
    for p in parts:
        x = _images(path, f"x{p}", arrays[f"x{p}"])
        pairs[p] = x, _labels(path, f"y{p}", arrays[f"y{p}"], classes)
    for p, (x, (labels, _)) in pairs.items():
        if len(x) != len(labels) or not len(x):
            raise SettingError(
                f"source.path={path}: x{p} has {len(x)} images and y{p} {len(labels)} "
                "labels; expected as many, not none"
            )
    return pairs


def _numbered(path, pairs: dict, classes: int | None) -> tuple[dict, int]:
    """{part: (images, labels)} and the count of classes; where that is not known, labels become
    their place among the distinct ones."""
    known = {wide for _, (_, wide) in pairs.values() if wide is not None}
    if len(known) > 1:
        raise SettingError(
            f"source.path={path}: y_train and y_test are one-hot of {sorted(known)} classes; "
            "expected as many"
        )
    parts = {p: (x, labels) for p, (x, (labels, _)) in pairs.items()}
    count = classes or (known.pop() if known else None)
    if count is not None:
        return parts, count
    distinct = np.unique(np.concatenate([labels for _, labels in parts.values()]))
    parts = {p: (x, np.searchsorted(distinct, labels)) for p, (x, labels) in parts.items()}
    return parts, len(distinct)


def _read(path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays that are of use, and the names of all."""
    if not Path(path).is_file():
        raise SettingError(
            f"source.path={path}: no such file; expected an npz file, as numpy.savez writes it"
        )
    try:
        with np.load(path) as stored:
            wanted = [name for name in stored.files if name in (*APART, *TOGETHER)]
            return {name: stored[name] for name in wanted}, stored.files
    except UNREADABLE as error:
        raise SettingError(
            f"source.path={path}: not an npz file of plain arrays ({type(error).__name__}); see "
            "numpy.savez"
        ) from error


def _images(path, name, x) -> np.ndarray:
    if x.ndim not in (2, 3, 4) or 0 in x.shape[1:]:
        raise SettingError(
            f"source.path={path}: {name} of shape {x.shape}; expected images [n, h, w] or [n, h, "
            "w, channels], or vectors [n, d]"
        )
    if x.dtype == np.uint8:
        return x / np.float32(255)
    if not np.issubdtype(x.dtype, np.floating):
        raise SettingError(
            f"source.path={path}: {name} of type {x.dtype}; expected bytes (uint8, divided by 255) "
            "or floating-point numbers"
        )
    return x


def _labels(path, name, y, classes) -> tuple[np.ndarray, int | None]:
    """The labels [n], and how many classes one-hot rows tell of."""
    where = f"source.path={path}: {name}"
    if classes is not None:
        whole("source.classes", classes, least=2)
    if y.ndim not in (1, 2) or not (
        np.issubdtype(y.dtype, np.integer) or y.dtype == bool or np.issubdtype(y.dtype, np.floating)
    ):
        raise SettingError(
            f"{where} of shape {y.shape} and type {y.dtype}; expected labels [n], or one-hot [n, "
            "classes]"
        )
    if y.ndim == 2 and y.shape[1] != 1:
        bad = np.flatnonzero(~(np.isin(y, (0, 1)).all(1) & (y.sum(1) == 1)))
        if len(bad):
            raise SettingError(
                f"{where}: row {bad[0]} is not one-hot; expected a single 1 among zeros"
            )
        if classes is not None and y.shape[1] != classes:
            raise SettingError(
                f"{where}: one-hot of {y.shape[1]} classes, but source.classes={classes}"
            )
        return y.argmax(1), y.shape[1]
    flat = y.reshape(-1)
    bad = np.flatnonzero(
        ~(np.isfinite(flat) & (flat >= 0) & (flat == np.floor(flat)) & (flat < 2**31))
    )
    if len(bad):
        raise SettingError(
            f"{where}: label {flat[bad[0]]} of image {bad[0]}; expected whole numbers from 0"
        )
    return flat.astype(int), None
