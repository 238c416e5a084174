"""Names on a page that do not exist: settings, keys of `summary.json`, Python names of `ntkcl`.

Looked at are code spans, and the lines of ```sh blocks that begin with `ntkcl`. What a page writes
into a file of its own (a ```yaml block with a first line such as `# my_conf/source/mine.yaml`)
exists on that page. Below `hydra.` and in settings that take anything, such as
`optimizer.settings`, every name is let through, and so is a block behind a comment that says that
it "shows an error".
"""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import yaml
from api_pages import package
from conf_pages import COMMANDS, CONF, GROUPS, choices

from ntkcl.runs import schema

WRONG = re.compile(r"^<!-- [^>]*shows an error[^>]* -->\s*?\n^ *```.*?^ *```", re.M | re.S)
FENCE = re.compile(r"^ *```(\w*).*?$\n(.*?)^ *```", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
COMMAND = re.compile(r"^(?:\w+=\S+ )*ntkcl(?: |$)")
OVERRIDE = re.compile(r"(?<![\w.@/-])[~+]*([a-z_][\w./@]*)=([^\s'\"]*)")
DOTTED = re.compile(r"[a-z_]\w+(?:\.[\w<>]+)+")
CHOICE = re.compile(r"[a-z]\w*(?:,[a-z]\w*)*")
OWN_FILE = re.compile(r"# \S*?(\w+)/(\w+)\.yaml\n")
FILES = {"json", "yaml", "yml", "md", "py", "npz", "npy", "parquet", "png", "html", "sh", "toml"}
FILES |= {"txt", "css", "lock", "jsonl", "csv", "cff"}
# Settings below which everything may stand.
OPEN = ("hydra", "optimizer.settings", "training.schedule")
# Settings whose own settings are those of another group, with the names that come between.
NESTED = {"stream.of": ("stream", 0), "method.parts": ("method", 1), "plan.methods": ("method", 1)}
# What variables of these names are in examples: their fields exist.
NOUNS = {
    "network": "types.Network",
    "loss": "types.Loss",
    "optimizer": "types.Optimizer",
    "method": "types.Method",
    "source": "types.Source",
    "plan": "kernels.Plan",
}
OF_TUPLES = ("_replace", "_asdict", "_fields")
WORDS = {*COMMANDS, "help"}  # that may follow `ntkcl`


class Own(NamedTuple):
    """What a page itself defines: choices by group, and settings."""

    choices: set[tuple[str, str]]
    settings: set[str]


def problems(place: str, text: str) -> list[str]:
    """A line for every name on a page that does not exist: the page, the name, what it is not."""
    text = WRONG.sub("", text)
    own = _own(text)
    found = [
        *(problem for span in _spans(text) for problem in _of_a_span(span, own)),
        *(problem for line in _commands(text) for problem in _of_a_command(line, own)),
    ]
    return [f"{place}: {problem}" for problem in dict.fromkeys(found)]


@cache
def settings() -> frozenset[str]:
    """Every setting of a run, dotted."""
    keys = set(_flat(_without_hydra(CONF / "config.yaml")))
    for group in GROUPS:
        prefix = group.replace("/", ".")
        for name in choices(group):
            keys |= {f"{prefix}.{key}" for key in _flat(_load(CONF / group / f"{name}.yaml"))}
    return frozenset({*keys, *GROUPS, "experiment"})


@cache
def settings_of(command: str) -> frozenset[str]:
    """The settings of `ntkcl table` and other commands that read runs."""
    return frozenset(_flat(_without_hydra(CONF / f"{command}.yaml")))


def is_setting(name: str, own: Own) -> bool:
    """Whether there is a setting, or a group of them, of this name."""
    if name in settings() or name in own.settings:
        return True
    if any(name == start or name.startswith(f"{start}.") for start in OPEN):
        return True
    for start, (group, skipped) in NESTED.items():
        if name.startswith(f"{start}."):
            rest = name.removeprefix(f"{start}.").split(".")[skipped:]
            return not rest or is_setting(".".join([group, *rest]), own)
    return False


def is_key(name: str) -> bool:
    """Whether it is a key of `summary.json`, or the beginning of one."""
    return schema.find(name) is not None or any(
        _begins(row.key.split("."), name.split(".")) for row in schema.QUANTITIES
    )


def is_python(name: str) -> bool:
    """Whether there is such a name in `ntkcl`, or such a field of one of the nouns."""
    name = name.removeprefix("ntkcl.")
    first, _, rest = name.partition(".")
    if first in NOUNS:
        return rest in OF_TUPLES or _resolves(name) or _resolves(f"{NOUNS[first]}.{rest}")
    return _resolves(name)


def _resolves(path: str) -> bool:
    try:
        return package()[path] is not None
    except KeyError:
        return False


def _begins(key: list[str], name: list[str]) -> bool:
    pairs = zip(key, name, strict=False)
    return len(name) < len(key) and all(a == b or a.startswith("<") for a, b in pairs)


@cache
def _heads() -> frozenset[str]:
    """First parts of the names that are checked."""
    sections = {key.split(".")[0] for key in settings() if "." in key}
    keys = {head for head in schema.heads() if len(head) > 1}
    rooms = {name for name, one in package().members.items() if one.is_module}
    return frozenset({*sections, *keys, *rooms, "ntkcl"})


def _of_a_span(span: str, own: Own) -> Iterator[str]:
    if COMMAND.match(span):
        yield from _of_a_command(span, own)
        return
    for key, value in OVERRIDE.findall(span):
        if key.split(".")[0].split("@")[0] in _heads() and "." in key:
            yield from _of_a_setting(key, value, own)
        elif key.split("@")[0] in (*GROUPS, "experiment"):
            yield from _of_a_choice(key, value, own)
    dotted = DOTTED.match(span)
    if dotted and not span[dotted.end() :].startswith(("=", "@", "/")):
        yield from _of_a_name(dotted[0], own)


def _of_a_name(name: str, own: Own) -> Iterator[str]:
    parts = name.split(".")
    if parts[-1] in FILES or parts[0] not in _heads():
        return
    if parts[0] == "ntkcl":
        if not is_python(name):
            yield f"{name} is no name of the package"
    elif not (is_setting(name, own) or is_key(name) or is_python(name)):
        yield f"{name} is no setting, no key of summary.json and no name of the package"


def _of_a_command(line: str, own: Own) -> Iterator[str]:
    words = shlex.split(line, comments=True)
    words = _without_values_of_flags(words[words.index("ntkcl") + 1 :])
    if words[:1] == ["help"]:
        return
    command = next((word for word in words if word in COMMANDS), "")
    for word in words:
        key, equals, value = word.lstrip("~+").partition("=")
        if word.startswith("-") or not re.match(r"[a-z]", key):
            continue
        if not equals and not word.startswith("~"):
            if word.isalpha() and word not in WORDS:
                yield f"ntkcl {word}: no such command"
        elif command:
            if key not in settings_of(command):
                yield f"{key} is no setting of ntkcl {command}"
        elif "@" in key or key in (*GROUPS, "experiment"):
            yield from _of_a_choice(key, value, own)
        else:
            yield from _of_a_setting(key, value, own)


def _without_values_of_flags(words: list[str]) -> list[str]:
    """Without `job` in `--cfg job`."""
    flags = ("--cfg", "-c", "--config-dir", "--package", "-p")
    return [word for before, word in pairwise(["", *words]) if before not in flags]


def _of_a_setting(key: str, value: str, own: Own) -> Iterator[str]:
    if "@" in key:
        yield from _of_a_choice(key, value, own)
    elif not is_setting(key, own):
        yield f"{key} is no setting"


def _of_a_choice(key: str, value: str, own: Own) -> Iterator[str]:
    group = key.split("@")[0]
    if not CHOICE.fullmatch(value):
        return
    for name in value.split(","):
        if name not in (*choices(group), "null") and (group, name) not in own.choices:
            yield f"{group}={name}: no such choice"


def _spans(text: str) -> Iterator[str]:
    prose = re.sub(r"<!--.*?-->", "", FENCE.sub("", text), flags=re.S)
    for paragraph in re.split(r"\n\s*\n", prose):
        for span in SPAN.findall(paragraph):
            yield " ".join(span.split())


def _commands(text: str) -> Iterator[str]:
    for kind, code in FENCE.findall(text):
        if kind == "sh":
            lines = code.replace("\\\n", " ").splitlines()
            yield from (line.strip() for line in lines if COMMAND.match(line.strip()))


def _own(text: str) -> Own:
    own = Own(set(), set())
    for kind, code in FENCE.findall(text):
        match = OWN_FILE.match(code) if kind == "yaml" else None
        if match:
            own.choices.add((match[1], match[2]))
            own.settings.update(f"{match[1]}.{key}" for key in _flat(yaml.safe_load(code) or {}))
    return own


def _load(path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def _without_hydra(path) -> dict[str, Any]:
    return {key: value for key, value in _load(path).items() if key not in ("defaults", "hydra")}


def _flat(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
