"""Compiled programs that serve many runs, and later processes.

JAX compiles anew for every function object it is given as a static argument, and writes arrays that
a function closes over into the program. Two runs that differ in their seed, or a learning rate, are
then two programs, unless their functions are the same objects and their arrays are passed in.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import jax
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


def one_of(x: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of one of the inputs x [n, ...]; x[0] itself would be two programs."""
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def lowered(apply: Callable[..., Any], theta: Any, one: Any) -> Any:
    """The program of a function of one input, before it is compiled; what it is bound to is no
    part of it."""
    return jax.jit(_applied).lower(portable(apply), theta, one)


def _applied(apply, theta, x):
    return apply(theta, x)


def convolves(apply: Callable[..., Any], theta: Any, one: Any) -> bool:
    """Whether a function of one input has convolutions that are better kept out of loops: XLA on a
    CPU brings their dimensions into the order that it is fast in outside of loops alone, and their
    derivatives within one take up to forty times as long. one: an input, or its shape and type."""
    return jax.default_backend() == "cpu" and "conv_general_dilated" in str(
        jax.make_jaxpr(apply)(theta, one)
    )


def activations(apply: Callable[..., Any], theta: Any, one: Any) -> int:
    """How many numbers a function makes of one input on the way to its outputs, as it is written;
    compiled, some are never held. one: an input, or its shape and type."""
    jaxpr = jax.make_jaxpr(apply)(theta, one).jaxpr
    reached, made = {jaxpr.invars[-1]}, 0
    for equation in jaxpr.eqns:
        if any(v in reached for v in equation.invars if not hasattr(v, "val")):
            reached |= set(equation.outvars)
            made += sum(v.aval.size for v in equation.outvars)
    return made


STORED_MIB = 1024  # of compiled programs on disk: above, the oldest go when a command starts


def stored(wanted: bool) -> None:
    """Keeps compiled programs on disk for later processes, by JAX's persistent compilation cache.

    In JAX_COMPILATION_CACHE_DIR where that is set, else below the user's cache folder, a folder for
    each kind of processor; where that cannot be written, nowhere. Several processes may share it.
    """
    # What a kill has left half written, another process is writing, or a full disk refuses, is
    # compiled again, in silence.
    broken = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message=broken)
    if not wanted:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        folder = _cache_folder() / "ntkcl" / "programs" / _processor()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trimmed(folder, STORED_MIB)
        except OSError:  # it is a convenience
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX keeps what took a second to compile; here hundreds of programs take a tenth each.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def trimmed(folder: Path, most_mib: float) -> None:
    """Deletes the oldest files of a folder until it holds at most `most_mib`."""
    files = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # another process may be at it
            files.append((file.stat(), file))
    size = sum(about.st_size for about, _ in files)
    for about, file in sorted(files, key=lambda one: one[0].st_mtime):
        if size <= most_mib * 2**20:
            return
        file.unlink(missing_ok=True)
        size -= about.st_size


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _processor() -> str:
    """What a program was compiled for: one of another processor may use instructions that this one
    lacks, and folders of users are often shared by machines."""
    try:
        features = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in line
        )
    except (OSError, StopIteration):
        features = os.uname().machine
    return hashlib.sha256(features.encode()).hexdigest()[:12]
