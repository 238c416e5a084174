"""This machine, shared among processes: how many, and which cores and which GPU are each one's
own."""

import os
import tempfile
from pathlib import Path

import filelock

GPUS = Path("/proc/driver/nvidia/gpus")


def cores() -> list[int]:
    """The cores that this process may use."""
    return (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA names them; JAX is not asked: it would take them
    all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(k) for k in range(len(list(GPUS.iterdir())))] if GPUS.is_dir() else []


def workers(asked: int | None = None) -> int:
    """How many processes are to share this machine: as many as asked for, else one a GPU, else one
    a core."""
    return asked or len(gpus()) or len(cores())


def take_share(count: int) -> int | None:
    """Takes one of `count` shares of this machine for the life of this process: its cores, and one
    GPU where there are any.

    Returns the share's number, or None where all are taken (then nothing is restricted) or this
    process has one. To be called before
    JAX has begun: its threads and devices are those that it finds then.
    """
    if _HELD:  # a process that makes several runs keeps what it has
        return None
    for k in range(count):
        lock = filelock.FileLock(
            Path(tempfile.gettempdir()) / f"ntkcl-share-{os.getuid()}-{k}-of-{count}.lock"
        )
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            continue
        _HELD.append(lock)
        mine, devices = cores(), gpus()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, mine[k::count] or [mine[k % len(mine)]])
        if devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[k % len(devices)]
        return k
    return None


_HELD: list[
    filelock.BaseFileLock
] = []  # the operating system lets go of them when the process ends, however it ends
