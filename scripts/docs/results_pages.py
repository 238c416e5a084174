"""The results pages, from `results/`: its README, tables and benchmarks as pages, and figures.

A link that leads from a page into `results/` is turned to where the page or figure is on the site.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
HOME = "results.md"  # the page that results/README.md becomes
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def pages() -> dict[str, str]:
    """The README and the tables of `results/`, by the places of their pages."""
    sources = [ROOT / "results" / "README.md", *sorted((ROOT / "results").glob("*/*.md"))]
    return {site_path(_place(path)): _page(path) for path in sources}


def figures() -> Iterator[Path]:
    """The figures that are committed."""
    yield from sorted((ROOT / "results").glob("*/*.png"))


def turned(source: str, text: str) -> str:
    """The text of a file with its links into `results/` turned to the site.

    source: the file's place in the repository, such as docs/index.md.
    """
    here = PurePosixPath(site_path(source)).parent

    def turn(link: re.Match) -> str:
        target = os.path.normpath(PurePosixPath(source).parent / link[0])
        if not target.startswith("results/"):
            return link[0]
        return os.path.relpath(site_path(target), here)

    return LINK.sub(turn, text)


def site_path(source: str) -> str:
    """Where a file of the repository is on the site."""
    return HOME if source == "results/README.md" else source.removeprefix("docs/")


def _page(path: Path) -> str:
    """A file of `results/` as a page; a number stays on one line with its spread."""
    return turned(_place(path), path.read_text()).replace(" ± ", "\u00a0±\u00a0")


def _place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
