"""Imports in another thread, while XLA compiles and computes: what the end of a run needs takes a
second to import, and up to a third of the command's time where nothing is compiled any more."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from threading import Thread


def imported(modules: Sequence[str]) -> None:
    """Begins to import them. Whoever imports one meanwhile waits; one that cannot be imported says
    so to whoever imports it next."""

    def all_of():
        for name in modules:
            with suppress(Exception):
                import_module(name)

    if not all(name in sys.modules for name in modules):
        Thread(target=all_of).start()
