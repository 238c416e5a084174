"""Who makes a run: one process at a time, known by a lock whose heartbeat tells that it lives. What
has become of a run.

A run in `<results_dir>/runs/<experiment>/<run>` has its lock `<run>.lock` and, where it failed,
`<run>.failed.json` in `<results_dir>/sweeps/<experiment>`.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from ntkcl.runs import stored
from ntkcl.validation import SettingError

BEAT = 10.0  # seconds between two signs of life
DEAD = 60.0  # seconds without one after which an owner on another machine is dead: six beats
STATES = ("complete", "diverged", "failed", "running", "missing")
RETRY = ("none", "failed", "diverged", "all")
MADE = {
    "none": ("missing",),
    "failed": ("missing", "failed"),
    "diverged": ("missing", "failed", "diverged"),
}  # by `sweep.retry`


class Owner(NamedTuple):
    """A process: its machine, the space of process numbers there (a container has its own), its
    number, when it began in seconds since 1970 (numbers are used again)."""

    host: str
    space: str
    pid: int
    born: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def me() -> Owner:
    """This process."""
    space = "/proc/self/ns/pid"
    return Owner(
        socket.gethostname(),
        os.readlink(space) if os.path.exists(space) else "",
        os.getpid(),
        psutil.Process().create_time(),
    )


def beside(folder: Path) -> Path:
    """Where the lock and the failure of the run in `folder` lie: this path with `.lock` and
    `.failed.json`."""
    return folder.parents[2] / "sweeps" / folder.parent.name / folder.name


def wanted(state: str, retry: str) -> bool:
    """Whether a run in this state is to be made, by `sweep.retry`."""
    return retry == "all" or state in MADE[retry]


def outcome(folder: Path) -> str:
    """What has come of a run so far, whoever is at it: complete, diverged, failed or missing. One
    with damaged files is missing."""
    if (summary := stored.glance(folder)) is not None:
        return "diverged" if summary.get("status") == "diverged" else "complete"
    return "failed" if _with(beside(folder), ".failed.json").exists() else "missing"


def state(folder: Path) -> str:
    """One of `STATES`: the outcome, or running where a living owner has the run."""
    holder = owner(beside(folder))
    return "running" if holder is not None and alive(beside(folder), holder) else outcome(folder)


def failure(folder: Path) -> dict | None:
    """What a failed run left: `error`, one line, `traceback`, `owner`, `time`; None where there is
    nothing. Of a file that cannot be read, `error` says so, alone."""
    path, content = _with(beside(folder), ".failed.json"), None
    with contextlib.suppress(FileNotFoundError), contextlib.suppress(ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and isinstance(content.get("error"), str):
        return content
    unread = {"error": f"{path} cannot be read; the run's command makes it again"}
    return unread if path.exists() else None


@contextlib.contextmanager
def claimed(folder: Path, remember: bool = True) -> Iterator[Owner | None]:
    """Holds the run of `folder` while the block runs and yields None, or yields the living owner
    who holds it.

    A lock whose owner is dead is taken over. To `remember` is to keep an error that leaves the
    block as the run's failure, which an interruption is not. A block that ends well takes an
    earlier failure away. Raises ValueError where the lock cannot be written.
    """
    path, mine = beside(folder), me()
    try:
        holder = _taken(path, mine)
    except OSError as error:
        raise SettingError(
            f"results_dir: {path.parent} cannot be written ({error.strerror or error}); set "
            "results_dir=PATH"
        ) from error
    if holder is not None:
        yield holder
        return
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(_with(path, ".lock"), ended), daemon=True)
    heart.start()
    try:
        yield None
        _with(path, ".failed.json").unlink(missing_ok=True)
    except Exception as error:
        if remember and outcome(folder) not in (
            "complete",
            "diverged",
        ):  # else what failed came after it
            with contextlib.suppress(OSError):  # a full disk is what failed, perhaps
                _fail(_with(path, ".failed.json"), error, mine)
        raise
    finally:
        ended.set()
        heart.join()
        with contextlib.suppress(OSError):
            _released(path, mine)


def clear_dead(folder: Path) -> None:
    """Takes away the lock that a process left which was killed between the run's last file and its
    release: a complete run is not claimed again, which would take it over."""
    path = beside(folder)
    holder = owner(path)
    if _with(path, ".lock").exists() and not (holder is not None and alive(path, holder)):
        with contextlib.suppress(OSError):
            _released(path, holder)


def owner(path: Path) -> Owner | None:
    """Who the lock at `path` names, alive or not."""
    with contextlib.suppress(
        OSError, ValueError, TypeError
    ):  # half written: its writer died in the midst
        return Owner(**json.loads(_with(path, ".lock").read_text()))
    return None


def alive(path: Path, holder: Owner) -> bool:
    """Whether the process runs, on this machine; elsewhere, or where its number may have been given
    again, whether its lock's heart has beaten in the last `DEAD` seconds."""
    if holder[:2] == me()[:2]:
        try:
            process = psutil.Process(holder.pid)
            if process.status() == psutil.STATUS_ZOMBIE:  # killed, and nobody has asked for its end
                return False
            if abs(process.create_time() - holder.born) < 1:
                return True
        except psutil.NoSuchProcess:
            return False
    return _age(_with(path, ".lock")) < DEAD


