"""README and pages can be read: short pages, short lines, short sentences."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
START = sorted((ROOT / "docs" / "start").glob("*.md"))
NOT_PROSE = re.compile(r"```.*?```|<!--.*?-->|^(?:\||#|!\[|\[[^]]+\]: ).*?$", re.S | re.M)
BULLET = r"(?:[*-]|\d+\.) "
PARAGRAPH = re.compile(rf"\n(?:\s*\n)+|\n(?=\s*{BULLET})")  # or an item of a list
END = re.compile(r"(?<=[.!?:])\s+(?=[^a-z])")


def sentence_lengths(text: str) -> list[int]:
    """Words of each sentence of the prose, a code span counted as one."""
    text = re.sub(r"\]\([^)]*\)|\]\[[^]]*\]", "]", NOT_PROSE.sub("", text))
    text = re.sub(r"`[^`]*`", "code", text)
    paragraphs = (re.sub(rf"^{BULLET}", "", one.strip()) for one in PARAGRAPH.split(text))
    sentences = (end for one in paragraphs for end in END.split(one))
    return [len(one.split()) for one in sentences if len(one.split()) > 1]


def test_sentences_are_counted():
    text = (
        "# Head\n\nOne two `a b` four. Five [six](x.md) seven!\n\n* eight nine\n* ten\n\n| a b |\n"
    )
    assert sentence_lengths(text) == [4, 3, 2]


def test_the_readme_is_read_in_three_minutes():
    assert len(README.read_text().splitlines()) <= 150
    assert len(README.read_bytes()) <= 12_000


@pytest.mark.parametrize("page", [README, *START], ids=lambda page: page.name)
def test_sentences_are_short(page):
    lengths = sentence_lengths(page.read_text())
    assert sum(lengths) / len(lengths) < 20


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_pages_and_lines_are_short(page):
    lines = page.read_text().splitlines()
    assert len(lines) <= 300
    assert [line for line in lines if len(line) > 100] == []
