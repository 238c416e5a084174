"""The columns of a sweep table: which are settings, which are numbers, which tell cells apart."""

import re
from collections.abc import Iterable

import pandas as pd

from ntkcl.experiment.events import ANCHORS
from ntkcl.runs import schema
from ntkcl.runs.settings import GROUPS

# The settings that stand before all others.
FIRST = (*GROUPS, "network.width", "network.parametrization", "network.gamma0")
# Of these numbers a table shows the ones that there are, where no others are asked for.
MEASURED = (
    "metrics.average_accuracy",
    "metrics.learning_accuracy",
    "metrics.forgetting_chaudhry",
)
DEFAULT_VALUES = (*MEASURED, "forecast.init.drift_r2", "forecast.boundary.drift_r2")


def default_values(table: pd.DataFrame) -> list[str]:
    """The numbers that a table shows where none are asked for: of `DEFAULT_VALUES` those that there
    are; where nothing was trained, what is predicted in their place."""
    if any(table[name].notna().any() for name in MEASURED if name in table):
        return [name for name in DEFAULT_VALUES if name in table]
    predicted = [f"forecast.{anchor}.{name}" for anchor in ANCHORS for name in MEASURED]
    return [name for name in predicted if name in table]


def is_setting(column: str) -> bool:
    """Whether a column of the table is a setting, and not a number of the summary."""
    parts = column.split(".")
    # forecast.form is a setting, forecast.init.skill a number
    setting_of_forecast = parts[0] == "forecast" and len(parts) == 2
    return setting_of_forecast or parts[0] not in {"run", "same", *schema.heads()}


def varied(table: pd.DataFrame) -> list[str]:
    """The settings that tell cells apart: of those that vary, all but seeds and redundant ones."""
    ordered = dict.fromkeys((*FIRST, *table.columns))
    settings = [name for name in ordered if name in table and is_setting(name)]
    # experiment_name comes last: it counts only where two experiments share a cell
    settings.sort(key=lambda name: name == "experiment_name")
    needed: list[str] = []
    cells = 1
    for column in settings:
        if column == "seed" or ("seed" in table and _follows(table[column], table["seed"])):
            continue
        finer = table.groupby([*needed, column], dropna=False).ngroups
        if finer > cells:
            needed, cells = [*needed, column], finer
    return needed


def _follows(column: pd.Series, seed: pd.Series) -> bool:
    """Whether a setting is the seed wherever it is set, such as stream.seed=${seed}."""
    there = column.notna()
    return bool(there.any() and (column[there] == seed[there]).all())


def axes(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Of the settings that vary, those with numbers and those with words."""
    settings = varied(table)
    numeric = [name for name in settings if _is_numeric(table[name])]
    return numeric, [name for name in settings if name not in numeric]


def _is_numeric(column: pd.Series) -> bool:
    """Whether a setting is a number in every run; beside a missing value it counts as a word."""
    types = pd.api.types
    numbers = types.is_numeric_dtype(column) and not types.is_bool_dtype(column)
    return numbers and bool(column.notna().all())


def anchors(table: pd.DataFrame) -> list[str]:
    """The anchors of the runs' forecasts."""
    found = (re.match(r"forecast\.([^.]+)\..*drift_r2$", column) for column in table.columns)
    return sorted({match[1] for match in found if match})


def headings(columns: Iterable[str]) -> dict[str, str]:
    """What people read above numbers, by column; settings keep their names."""
    return {name: name if is_setting(name) else schema.heading(name) for name in columns}
