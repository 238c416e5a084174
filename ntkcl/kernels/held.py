"""The kernel between all inputs and those that are trained on, computed once and held."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ntkcl.types import Params, Places

GATHERED = 8  # sets of scattered inputs whose columns are held beside the block


def held(kernel_fn: Callable[..., Any], theta: Params, x, trained: int) -> Places:
    """K(x, x[:trained]) as `ntkcl.types.Places`, computed when first needed; its blocks are
    between inputs that may be trained on.

    Many trainings on the same inputs read it: sums over rows that follow each other read the block
    in place, in its own type, and several alphas [b, m, c] at once.

    Arguments:
      kernel_fn: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]`.
      x: all N inputs, the first `trained` of which may be trained on.
    Memory: N c trained c entries.
    """

    @functools.cache
    def blocks():
        # That of the trained inputs is symmetric, and takes half the time.
        own = np.asarray(kernel_fn(theta, x[:trained]))
        if trained == len(x):
            return (own,)
        return own, np.asarray(kernel_fn(theta, x[trained:], x[:trained]))

    def block(rows, inputs):
        own, rows, inputs = blocks()[0], _compact(rows), _compact(inputs)
        if _count(inputs) < _count(rows):
            return own[:, :, inputs][rows]
        return own[rows][:, :, inputs]

    @functools.lru_cache(maxsize=GATHERED)
    def scattered(key: tuple[int, ...]):
        return [one[:, :, list(key)] for one in blocks()]

    def change(inputs, alpha):
        inputs, alpha = np.asarray(inputs), np.asarray(alpha)
        runs = np.split(np.arange(len(inputs)), np.flatnonzero(np.diff(inputs) != 1) + 1)
        single = [int(run[0]) for run in runs if len(run) == 1]
        parts = [
            ([one[:, :, inputs[run[0]] : inputs[run[-1]] + 1] for one in blocks()], run)
            for run in runs
            if len(run) > 1
        ]
        if single:
            parts.append((scattered(tuple(int(i) for i in inputs[single])), np.array(single)))
        return sum(
            np.concatenate([_product(one, alpha[..., run, :]) for one in columns], axis=-2)
            for columns, run in parts
        )

    return Places(block, change)


def _compact(places):
    """Places that follow each other as a slice, by which an array is cut without a copy."""
    places = np.asarray(places)
    if len(places) and (np.diff(places) == 1).all():
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def _count(places) -> int:
    return places.stop - places.start if isinstance(places, slice) else len(places)


def _product(columns, alpha):
    """sum over rows and outputs of columns [n, c, m, c] alpha [..., m, c], in alpha's type."""
    n, c = columns.shape[:2]
    flat = columns.reshape(n * c, -1)  # a view, of a slice of a block too
    several = alpha.reshape(*alpha.shape[:-2], -1).astype(columns.dtype)
    return (several @ flat.T).reshape(*alpha.shape[:-2], n, c).astype(alpha.dtype)
