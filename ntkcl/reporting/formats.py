"""Cells as text: Markdown and LaTeX for people, CSV and Parquet for programs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ntkcl.reporting.columns import headings
from ntkcl.validation import SettingError, one_of

FORMATS = ("markdown", "csv", "latex", "parquet")
LATEX = {sign: f"\\{sign}" for sign in "_%&#"} | {"±": r"$\pm$", "²": "$^2$"}


def write(cells: pd.DataFrame, form: str, pivot: str | None, values: Sequence[str]) -> str | bytes:
    """The table in one of `FORMATS`.

    For people: means with intervals under the labels of `ntkcl.runs.schema`, pivoted if asked.
    For programs: every statistic in a column of its own, under dotted names.
    """
    one_of("format", form, FORMATS)
    if form in ("csv", "parquet"):
        if pivot is not None:
            raise SettingError(
                f"pivot={pivot}: format={form} keeps every statistic in a column of its own; "
                "expected null, or markdown"
            )
        return _for_programs(cells, form)
    table = labelled(readable(cells)) if pivot is None else pivoted(cells, pivot, values)
    texts = table.map(_text)
    if form == "markdown":
        return texts.to_markdown(index=False, disable_numparse=True) + "\n"
    escaped = texts.rename(columns=_latex).map(_latex)
    return escaped.to_latex(index=False, escape=False, column_format="l" * len(texts.columns))


def _for_programs(cells: pd.DataFrame, form: str) -> str | bytes:
    names = [".".join(part for part in pair if part) for pair in cells.columns]
    wide = cells.set_axis(names, axis=1)
    return wide.to_csv(index=False) if form == "csv" else wide.to_parquet(index=False)


def readable(cells: pd.DataFrame) -> pd.DataFrame:
    """Each value as one column of texts: `mean ± ci`, or the mean alone of a single run."""
    columns = {}
    for name, statistic in cells.columns:
        if statistic == "":
            columns[name] = cells[(name, "")]
        elif statistic == "mean":
            pairs = zip(cells[(name, "mean")], cells[(name, "ci")], strict=True)
            columns[name] = [_interval(mean, ci) for mean, ci in pairs]
    return pd.DataFrame(columns)


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The same table, its columns of numbers under their labels."""
    return table.rename(columns=headings(table.columns))


def pivoted(cells: pd.DataFrame, pivot: str, values: Sequence[str]) -> pd.DataFrame:
    """As `readable` and labelled, the values of the setting `pivot` side by side."""
    texts = readable(cells)
    by = [name for name in texts.columns if name not in (*values, "runs", pivot)]
    if pivot not in texts:
        raise SettingError(f"pivot={pivot}: expected one of the settings in `by`: {', '.join(by)}")
    labels = headings(values)
    if not by:
        return texts.set_index(pivot)[list(values)].T.rename(index=labels).reset_index(names="")
    wide = texts.pivot(index=by, columns=pivot, values=list(values))
    wide.columns = [
        f"{key}" if len(values) == 1 else f"{labels[value]} {key}" for value, key in wide.columns
    ]
    return wide.reset_index()


def _interval(mean: float, ci: float) -> str:
    if not np.isfinite(mean):
        return "-"
    if not np.isfinite(ci):
        return f"{mean:.4g}"
    if abs(mean) >= 1e5 or ci >= 1e5:
        return f"{mean:.2e} ± {ci:.1e}"
    digits = max(0, 1 - int(np.floor(np.log10(ci)))) if ci > 0 else 4  # two figures of the interval
    return f"{mean:.{digits}f} ± {ci:.{digits}f}" if digits < 8 else f"{mean:.3e} ± {ci:.1e}"


def _text(value) -> str:
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _latex(text) -> str:
    text = str(text)
    for sign, command in LATEX.items():
        text = text.replace(sign, command)
    return text
