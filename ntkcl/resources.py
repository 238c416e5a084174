"""Seconds and memory of a phase of a run, and how much memory there is."""

import contextlib
import os
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax

MIB = 2**20


class Cost(NamedTuple):
    """Seconds, and the largest resident set of the whole process in MiB, over one phase."""

    seconds: float
    peak_mib: float

    def plus(self, other: "Cost") -> "Cost":
        """Of both phases together."""
        return Cost(self.seconds + other.seconds, max(self.peak_mib, other.peak_mib))


class Meter:
    """`read()` gives the cost since the last reading. The peak is the phase's own on Linux, the
    process's so far elsewhere."""

    def __init__(self):
        self._start()

    def read(self) -> Cost:
        cost = Cost(time.perf_counter() - self._since, _peak_mib())
        self._start()
        return cost

    def _start(self):
        with contextlib.suppress(OSError):
            # Linux: lowers the high-water mark to what is resident now.
            Path("/proc/self/clear_refs").write_text("5")
        self._since = time.perf_counter()


def memory_gib() -> float:
    """All the memory for arrays: the device's where it reports it, else the machine's."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return (
        statistics.get("bytes_limit", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        / 2**30
    )


def resident_mib() -> float:
    """What the process holds in memory now; on other systems than Linux what it held at most."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return _peak_mib()


def _peak_mib() -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    unit = MIB if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
