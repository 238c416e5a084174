"""Docstrings of this project as Markdown.

A docstring is sentences, formulas (indented by four), labels such as `Returns:` or `Raises ...` at
the start of a line, and lists: of `* ...`, or of `name: meaning` below `Arguments:` or in the
docstring of a NamedTuple. Everything but code spans is plain text, so what Markdown would take for
markup is escaped.
"""

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

import griffe

LABEL = re.compile(
    r"(Arguments(?: and errors|, cost, errors and source)?|Returns|Yields|Raises|Cost|"
    r"Kernel space|Source(?: of the scenarios)?)(:| )"
)
ITEM = re.compile(r"`?[A-Za-z_]\w*`?(?:, `?\w+`?)*: \S")
SEVERAL = re.compile(r" {2,}(?=`?[A-Za-z_]\w*`?: )")  # items on one line, two spaces between
MARKUP = re.compile(r"[\\*_\[\]#{}]")  # what Markdown lets a backslash escape
FORMULA = 4  # spaces before a line that is shown as it is


class Block(NamedTuple):
    """Lines that belong together: a `paragraph`, an `item` of a list, or a `formula`."""

    kind: str
    lines: list[str]


def markdown(docstring: str) -> str:
    """The docstring as Markdown."""
    blocks = list(_blocks(inspect.cleandoc(docstring).splitlines()))
    text = ""
    for before, block in itertools.pairwise([Block("paragraph", []), *blocks]):
        gap = "\n" if before.kind == block.kind == "item" else "\n\n"
        text += gap + _shown(block)
    return text.strip()


def plain(text: str) -> str:
    """Text in which nothing but code spans is markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def first_sentence(docstring: str) -> str:
    """What comes before the first blank line or the first full stop, in one line."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    return re.split(r"(?<=[.;])\s+(?=[A-Z])", paragraph)[0]


def fields(cls: griffe.Class) -> str:
    """The fields of a NamedTuple with their types, as code."""
    lines = [
        f"{name}: {one.annotation}" + (f" = {one.value}" if one.value is not None else "")
        for name, one in cls.members.items()
        if one.is_attribute and "property" not in one.labels and not name.startswith("_")
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKUP.sub(r"\\\g<0>", text)


def _blocks(lines: list[str]) -> Iterator[Block]:
    block: Block | None = None
    in_list = False  # below `Arguments:`, where items are indented
    for line in lines:
        text = line.strip()
        if not text:
            block, in_list = None, False
            continue
        indent = len(line) - len(line.lstrip())
        starts = _starts(block, text, indent, in_list)
        if starts is None:
            assert block is not None
            block.lines.append(line if block.kind == "formula" else text)
            continue
        block = Block(starts, [line if starts == "formula" else text])
        in_list = (in_list and indent > 0) or text == "Arguments:"
        yield block


def _starts(block: Block | None, text: str, indent: int, in_list: bool) -> str | None:
    """The kind of block that a line begins, or None where it goes on with the one before."""
    if indent == 0 and LABEL.match(text):
        return "paragraph"
    if (in_list and indent == 2) or (indent == 0 and text.startswith("* ")):
        return "item"
    if not in_list and indent >= FORMULA:
        return None if block is not None and block.kind == "formula" else "formula"
    before = block is None or block.kind == "item"
    if indent == 0 and before and ITEM.match(text):
        return "item"
    if block is None or block.kind == "formula" or (block.kind == "item" and indent == 0):
        return "paragraph"
    return None


def _shown(block: Block) -> str:
    if block.kind == "formula":
        return "```text\n" + textwrap.dedent("\n".join(block.lines)) + "\n```"
    text = " ".join(block.lines)
    if block.kind == "item":
        several = SEVERAL.split(text.removeprefix("* "))
        return "\n".join(f"* {_with_name(one)}" for one in several)
    label = LABEL.match(text)
    if label is None:
        return plain(text)
    return f"**{label[1]}**{label[2]}{plain(text[label.end() :])}"


def _with_name(text: str) -> str:
    names, colon, meaning = text.partition(": ")
    if not colon or not ITEM.match(text):
        return plain(text)
    code = ", ".join(f"`{name.strip('` ')}`" for name in names.split(","))
    return f"{code}: {plain(meaning)}"


class Docstrings(griffe.Extension):
    """Of mkdocstrings: each docstring that it shows is made Markdown."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **_) -> None:
        if cls.docstring is not None and any(str(base) == "NamedTuple" for base in cls.bases):
            cls.docstring.value += f"\n\n{fields(cls)}"
