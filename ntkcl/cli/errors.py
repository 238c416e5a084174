"""One line for every error that the user can mend."""

import difflib
import re
import shlex
import sys
import traceback
from pathlib import Path

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ntkcl import validation
from ntkcl.cli.config import CONF

# What only some commands need is imported where they do: W&B, matplotlib, plotly and orbax take a second together.
PACKAGE = Path(__file__).parents[1]


def _told(action, *arguments, stop=True, composing=None):
    """Run an action; an error that the user can mend is told in one line, once, and ends the process with code 2 if `stop`.

    `composing` the configuration of that name: an error that no job has seen comes from it itself, whatever its type.
    """
    try:
        return action(*arguments)
    except Exception as error:
        if not hasattr(error, "line"):
            error.line = _one_line(error, composing or "config") or (
                _flat(error) if composing else None
            )  # type: ignore[attr-defined]
            if error.line is not None:  # type: ignore[attr-defined]
                print(f"ntkcl: {error.line}", file=sys.stderr)  # type: ignore[attr-defined]
        if error.line is None or not stop:  # type: ignore[attr-defined]
            raise
        sys.exit(2)


def _one_line(error: BaseException, composed: str = "config") -> str | None:
    """What to tell the user, or None for an error that is not of his making: a fault of the program keeps its traceback."""
    if isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory allocating")
    ):
        return f"out of memory ({_flat(error)[:160]}); make network.width, the data, batches or a method's memory smaller"
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        own_fault = cause is not None and not isinstance(
            cause, ImportError | AttributeError | TypeError | ValueError
        )
        if own_fault:
            return None
        return (cause and _one_line(cause, composed)) or _flat(error) + _importable(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _flat(error) + _quoting(error) + _nearest(error, composed)
    if "Config group override" in str(error):
        return (
            f"{_flat(error)}; a group such as network=mlp takes the name of a file in conf/network"
        )
    if isinstance(error, TypeError) and re.search(
        r"unexpected keyword|multiple values for|missing (a|\d+) required", str(error)
    ):
        return f"{_flat(error)}; expected the settings named in conf, no more and no fewer"
    ours = str(PACKAGE) in traceback.extract_tb(error.__traceback__)[-1].filename
    if isinstance(error, ValueError) and ours:
        return _flat(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.filename or 'results_dir'}: {error.strerror}; is results_dir a folder that can be written?"
    return None


def _flat(error) -> str:
    flat = re.sub(r"\s*\n\s*", "; ", str(error).strip()) or type(error).__name__
    return "".join(c if validation.printable(c) else repr(c)[1:-1] for c in flat)


def _importable(error) -> str:
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


def _quoting(error) -> str:
    """How to quote a text that Hydra's grammar does not take as it is."""
    comma = re.search(r"Ambiguous value for argument '(.*)'", str(error))
    override = getattr(error, "override", None) or (comma.group(1) if comma else "")
    key, sign, value = override.partition("=")
    if not sign:
        return ""
    if not validation.printable(value):
        return f"; {key}={value!r}: expected one line without control characters"
    bare = value.strip(value[0]) if value[:1] in ("'", '"') else value
    quoted = bare.replace('"', '\\"')
    shown = shlex.quote(f'{key}="{quoted}"')
    return (
        "; a text with spaces, commas, or any of = ( ) [ ] { } ~ # and quotes is quoted for Hydra "
        f"within quotes for the shell: {shown}"
    )


def _nearest(error, name) -> str:
    """`; did you mean ...?` for an override of a key that does not exist."""
    missing = re.search(r"Could not override '([^']*)'", str(error))
    if missing is None:
        return ""
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        known = _keys(OmegaConf.to_container(hydra.compose(name)))
    near = difflib.get_close_matches(missing.group(1), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _keys(nested, prefix="") -> list[str]:
    names = []
    for key, value in nested.items():
        names += [
            prefix + key,
            *(_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else []),
        ]
    return names
