"""The command `ntkcl`: compose a configuration, build what it names, run, write; and what looks at what was run."""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ntkcl.cli import sweep, views
from ntkcl.cli.config import CONF
from ntkcl.cli.errors import _told
from ntkcl.cli.jobs import _job


def main() -> None:
    """`ntkcl OVERRIDES` runs, `ntkcl table OVERRIDES` and the other `COMMANDS` look at what was run.

    One clear line and exit code 2 for what the user can mend; HYDRA_FULL_ERROR=1 shows the traceback instead.
    """
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    sys.argv[1:] = _ordered(sys.argv[1:])
    first = sys.argv[1] if sys.argv[1:] else ""
    if first.isalpha() and first not in COMMANDS:
        print(
            f"ntkcl: {first}: no such command; expected {', '.join(COMMANDS)}, or settings such as network.width=64",
            file=sys.stderr,
        )
        sys.exit(2)
    if first in COMMANDS and sys.argv[2:3] in (["-m"], ["--multirun"]):
        print(f"ntkcl: {sweep.NO_SWEEP}", file=sys.stderr)  # before Hydra makes a folder for it
        sys.exit(2)
    name = sys.argv.pop(1) if first in COMMANDS else "config"
    action = COMMANDS.get(name, _job)

    def job(cfg):
        # Hydra announces every exception that leaves a job, so a single run ends here. In a sweep the other jobs go on.
        return (
            action(cfg)
            if full
            else _told(action, cfg, stop=HydraConfig.get().mode != RunMode.MULTIRUN)
        )

    command = hydra.main(version_base="1.3", config_path=CONF, config_name=name)(job)
    if full:
        return command()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors through to us
    try:
        return _told(command, composing=name)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def _ordered(arguments) -> list[str]:
    """The command, then `-m`, then all else: argparse takes `-m` for the end of the settings."""
    flags = [one for one in arguments if one in ("-m", "--multirun")]
    others = [one for one in arguments if one not in flags]
    commands = 1 if others and others[0] in COMMANDS else 0
    return [*others[:commands], *flags, *others[commands:]]


COMMANDS = {"table": views.table_of, "report": views.report_of, "dashboard": views.dashboard_of}
