"""`ntkcl --help`, `ntkcl help GROUP`: what one can do and choose, from the comments in `conf/`."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cases import ROOT

from ntkcl.cli import help

CONF = ROOT / "conf"


@pytest.mark.slow
def test_help_shows_eleven_commands_that_work_as_they_stand(ntkcl):
    code, out, err = ntkcl("--help")
    assert (code, err) == (0, "") and max(map(len, out.splitlines())) <= 100
    commands, others = out.split("Settings")
    lines = [line[2:] for line in commands.splitlines() if line.startswith("  ntkcl")]
    assert len(lines) == 11
    for line in lines:
        words, _, meaning = line.partition("  ")
        assert meaning.strip(), line
        _, *arguments = shlex.split(words)
        shown = ["sweep.dry=true"] if "-m" in arguments else ["--cfg", "job"]
        code, out, err = ntkcl(*arguments, *shown)
        assert (code, err) == (0, ""), line
        assert "results_dir: results" in out or "4 of 4 jobs would be launched" in out, (line, out)
    for line in others.splitlines():
        if line.startswith("  ntkcl"):
            assert ntkcl(*shlex.split(line.strip().partition("  ")[0])[1:])[0] == 0, line
    assert "docs/reference/settings.md" in others and "--hydra-help" in others


@pytest.mark.slow
def test_hydras_own_help_stays_reachable():  # it ends with its process's streams closed
    command = [sys.executable, "-m", "ntkcl", "--hydra-help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "--multirun" in done.stdout


def test_help_lists_every_group_of_the_configuration():
    folders = {p.parent.relative_to(CONF).as_posix() for p in CONF.rglob("*.yaml")}
    assert set(help.GROUPS) == folders - {".", "figure", "wandb", "hydra/help"}
    files = {p.stem for p in CONF.glob("*.yaml")}
    assert set(help.FILES) == files - {"quiet"}


@pytest.mark.parametrize("group", help.GROUPS)
def test_every_choice_of_a_group_has_one_line(ntkcl, group):
    code, out, err = ntkcl("help", group)
    assert (code, err) == (0, "")
    stems = {p.stem for p in (CONF / group).glob("*.yaml")}
    title, *lines = out.split("\n\n")[0].splitlines()
    assert title == f"{group}=" and {line.split()[0] for line in lines} == stems
    for line in lines:
        assert len(line.split()) > 1, f"conf/{group}: {line.strip()} has no comment at its top"
        assert len(line) <= 170, line
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    default = [one[key] for one in defaults for key in (group, f"override {group}") if key in one]
    marked = [line.split()[0] for line in lines if line.endswith("(default)")]
    assert marked == [one for one in default if isinstance(one, str)]


def test_help_of_a_choice_or_a_command_is_its_commented_settings(ntkcl):
    for topic, path in (("method=ewc", "method/ewc"), ("table", "table"), ("config", "config")):
        code, out, _ = ntkcl("help", topic)
        assert code == 0 and out.strip() == Path(CONF, f"{path}.yaml").read_text().strip()


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        (["methods"], "help methods: no such group; expected ntkcl help with one of source, "),
        (["table=x"], "help table=x: no such group"),
        (["method", "stream"], "help method stream: no such group"),
        (["method=replai"], "help method=replai: no such choice; expected agem, "),
        (["method=../config"], "help method=../config: no such choice"),
    ],
)
def test_an_unknown_topic_is_one_line(ntkcl, topics, expected):
    code, out, err = ntkcl("help", *topics)
    assert code == 2 and out == "" and err.startswith(f"ntkcl: {expected}")
    assert err.count("\n") == 1
