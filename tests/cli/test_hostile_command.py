"""What users do to the command by accident: one line that says how to mend it, and nothing lost."""

import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cases import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from ntkcl import __main__
from ntkcl import __main__ as entry
from ntkcl.cli import command
from ntkcl.experiment import events as events_of
from ntkcl.reporting import console

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


@pytest.mark.parametrize("module", ["ntkcl.cli.command", "hydra", "omegaconf.errors"])
def test_ctrl_c_during_imports_is_one_line(module, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, module], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", INTERRUPTED)


def test_ctrl_c_while_hydra_composes_is_one_line(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.hydra, "main", interrupted)
    monkeypatch.setattr(
        __main__, "_on_interrupt", lambda handler: None
    )  # else it stays after the test
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


@pytest.mark.parametrize(
    "key", ["abc", "x" * 39, "not a key at all, with spaces, of more than forty"]
)
def test_a_malformed_api_key_is_one_line_before_anything_is_trained(
    ntkcl, tmp_path, monkeypatch, key
):
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    code, _, err = ntkcl(*TINY, "tracking=online")
    assert code == 2 and err.startswith("ntkcl: tracking.mode=online: WANDB_API_KEY invalid")
    assert "wandb login" in err and err.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("size", [-1, 0])
def test_an_impossible_batch_of_jobs_is_one_line(ntkcl, tmp_path, size):
    code, _, err = ntkcl("-m", *TINY, "seed=0,1", f"hydra.sweeper.max_batch_size={size}")
    expected = "expected a whole number of at least 1"
    assert (code, err) == (2, f"ntkcl: hydra.sweeper.max_batch_size={size}: {expected}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["a run", "a sweep"])
@pytest.mark.parametrize("setting", ['experiment_name="a\nb"', "results_dir='a\udcffb'"], ids=ascii)
def test_a_name_that_is_no_line_of_text_is_one_line(ntkcl, tmp_path, sweep, setting):
    code, _, err = ntkcl(*sweep, *TINY, setting)
    key, value = setting.split("=")
    assert code == 2 and err.startswith(f"ntkcl: {key}={value[1:-1]!r}: expected one line")
    assert err.count("\n") == 1 and not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("setting", ["experiment_name=a\nb", "results_dir=a\udcffb"], ids=ascii)
def test_nor_is_it_more_where_hydra_cannot_read_it(ntkcl, setting):
    code, _, err = ntkcl(*TINY, setting)
    key, value = setting.split("=")
    assert code == 2 and f"{key}={value!r}: expected one line" in err and err.count("\n") == 1


def test_a_module_that_is_not_found_tells_of_pythonpath(ntkcl):
    code, _, err = ntkcl(*TINY, "network._target_=my_module_of_nowhere.net")
    assert code == 2 and err.count("\n") == 1
    assert "no module named my_module_of_nowhere: with PYTHONPATH=. before the command" in err
    code, _, err = ntkcl(*TINY, "network._target_=ntkcl.networks.nope")
    assert code == 2 and "PYTHONPATH" not in err


@pytest.mark.parametrize("path", ["a b=c", "a (b)", "a,b", "it's", "~x", "é", 'say "so"', "a[b"])
def test_a_path_that_wants_quotes_is_shown_in_them_and_they_help(ntkcl, tmp_path, path):
    code, _, err = ntkcl(*TINY, f"results_dir={path}")
    assert code == 2 and err.count("\n") == 1
    (quoted,) = shlex.split(err.split("quotes for the shell: ")[1].strip())
    value = OverridesParser.create().parse_overrides([quoted])[0].value()
    assert (quoted.split("=")[0], value) == ("results_dir", path)


def test_the_readme_and_errors_name_no_package_of_an_index():
    for path in (ROOT / "README.md", *(ROOT / "ntkcl").rglob("*.py")):
        assert "pip install 'ntkcl" not in path.read_text(), path
    assert "pip install -e '.[launchers]'" in (ROOT / "README.md").read_text()


def test_the_console_tells_what_is_run_what_is_waited_for_and_where_the_figures_are(ntkcl):
    forecast = [o for o in TINY if not o.startswith("forecast")]
    code, out, _ = ntkcl(*forecast, "figures=true", 'results_dir="a [/b] c"')  # no markup
    lines = out.splitlines()
    assert code == 0 and lines[0] == "data      digits, 2 tasks (rotated), 80 inputs"
    count = int(lines[1].removeprefix("network   mlp of width 8, ").split()[0].replace(",", ""))
    assert count >= 64 * 8 + 8 * 10
    assert lines[2].startswith("training  squared_error, sgd, ") and "steps a task" in lines[2]
    assert lines[3] == "method    naive"
    begun = [line for line in lines if line.startswith("forecasting")]
    assert begun == [
        "forecasting from init: 2 tasks, 80 inputs",
        "forecasting from boundary: task 0, 80 inputs",
        "forecasting from boundary: task 1, 80 inputs",
    ]
    assert lines[-2].startswith("figures -> a [/b] c") and Path(lines[-2][11:]).name == "drift.png"
    report = shlex.split(lines[-1].removeprefix("report -> "))
    assert report[:2] == ["ntkcl", "report"] and ntkcl(*report[1:])[0] == 0
    assert len(list(Path("a [/b] c/reports").glob("*.html"))) == 1
    code, out, _ = ntkcl("-m", *forecast, "figures=true", "seed=1")
    assert code == 0 and "forecasting" not in out and "figures" not in out and "digits" not in out


def test_a_terminal_that_can_draw_shows_what_is_waited_for_and_prints_no_line_of_it():
    drawing = Console(force_terminal=True, width=120, file=io.StringIO())
    events = [events_of.Baselines(*[None] * 4)] * 2
    assert list(console.progress(iter(events), ["init"], 2, 80, drawing)) == events
    drawn = drawing.file.getvalue()
    assert "forecasting from init: 2 tasks, 80 inputs" in drawn
    assert "\x1b[2mforecasting" not in drawn  # as a line of its own it would be dim


def test_a_results_folder_may_be_in_ones_home(ntkcl, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    for n, place in enumerate(("~/x", '"~/x"', "'~/y z'")):
        code, out, _ = ntkcl(*TINY, "figures=false", f"seed={n}", f"results_dir={place}")
        assert code == 0 and not Path("~").exists()
    assert {folder.name for folder in (tmp_path / "my home").iterdir()} == {"x", "y z"}
    code, out, _ = ntkcl("table", "results_dir=~/x", "by=[seed]")
    assert code == 0 and "| 0 " in out.replace("|    0 ", "| 0 ") and not Path("~").exists()
