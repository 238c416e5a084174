"""Training that survives being killed: where it stands, on disk, every k steps and at every task's
end. The one door to orbax.

A run that is started again begins at the beginning, and takes from here the
trainings that it has already done: forecasts and measurements follow from the parameters, bit for
bit. A checkpoint is written beside its place, with a list of its files and their SHA-256 sums, and
then moved there, so that one that exists is whole; one that does not agree with its list is left
aside, and the one before it is taken.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from ntkcl.training.loop import Fit, State
from ntkcl.validation import SettingError

LIST = "files.json"
FACTS = {"run", "step", "losses", "dtype", "shapes", "files"}  # of the list
PATIENCE = 10.0  # seconds for threads that write on after an error
KEPT = 2  # of one task: the newest, and one to fall back on


class Checkpointer(NamedTuple):
    """`load(task, state) -> Fit or None`, the newest that is whole, shaped as the `state` that
    training starts from; `save(task, fit)`; `every` so many steps."""

    load: Callable[[int, State], Fit | None]
    save: Callable[[int, Fit], None]
    every: int


def checkpointer(folder: Path, run: str, every: int, say: Callable[[str], None]) -> Checkpointer:
    """Checkpoints of the run whose identity is `run` in a folder of its own.

    Arguments:
      say: prints what was found and what could not be used.
    Raises ValueError for a folder that holds checkpoints of another run, and where it cannot be
    written: training then stops, with all that was written before in its place.
    """

    def load(task, state):
        for path in sorted(folder.glob(f"task{task:04d}-step*"), reverse=True):
            listed = _listed(path)
            if listed is None:
                say(f"checkpoint {path} is damaged; falling back on the one before it")
                continue
            if listed["run"] != run:
                raise SettingError(
                    f"checkpoints: {path} belongs to another run; move {folder} away"
                )
            like = Fit(0, state, jax.ShapeDtypeStruct((listed["losses"],), listed["dtype"]))
            if listed["shapes"] != _shapes(like):
                say(
                    f"checkpoint {path} was written by a program that remembered other things; "
                    "left aside"
                )
                continue
            say(f"task {task}: going on from step {listed['step']}")
            return _read(path / "state", like)._replace(step=listed["step"])
        return None

    def save(task, fit):
        place = folder / f"task{task:04d}-step{fit.step:09d}"
        if _listed(place) is not None:  # it was read from there
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stage = Path(tempfile.mkdtemp(prefix=".stage-", dir=folder))
            _write(stage / "state", fit)
            facts = dict(
                run=run,
                step=fit.step,
                losses=len(fit.losses),
                dtype=str(fit.losses.dtype),
                shapes=_shapes(fit),
            )
            (stage / LIST).write_text(json.dumps(facts | {"files": _sums(stage)}))
            _cleared(place)  # of a damaged one
            stage.replace(place)
        except (OSError, ValueError) as error:  # orbax tells of a full disk by either
            raise SettingError(
                f"checkpoints: {folder} cannot be written ({_reason(error)}); what was saved "
                "before is whole, the same command goes on "
                "from there once there is room"
            ) from error
        finally:
            for stage in folder.glob(".stage-*"):
                _cleared(stage)
        for old in sorted(folder.glob(f"task{task:04d}-step*"))[:-KEPT]:
            _cleared(old)

    return Checkpointer(load, save, every)


def _cleared(path: Path) -> None:
    path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def _reason(error) -> str:
    full = (
        "No space left" in str(error)
        or "RESOURCE_EXHAUSTED" in str(error)
        or "OUT_OF_RANGE" in str(error)
    )
    return getattr(error, "strerror", None) or (
        "no space left" if full else str(error).split("\n")[0][:200]
    )


def _listed(path: Path) -> dict | None:
    """What was written with a checkpoint, or None where its files are not those listed."""
    try:
        listed = json.loads((path / LIST).read_text())
        return listed if listed.keys() >= FACTS and listed["files"] == _sums(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sums(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != LIST)
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def _leaves(fit) -> dict:
    """Arrays by their place in the flattened tree; orbax takes none without entries, and of keys
    their numbers."""
    return {str(k): leaf for k, leaf in enumerate(jax.tree.leaves((fit.state, fit.losses)))}


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _shapes(fit) -> list:
    return [[list(leaf.shape), str(leaf.dtype)] for leaf in map(_array, _leaves(fit).values())]


def _array(leaf):
    return leaf if hasattr(leaf, "shape") else jnp.asarray(leaf)


def _write(path, fit) -> None:
    leaves = {
        k: jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for k, leaf in _leaves(fit).items()
        if leaf.size
    }
    with _quiet(), ocp.StandardCheckpointer() as writer:
        writer.save(path.absolute(), leaves)


@contextlib.contextmanager
def _quiet():
    """Without what orbax's threads log of an error: it reaches us as an exception, and the user as
    one line.

    Of an error, no thread of orbax is left when the block ends: one that writes on would print its
    own error later, and make the stage again that is being cleared away.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    before = set(threading.enumerate())
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = partial(_unraised, hook)
    try:
        yield
        sys.unraisablehook = hook  # after an error it stays: tensorstore reports when it likes
    except Exception:
        _ended(set(threading.enumerate()) - before)
        raise
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _unraised(otherwise, report) -> None:
    """Leaves out what tensorstore still had to report to an event loop that an error has closed."""
    if "Event loop is closed" not in str(report.exc_value):
        otherwise(report)


def _ended(threads) -> None:
    """Waits for those of orbax, `PATIENCE` seconds at most; their own `join` would raise again."""
    until = time.monotonic() + PATIENCE
    for thread in threads:
        if type(thread).__module__.startswith("orbax"):
            threading.Thread.join(thread, max(0.0, until - time.monotonic()))


def _read(path, like) -> Fit:
    leaves = _leaves(like)
    numbers = {
        k: jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        for k, leaf in leaves.items()
        if leaf.size
    }
    wanted = {k: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for k, leaf in numbers.items()}
    with ocp.StandardCheckpointer() as reader:
        read = reader.restore(path.absolute(), wanted)

    def back(k, leaf):
        if not leaf.size:
            return jnp.zeros(leaf.shape, leaf.dtype)
        return (
            jax.random.wrap_key_data(read[k], impl=jax.random.key_impl(leaf))
            if _is_key(leaf)
            else read[k]
        )

    tree = jax.tree.structure((like.state, like.losses))
    return Fit(0, *jax.tree.unflatten(tree, [back(k, leaf) for k, leaf in leaves.items()]))
