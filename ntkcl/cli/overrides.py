"""Overrides as one types them: texts quoted for Hydra and the shell, `~` for one's home."""

import os
import re
import shlex

PLAIN = re.compile(r"[\w./:+%@-]+", re.ASCII)  # what Hydra's grammar and a shell take as it is
PATHS = ("results_dir", "out", "run")  # settings that are paths
AT_HOME = re.compile(rf"({'|'.join(PATHS)})=(['\"]?)(~(?:/.*)?)\2")


def typed(key: str, value: str) -> str:
    """`key=value` for a shell, quoted where that is needed."""
    return f"{key}={value}" if PLAIN.fullmatch(value) else shlex.quote(quoted(key, value))


def quoted(key: str, value: str) -> str:
    """`key="value"` for Hydra."""
    escaped = value.replace('"', '\\"')
    return f'{key}="{escaped}"'


def at_home(argument: str) -> str:
    """`results_dir=~/x` with one's home in place of `~`, which shells leave where it stands."""
    found = AT_HOME.fullmatch(argument)
    if found is None:
        return argument
    key, _, path = found.groups()
    return quoted(key, os.path.expanduser(path))