def _taken(path, mine) -> Owner | None:
    with _alone(_with(path, ".lock")) as file:
        holder = owner(path)
        if holder is not None and alive(path, holder):
            return holder
        content = json.dumps(mine._asdict()).encode()
        os.pwrite(file, content, 0)
        os.ftruncate(file, len(content))
    return None


def _released(path, mine):
    with _alone(_with(path, ".lock")):
        if owner(path) in (
            mine,
            None,
        ):  # else it was taken over, while this process was thought dead
            _with(path, ".lock").unlink(missing_ok=True)
    for parent in list(path.parents)[
        :3
    ]:  # as `results.staged`: what was opened for this run and stayed empty
        parent.rmdir()


@contextlib.contextmanager
def _alone(lock) -> Iterator[int]:
    """The lock's file, made if need be, for this process alone: looking and taking are one, among
    all that share the file system."""
    for _ in range(100):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileNotFoundError, FileExistsError):  # its folder has just been cleared away
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _stands(file, lock):  # else its owner has just let go of it
                yield file
                return
        finally:
            os.close(file)
    raise FileExistsError(errno.EEXIST, "it cannot be made", str(lock))


def _stands(file, lock) -> bool:
    try:
        return os.path.samestat(os.fstat(file), lock.stat())
    except FileNotFoundError:
        return False


def _beat(lock, ended):
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(lock)


def _age(lock) -> float:
    """Seconds since the last beat by the file system's own clock: machines' clocks differ.

    A beat in the future, further than one beat lasts, tells nothing: that clock has been set back,
    or the lock was copied. It is dated now, and its owner has `DEAD` seconds from here to beat
    again: a living owner keeps its run, and a dead one does not hold it until the date has come.
    """
    probe = lock.with_name(f".now-{os.getpid()}-{threading.get_ident()}")
    try:
        probe.touch()
        age = probe.stat().st_mtime - lock.stat().st_mtime
        if age < -BEAT:
            os.utime(lock)
            return 0.0
        return age
    except FileNotFoundError:  # the lock has just gone
        return float("inf")
    except OSError:  # a full disk: who is at it is left at it
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _fail(path, error, mine):
    line = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    content = {"error": line, "owner": str(mine), "time": time.time()}
    path.write_text(
        json.dumps(content | {"traceback": "".join(traceback.format_exception(error))}, indent=1)
        + "\n"
    )


def _with(path, suffix):
    return path.with_name(path.name + suffix)
