"""The pages of the settings and of the presets, from the files of `conf/` and their comments.

A comment behind a setting says what it means, with the comment lines that go on below it, far to
the right. Comment lines above a setting, indented as it is, belong to it as well. What stands
before the first setting of a file is about the whole file.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from docstrings import plain

CONF = Path(__file__).parents[2] / "conf"
GROUPS = (
    "network",
    "stream",
    "source",
    "method",
    "loss",
    "optimizer",
    "tracking",
    "hydra/launcher",
    "hydra/sweeper",
)
COMMANDS = ("table", "report", "dashboard")
SETTING = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^# ].*?))?(?: +# (?P<text>.*))?$")
CONTINUATION = 7  # spaces before a comment that goes on with the one above
PRESET = re.compile(r"^# (claim|command|expect|time|source) +(.*(?:\n# {3,}.*)*)", re.M)
SETTINGS = """# Settings

The settings of a run and of the commands that read runs, with their defaults. Give them as
`key=value` behind `ntkcl`; `ntkcl --cfg job` prints them all. The settings of each network, stream,
data set, method and so on are on [their own page](groups.md).
"""
GROUPS_HEAD = """# Choices

What can be chosen of each group, such as `network=mlp`, and the settings of each choice, such as
`network.width`. Methods are on [their own page](methods.md).
"""
PRESETS = """# Presets

`ntkcl experiment=NAME` makes all runs of a preset. Each says its claim, how long it takes, and the
numbers to expect. Where a preset has a small version, `size=small` makes that in seconds, into an
`experiment_name` of its own.
"""


class Setting(NamedTuple):
    """One setting: dotted key, default as it is written, comment."""

    key: str
    default: str
    comment: str


class Node(NamedTuple):
    """One file: what it says of itself, its target, its settings; sections have no default."""

    about: str
    target: str
    settings: tuple[Setting, ...]


def read(path: Path) -> Node:
    """The settings of a file of `conf/`."""
    lines = [line for line in path.read_text().splitlines() if "@package" not in line]
    about, rest = _header(lines)
    settings = tuple(_settings(_without_defaults(rest)))
    target = next((one.default for one in settings if one.key == "_target_"), "")
    return Node(about, target, tuple(one for one in settings if one.key.split(".")[-1][0] != "_"))


def choices(group: str) -> list[str]:
    """The names that a group may have."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def presets(folder: str) -> dict[str, dict[str, str]]:
    """What each preset of a folder says in its header."""
    texts = {path.stem: path.read_text() for path in sorted((CONF / folder).glob("*.yaml"))}
    return {name: _header_of(text) for name, text in texts.items()}


def pages() -> dict[str, str]:
    """The pages, by their places."""
    return {
        "reference/settings.md": settings_page(),
        "reference/groups.md": groups_page(),
        "reference/presets.md": presets_page(),
    }


def settings_page() -> str:
    """The settings of `config.yaml`, a section each, and of the other commands."""
    node = read(CONF / "config.yaml")
    sections = [one.key for one in node.settings if not one.default and "." not in one.key]
    top = [one for one in node.settings if one.key.split(".")[0] not in sections]
    parts = [SETTINGS, "## Groups\n", _groups_table(), "## Of a run\n", table(top)]
    for section in sections:
        own = [one for one in node.settings if one.key.split(".")[0] == section]
        parts += [f"## {section}\n", _sentence(own[0].comment), table(own[1:])]
    for command in COMMANDS:
        node = read(CONF / f"{command}.yaml")
        parts += [f"## ntkcl {command}\n", _sentence(node.about), table(node.settings)]
    return "\n".join(parts)


def groups_page() -> str:
    """The choices of every group, with their settings."""
    parts = [GROUPS_HEAD]
    for group in GROUPS:
        if group == "method":
            continue
        parts.append(f"## {group}\n")
        for name in choices(group):
            parts += [f"### {group}={name}\n", choice(group, name)]
    return "\n".join(parts)


