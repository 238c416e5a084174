"""Texts with labels, in a table: CSV, parquet or JSON lines."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntkcl import validation
from ntkcl.sources.checks import dataset, held_out, source
from ntkcl.sources.tokens import tokenised
from ntkcl.types import Source
from ntkcl.validation import SettingError, fraction
from ntkcl.validation import text as non_empty

KINDS = (".csv", ".parquet", ".jsonl")
PARTS = ("train", "test")


def table(
    path: str,
    *,
    text: str = "text",
    label: str = "label",
    split: str | None = None,
    classes: Sequence[str | int] | None = None,
    tokenizer: str | None = None,
    length: int = 64,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Source:
    """Labelled texts in a CSV file, a parquet file or JSON lines, one a row, as token ids
    [n, length], int32, 0 being padding.

    Arguments:
      path: a file ending in .csv, .parquet or .jsonl.
      text, label, split: names of its columns. Where `split` is given it says train or test of
        each row; else `test_fraction` of each class, drawn by `seed`, is the test set.
      classes: the labels that are read, in the order of their outputs, other rows being left out;
        None takes all, sorted: by value where all are whole numbers, else by name.
      tokenizer, length: as of `ntkcl.sources.tokens.tokenised`, which warns of texts that are cut.
    Raises ValueError naming the file and the column that is missing, the first row that lacks a
      text or a label, and for a single class.
    """
    share = fraction("source.test_fraction", test_fraction)
    validation.seed("source.seed", seed)
    wanted = {"text": text, "label": label} | ({} if split is None else {"split": split})
    origin = f"source.path={path}"
    rows = _columns(path, _read(non_empty("source.path", path)), wanted)
    names = [str(name) for name in rows["label"]]
    order = _classes(origin, names, classes)
    kept = np.flatnonzero([name in order for name in names])
    labels = np.array([order[names[i]] for i in kept])
    parts = [str(rows["split"][i]) for i in kept] if split else None
    test = held_out(origin, labels, share, seed, "row") if parts is None else _tested(origin, parts)
    x = tokenised([rows["text"][i] for i in kept], tokenizer=tokenizer, length=length)
    train, tested = (
        dataset(x[chosen], labels[chosen], len(order), origin) for chosen in (~test, test)
    )
    return source(train, tested, 0.0, 1.0)


def columns(
    path: str,
    names: Sequence[str],
    *,
    text: str = "text",
    tokenizer: str | None = None,
    length: int = 64,
) -> dict[str, Callable[[Any], list[str]]]:
    """Functions from token ids x [n, length] to each text's value in a column. Texts with the same
    token ids, such as ones that are cut alike, get all of their values, joined by " | ".

    Arguments: as of `table`; names: of columns.
    Raises ValueError as `table`, for a column that is not there.
    """
    rows = _read(path)
    for name in names:
        _has(f"whatif.slices: {name}", path, rows, name)
    texts = _columns(path, rows, {"text": text})["text"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that are cut, once more
        x = tokenised(texts, tokenizer=tokenizer, length=length)
    return {name: _by_input(x, rows[name].astype(str).tolist()) for name in names}


def _by_input(x: np.ndarray, values: list[str]) -> Callable[[Any], list[str]]:
    found: dict[bytes, dict[str, None]] = {}
    for ids, value in zip(x, values, strict=True):
        found.setdefault(ids.tobytes(), {})[value] = None
    return lambda given: [" | ".join(found[ids.tobytes()]) for ids in np.asarray(given, x.dtype)]


def _columns(path: str, rows: Any, wanted: dict[str, str]) -> dict[str, list]:
    """{text, label, split: values by row}, none of them missing."""
    origin = f"source.path={path}"
    for setting, column in wanted.items():
        _has(f"source.{setting}={column}", path, rows, column)
    columns = {setting: rows[column] for setting, column in wanted.items()}
    for setting, column in columns.items():
        lacks = column.isna() | (column.astype(str).str.strip() == "")
        if lacks.any():
            raise SettingError(
                f"{origin}: {int(lacks.sum())} of {len(rows)} rows have no {setting} in column "
                f"{wanted[setting]!r}, the first is row {int(np.argmax(lacks))}, counted from 0"
            )
    other = [value for value in columns["text"] if not isinstance(value, str)]
    if other or not len(rows):
        found = f"{type(other[0]).__name__} {other[0]!r}" if other else "no row"
        raise SettingError(f"{origin}: expected texts in column {wanted['text']!r}, found {found}")
    return {setting: column.tolist() for setting, column in columns.items()}


def _has(setting: str, path: str, rows: Any, column: str) -> None:
    if column not in rows.columns:
        raise SettingError(
            f"{setting}: {path} has no such column; expected one of "
            f"{', '.join(map(str, rows.columns))}"
        )


def _read(path: str) -> Any:
    """A pandas table of all columns; of a CSV file every value is a text as it stands there."""
    import pandas as pd

    file = Path(path).expanduser()
    if file.suffix not in KINDS:
        raise SettingError(f"source.path={path}: expected a file ending in {', '.join(KINDS)}")
    if not file.is_file():
        raise SettingError(f"source.path={path}: no such file; expected a table, a text a row")
    try:
        if file.suffix == ".csv":
            return pd.read_csv(file, dtype=str, keep_default_na=False)
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        with file.open(encoding="utf8") as lines:
            return pd.DataFrame([dict(json.loads(line)) for line in lines if line.strip()])
    except (ValueError, TypeError, OSError) as error:  # of a parser, a decoder, pyarrow
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise SettingError(
            f"source.path={path}: cannot be read as {file.suffix[1:]} ({why})"
        ) from error


def _classes(origin: str, names: list[str], classes: Sequence[str | int] | None) -> dict[str, int]:
    """{name of a label: its output}."""
    found = set(names)
    whole = all(name.removeprefix("-").isdecimal() for name in found)
    known = sorted(found, key=int if whole else str)
    chosen = known if classes is None else [str(name) for name in classes]
    if unknown := [name for name in chosen if name not in found]:
        shown = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
        raise SettingError(
            f"source.classes={chosen}: no row is labelled {unknown[0]!r}; expected some of {shown}"
        )
    if len(set(chosen)) < 2 or len(set(chosen)) < len(chosen):
        where = origin if classes is None else "source.classes"
        raise SettingError(f"{where}: labels are {chosen}; expected two classes or more, each once")
    return {name: k for k, name in enumerate(chosen)}


def _tested(origin: str, parts: list[str]) -> np.ndarray:
    """Which rows are the test set's."""
    if set(parts) != set(PARTS):
        found = ", ".join(sorted(set(parts))[:5])
        raise SettingError(f"{origin}: source.split holds {found}; expected train and test")
    return np.array(parts) == "test"
