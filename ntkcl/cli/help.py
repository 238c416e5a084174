"""`ntkcl help`: the groups of settings, the choices of a group, the settings of a choice.

Everything is read from the comments in `conf/`: the first sentence of a file says what it is.
"""

from pathlib import Path

import yaml

from ntkcl.cli.config import CONF
from ntkcl.validation import SettingError

GROUPS = {
    "source": "the data",
    "stream": "how tasks are made of the data",
    "network": "the model",
    "loss": "what training minimises",
    "optimizer": "the training rule",
    "method": "what is done against forgetting",
    "tracking": "logging to Weights & Biases",
    "experiment": "prepared runs and sweeps, each with what to expect of it",
    "hydra/launcher": "where the runs of a sweep are made",
    "hydra/sweeper": "how the runs of a sweep are chosen; without it, every combination",
}
FILES = {
    "config": "settings of a run that are in no group",
    "table": "settings of ntkcl table",
    "report": "settings of ntkcl report",
    "dashboard": "settings of ntkcl dashboard",
}
CLAIM = "claim"  # what an experiment's first line begins with


def text(topics: list[str]) -> str:
    """What `ntkcl help TOPIC` prints; SettingError for what is no group and no choice of one."""
    if not topics:
        return _listed("ntkcl help GROUP, one of", GROUPS | FILES)
    name, _, choice = topics[0].partition("=")
    if len(topics) > 1 or name not in GROUPS | FILES or (choice and name in FILES):
        expected = f"ntkcl help with one of {', '.join(GROUPS | FILES)}"
        raise SettingError(f"help {' '.join(topics)}: no such group; expected {expected}")
    if name in FILES:
        return _file(name).read_text("utf-8")
    known = choices(name)
    if not choice:
        example = f"ntkcl help {name}={next(iter(known))}"
        return f"{_listed(f'{name}=', _marked(name, known))}\n\n{example}: its settings"
    if choice not in known:
        raise SettingError(f"help {name}={choice}: no such choice; expected {', '.join(known)}")
    return _file(f"{name}/{choice}").read_text("utf-8")


def choices(group: str) -> dict[str, str]:
    """The choices of a group, each with one line."""
    files = sorted(Path(CONF, group).glob("*.yaml"))
    return {file.stem: _first_sentence(file.read_text("utf-8")) for file in files}


def _first_sentence(content: str) -> str:
    """Of the comment that a file begins with; of an experiment, its claim."""
    comment = []
    for line in content.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            comment.append(line[1:].strip())
    if comment and comment[0].startswith(CLAIM):
        return comment[0].removeprefix(CLAIM).strip()
    return " ".join(comment).split(". ")[0].removesuffix(".")


def _marked(group: str, known: dict[str, str]) -> dict[str, str]:
    """With a note on the choice that a run has unless another is chosen."""
    defaults = yaml.safe_load(_file("config").read_text("utf-8"))["defaults"]
    pairs = {key: value for one in defaults if isinstance(one, dict) for key, value in one.items()}
    default = pairs.get(group, pairs.get(f"override {group}"))
    return {name: f"{line} (default)" if name == default else line for name, line in known.items()}


def _listed(title: str, lines: dict[str, str]) -> str:
    edge = max(map(len, lines)) + 2
    return "\n".join([title, *(f"  {name:<{edge}}{line}" for name, line in lines.items())])


def _file(name: str) -> Path:
    return Path(CONF, f"{name}.yaml")
