"""How far a sweep is: a line on the terminal whenever something has changed."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ntkcl.reporting import console
from ntkcl.runs.status import Count, count, damaged

EVERY = 5.0  # seconds between two lines of progress, at least


@contextmanager
def progress_lines(folders: Sequence[Path]) -> Iterator[None]:
    """While the block runs, a line whenever something has changed: done, running, failed, left, and
    the time that may remain."""
    say, start, ended = console.printer(console.terminal()), time.monotonic(), threading.Event()
    total, spoilt = len(folders), damaged(folders)
    before = count(folders, spoilt)
    say(
        f"{total} runs: {before.done} done, {before.failed} failed before, {before.running} "
        f"running, {before.left} left"
    )

    def watch():
        last = before
        while not ended.wait(EVERY):
            now = count(folders, spoilt)
            if now != last:
                say(_line(now, now.done - before.done, time.monotonic() - start, total))
                last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        now, took = count(folders, spoilt), duration(time.monotonic() - start)
        elsewhere = f"{now.running} running elsewhere, " if now.running else ""
        say(
            f"{now.done} of {total} done, {now.failed} failed, {elsewhere}{now.left} left, in "
            f"{took}"
        )


def _line(now: Count, made: int, seconds: float, total: int) -> str:
    waiting = now.left + now.running
    remaining = f", about {duration(seconds / made * waiting)} to go" if made and waiting else ""
    counts = f"{now.running} running, {now.failed} failed, {now.left} left"
    return f"{now.done} of {total} done, {counts}{remaining}"


def duration(seconds: float) -> str:
    """Such as 40 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
