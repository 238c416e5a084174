"""What users do to the command by accident: one line that says how to mend it, and nothing lost."""

import subprocess
import sys

import pytest

from ntkcl import __main__ as entry
from ntkcl import command

TINY = (
    "network.width=8", "stream.tasks=2", "stream.train_per_class=2", "stream.test_per_class=2",
    "training.steps=4", "tracking=disabled", "forecast.anchors=[]",
)  # fmt: skip

INTERRUPTED = "ntkcl: interrupted; what is complete stays, the same command goes on from there\n"
AT_IMPORT = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from ntkcl.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["ntkcl.command", "hydra", "omegaconf.errors"])
def test_ctrl_c_during_imports_is_one_line(module, tmp_path):
    done = subprocess.run([sys.executable, "-c", AT_IMPORT, module], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", INTERRUPTED)


def test_ctrl_c_while_hydra_composes_is_one_line(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.hydra, "main", interrupted)
    monkeypatch.setattr(entry, "_on_interrupt", lambda handler: None)  # else it stays after the test
    monkeypatch.setattr("sys.argv", ["ntkcl"])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 130 and capsys.readouterr().err == INTERRUPTED


def test_the_version_is_printed_and_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, ntkcl; from ntkcl.__main__ import main; sys.argv = ['ntkcl', '--version'];"
        "main(); print(ntkcl.__version__, *{'jax', 'hydra', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert done.returncode == 0 and first == f"ntkcl {second}" and second[0].isdigit(), done.stderr
