"""Checks of the inputs of a forecast, where they are numbers already: traced values pass."""

import jax
import numpy as np

from ntkcl.validation import SettingError, shape_is


def concrete(value) -> bool:
    """Whether it has values that can be checked."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def rate(value):
    """The rate, or the rates of a schedule; ValueError for one that is below 0 or not finite."""
    if concrete(value):
        values = np.asarray(value, float)
        bad = values[~(np.isfinite(values) & (values >= 0))]
        if bad.size:
            raise SettingError(f"rule.rate={bad.flat[0]}: expected finite rates of at least 0")
    return value


def places(name: str, index, count: int) -> None:
    """ValueError for an index that is not whole, or not from 0 to below `count`."""
    if not concrete(index):
        return
    index = np.asarray(index)
    if index.size and not np.issubdtype(index.dtype, np.integer):
        raise SettingError(
            f"{name} of type {index.dtype}; expected whole numbers from 0 to {count - 1}"
        )
    bad = index[(index < 0) | (index >= count)]
    if bad.size:
        raise SettingError(
            f"{name} holds {bad.flat[0]}; expected whole numbers from 0 to {count - 1}"
        )


def step(own, shape_of_outputs: tuple[int, ...]) -> None:
    """ValueError for a `Step` that does not fit outputs [N, c].

    For other shapes, places beyond the N, weights or a ridge below 0.
    """
    n, c = shape_of_outputs
    m = len(own.inputs)
    shape_is("Step.targets", own.targets, (m, c))
    shape_is("Step.weights", own.weights, (m, c))
    places("Step.inputs", own.inputs, n)
    for name, value in (("weights", own.weights), ("ridge", own.ridge)):
        values = np.asarray(value, float)
        if not (np.isfinite(values) & (values >= 0)).all():
            raise SettingError(
                f"Step.{name}: expected finite numbers of at least 0, found {values.min():g} to "
                f"{values.max():g}"
            )
    if own.origin is not None:
        shape_is("Step.origin", own.origin, (n, c))
    if own.removed is not None:
        places("Step.removed.inputs", own.removed.inputs, n)
