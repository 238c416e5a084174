"""What makes a run this run: its folder and its group."""

import hydra
import pytest

from ntkcl.cli import command, config
from ntkcl.runs import identity


def resolved(*overrides):
    with hydra.initialize_config_dir(config.CONF, version_base="1.3"):
        return identity.resolve(hydra.compose("config", overrides=list(overrides)))


def test_runs_of_one_group_differ_in_their_seed_alone():
    runs = [resolved(f"seed={seed}", f"network.width={w}") for w in (8, 16) for seed in (0, 1)]
    assert len({run.folder for run in runs}) == 4
    assert runs[0].group == runs[1].group != runs[2].group == runs[3].group


def test_settings_that_make_no_other_run_leave_its_folder():
    others = "kernel.budget_mib=9", "compilation_cache=false", "forecast.explain=true"
    assert resolved(*others).folder == resolved().folder


@pytest.mark.parametrize(
    "given",
    [["-m", "seed=0,1", "job=run"], ["seed=0,1", "-m", "job=run"], ["seed=0,1", "job=run", "-m"]],
)
def test_the_flag_of_a_sweep_comes_before_its_settings(given):
    assert command._ordered(given) == ["-m", "seed=0,1", "job=run"]
    assert command._ordered(["table", *given]) == ["table", "-m", "seed=0,1", "job=run"]
