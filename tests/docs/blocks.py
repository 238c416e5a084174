"""The fenced blocks of a page, and how a test runs them.

In one folder and one namespace, in their order:

* ```python runs; with a first line such as `# my_package.py` it is written to that file,
* ```yaml with a first line such as `# my_conf/source/mine.yaml` is written to that file,
* ```sh: each line that begins with `ntkcl` runs, other lines name files and targets that exist.

A comment before a block, `<!-- test: network.width=16 -->`, gives overrides that are appended to
its commands; `<!-- test: skip, REASON -->` says why a block cannot run here.
"""

import re
import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

KINDS = {"python", "sh", "yaml", "text", "bibtex"}
BLOCK = re.compile(
    r"(?:<!-- test: (?P<note>[^>]*?) -->\s*?\n)?^(?P<fence> *```)(?P<kind>\w*)[^\n]*\n"
    r"(?P<code>.*?)^(?P=fence) *$",
    re.M | re.S,
)
FILE = re.compile(r"# ([\w/.-]+\.(?:py|yaml))$")
COMMAND = re.compile(r"(?:\w+=\S+ )*ntkcl(?= |$)")
READING = ("table", "report", "dashboard", "--cfg", "--help", "--hydra-help", "--info", "help")


class Block(NamedTuple):
    """One fenced block: its language, its lines, what the comment before it says."""

    kind: str
    code: str
    note: str

    @property
    def skipped(self) -> bool:
        return self.note.startswith("skip")

    @property
    def file(self) -> str | None:
        """The file that it is written to."""
        match = FILE.match(self.code.split("\n")[0])
        return match[1] if match and self.kind in ("python", "yaml") else None


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page, in their order."""
    for match in BLOCK.finditer(text):
        yield Block(match["kind"], textwrap.dedent(match["code"]), match["note"] or "")


def lines(block: Block) -> list[str]:
    """The lines of a ```sh block, those that go on joined."""
    return [line.strip() for line in block.code.replace("\\\n", " ").splitlines() if line.strip()]


def commands(block: Block) -> Iterator[list[str]]:
    """The arguments of each `ntkcl`, the overrides of the comment appended to those that run."""
    for line in lines(block):
        if not COMMAND.match(line):
            continue
        words = shlex.split(line, comments=True)
        words = words[words.index("ntkcl") + 1 :]
        if any(word in READING for word in words):
            yield words
            continue
        logged = any(word.startswith("tracking") for word in words)
        yield [*words, *([] if logged else ["tracking=disabled"]), *shlex.split(block.note)]


def run(text: str, folder: Path, names: dict, command: Callable | None) -> None:
    """Runs the blocks of a page in a folder, Python in the namespace `names`.

    `command(*arguments) -> (exit code, stdout, stderr)`; None leaves commands out.
    """
    for block in blocks(text):
        if block.skipped:
            continue
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code)
        elif block.kind == "python":
            exec(compile(block.code, "page", "exec"), names)
        elif block.kind == "sh" and command is not None:
            for words in commands(block):
                code, out, err = command(*words)
                assert code == 0, f"ntkcl {shlex.join(words)}: {code}\n{out}\n{err}"
