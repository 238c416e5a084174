"""What is said of one quantity of a run, and the forms that values have."""

from typing import NamedTuple

MATRIX, PER_TASK, NUMBER, TEXT = "matrix", "per task", "number", "text"


class Quantity(NamedTuple):
    """One row: dotted key, label, unit ("" without one), meaning, and the form of its value."""

    key: str
    label: str
    unit: str
    meaning: str
    form: str = NUMBER
