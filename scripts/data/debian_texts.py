"""A table of short texts with labels: what Debian's packages are, in a phrase, by section.

    python scripts/data/debian_texts.py texts.csv
    python scripts/data/debian_texts.py texts.parquet --sections games science --per-section 500

Reads the package index of a Debian machine, `apt-cache dumpavail` (or --records FILE with its
output). Columns: text, label (the section), package. Of descriptions that begin alike, such as
those of a program and its data, the first one is taken, without "(data files)" and the like; very
short ones are left out. `ntkcl source=table source.path=texts.csv` reads the table.

`tests/data/debian_texts.csv` was made so on Debian 12: --per-section 60.
"""

import argparse
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

# Pairs of topics that a model of texts tells apart, and that are far from other pairs.
PAIRS = (
    ("games", "science"),
    ("sound", "graphics"),
    ("python", "perl"),
    ("admin", "net"),
    ("editors", "math"),
)
SECTIONS = [section for pair in PAIRS for section in pair]
ADDED = re.compile(
    r"\s*[(\[-]+\s*(documentation|development|common|data|debug|transitional).*$", re.I
)
BEGINNING = 30  # characters by which descriptions are alike
SHORTEST = 12  # shorter ones say little


class Row(NamedTuple):
    """A package's description and section."""

    text: str
    label: str
    package: str


def rows(index: str) -> Iterator[Row]:
    """Of an index the packages whose description begins as none before it."""
    seen = set()
    for record in index.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Section|Description): (.*)$", record, re.M))
        if len(fields) < 3:
            continue
        text = ADDED.sub("", fields["Description"].strip())
        if len(text) > SHORTEST and text.lower()[:BEGINNING] not in seen:
            seen.add(text.lower()[:BEGINNING])
            yield Row(text, fields["Section"].split("/")[-1], fields["Package"])


def chosen(every: list[Row], sections: list[str], most: int | None, seed: int) -> list[Row]:
    """The rows of the sections, of each at most so many, drawn by the seed, in the index's
    order."""
    kept = []
    for section in sections:
        own = [row for row in every if row.label == section]
        if not own:
            known = ", ".join(sorted({row.label for row in every}))
            raise SystemExit(f"--sections: no package in {section!r}; expected some of {known}")
        count = min(len(own), most or len(own))
        places = sorted(random.Random(f"{seed} {section}").sample(range(len(own)), count))
        kept += [own[i] for i in places]
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="a file ending in .csv or .parquet")
    parser.add_argument("--sections", nargs="+", default=SECTIONS)
    parser.add_argument("--per-section", type=int, help="rows of each; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=Path, help="a file in place of apt-cache dumpavail")
    given = parser.parse_args()
    if given.out.suffix not in (".csv", ".parquet"):
        parser.error(f"{given.out}: expected a file ending in .csv or .parquet")
    if given.per_section is not None and given.per_section < 1:
        parser.error(f"--per-section {given.per_section}: expected at least 1")
    table = pd.DataFrame(
        chosen(list(rows(_index(given.records))), given.sections, given.per_section, given.seed)
    )
    if given.out.suffix == ".csv":
        table.to_csv(given.out, index=False)
    else:
        table.to_parquet(given.out, index=False)
    print(f"{len(table):,} texts of {len(given.sections)} sections -> {given.out}")


def _index(records: Path | None) -> str:
    if records is not None:
        return records.read_text("utf8")
    try:
        command = ["apt-cache", "dumpavail"]
        return subprocess.run(command, capture_output=True, check=True, encoding="utf8").stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"apt-cache dumpavail: {error}; expected --records FILE") from error


if __name__ == "__main__":
    main()
