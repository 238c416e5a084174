"""The pages of the Python API, and what is public.

Public are the names that a package re-exports (`__all__`, and `x as x`), and of a module that has
no `__all__` its functions and classes, and what else in it has a docstring, without a leading
underscore. A public module within a package, such as `kernels.krylov`, brings its own. Sources are
read, not imported.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import griffe
from docstrings import markdown

ROOT = Path(__file__).parents[2]
MODULES = (
    "kernels",
    "dynamics",
    "forecast",
    "networks",
    "methods",
    "metrics",
    "streams",
    "sources",
    "losses",
    "optimizers",
    "training",
    "planning",
    "whatif",
    "types",
)
FACELESS = {"training": ("problem", "loop", "settings")}  # packages whose face exports nothing
INDEX = """# Python API

Every public name, from its docstring.

| module | what |
|---|---|"""


class Public(NamedTuple):
    """A public name, and where it is defined."""

    name: str
    path: str
    documented: bool


@cache
def package() -> griffe.Module:
    """The sources of `ntkcl`."""
    return griffe.load("ntkcl", search_paths=[str(ROOT)], try_relative_path=False)


def public(module: str) -> list[Public]:
    """The public names of `ntkcl.<module>`, in the order of their exports."""
    found = list(_exported(package()[module]))
    for part in FACELESS.get(module, ()):
        found += _exported(package()[f"{module}.{part}"])
    return found


def undocumented() -> list[str]:
    """Public names without a docstring."""
    return [one.name for module in MODULES for one in public(module) if not one.documented]


def pages() -> dict[str, str]:
    """The page of each module, by its place among the pages."""
    shown = {f"reference/api/{module}.md": page(module) for module in MODULES}
    return {"reference/api/index.md": index(), **shown}


def index() -> str:
    """The page that lists the modules."""
    rows = [
        f"| [`ntkcl.{module}`]({module}.md) | {_summary(package()[module])} |" for module in MODULES
    ]
    return "\n".join([INDEX, *rows]) + "\n"


def page(module: str) -> str:
    """The page of one module: what it is for, and its names."""
    parts = [f"# ntkcl.{module}", markdown(package()[module].docstring.value)]
    return "\n\n".join([*parts, *(_entry(one) for one in public(module))]) + "\n"


def _exported(module: griffe.Module) -> Iterator[Public]:
    for name in _names(module):
        origin = module.imports.get(name, f"{module.path}.{name}")
        defined = package()[origin.removeprefix("ntkcl.")]
        documented = bool(defined.docstring)
        yield Public(f"{module.path}.{name}", origin, documented)
        if defined.is_module:
            yield from _exported(defined)


def _names(module: griffe.Module) -> list[str]:
    exports = [str(name) for name in module.exports or ()]
    if not exports:
        members = module.members.items()
        return [name for name, one in members if _is_own(name, one)]
    return exports + [name for name in _reexported(module) if name not in exports]


def _is_own(name: str, member) -> bool:
    if name.startswith("_") or member.is_alias or member.is_module:
        return False
    return not member.is_attribute or bool(member.docstring)


def _reexported(module: griffe.Module) -> Iterator[str]:
    """Names that are imported `as` themselves."""
    for line in module.source.splitlines():
        words = line.split()
        if words[:1] == ["from"] and len(words) == 6 and words[3] == words[5]:
            yield words[5]


def _entry(one: Public) -> str:
    """One name: an anchor of its public path, then what mkdocstrings makes of it."""
    short = one.name.split(".", 2)[2]
    lines = [f"[](){{#{one.name}}}", "", f"::: {one.path}", "    options:"]
    lines += [f"      heading: {short}", f"      toc_label: {short}"]
    if package()[one.path.removeprefix("ntkcl.")].is_module:
        lines.append("      members: false")
    return "\n".join(lines)


def _summary(module: griffe.Module) -> str:
    return markdown(module.docstring.value.split("\n\n")[0]).replace("|", "\\|")
