"""The command `ntkcl`: composes a configuration, hands it to what it is for, and ends with an exit
code. Nothing else in the package exits."""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ntkcl.cli import errors, help, jobs, sweep, views
from ntkcl.cli.config import CONF
from ntkcl.cli.overrides import at_home
from ntkcl.validation import SettingError

COMMANDS = {"table": views.table_of, "report": views.report_of, "dashboard": views.dashboard_of}
HELP = "help"


def main() -> None:
    """`ntkcl OVERRIDES` runs, `ntkcl table OVERRIDES` and the other `COMMANDS` read what was run,
    `ntkcl help GROUP` says what may be chosen.

    One clear line and exit code 2 for what the user can mend; HYDRA_FULL_ERROR=1 shows the
    traceback instead.
    """
    arguments = sys.argv[1:] = _ordered([at_home(argument) for argument in sys.argv[1:]])
    first = arguments[0] if arguments else ""
    _check(first, arguments)
    if first == HELP:
        return _print_help(arguments[1:])
    name = sys.argv.pop(1) if first in COMMANDS else "config"
    try:
        _compose_and_run(name, COMMANDS.get(name, jobs.job))
    except sweep.Ended as end:
        sys.exit(end.exit_code)
    except errors.Reported:
        sys.exit(2)


def _print_help(topics: list[str]) -> None:
    try:
        print(help.text(topics).rstrip(), flush=True)
    except BrokenPipeError:  # read as far as was wanted, as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SettingError as error:
        print(f"ntkcl: {error}", file=sys.stderr)
        sys.exit(2)


def _compose_and_run(name: str, action) -> None:
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"

    def job(cfg):
        # Hydra announces every exception that leaves a job, so a single run ends here. In a sweep
        # the other jobs go on.
        if full:
            return action(cfg)
        alone = HydraConfig.get().mode != RunMode.MULTIRUN
        return errors.reported(action, cfg, hide=alone)

    command = hydra.main(version_base="1.3", config_path=CONF, config_name=name)(job)
    if full:
        return command()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors through to us
    try:
        return errors.reported(command, composing=name)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def _check(first: str, arguments: list[str]) -> None:
    if first.isalpha() and first not in (*COMMANDS, HELP):
        expected = f"{', '.join((*COMMANDS, HELP))}, or settings such as network.width=64"
        print(f"ntkcl: {first}: no such command; expected {expected}", file=sys.stderr)
        sys.exit(2)
    if first in COMMANDS and arguments[1:2] in (["-m"], ["--multirun"]):
        print(f"ntkcl: {sweep.NO_SWEEP}", file=sys.stderr)  # before Hydra makes a folder for it
        sys.exit(2)


def _ordered(arguments: list[str]) -> list[str]:
    """The command, then `-m`, then all else: argparse takes `-m` for the end of the settings."""
    flags = [one for one in arguments if one in ("-m", "--multirun")]
    others = [one for one in arguments if one not in flags]
    commands = 1 if others and others[0] in COMMANDS else 0
    return [*others[:commands], *flags, *others[commands:]]
