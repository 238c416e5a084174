"""The files of a run's folder, read so that damage is one line: which file, what is wrong, how the
run is made again.

A full disk, a copy that was cut short or an editor leaves empty files, files that are not text,
other values than a run writes. Nothing that is read is ever run as code: no pickles.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ntkcl.runs.settings import GROUPS
from ntkcl.validation import SettingError

AGAIN = "give its command again, with sweep.retry=all"
# Beside settings and summary, by kind.
WRITTEN = {"runs": ("arrays.npz", "rows.parquet"), "plans": ("candidates.parquet",)}
ARRAYS = ("measured", "targets", "heads", "losses", "start_train", "start_test")
MISSING = "is missing"
BROKEN = (  # what reading JSON, YAML, .npz and Parquet raises
    OSError, ValueError, TypeError, AttributeError, LookupError, EOFError, RecursionError,
    NotImplementedError, yaml.YAMLError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it is ten times faster


class Damaged(SettingError):
    """A file of a run cannot be read: one line that names it and how the run is made again."""

    def __init__(self, path: Path, what: str):
        unknown = what == MISSING and path.name == "config.yaml"  # nobody's folder is overwritten
        first = "move its folder away and " if unknown else ""
        super().__init__(f"{path}: {what}; to make this run anew, {first}{AGAIN}")


def summary(folder: Path) -> dict:
    """The contents of `summary.json`, a mapping that is not empty; Damaged for anything else."""
    return _mapping(folder / "summary.json", json.loads)


def settings(folder: Path) -> dict:
    """The contents of `config.yaml`, whose parts name their targets; Damaged for anything else."""
    content = _mapping(folder / "config.yaml", lambda text: yaml.load(text, Loader=_Loader))
    lacking = [name for name in ("experiment_name", "seed", *GROUPS) if name not in content]
    for name in GROUPS:
        target = content[name].get("_target_") if isinstance(content.get(name), Mapping) else None
        lacking += [f"{name}._target_"] if name in content and not isinstance(target, str) else []
    if lacking:
        raise Damaged(folder / "config.yaml", f"lacks {', '.join(lacking)}")
    return content


def _mapping(path, read) -> dict:
    content = _read(path, lambda: read(path.read_text(encoding="utf-8")))
    if not isinstance(content, Mapping) or not content:
        raise Damaged(path, f"expected the settings or numbers of a run, found {_kind(content)}")
    return dict(content)


def arrays(folder: Path, needed: Sequence[str] = ARRAYS) -> dict[str, np.ndarray]:
    """The arrays of `arrays.npz`, by name; Damaged where they cannot be read without pickles,
    or one is lacking."""

    def read():
        with (folder / "arrays.npz").open("rb") as file:
            zipfile.ZipFile(file).close()  # np.load leaves half an object behind where this fails
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return dict(stored)

    named = _read(folder / "arrays.npz", read)
    if lacking := [name for name in needed if name not in named]:
        raise Damaged(folder / "arrays.npz", f"lacks {', '.join(lacking)}")
    return named


def table(path: Path) -> pd.DataFrame:
    """A Parquet file; Damaged where it cannot be read."""
    return _read(path, lambda: pd.read_parquet(path))


def _read(path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError as error:
        raise Damaged(path, MISSING) from error
    except PermissionError as error:  # of the reader's making, and no damage
        raise SettingError(f"{path}: {error.strerror}; make it readable") from error
    except UnicodeDecodeError as error:
        raise Damaged(path, "is not text in UTF-8") from error
    except BROKEN as error:
        what = "is empty" if _size(path) == 0 else f"cannot be read ({_short(error)})"
        raise Damaged(path, what) from error


def _size(path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _short(error) -> str:
    return re.sub(r"\s+", " ", str(error) or type(error).__name__)[:80]


def _kind(value) -> str:
    return "nothing" if value is None or value == {} or value == "" else f"a {type(value).__name__}"


def glance(folder: Path) -> dict | None:
    """The summary of a run or a plan that can be read as far as a quick look tells, else None:
    settings, tables and arrays are there and do not end in their midst."""
    try:
        content = summary(folder)
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    others = WRITTEN.get(folder.parents[1].name, ())
    sound = begins(text) and text.endswith("\n") and all(_ends(folder / name) for name in others)
    return content if sound else None


def begins(text: str) -> bool:
    """Whether a text begins as a run's `config.yaml`: with a setting. To parse it takes longer."""
    return re.match(r"[A-Za-z_]\w*:", text) is not None


def _ends(path) -> bool:
    """Whether an .npz or Parquet file has its end, which is written last."""
    try:
        if path.suffix == ".npz":
            return zipfile.is_zipfile(path)
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(-4, 2)
            return head == file.read() == b"PAR1"
    except OSError:
        return False
