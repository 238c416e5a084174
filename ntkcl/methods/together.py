"""Several methods at once."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ntkcl.compilation import once
from ntkcl.methods.custom import custom
from ntkcl.types import Method
from ntkcl.validation import SettingError


@once
def together(parts: Mapping[str, Any]) -> Method:
    """Adds up what each part adds to the task's loss; projects gradients by each part in turn.

    Arguments:
      parts: methods by names of one's own, such as
        {"first": ewc_diagonal(0.1), "second": ogd(20)}, in the order of their projections. Each has
        a memory of its own.
    Of several projections the last one holds exactly; what it gives back may have a part that the
    ones before took away. A part that weighs the task's own loss (`er` with weight=None) adds its
    objective less the task's loss.
    Kernel space: none in general; forecasts train the linearised network.
    Raises ValueError for fewer than two methods.
    """
    methods = _methods(parts)

    def each(memory):
        return zip(methods, memory or ((),) * len(methods), strict=True)

    def begin(memory, *arguments):
        return tuple(part.begin(own, *arguments) for part, own in each(memory))

    def consolidate(memory, *arguments):
        return tuple(part.consolidate(own, *arguments) for part, own in each(memory))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        arguments = apply, loss, theta, batch, head, task_loss
        added = (part.objective(own, *arguments) - task_loss for part, own in each(memory))
        return task_loss + sum(added, start=jnp.zeros_like(task_loss))

    def project(memory, apply, loss, theta, gradient):
        for part, own in each(memory):
            gradient = part.project(own, apply, loss, theta, gradient)
        return gradient

    def observe(memory, *arguments):
        return tuple(
            part.observe(own, *arguments) if part.observe else own for part, own in each(memory)
        )

    hooks: dict = dict(begin=begin, objective=objective, project=project, consolidate=consolidate)
    watches = any(part.observe for part in methods)
    return custom(**hooks, step=None, observe=observe if watches else None)


def _methods(parts: Any) -> tuple[Method, ...]:
    """At least two methods; ValueError for anything else."""
    wrong = {"": parts}
    if isinstance(parts, Mapping):
        wrong = {f".{name}": part for name, part in parts.items() if not isinstance(part, Method)}
    for name, part in wrong.items():
        raise SettingError(
            f"method.parts{name}={part}: expected a method by a name of your own, such as "
            "method@method.parts.second=agem"
        )
    if len(parts) < 2:
        raise SettingError(
            f"method.parts={list(parts)}: expected at least two methods, by names of your own"
        )
    return tuple(parts.values())
