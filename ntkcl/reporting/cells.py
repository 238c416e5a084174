"""Cells of a sweep: runs with the same settings, as means over seeds with their intervals."""

import difflib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from ntkcl.validation import SettingError

LEVEL = 0.95  # of the intervals


def summary(table: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """One row a cell: the number of `runs`, and the statistics of each value over these runs.

    Arguments:
      table: one row a run, as `ntkcl.reporting.table.gather` makes it.
      by: the settings whose combinations are the cells.  values: columns with numbers.
    Returns: columns (setting, ""), ("runs", "") and (value, statistic), the statistics being those
      of `statistics`. A run that several experiments have made counts once in a cell.
    Raises ValueError for a column that is not in the table, and for a value that is no number.
    """
    _check("by", by, table)
    _check("values", values, table)
    for name in values:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise SettingError(f"values={name}: expected a number, found {table[name].iloc[0]!r}")
    counted = once(table, by)
    if by:
        grouped = counted.groupby(list(by), dropna=False, sort=True)
    else:
        grouped = counted.groupby(lambda _: 0)
    cells = [_cell(by, values, key, runs) for key, runs in grouped]
    return pd.DataFrame(cells, columns=pd.MultiIndex.from_tuples(cells[0]))


def _check(setting: str, names: Sequence[str], table: pd.DataFrame) -> None:
    for name in names:
        if name not in table:
            near = ", ".join(_nearest(name, table))
            raise SettingError(f"{setting}={name}: no such column; the nearest are {near}")


def _nearest(name: str, table: pd.DataFrame) -> list[str]:
    columns = [column for column in table.columns if column != "same"]
    same_end = [c for c in columns if c.split(".")[-1] == name.split(".")[-1]]
    return (same_end + difflib.get_close_matches(name, columns, n=3, cutoff=0.3))[:3]


def _cell(by, values, key, runs: pd.DataFrame) -> dict:
    """One row of `summary`; `key` holds the values of the settings `by`."""
    keys = key if isinstance(key, tuple) else (key,)
    cell = {(name, ""): value for name, value in zip(by, keys, strict=False)}
    cell[("runs", "")] = len(runs)
    for name in values:
        numbers = statistics(runs[name].to_numpy(float))
        cell |= {(name, statistic): number for statistic, number in numbers.items()}
    return cell


def once(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row a run and cell of `by`, where several experiments have made the same run.

    Of each number the row holds the first value that is not missing.
    """
    keys = list(dict.fromkeys([*by, "same"]))
    if not table.duplicated(keys).any():
        return table
    return table.groupby(keys, dropna=False, sort=False, as_index=False).first()


def statistics(values: np.ndarray) -> dict[str, float]:
    """Of the finite values: `n`, `mean`, `sd` (ddof 1), `ci`.

    `ci` is the half-width of the 95 % Student interval of the mean. NaN where n is too small.
    """
    finite = values[np.isfinite(values)]
    n, nan = len(finite), float("nan")
    mean = float(np.mean(finite)) if n else nan
    if n < 2:
        return {"n": float(n), "mean": mean, "sd": nan, "ci": nan}
    sd = float(np.std(finite, ddof=1))
    ci = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * sd / np.sqrt(n)
    return {"n": float(n), "mean": mean, "sd": sd, "ci": float(ci)}
