"""One line for every error that the user can mend."""

import difflib
import re
import shlex
import sys
from typing import Any

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ntkcl import validation
from ntkcl.cli.config import CONF
from ntkcl.cli.overrides import quoted
from ntkcl.cli.sweep import Ended
from ntkcl.validation import SettingError

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory allocating")
WRONG_CALL = r"unexpected keyword|multiple values for|missing (a|\d+) required"


class Reported(BaseException):  # Hydra announces every Exception that leaves a job
    """An error whose line is printed: the command is to end with exit code 2."""


def reported(action, *arguments, hide: bool = True, composing: str | None = None):
    """Runs an action. The line of an error that the user can mend is printed once, and `Reported`
    raised in the error's place, or without `hide` the error itself, as a sweep needs it.

    `composing` the configuration of that name: an error that no job has seen comes from it itself,
    whatever its type.
    """
    try:
        return action(*arguments)
    except (Reported, Ended):
        raise
    except Exception as error:
        if not _is_printed(error):
            line = one_line(error, composing or "config") or (_flat(error) if composing else None)
            if line is None:
                raise
            print(f"ntkcl: {line}", file=sys.stderr)
            error.add_note(PRINTED)
        if not hide:
            raise
        raise Reported from error


PRINTED = "(printed as one line)"


def _is_printed(error: BaseException) -> bool:
    return PRINTED in getattr(error, "__notes__", ())


def one_line(error: BaseException, composed: str = "config") -> str | None:
    """What the user can do, or None for a fault of the program, which keeps its traceback."""
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        return (
            f"out of memory ({_flat(error)[:160]}); make network.width, the data, batches or a "
            "method's memory smaller"
        )
    if isinstance(error, InstantiationException):
        return _of_instantiation(error, composed)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _flat(error) + _quoting(error) + _nearest(error, composed)
    if "Config group override" in str(error):
        return (
            f"{_flat(error)}; a group such as network=mlp takes the name of a file in conf/network"
        )
    if isinstance(error, TypeError) and re.search(WRONG_CALL, str(error)):
        return f"{_flat(error)}; expected the settings named in conf, no more and no fewer"
    if isinstance(error, SettingError):
        return _flat(error)
    if isinstance(error, OSError) and error.errno is not None:
        where = error.filename or "results_dir"
        return f"{where}: {error.strerror}; is results_dir a folder that can be written?"
    return None


def _of_instantiation(error: InstantiationException, composed: str) -> str | None:
    """Of what a `_target_` raised; another library's ValueError counts as the user's, too."""
    cause = error.__cause__
    if cause is not None and not isinstance(cause, FROM_TARGETS):
        return None
    return (cause and one_line(cause, composed)) or _flat(error) + _importable(error)


FROM_TARGETS = (ImportError, AttributeError, TypeError, ValueError)


def _flat(error: BaseException) -> str:
    flat = re.sub(r"\s*\n\s*", "; ", str(error).strip()) or type(error).__name__
    return "".join(c if validation.printable(c) else repr(c)[1:-1] for c in flat)


def _importable(error: BaseException | None) -> str:
    """How to make a module of one's own importable, where one was not found."""
    while error is not None:
        name = getattr(error, "name", None) or "ntkcl"
        if isinstance(error, ModuleNotFoundError) and name.split(".")[0] != "ntkcl":
            return (
                f"; no module named {error.name}: with PYTHONPATH=. before the command, "
                "the modules of the current folder are importable"
            )
        error = error.__cause__
    return ""


def _quoting(error: BaseException) -> str:
    """How to quote a text that Hydra's grammar does not take as it is."""
    comma = re.search(r"Ambiguous value for argument '(.*)'", str(error))
    override = getattr(error, "override", None) or (comma.group(1) if comma else "")
    key, sign, value = override.partition("=")
    if not sign:
        return ""
    if not validation.printable(value):
        return f"; {key}={value!r}: expected one line without control characters"
    bare = value.strip(value[0]) if value[:1] in ("'", '"') else value
    shown = shlex.quote(quoted(key, bare))
    return (
        "; a text with spaces, commas, or any of = ( ) [ ] { } ~ # and quotes is quoted for Hydra "
        f"within quotes for the shell: {shown}"
    )


def _nearest(error: BaseException, name: str) -> str:
    """`; did you mean ...?` for an override of a key that does not exist."""
    missing = re.search(r"Could not override '([^']*)'", str(error))
    if missing is None:
        return ""
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        known = _keys(OmegaConf.to_container(hydra.compose(name)))
    near = difflib.get_close_matches(missing.group(1), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _keys(nested: Any, prefix: str = "") -> list[str]:
    names = []
    for key, value in nested.items():
        names += [
            prefix + key,
            *(_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else []),
        ]
    return names
