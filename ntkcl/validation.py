"""Checks of single settings: one clear line that names the setting, what came, and what would
work."""

import sys
import unicodedata
from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np

LARGEST = sys.float_info.max  # a whole number may lie beyond it
MOST_STEPS = 2**31 - 1  # what an int32 holds, in which Optax counts
LARGEST_SEED = 2**32 - 1  # what NumPy's legacy generators, and scikit-learn with them, accept

# Control characters, what is left of bytes that could not be decoded, separators of lines.
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


class SettingError(ValueError):
    """A setting, an argument or data that cannot be, in one line: which, what came, what would
    work. The command prints it as it is and exits with code 2."""


def whole(name: str, value, least: int = 1) -> int:
    """A whole number of at least `least`, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise SettingError(f"{name}={value}: expected a whole number of at least {least}")
    return int(value)


def seed(name: str, value) -> int:
    """A seed that every generator in use accepts, or ValueError."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or not 0 <= int(value) <= LARGEST_SEED
    ):
        raise SettingError(f"{name}={value}: expected a whole number from 0 to {LARGEST_SEED}")
    return int(value)


def finite(name: str, value, above: float | None = None, least: float | None = None) -> float:
    """A finite number, above or at least a bound, or ValueError."""
    number = (
        isinstance(value, Real)
        and not isinstance(value, bool)
        and bool(-LARGEST <= value <= LARGEST)  # type: ignore[operator]
    )
    if (
        not number
        or (above is not None and value <= above)
        or (least is not None and value < least)
    ):
        bound = (
            f" above {above:g}"
            if above is not None
            else f" of at least {least:g}"
            if least is not None
            else ""
        )
        raise SettingError(f"{name}={value}: expected a finite number{bound}")
    return float(value)


def share(name: str, value) -> float:
    """A number from 0 to below 1, or ValueError."""
    if finite(name, value, least=0.0) >= 1:
        raise SettingError(f"{name}={value}: expected a number from 0 to below 1")
    return float(value)


def fraction(name: str, value) -> float:
    """A number between 0 and 1, neither of them, or ValueError."""
    if not 0 < finite(name, value) < 1:
        raise SettingError(f"{name}={value}: expected a number between 0 and 1")
    return float(value)


def unit(name: str, value) -> float:
    """A number from 0 to 1, or ValueError."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    if not is_real or not 0 <= value <= 1:  # type: ignore[operator]
        raise SettingError(f"{name}={value}: expected a number from 0 to 1")
    return float(value)


def flag(name: str, value) -> bool:
    """True or False and nothing that merely counts as one, or ValueError."""
    if not isinstance(value, bool):
        raise SettingError(f"{name}={value}: expected true or false")
    return value


def text(name: str, value) -> str:
    """A text that is not empty, or ValueError."""
    if not isinstance(value, str) or not value:
        raise SettingError(f"{name}={value}: expected a text")
    return value


def are_tokens(x) -> bool:
    """Whether inputs are token ids: signed whole numbers, which are looked up, so that nobody
    scales, rounds or mixes them. Bytes are pixels."""
    return bool(np.issubdtype(x.dtype, np.signedinteger))


def printable(value: str) -> bool:
    """Whether a text is one line that terminals and files can hold."""
    return not any(unicodedata.category(c) in UNPRINTABLE for c in value)


def line(name: str, value) -> str:
    """A text in one line that any terminal and file can take, or ValueError."""
    if not printable(text(name, value)):
        raise SettingError(
            f"{name}={value!r}: expected one line without control characters, in an encoding that "
            "the terminal knows"
        )
    return value


def one_of(name: str, value, options: Iterable[str]) -> str:
    """One of the options, or ValueError. YAML reads the option "true" as True."""
    options = tuple(options)
    value = str(value).lower() if isinstance(value, bool) else value
    if value not in options:
        raise SettingError(f"{name}={value}: expected {', '.join(options[:-1])} or {options[-1]}")
    return value


def shape_is(name: str, array, expected: tuple[int, ...]) -> None:
    """ValueError for an array of another shape."""
    if np.shape(array) != expected:
        raise SettingError(f"{name} has shape {np.shape(array)}; expected {expected}")
