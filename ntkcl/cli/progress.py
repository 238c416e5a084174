"""How far a sweep is: a line on the terminal whenever something has changed."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ntkcl.reporting import console
from ntkcl.runs.status import count, damaged

EVERY = 5.0  # seconds between two lines of progress, at least


@contextmanager
def told_progress(folders: Sequence[Path]) -> Iterator[None]:
    """While the block runs, a line whenever something has changed: done, running, failed, left, and the time that may remain."""
    say, begun, ended = console.printer(console.terminal()), time.monotonic(), threading.Event()
    spoilt = damaged(folders)
    before = count(folders, spoilt)
    say(
        f"{len(folders)} runs: {before.done} done, {before.failed} failed before, {before.running} running, {before.left} left"
    )

    def watch():
        last = before
        while not ended.wait(EVERY):
            now = count(folders, spoilt)
            if now != last:
                say(_line(now, now.done - before.done, time.monotonic() - begun, len(folders)))
                last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        now = count(folders, spoilt)
        elsewhere = f"{now.running} running elsewhere, " if now.running else ""
        took = duration(time.monotonic() - begun)
        say(
            f"{now.done} of {len(folders)} done, {now.failed} failed, {elsewhere}{now.left} left, in {took}"
        )


def _line(now, made, seconds, total) -> str:
    left = now.left + now.running
    remaining = f", about {duration(seconds / made * left)} to go" if made and left else ""
    return f"{now.done} of {total} done, {now.running} running, {now.failed} failed, {now.left} left{remaining}"


def duration(seconds: float) -> str:
    """Such as 40 s, 3 min, 2.5 h."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
