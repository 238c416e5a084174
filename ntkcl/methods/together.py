"""Several methods at once."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ntkcl.compilation import once
from ntkcl.methods.custom import custom
from ntkcl.types import Method


@once
def together(parts: Mapping[str, Any]) -> Method:
    """Adds up what each part adds to the task's loss, and projects gradients by each part in turn, in the order given.

    Arguments:
      parts: methods by names of one's own, such as {"first": ewc_diagonal(0.1), "second": ogd(20)}.
        Each has a memory of its own.
    Of several projections the last one holds exactly; what it gives back may have a part that the
    ones before took away. A part that weighs the task's own loss (`er` with weight=None) adds its
    objective less the task's loss.
    Kernel space: none in general; forecasts train the linearised network.
    Raises ValueError for fewer than two methods.
    """
    bad = (
        {"": parts}
        if not isinstance(parts, Mapping)
        else {f".{k}": p for k, p in parts.items() if not isinstance(p, Method)}
    )
    for name, part in bad.items():
        raise ValueError(
            f"method.parts{name}={part}: expected a method by a name of your own, such as method@method.parts.second=agem"
        )
    if len(parts) < 2:
        raise ValueError(
            f"method.parts={list(parts)}: expected at least two methods, by names of your own"
        )
    methods = tuple(parts.values())
    nothing = ((),) * len(methods)

    def begin(memory, *given):
        return tuple(
            part.begin(own, *given) for part, own in zip(methods, memory or nothing, strict=True)
        )

    def consolidate(memory, *given):
        return tuple(
            part.consolidate(own, *given) for part, own in zip(methods, memory, strict=True)
        )

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        each = (
            part.objective(own, apply, loss, theta, batch, head, task_loss)
            for part, own in zip(methods, memory, strict=True)
        )
        return task_loss + sum(
            (value - task_loss for value in each), start=jnp.zeros_like(task_loss)
        )

    def project(memory, apply, loss, theta, gradient):
        for part, own in zip(methods, memory, strict=True):
            gradient = part.project(own, apply, loss, theta, gradient)
        return gradient

    def observe(memory, *given):
        return tuple(
            part.observe(own, *given) if part.observe else own
            for part, own in zip(methods, memory, strict=True)
        )

    watching = any(part.observe for part in methods)
    return custom(
        begin=begin,
        objective=objective,
        project=project,
        consolidate=consolidate,
        step=None,
        observe=observe if watching else None,
    )
