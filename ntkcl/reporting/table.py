"""The sweep table: runs from their folders into one row each, and cells of settings into means over seeds with their intervals."""

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from ntkcl.reporting.where import holds
from ntkcl.runs import stored
from ntkcl.runs.files import read_summary
from ntkcl.runs.identity import digest, flat
from ntkcl.runs.settings import GROUPS, UNHASHED_DEFAULTS
from ntkcl.runs.stored import Damaged
from ntkcl.validation import one_of

FORMATS = ("markdown", "csv", "latex", "parquet")
FIRST = (
    *GROUPS,
    "network.width",
    "network.parametrization",
    "network.gamma0",
)  # told before other settings
SHOWN = (  # where nothing else is asked for, of those that there are
    "metrics.average_accuracy", "metrics.learning_accuracy", "metrics.forgetting_chaudhry", "forecast.init.drift_r2",
    "forecast.boundary.drift_r2",
)  # fmt: skip
LEVEL = 0.95  # of the intervals


def folders(results_dir: Path | str, experiments: Sequence[str] = ()) -> list[Path]:
    """The folders of the runs under `results_dir`/runs, of some experiments or of all: complete
    ones, and damaged ones (see `read`).

    Raises ValueError where there are none.
    """
    root = Path(results_dir) / "runs"
    names = (
        list(experiments) or sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        if root.is_dir()
        else []
    )
    by_name = {
        name: [Path(entry.path) for entry in _entries(root / name) if _is_run(Path(entry.path))]
        for name in names
    }
    found = [folder for runs in by_name.values() for folder in runs]
    empty = [name for name in experiments if not by_name.get(name)]
    if empty or not found:
        there = (
            ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir()))
            if root.is_dir()
            else "nothing"
        )
        of = f"experiment_name={','.join(empty)}" if experiments else f"results_dir={results_dir}"
        raise ValueError(f"{of}: no complete runs in {root}, which holds {there or 'nothing'}")
    return found


def _is_run(folder) -> bool:
    """Whether a folder is a run, be it a damaged one."""
    return any((folder / name).is_file() for name in ("summary.json", "config.yaml"))


def _entries(folder) -> list[os.DirEntry]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # a name with a dot is a stage that a run is written in
        return sorted(
            (e for e in entries if e.is_dir() and not e.name.startswith(".")), key=lambda e: e.name
        )


def gather(runs: Sequence[Path]) -> pd.DataFrame:
    """`read`'s table alone, of runs of which none is damaged."""
    return read(runs)[1]


def read(
    runs: Sequence[Path],
    skip: Callable[[str], None] | None = None,
) -> tuple[list[Path], pd.DataFrame]:
    """The runs that can be read, and one row of each: `run` its folder's name, every setting and
    every number of its summary by dotted name; `same` tells whether two experiments have made the
    same run.

    `method`, `stream`, `source`, `network`, `loss`, `optimizer` are the names of what was chosen; of the optimizer Optax's, where it is
    one of those.

    A run whose settings or summary are damaged is left out and `skip` called with a line that names
    it; without `skip`, that line is a `ntkcl.runs.stored.Damaged`. Raises ValueError where none is left.
    """
    rows, told = {}, []
    for folder in runs:
        try:
            rows[folder] = _row(folder)
        except Damaged as error:
            if skip is None:
                raise
            told.append(str(error))
    for line in told:
        skip(line)  # type: ignore[misc]
    if not rows:
        left = f"none of {len(told)} runs can be read"
        raise ValueError(f"results_dir: {left}; make them anew, or set another results_dir")
    table = pd.DataFrame(list(rows.values()))
    for (
        group,
        younger,
    ) in (
        UNHASHED_DEFAULTS.items()
    ):  # left out of a configuration where they have the value that there once was alone
        for name, value in younger.items():
            column = f"{group}.{name}"
            if column in table and value is not None:
                alike = (
                    table[group].isin(table.loc[table[column].notna(), group])
                    if group in table
                    else table.index == table.index
                )
                table[column] = table[column].where(table[column].notna() | ~alike, value)
    return list(rows), table


