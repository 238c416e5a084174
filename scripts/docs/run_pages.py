"""What pages about runs, methods and scores take from the code: tables and docstrings.

A page holds `<!-- generated: NAME -->` where `parts()[NAME]` is to stand.
"""

import re
from collections.abc import Iterable

import conf_pages
from api_pages import package, public
from conf_pages import cell, choice
from docstrings import markdown

from ntkcl.runs import schema
from ntkcl.runs.schema import Quantity

MARK = re.compile(r"<!-- generated: (\w+) -->")
# Rows of the summary, by their place in it; rows on train inputs and below `test.` are the same.
SECTIONS = {
    "Of the run": schema.OF_A_RUN,
    "Scores": (*schema.SCORES, *schema.UNTRAINED),
    "`metrics`: of the accuracy": [row for row in schema.METRICS if row.key.startswith("metrics.")],
    "`metrics_loss`: of the loss": [
        row for row in schema.METRICS if row.key.startswith("metrics_loss.")
    ],
    "`reference.<kind>`": schema.REFERENCES,
    "`forecast.<anchor>`: agreement and verdict": schema.AGREEMENT,
    "`forecast.<anchor>`: the kernel of each task": schema.NUMERICS,
}


def filled(page: str) -> str:
    """The page with its marks replaced; KeyError for a name that there is not."""
    return MARK.sub(lambda mark: PARTS[mark[1]](), page)


def summary() -> str:
    """Every key of `summary.json`, and every line that Weights & Biases draws."""
    parts = [f"### {title}\n\n{_quantities(rows)}" for title, rows in SECTIONS.items()]
    for over, rows in schema.HISTORY.items():
        parts.append(f"### Lines in W&B, over `{over}`\n\n{_quantities(rows, '/')}")
    return "\n\n".join(parts)


def methods() -> str:
    """Every method: its settings, and the docstring of its function."""
    return "\n\n".join(_method(name) for name in conf_pages.choices("method"))


def metrics() -> str:
    """Every public function of `ntkcl.metrics`, in a table."""
    rows = []
    for one in public("metrics"):
        defined = package()[one.path.removeprefix("ntkcl.")]
        if defined.is_function:
            name = one.name.removeprefix("ntkcl.metrics.")
            link = f"api/metrics.md#{one.name}"
            rows.append(f"| [`{name}`]({link}) | {_in_a_cell(defined.docstring.value)} |")
    return "\n".join(["| function | what |", "|---|---|", *rows])


PARTS = {"summary": summary, "methods": methods, "metrics": metrics}


def _method(name: str) -> str:
    docstring = package()[f"methods.{_module_of(name)}.{name}"].docstring.value
    return f"## {name}\n\n{choice('method', name)}\n{markdown(docstring)}"


def _module_of(name: str) -> str:
    origin = package()["methods"].imports[name]
    return origin.split(".")[-2]


def _quantities(rows: Iterable[Quantity], join: str = ".") -> str:
    lines = [
        f"| `{row.key.replace('.', join)}` | {cell(row.label)} | {row.unit} | {_meaning(row)} |"
        for row in rows
    ]
    return "\n".join(["| key | label | unit | meaning |", "|---|---|---|---|", *lines])


def _meaning(row: Quantity) -> str:
    form = "" if row.form == schema.NUMBER else f" ({row.form})"
    return cell(row.meaning + form)


def _in_a_cell(docstring: str) -> str:
    """The docstring's first paragraph."""
    first = markdown(docstring).split("\n\n")[0]
    return " ".join(first.split()).replace("|", "\\|")
