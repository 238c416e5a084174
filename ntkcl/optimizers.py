"""Training rules with their kernel-space equivalents, and schedules of their learning rate."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ntkcl import dynamics
from ntkcl.compilation import once
from ntkcl.types import Optimizer
from ntkcl.validation import SettingError, finite, flag, share


@once
def sgd(momentum: float | int = 0.0, nesterov: bool = False) -> Optimizer:
    """(Stochastic) gradient descent theta <- theta - eta g, with heavy-ball or Nesterov momentum b.

    At rest at the start of a task.

    Stable for rate <= 2 / lam_max, with a heavy ball 2 (1 + b) / lam_max, with Nesterov 2 (1 + b) /
    ((1 + 2b) lam_max). With minibatches the rule is the mean path: the expected gradient of a batch
    is the full one.
    """
    b = share("optimizer.momentum", momentum)
    if flag("optimizer.nesterov", nesterov) and b == 0:
        raise SettingError(
            "optimizer.nesterov=true with optimizer.momentum=0: expected a momentum above 0"
        )
    rule = (
        partial(dynamics.nesterov if nesterov else dynamics.heavy_ball, momentum=b)
        if b
        else dynamics.gradient_descent
    )
    top = 2.0 * (1.0 + b) / (1.0 + 2.0 * b if nesterov else 1.0)
    return Optimizer(
        partial(optax.sgd, momentum=b or None, nesterov=nesterov),
        rule,
        lambda lam_max: top / lam_max if lam_max > 0 else float("inf"),
        memoryless=b == 0,
    )


@once
def by_name(name: str, settings: Mapping[str, Any] | None = None) -> Optimizer:
    """The Optax optimizer of this name, such as "adamw" with {"weight_decay": 1e-4}.

    No kernel-space equivalent is known of it, not even of "sgd": forecasts train the linearised
    network with it. No stability limit is known beforehand: give training.learning_rate.
    Raises ValueError for a name that is no optimizer's, with the nearest ones, for settings that it
    does not take, and for an optimizer whose step takes more than a gradient and parameters
    (lbfgs).
    """
    make = _named("optimizer.name", name, "optimizer", _optimizers())

    def transform(learning_rate):
        return make(learning_rate=learning_rate, **(settings or {}))

    def step(theta):
        return transform(0.1).update(theta, transform(0.1).init(theta), theta)

    _tried(
        lambda: jax.eval_shape(step, jnp.zeros((2, 2))),
        f"optimizer.name={name}, optimizer.settings={settings}",
        make,
    )
    return Optimizer(transform, None, lambda lam_max: float("inf"))


@once
def adam(b1: float | int = 0.9, b2: float | int = 0.999, eps: float | int = 1e-8) -> Optimizer:
    """Adam. Its steps leave the span of the Jacobians: it has no kernel-space equivalent.

    Otherwise as `by_name`.

    Source: Kingma, Ba 2015.
    """
    share("optimizer.b1", b1)
    share("optimizer.b2", b2)
    finite("optimizer.eps", eps, above=0.0)
    return by_name("adam", dict(b1=b1, b2=b2, eps=eps))


@once
def schedule(name: str, **settings: Any) -> optax.Schedule:
    """The Optax schedule of this name, as factors of a learning rate.

    Such as "cosine_decay_schedule" with decay_steps=500. A schedule that warms up rises from 0 to
    1, any other starts at 1, unless the settings say otherwise.
    Raises ValueError for a name that is no schedule's, with the nearest ones, and for settings that
    it does not take.
    """
    public = (name for name in dir(optax.schedules) if not name.startswith("_"))
    names = [name for name in public if name.endswith(("_schedule", "_decay"))]
    make = _named("training.schedule.name", name, "schedule", names)
    takes = inspect.signature(make).parameters
    ours = {"init_value": 0.0, "peak_value": 1.0} if "peak_value" in takes else {"init_value": 1.0}
    made = partial(make, **{key: value for key, value in ours.items() if key in takes} | settings)
    _tried(
        lambda: made()(jnp.zeros((), jnp.int32)),
        f"training.schedule={ {'name': name, **settings} }",
        make,
    )
    factor = made()
    # Of a whole number some make float32, whose rounding differs when compiled.
    return lambda step: factor(jnp.asarray(step, float))


def _optimizers() -> list[str]:
    """What in Optax makes a rule of a learning rate; its parts, `scale_by_...`, are none."""
    functions = [
        name
        for name, make in vars(optax).items()
        if inspect.isfunction(make) or isinstance(make, partial)
    ]
    public = [name for name in functions if not name.startswith(("_", "scale_by_"))]
    return [
        name
        for name in public
        if "learning_rate" in inspect.signature(getattr(optax, name)).parameters
    ]


def _named(setting: str, name: str, kind: str, names: Iterable[str]) -> Callable[..., Any]:
    if name not in (names := tuple(names)):
        near = difflib.get_close_matches(str(name), names, cutoff=0.0)
        raise SettingError(
            f"{setting}={name}: no {kind} of Optax; the nearest names are {', '.join(near)}"
        )
    return getattr(optax, name)


def _tried(use: Callable[[], Any], setting: str, make: Callable[..., Any]) -> None:
    """Use what `make` has made, once; what that raises is raised again with the setting's name."""
    try:
        with warnings.catch_warnings():  # of Optax's own making, at every use
            warnings.simplefilter("ignore")
            use()
    except Exception as error:  # each of them checks its settings in its own way, or not at all
        known = [name for name in inspect.signature(make).parameters if name != "learning_rate"]
        raise SettingError(f"{setting}: {error}; it takes {', '.join(known)}") from error
