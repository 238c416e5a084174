"""The section with the test inputs that were forgotten most, as images or texts."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ntkcl.reporting.html.section import section
from ntkcl.reporting.pictures import pictures
from ntkcl.validation import SettingError, are_tokens

# What is raised where there is no such setting, file or package: ids at least tell texts apart.
UNKNOWN = (SettingError, OSError, yaml.YAMLError, LookupError, TypeError)


def samples(
    folder: Path, summary: Mapping, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """The inputs forgotten most: their class, what they were taken for, how far outputs moved.

    `summary` and `arrays` are those of the run in `folder`. None where inputs are neither images
    nor texts, or nothing was forgotten.
    """
    rows = arrays.get("forgotten", ())
    inputs = shown(folder, arrays["forgotten_x"]) if len(rows) else None
    if inputs is None:
        return None
    anchor = next((a for a in ("init", "boundary") if a in summary["forecast"]), None)
    entries = [
        one | _texts(int(row), arrays, anchor) for row, one in zip(rows, inputs, strict=True)
    ]
    note = (
        f"Test inputs of old tasks whose loss rose most, in {folder.name}: the class, the answers "
        "just after the task and at the end, and how far an output moved at most."
    )
    return section("Forgotten most", note, samples=entries)


def _texts(row: int, arrays: Mapping[str, np.ndarray], anchor: str | None) -> dict[str, str]:
    """What stands below the image of one input, given its row among all inputs."""
    measured, heads = arrays["measured"], arrays["heads"].astype(bool)
    task = int(np.searchsorted(arrays["start_test"], row, side="right")) - 1
    head = heads[task]
    before, after = measured[task + 1, row], measured[len(heads), row]
    more = f"moved {_largest(after - before, head):.2f}"
    if anchor is not None:
        predicted = arrays[f"changes_{anchor}"][task + 1 :, row].sum(0)
        more += f", predicted {_largest(predicted, head):.2f}"
    label = answer(arrays["targets"][row], head)
    answers = f"taken for {answer(before, head)}, then {answer(after, head)}"
    return {"text": f"task {task}: {label}, {answers}", "more": more}


def _largest(change: np.ndarray, head: np.ndarray) -> float:
    return float(np.abs(change)[head].max())


def answer(f: np.ndarray, head: np.ndarray) -> str:
    """The class with the largest active output [c]; of a single active output, its sign."""
    if head.sum() == 1:
        return f"{np.sign(f[head][0]):+.0f}"
    return str(int(np.argmax(np.where(head, f, -np.inf))))


def shown(folder: Path, inputs: np.ndarray) -> list[dict[str, str]] | None:
    """What stands for each input, an image or its words."""
    if inputs.ndim == 2 and are_tokens(inputs):
        return [{"words": words} for words in _words(folder, inputs)]
    images = pictures(inputs)
    return None if images is None else [{"image": _png(image)} for image in images]


def _words(folder: Path, ids: np.ndarray) -> list[str]:
    """Texts [k] by the tokenizer that the run's configuration names; where it is not at hand, their
    ids."""
    from ntkcl.sources.tokens import decoded  # with TFDS, which takes a second to import

    try:
        source = yaml.safe_load((folder / "config.yaml").read_text("utf8"))["source"]
        ours = source["_target_"].startswith("ntkcl.sources.")  # null is left out of their settings
        return decoded(ids, source.get("tokenizer") if ours else source["tokenizer"])
    except UNKNOWN:
        return [" ".join(str(i) for i in one if i) for one in ids]


def _png(pixels: np.ndarray) -> str:
    """The data address of pixels in [0, 1]."""
    file = io.BytesIO()
    Image.fromarray((255 * pixels).astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
