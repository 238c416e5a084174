"""Checks of single settings: one clear line that names the setting, what came, and what would work."""

from collections.abc import Iterable


def whole(name: str, value, least: int = 1) -> int:
    """A whole number of at least `least`, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value}: expected a whole number of at least {least}")
    return value


def finite(name: str, value, above: float | None = None, least: float | None = None) -> float:
    """A finite number, above or at least a bound, or ValueError."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
    if not number or (above is not None and value <= above) or (least is not None and value < least):
        bound = f" above {above:g}" if above is not None else f" of at least {least:g}" if least is not None else ""
        raise ValueError(f"{name}={value}: expected a finite number{bound}")
    return float(value)


def one_of(name: str, value, options: Iterable[str]) -> str:
    """One of the options, or ValueError."""
    options = tuple(options)
    if value not in options:
        raise ValueError(f"{name}={value}: expected {', '.join(options[:-1])} or {options[-1]}")
    return value
