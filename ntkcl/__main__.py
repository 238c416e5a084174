"""`python -m ntkcl` and the command `ntkcl`: starts and ends `ntkcl.cli.command` quickly."""

import gc
import os
import signal
import sys
import threading

INTERRUPTED = "ntkcl: interrupted; what is complete stays, the same command goes on from there"


def main() -> None:
    """The command. Its imports, of which nothing is garbage, and its end, where everything is, go
    without the garbage collector, which would take .7 seconds; between them it comes more seldom
    than Python has it by itself, which saves .5.

    `--version` prints the version. Ctrl-C, whenever it comes, prints one line and exits with
    code 130.
    """
    try:
        if "--version" in sys.argv[1:]:
            from ntkcl import __version__

            print(f"ntkcl {__version__}")
            return
        command = _imported()
        try:
            command()
        finally:
            gc.freeze()
    except KeyboardInterrupt:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        _on_interrupt(_leave)  # a second Ctrl-C ends at once what the first one waits for
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)


def _imported():
    """`ntkcl.cli.command.main`. While it is imported, an interruption ends the process itself: as
    an exception it would leave other libraries' imports as theirs, or be swallowed there, and
    nothing is open yet that has to be closed."""
    before = _on_interrupt(_ended)
    gc.disable()
    try:
        from ntkcl.cli.command import main as command
    finally:
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)  # JAX makes many objects that live long
        gc.enable()
        if before is not None:
            signal.signal(signal.SIGINT, before)
    return command


def _on_interrupt(handler):
    """Handles Ctrl-C by `handler` and returns what did before, or None where it is ignored or
    another's to handle."""
    before = signal.getsignal(signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or before is not signal.default_int_handler:
        return None
    return signal.signal(signal.SIGINT, handler)


def _ended(number, frame):
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise KeyboardInterrupt
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


def _leave(number, frame):
    os._exit(130)


if __name__ == "__main__":
    main()
