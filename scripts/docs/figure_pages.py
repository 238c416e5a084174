"""The page of papers' figures: each preset under conf/figure, its command, figure and table."""

import re
from pathlib import Path

import conf_pages
import results_pages

ROOT = Path(__file__).parents[2]
HOME = "papers.md"
ROWS = 30  # of a table that is shown as it is
HEAD = """# Figures of papers, and our own

Each is one command, which computes, judges its claims and draws; `size=small` shows in about a
minute that it runs, of the digits that need no files, and `draw=true` draws the stored numbers
again.
`make figures` redraws all of them, `make figures SIZE=small FRESH=1` computes all of them small.
What every paper claims and what came out is one table among the [results](results.md).
"""


def pages() -> dict[str, str]:
    """One page with a section for every preset of a figure."""
    sections = [section(name, said) for name, said in conf_pages.presets("figure").items()]
    return {HOME: "\n".join([HEAD, *sections])}


def section(name: str, said: dict[str, str]) -> str:
    """A preset's claim, command, figure and stored table."""
    table = results_pages.turned(
        f"results/tables/{name}.md", (ROOT / "results" / "tables" / f"{name}.md").read_text()
    )
    about = {key: conf_pages.plain(" ".join(text.split())) for key, text in said.items()}
    parts = [
        f"## {title(name)}\n",
        f"{about['claim'][:1].upper()}{about['claim'][1:]}.\n",
        f"```sh\npython scripts/figures/{name}.py\n```\n",
        f"Source: {about['source']}. Time: {about['time']}.\n",
        f"![{title(name)}](results/figures/{name}.png)\n",
        folded(re.sub(r"\A# .*\n+", "", table).replace(" ± ", "\u00a0±\u00a0")),
    ]
    return "\n".join(parts)


def folded(markdown: str) -> str:
    """With each table of more than `ROWS` lines behind a line to click on."""

    def fold(table: re.Match) -> str:
        if table[0].count("\n") <= ROWS:
            return table[0]
        said = f"{table[0].count(chr(10)) - 2} rows"
        return f'<details markdown="1"><summary>{said}</summary>\n\n{table[0]}\n</details>\n'

    return re.sub(r"(?:^\|.*\n)+", fold, markdown, flags=re.M)


def title(name: str) -> str:
    """The first line of the script's docstring, which names the paper and the figure."""
    text = (ROOT / "scripts" / "figures" / f"{name}.py").read_text()
    return text.splitlines()[0].removeprefix('"""').removesuffix(".")
