"""The sweep table: runs read from their folders, one row each.

`folders` finds the runs, `read` or `gather` makes the table, `select` keeps the rows for which a
condition holds. `ntkcl.reporting.columns` says what the columns are, `ntkcl.reporting.cells` makes
means over seeds, `ntkcl.reporting.formats` writes them.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ntkcl.reporting.where import holds
from ntkcl.runs import stored
from ntkcl.runs.files import read_summary
from ntkcl.runs.identity import digest, flat
from ntkcl.runs.settings import GROUPS, UNHASHED_DEFAULTS
from ntkcl.runs.stored import Damaged
from ntkcl.validation import SettingError

# Keys of a configuration that say how Hydra builds an object, and not what it is.
HYDRA_KEYS = ("_partial_", "_convert_")
TARGETS = tuple(f"{group}._target_" for group in GROUPS)


def folders(results_dir: Path | str, experiments: Sequence[str] = ()) -> list[Path]:
    """The folders of the runs under `results_dir`/runs, of some experiments or of all.

    Damaged runs are among them, see `read`. Raises ValueError where there are none.
    """
    root = Path(results_dir) / "runs"
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    by_name = {name: _runs(root / name) for name in (experiments or there)}
    found = [folder for runs in by_name.values() for folder in runs]
    empty = [name for name in experiments if not by_name[name]]
    if empty or not found:
        setting = f"experiment_name={','.join(empty)}" if empty else f"results_dir={results_dir}"
        holding = ", ".join(there) or "nothing"
        raise SettingError(f"{setting}: no complete runs in {root}, which holds {holding}")
    return found


def _runs(folder: Path) -> list[Path]:
    """The folders of runs, complete or damaged, in the folder of an experiment."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # a name with a dot is a run that is being written
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    return [folder / name for name in names if _is_run(folder / name)]


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("summary.json", "config.yaml"))


def gather(runs: Sequence[Path]) -> pd.DataFrame:
    """The table of `read` alone, of runs of which none is damaged."""
    return read(runs)[1]


def read(
    runs: Sequence[Path],
    skip: Callable[[str], None] | None = None,
) -> tuple[list[Path], pd.DataFrame]:
    """The runs that can be read, and their table: one row each.

    The columns: `run`, the folder's name; every setting and every number of the summary by dotted
    name; `same`, equal for two rows if two experiments have made the same run. `method`, `stream`,
    `source`, `network`, `loss` and `optimizer` hold names, such as ewc.

    Arguments:
      runs: folders, as `folders` finds them.
      skip: called with one line for each run whose settings or summary are damaged; such a run is
        left out. Without `skip` it raises `ntkcl.runs.stored.Damaged`.
    Raises ValueError where no run can be read.
    """
    rows, damaged = {}, []
    for folder in runs:
        try:
            rows[folder] = _row(folder)
        except Damaged as error:
            if skip is None:
                raise
            damaged.append(str(error))
    if skip is not None:
        for line in damaged:
            skip(line)
    if not rows:
        raise SettingError(
            f"results_dir: none of {len(damaged)} runs can be read; make them anew, or set another "
            "results_dir"
        )
    table = pd.DataFrame(list(rows.values()))
    _fill_in_old_defaults(table)
    return list(rows), table


def _fill_in_old_defaults(table: pd.DataFrame) -> None:
    """Set the value that a setting had before it existed, in the rows of runs without it.

    A configuration leaves such a setting out where it has this value, so that hashes of old runs
    stay. Of a group's setting only rows with the same choice are filled in.
    """
    for group, defaults in UNHASHED_DEFAULTS.items():
        for name, value in defaults.items():
            column = f"{group}.{name}"
            if column not in table or value is None:
                continue
            missing = table[column].isna()
            if group in table:
                missing &= table[group].isin(table.loc[~missing, group])
            table[column] = table[column].where(~missing, value)


def _row(folder: Path) -> dict[str, Any]:
    settings = stored.settings(folder)
    names = {group: settings[group]["_target_"].rsplit(".", 1)[-1] for group in GROUPS}
    # of optimizers, the name that Optax gives them
    names["optimizer"] = settings["optimizer"].get("name", names["optimizer"])
    same = _digest(folder, settings)
    own = {"run": folder.name, "same": same} | names
    return own | _settings(settings, names) | _numbers(folder)


def _settings(settings: Mapping, names: Mapping[str, str]) -> dict[str, Any]:
    """Settings by dotted name, lists as text."""
    return {
        key: json.dumps(value) if isinstance(value, list) else value
        for key, value in flat(settings).items()
        if key not in names and key not in TARGETS and not key.endswith(HYDRA_KEYS)
    }


def _numbers(folder: Path) -> dict[str, Any]:
    """Status and single numbers of the summary by dotted name; null is NaN, a number too."""
    return {
        key: float("nan") if value is None else value
        for key, value in flat(read_summary(folder)).items()
        if not isinstance(value, str | list) or key == "status"
    }


def _digest(folder: Path, settings: Mapping) -> str:
    """Equal for equal settings, whatever the experiment is called."""
    try:
        return digest(_canonical({k: v for k, v in settings.items() if k != "experiment_name"}))
    except TypeError as error:  # a date, say, which JSON does not know
        raise Damaged(folder / "config.yaml", f"holds what no setting is ({error})") from error


def _canonical(value):
    """Settings with whole numbers alike, whether they were written 2 or 2.0."""
    if isinstance(value, Mapping):
        return {key: _canonical(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def select(table: pd.DataFrame, where: str | None) -> pd.DataFrame:
    """The rows for which a condition holds, such as "method == 'ewc' and `network.width` > 64".

    See `ntkcl.reporting.where`. Raises ValueError for what is no condition, and for one that holds
    for no row.
    """
    if where is None:
        return table
    try:
        kept = table[holds(where, table)]
    except ValueError as error:
        raise SettingError(f"where={where}: {error}") from error
    if kept.empty:
        raise SettingError(f"where={where}: holds for none of {len(table)} runs")
    return kept