def _row(folder) -> dict[str, Any]:
    settings = stored.settings(folder)
    named = {g: settings[g]["_target_"].rsplit(".", 1)[-1] for g in GROUPS}
    named["optimizer"] = settings["optimizer"].get("name", named["optimizer"])
    plumbing = ("_partial_", "_convert_", *(f"{group}._target_" for group in GROUPS))
    plain = {
        key: value
        for key, value in flat(settings).items()
        if not (key in plumbing or key.endswith(plumbing[:2]))
    }
    told = {
        key: json.dumps(value) if isinstance(value, list) else value
        for key, value in plain.items()
        if key not in named
    }
    found = {
        key: value
        for key, value in flat(read_summary(folder)).items()
        if not isinstance(value, str | list) or key == "status"
    }
    numbers = {
        key: float("nan") if value is None else value for key, value in found.items()
    }  # null in every run is a number, too
    try:
        named_alike = {key: one for key, one in settings.items() if key != "experiment_name"}
        same = digest(_equal(named_alike))
    except TypeError as error:  # a date, say, which JSON does not know
        raise Damaged(folder / "config.yaml", f"holds what no setting is ({error})") from error
    return {"run": folder.name, "same": same} | named | told | numbers


def _equal(value):
    """Settings with whole numbers alike, whether they were written 2 or 2.0."""
    if isinstance(value, Mapping):
        return {key: _equal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_equal(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def varied(table: pd.DataFrame) -> list[str]:
    """The settings that tell the cells apart: of all that vary, seeds aside, those that are needed to, best known first."""
    settings = list(
        dict.fromkeys(c for c in (*FIRST, *table.columns) if c in table and is_setting(c))
    )
    settings.sort(
        key=lambda name: name == "experiment_name"
    )  # where two experiments share a cell, and not before what they differ in
    chosen: list[str] = []
    cells = 1
    for column in settings:
        if column == "seed" or ("seed" in table and _follows(table[column], table["seed"])):
            continue
        finer = table.groupby([*chosen, column], dropna=False).ngroups
        if finer > cells:
            chosen, cells = [*chosen, column], finer
    return chosen


def _follows(column, seed) -> bool:
    there = column.notna()
    return bool(there.any() and (column[there] == seed[there]).all())


RESULTS = (
    "metrics",
    "metrics_loss",
    "forecast",
    "kernel",
    "seconds",
    "peak_mib",
    "reference",
    "environment",
)


def is_setting(column: str) -> bool:
    """Whether a column of the table is a setting, and not a number of the summary."""
    head = column.split(".")[0]
    setting_of_forecast = column in (
        "forecast.anchors",
        "forecast.form",
        "forecast.krylov_order",
        "forecast.kernels",
        "forecast.tolerance",
    )
    own = ("run", "same", "status", "schema", "learning_rate", "learning_rate_limit")
    return setting_of_forecast or (head not in RESULTS and column not in own)


def axes(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Of the settings that vary, those with numbers and those with words."""
    settings = varied(table)
    numbers = [
        c
        for c in settings
        if pd.api.types.is_numeric_dtype(table[c]) and not pd.api.types.is_bool_dtype(table[c])
    ]
    numeric = [c for c in numbers if table[c].notna().all()]  # beside none, a number is a word
    return numeric, [c for c in settings if c not in numeric]


def anchors(table: pd.DataFrame) -> list[str]:
    """From where the runs forecast."""
    return sorted(
        {
            c.split(".")[1]
            for c in table.columns
            if c.startswith("forecast.") and c.endswith(".drift_r2")
        }
    )


def chosen(table: pd.DataFrame, where: str | None) -> pd.DataFrame:
    """The rows for which a condition holds, such as "method == 'ewc' and `network.width` > 64" (see
    `ntkcl.reporting.where`); ValueError for one that is none, and for one that holds for no row."""
    if where is None:
        return table
    try:
        kept = table[holds(where, table)]
    except ValueError as error:
        raise ValueError(f"where={where}: {error}") from error
    if kept.empty:
        raise ValueError(f"where={where}: holds for none of {len(table)} runs")
    return kept


def summary(table: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """One row a cell of the settings `by`: `runs`, and of each value its `mean`, `sd` (ddof 1) and `ci`, the half-width of the 95 %
    Student interval of the mean, over the runs in which it is a number.

    The columns of values are pairs (value, statistic), those of settings (setting, ""). A run that several experiments have made counts
    once in a cell. Raises ValueError for a column there is not.
    """
    for setting, names in (("by", by), ("values", values)):
        for name in names:
            if name not in table:
                raise ValueError(
                    f"{setting}={name}: no such column; the nearest are {', '.join(_nearest(name, table))}"
                )
    for name in values:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"values={name}: expected a number, found {table[name].iloc[0]!r}")
    counted = once(table, by)
    grouped = (
        counted.groupby(list(by), dropna=False, sort=True) if by else counted.groupby(lambda _: 0)
    )
    cells = []
    for key, rows in grouped:
        cell = (
            dict(
                zip(
                    [(name, "") for name in by],
                    key if isinstance(key, tuple) else (key,),
                    strict=False,
                )
            )
            if by
            else {}
        )
        cell[("runs", "")] = len(rows)
        for name in values:
            cell |= {
                (name, what): number
                for what, number in statistics(rows[name].to_numpy(float)).items()
            }
        cells.append(cell)
    return pd.DataFrame(cells, columns=pd.MultiIndex.from_tuples(cells[0]))


def once(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row a run and cell of `by`, where several experiments may have made the same run; of each number the first that there is."""
    keys = list(dict.fromkeys([*by, "same"]))
    return (
        table.groupby(keys, dropna=False, sort=False, as_index=False).first()
        if table.duplicated(keys).any()
        else table
    )


def statistics(values: np.ndarray) -> dict[str, float]:
    """n, mean, standard deviation (ddof 1) and half-width of the 95 % Student interval of the mean, of the values that are numbers."""
    finite = values[np.isfinite(values)]
    n = len(finite)
    sd = float(np.std(finite, ddof=1)) if n > 1 else float("nan")
    ci = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * sd / np.sqrt(n) if n > 1 else float("nan")
    return {
        "n": float(n),
        "mean": float(np.mean(finite)) if n else float("nan"),
        "sd": sd,
        "ci": float(ci),
    }


def pivoted(cells: pd.DataFrame, pivot: str, values: Sequence[str]) -> pd.DataFrame:
    """Texts `mean ± ci`, the values of the setting `pivot` side by side, one such block a value."""
    told = readable(cells)
    by = [c for c in told.columns if c not in (*values, "runs", pivot)]
    if pivot not in told:
        raise ValueError(f"pivot={pivot}: expected one of the settings in `by`: {', '.join([*by])}")
    wide = (
        told.pivot(index=by, columns=pivot, values=list(values))
        if by
        else told.set_index(pivot)[list(values)].T
    )
    if not by:
        return wide.reset_index(names="")
    wide.columns = [
        f"{key}" if len(values) == 1 else f"{value} {key}" for value, key in wide.columns
    ]
    return wide.reset_index()


def readable(cells: pd.DataFrame) -> pd.DataFrame:
    """Each value as one column of texts, `mean ± ci`, or the mean alone where one run is all there is."""
    told = {}
    for name, what in cells.columns:
        if what == "":
            told[name] = cells[(name, "")]
        elif what == "mean":
            told[name] = [
                _told(m, c) for m, c in zip(cells[(name, "mean")], cells[(name, "ci")], strict=True)
            ]
    return pd.DataFrame(told)


def _told(mean, ci) -> str:
    if not np.isfinite(mean):
        return "-"
    if not np.isfinite(ci):
        return f"{mean:.4g}"
    if abs(mean) >= 1e5 or ci >= 1e5:
        return f"{mean:.2e} ± {ci:.1e}"
    digits = max(0, 1 - int(np.floor(np.log10(ci)))) if ci > 0 else 4  # two figures of the interval
    return f"{mean:.{digits}f} ± {ci:.{digits}f}" if digits < 8 else f"{mean:.3e} ± {ci:.1e}"


def written(
    cells: pd.DataFrame, form: str, pivot: str | None, values: Sequence[str]
) -> str | bytes:
    """The table in one of `FORMATS`: for people means with intervals, pivoted if asked; for programs every statistic in its column."""
    one_of("format", form, FORMATS)
    if form in ("csv", "parquet"):
        if pivot is not None:
            raise ValueError(
                f"pivot={pivot}: format={form} keeps every statistic in a column of its own; expected null, or markdown"
            )
        wide = cells.set_axis(
            [".".join(part for part in pair if part) for pair in cells.columns], axis=1
        )
        return wide.to_csv(index=False) if form == "csv" else wide.to_parquet(index=False)
    told = readable(cells) if pivot is None else pivoted(cells, pivot, values)
    told = told.map(_short)
    if form == "markdown":
        return told.to_markdown(index=False, disable_numparse=True) + "\n"
    escaped = told.rename(columns=_latex).map(_latex)
    return escaped.to_latex(index=False, escape=False, column_format="l" * len(told.columns))


def _short(value) -> str:
    return (
        ""
        if value is None or value != value
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _latex(text) -> str:
    for sign in "_%&#":
        text = str(text).replace(sign, f"\\{sign}")
    return text.replace("±", r"$\pm$")


def _nearest(name, table) -> list[str]:
    by_end = [c for c in table.columns if c != "same" and c.split(".")[-1] == name.split(".")[-1]]
    return (
        by_end
        + difflib.get_close_matches(
            name, [c for c in table.columns if c != "same"], n=3, cutoff=0.3
        )
    )[:3]
