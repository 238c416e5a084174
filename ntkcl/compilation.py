"""Compiled programs that serve many runs.

JAX compiles anew for every function object it is given as a static argument, and writes arrays that
a function closes over into the program. Two runs that differ in their seed, or a learning rate, are
then two programs, unless their functions are the same objects and their arrays are passed in.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Any, TypeVar

import optax
from jax.tree_util import Partial

Made = TypeVar("Made", bound=Callable[..., Any])


def once(make: Made) -> Made:
    """A constructor that gives the same object for the same settings, lists and mappings among
    them; settings that cannot be looked up, such as arrays, make a new one each time."""
    cached = lru_cache(maxsize=64)(lambda call: make(*call.args, **call.settings))

    @wraps(make)
    def made(*args, **settings):
        try:
            return cached(_Call(args, settings))
        except _Unknown:
            return make(*args, **settings)

    return made  # type: ignore[return-value]


class _Unknown(Exception):
    """Settings that cannot be looked up."""


class _Call:
    """Arguments that are equal where they have the same types and values, in the same order."""

    def __init__(self, args, settings):
        self.args, self.settings = args, settings
        self.key = _frozen((args, tuple(sorted(settings.items()))))
        try:
            self.hash = hash(self.key)
        except TypeError:
            raise _Unknown from None

    def __hash__(self):
        return self.hash

    def __eq__(self, other):
        return self.key == other.key


def _frozen(value):
    if isinstance(value, Mapping):
        return (dict, tuple((key, _frozen(entry)) for key, entry in value.items()))
    if type(value) in (list, tuple):
        return (type(value), tuple(map(_frozen, value)))
    return (type(value), value)


def portable(given: Any) -> Any:
    """A function, or an Optax transformation, as a pytree of the arrays it was bound to by
    `jax.tree_util.Partial`: an argument of programs, which are compiled for its code and the
    arrays' shapes."""
    if isinstance(given, optax.GradientTransformation):
        return optax.GradientTransformation(portable(given.init), portable(given.update))
    return given if isinstance(given, Partial) else Partial(given)
