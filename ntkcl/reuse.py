"""What lets a compiled program serve many runs: objects made once for each settings, and functions whose arrays are arguments.

JAX compiles anew for every function object it is given as a static argument, and writes arrays that a function closes over into the
program. Two runs that differ in their seed, or a learning rate, are so two programs, unless their functions are the same objects and
their arrays are passed in.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import optax
from jax.tree_util import Partial

Made = TypeVar("Made", bound=Callable[..., Any])


def once(make: Made) -> Made:
    """A constructor that gives the same object for the same settings; settings that cannot be looked up make a new one each time."""
    remembered = lru_cache(maxsize=64, typed=True)(make)

    @wraps(make)
    def made(*args, **settings):
        return (remembered if _hashable((args, *settings.items())) else make)(*args, **settings)

    return made  # type: ignore[return-value]


def _hashable(value) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def portable(given: Any) -> Any:
    """A function, or an Optax transformation, as a pytree of the arrays it was bound to by `jax.tree_util.Partial`: an argument of
    programs, which are compiled for its code and the arrays' shapes."""
    if isinstance(given, optax.GradientTransformation):
        return optax.GradientTransformation(portable(given.init), portable(given.update))
    return given if isinstance(given, Partial) else Partial(given)