def choice(group: str, name: str) -> str:
    """What a choice is, what makes it, and its settings."""
    node = read(CONF / group / f"{name}.yaml")
    prefix = group.replace("/", ".")
    settings = [one._replace(key=f"{prefix}.{one.key}") for one in node.settings]
    parts = [_sentence(node.about), f"{_made_by(node.target)}\n", table(settings)]
    return "\n".join(part for part in parts if part.strip())


def presets_page() -> str:
    """Every preset of an experiment and of a figure."""
    parts = [PRESETS]
    for name, said in presets("experiment").items():
        parts += [f"## {name}\n", *_said(said)]
    parts.append("## Figures of papers\n")
    parts.append("`python scripts/figures/NAME.py` makes a table and a figure.\n")
    for name, said in presets("figure").items():
        parts += [f"### {name}\n", *_said(said)]
    return "\n".join(parts)


def table(settings: Sequence[Setting]) -> str:
    """A table of settings; empty where there are none."""
    if not settings:
        return ""
    rows = [f"| `{one.key}` | {_code(one.default)} | {cell(one.comment)} |" for one in settings]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows, ""])


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return plain(text).replace("|", "\\|")


def _header_of(preset: str) -> dict[str, str]:
    return {key: text.replace("\n#", " ") for key, text in PRESET.findall(preset)}


def _groups_table() -> str:
    """The groups, their defaults and their choices."""
    text = (CONF / "config.yaml").read_text()
    rows = ["| group | default | choices |", "|---|---|---|"]
    for group in GROUPS:
        default = re.search(rf"^  - (?:override )?{group}: (\w+)", text, re.M)
        page = "methods.md" if group == "method" else f"groups.md#{group.replace('/', '')}"
        names = ", ".join(f"`{name}`" for name in choices(group))
        rows.append(f"| [`{group}`]({page}) | {_code(default[1] if default else '')} | {names} |")
    rows.append("| [`experiment`](presets.md) | | the presets |")
    return "\n".join([*rows, ""])


def _said(said: dict[str, str]) -> list[str]:
    return [*(f"* {key}: {_line(key, text)}" for key, text in said.items()), ""]


def _line(key: str, text: str) -> str:
    """One line of a header; of a command, what may be typed is code."""
    if key != "command":
        return plain(" ".join(text.split()))
    typed, *note = re.split(r" {2,}|, then ", text)
    more = [f"`{one}`" if one.startswith("python") else plain(one) for one in note]
    return " ".join([f"`{typed}`", *more])


def _made_by(target: str) -> str:
    if not target.startswith("ntkcl."):
        return ""
    return f"Made by [`{target}`](api/{target.split('.')[1]}.md#{target})."


def _sentence(text: str) -> str:
    start = text if text.startswith("ntkcl ") else text[:1].upper() + text[1:]
    return f"{plain(start).rstrip('.')}.\n" if text else ""


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _header(lines: list[str]) -> tuple[str, list[str]]:
    """The comment lines that a file begins with, up to the first setting; the other lines."""
    count = next((k for k, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ").strip() for line in lines[:count]), lines[count:]


def _without_defaults(lines: list[str]) -> Iterator[str]:
    """The lines without Hydra's own: its list of defaults, its group."""
    skipping = False
    for line in lines:
        if line[:1].strip():
            skipping = line.startswith(("defaults:", "hydra:"))
        if not skipping:
            yield line


def _settings(lines: Iterator[str]) -> Iterator[Setting]:
    parents: list[tuple[int, str]] = []
    found: list[Setting] = []
    above: list[str] = []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("#"):
            comment = stripped.lstrip("# ")
            if len(line) - len(line.lstrip()) >= CONTINUATION and found:
                found[-1] = found[-1]._replace(comment=f"{found[-1].comment} {comment}")
            else:
                above.append(comment)
            continue
        match = SETTING.match(line)
        if match is None:
            continue
        indent = len(match["indent"])
        parents = [parent for parent in parents if parent[0] < indent]
        key = ".".join([*(name for _, name in parents), match["key"]])
        parents.append((indent, match["key"]))
        comment = " ".join([*above, match["text"] or ""]).strip()
        found.append(Setting(key, match["value"] or "", comment))
        above = []
    return iter(found)
