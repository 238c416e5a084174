"""Steps on the same rows share one decomposition.

Searches train on the same tasks again and again. A cache around `prepared` decomposes the Gram
matrix of each set of rows once; the algebra of `sequence` does not know of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ntkcl.dynamics.prepare import Prepared, prepared
from ntkcl.dynamics.steps import Step


class _Entry(NamedTuple):
    """What was prepared of rows at `inputs` [m], with weights [m, c] of which the largest is 1."""

    inputs: Int[np.ndarray, " m"]
    weights: Float[np.ndarray, "m c"]
    prepared: Prepared

    def begins(self, inputs, weights) -> bool:
        """Whether the rows begin with those of this entry, their weights all larger or smaller than
        here by one factor, and its eigenvectors are known."""
        n = len(self.inputs)
        factor = float(np.max(weights[:n]))
        return (
            self.prepared.decomposed.modes is not None
            and np.array_equal(self.inputs, inputs[:n])
            and np.allclose(weights[:n], factor * self.weights, rtol=1e-12, atol=0)
        )


def cached(
    prepare: Callable[..., Prepared] = prepared,
    extend: Callable[..., Prepared] | None = None,
    prepare_uncached: Callable[..., Prepared] | None = None,
    most: int = 12,
) -> Callable[..., Prepared]:
    """`prepare` that does the work once for steps on the same rows, whatever factor their weights
    have in common. The kernel passed to it must always be the same.

    Arguments:
      prepare: `(kernel, step, dtype) -> Prepared`, as `ntkcl.dynamics.prepared`.
      extend: `(base, kernel, step, dtype) -> Prepared` of a step that begins with rows whose
        eigenvectors are in the cache; None prepares such a step from the start.
      prepare_uncached: for steps with a kernel of their own, which are not stored; None: `prepare`.
      most: how many sets of rows are stored, those used last.
    """
    entries: dict[Any, _Entry] = {}

    def recall(key, factor) -> Prepared:
        entries[key] = entries.pop(key)  # the one used last is the last to be dropped
        return entries[key].prepared.scaled(factor)

    def store(key, entry) -> None:
        entries[key] = entry
        if len(entries) > most:
            del entries[next(iter(entries))]

    def longest_base(inputs, weights):
        """Key and factor of the entry with the most rows among those that the rows begin with."""
        fits = [key for key, entry in entries.items() if entry.begins(inputs, weights)]
        if not fits:
            return None
        key = max(fits, key=lambda key: (len(entries[key].inputs), key))
        return key, float(np.max(weights[: len(entries[key].inputs)]))

    def compute(kernel, step: Step, dtype) -> Prepared:
        base = longest_base(step.inputs, step.weights) if extend else None
        if base is None:
            return prepare(kernel, step, dtype)
        return extend(recall(*base), kernel, step, dtype)  # type: ignore[misc]

    def look_up(kernel, step: Step, dtype) -> Prepared:
        if step.kernel is not None:
            return (prepare_uncached or prepare)(kernel, step, dtype)
        factor, inputs = float(np.max(step.weights)), np.asarray(step.inputs)
        weights = np.asarray(step.weights) / factor
        key = inputs.tobytes(), np.round(weights, 12).tobytes()
        # What a step removes is not in the key: such a step may use a base, and is not stored.
        if step.removed is None and key in entries:
            return recall(key, factor)
        one = compute(kernel, step._replace(inputs=inputs, weights=weights), dtype)
        if step.removed is None:
            store(key, _Entry(inputs, weights, one))
        return one.scaled(factor)

    return look_up
