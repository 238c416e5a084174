"""A method from the parts in which it differs from training on one task after the other."""

from collections.abc import Callable
from typing import Any

from ntkcl.types import Method
from ntkcl.validation import SettingError

# What a method does to training.
HOOKS = ("begin", "objective", "project", "consolidate", "observe")


def _begin(memory, network, theta, task):
    return memory


def _objective(memory, apply, loss, theta, batch, head, task_loss):
    return task_loss


def _project(memory, apply, loss, theta, gradient):
    return gradient


def _consolidate(memory, network, loss, theta, task):
    return memory


def custom(
    *,
    begin: Callable[..., Any] = _begin,
    objective: Callable[..., Any] = _objective,
    project: Callable[..., Any] = _project,
    consolidate: Callable[..., Any] = _consolidate,
    observe: Callable[..., Any] | None = None,
    step: Callable[..., Any] | None = None,
    converged: bool = False,
) -> Method:
    """A `Method` of these functions, as `ntkcl.types.Method` describes them.

    A hook that is not given changes nothing in training.
    Without a `step` its training in kernel space is not known: forecasts train the linearised
    network with the hooks themselves. A `step` belongs to the hooks it is given with; `checked`
    refuses the method once one of them is replaced.
    Raises ValueError for a part that is not a function.
    """
    parts = dict(begin=begin, objective=objective, project=project, consolidate=consolidate)
    for name, part in {**parts, "observe": observe, "step": step}.items():
        if not callable(part) and not (part is None and name in ("observe", "step")):
            raise SettingError(f"method.{name}={part}: expected a function, see ntkcl.types.Method")
    return Method(
        **parts,
        step=step,
        observe=observe,
        converged=converged,
        step_is_of=(*parts.values(), observe),
    )


def checked(method: Any) -> Method:
    """The method itself.

    Raises ValueError for what is no `Method`, and for a `step` that was written for other hooks.
    """
    if not isinstance(method, Method):
        raise SettingError(
            f"method={method}: expected an ntkcl.types.Method, such as "
            "methods.custom(objective=...)"
        )
    if method.step is None or hooks(method) == method.step_is_of:
        return method
    if len(method.step_is_of) != len(HOOKS):
        raise SettingError(
            "method: does not say for which hooks its step was written; use methods.custom(...)"
        )
    pairs = zip(HOOKS, hooks(method), method.step_is_of, strict=True)
    new = [name for name, own, of_step in pairs if own != of_step]
    was, another = ("was", "another") if len(new) == 1 else ("were", "others")
    raise SettingError(
        f"method: its {' and '.join(new)} {was} replaced, and its step is of {another}; use "
        f"methods.custom({new[0]}=...), with a step of its own or none"
    )


def hooks(method: Method) -> tuple[Callable[..., Any] | None, ...]:
    """What the method does to training, by `HOOKS`."""
    return tuple(getattr(method, name) for name in HOOKS)
