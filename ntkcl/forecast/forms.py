"""Which form can predict which training."""

from collections.abc import Callable
from typing import Any

from ntkcl import methods
from ntkcl.forecast.closed_form import closed
from ntkcl.forecast.gram_solvers import HELD_ROWS
from ntkcl.forecast.integrated import integrated
from ntkcl.forecast.linearised import linearised
from ntkcl.forecast.matrix_free import matrix_free
from ntkcl.forecast.simulated import simulated
from ntkcl.types import Loss, Method, Optimizer
from ntkcl.validation import SettingError, one_of

FORMS: dict[str, Callable[..., Any]] = {
    "closed": closed,
    "matrix_free": matrix_free,
    "simulated": simulated,
    "linearised": linearised,
    "integrated": integrated,
}
"""The forms of a forecast, by the name that `forecast.form` gives them."""
AUTO = ("auto", *FORMS)
"""Names that `forecast.form` may have."""

BY_KERNEL = ("closed", "simulated")
"""The forms that compute Gram matrices of the network as it stands."""


def form_of(
    form: str,
    loss: Loss,
    optimizer: Optimizer,
    method: Method,
    full_batches: bool,
    rows: int = 0,
    by_products: Callable[[], bool] = lambda: True,
) -> str:
    """The form itself, or the one that "auto" stands for.

    "auto" is the first form that is exact for the linearised network. Where Gram matrices of the
    tasks, as large together as one of `rows` (samples x outputs), have more than `HELD_ROWS`, it is
    one that needs none: "closed" without a method where products are fast, which `by_products()`
    is asked for then alone, else "linearised".
    Raises ValueError for a form that cannot predict this training, and for a method whose step was
    written for other hooks.
    """
    methods.checked(method)
    one_of("forecast.form", form, AUTO)
    against = {name: reasons(name, loss, optimizer, method, full_batches) for name in FORMS}
    if form == "auto":
        exact = [
            name
            for name in ("closed", "simulated", "linearised")
            if not against[name] and (full_batches or name != "closed")
        ]
        if rows <= HELD_ROWS:
            return exact[0]
        unheld = exact[0] == "closed" and methods.is_naive(method) and by_products()
        return "closed" if unheld else "linearised"
    if against[form]:
        fit = " or ".join(name for name in FORMS if not against[name])
        raise SettingError(f"forecast.form={form}: {against[form][0]}; use {fit} or auto")
    return form


def reasons(
    form: str, loss: Loss, optimizer: Optimizer, method: Method, full_batches: bool
) -> list[str]:
    """What speaks against one of `FORMS`; nothing where it can predict this training."""
    is_method = {
        "a method other than naive changes more than the targets": not methods.is_naive(method)
    }
    other_loss = {"the loss is not squared error": not loss.quadratic}
    no_rule = {"the optimizer has no rule in kernel space": optimizer.rule is None}
    against: dict[str, dict[str, bool]] = {
        "closed": {
            **other_loss,
            **no_rule,
            "the method has no kernel-space equivalent": method.step is None,
            "the method has a kernel-space equivalent for training to the end alone": (
                method.converged
            ),
        },
        "matrix_free": {**other_loss, **no_rule, **is_method},
        "simulated": {
            "the optimizer is not linear in gradients": optimizer.rule is None,
            **is_method,
        },
        "linearised": {},
        "integrated": {
            **other_loss,
            "the optimizer has a memory, or no rule in kernel space": not optimizer.memoryless,
            **is_method,
            "the batches are not full": not full_batches,
        },
    }
    return [reason for reason, holds in against[form].items() if holds]
