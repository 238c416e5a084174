"""Imports in another thread."""

import sys
import threading

from ntkcl.cli import ahead


def importing(modules):
    """The names of the threads that import them."""
    before = set(threading.enumerate())
    ahead.imported(modules)
    more = [thread for thread in threading.enumerate() if thread not in before]
    for thread in more:
        thread.join(10)
    return more


def test_what_is_there_is_imported_by_another_thread_and_once(tmp_path, monkeypatch):
    (tmp_path / "needed_at_the_end.py").write_text("import threading\nBY = threading.get_ident()\n")
    monkeypatch.syspath_prepend(tmp_path)
    importing(["not_there_at_all", "needed_at_the_end"])
    by = sys.modules.pop("needed_at_the_end").BY
    assert by != threading.get_ident()
    assert importing(["sys", "threading"]) == []
