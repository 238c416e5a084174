"""The number of `summary.json` that a sweep optimises, `sweep.objective`."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ntkcl.runs import stored
from ntkcl.validation import SettingError


def value(objective: str | None, folders: Sequence[Path]) -> float | None:
    """The mean over the runs' folders of the number of that dotted name, such as
    metrics.average_accuracy; None where none is asked for, a run is missing, or it is null."""
    if objective is None:
        return None
    values: list[float] = []
    for folder in folders:
        with suppress(stored.Damaged):
            number = _number(objective, folder)
            if number is None:  # it diverged
                return None
            values.append(number)
    return sum(values) / len(values) if len(values) == len(folders) else None


def _number(objective: str, folder: Path) -> float | None:
    found, where = stored.summary(folder), folder / "summary.json"
    for key in objective.split("."):
        if not isinstance(found, dict) or key not in found:
            raise SettingError(f"sweep.objective={objective}: no such number in {where}")
        found = found[key]
    if found is None:
        return None
    if not isinstance(found, int | float):
        raise SettingError(f"sweep.objective={objective}: is {found} in {where}; expected a number")
    return float(found)
