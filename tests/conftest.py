"""Float64 is on, silent broadcasting across ranks is an error, and every run writes below a temporary folder."""

import jax
import pytest
from hydra.core.global_hydra import GlobalHydra

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def ntkcl(monkeypatch, capsys, tmp_path):
    """The command line, in this process: `ntkcl("seed=1") -> (exit code, stdout, stderr)`, results in tmp_path/results."""
    from ntkcl.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def command(*overrides):
        monkeypatch.setattr("sys.argv", ["ntkcl", *overrides])
        GlobalHydra.instance().clear()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return command
