"""The pages of the Python API: every public name is documented, and on a page."""

import importlib
import re
from pathlib import Path

import pytest
from cases import ROOT, load_script


@pytest.fixture(scope="module")
def script():
    return load_script("docs/api_pages")


def test_every_public_name_has_a_docstring(script):
    assert script.undocumented() == []


def test_every_public_name_is_on_the_page_of_its_module(script):
    pages = script.pages()
    shown = set(re.findall(r"^\[\]\(\)\{#(\S+)\}$", "\n".join(pages.values()), re.M))
    expected = {one.name for module in script.MODULES for one in script.public(module)}
    assert shown == expected and len(expected) > 250


@pytest.mark.parametrize(
    "module", ["kernels", "dynamics", "forecast", "networks", "methods", "metrics", "planning"]
)
def test_what_a_package_exports_is_what_is_public(script, module):
    """As Python sees it, which imports what the pages only read."""
    package = importlib.import_module(f"ntkcl.{module}")
    names = {one.name for one in script.public(module)}
    assert {f"ntkcl.{module}.{name}" for name in package.__all__} <= names
    for name in names:
        value = package
        for part in name.split(".")[2:]:
            value = getattr(value, part)


def test_names_that_are_imported_as_themselves_are_public(script):
    assert "ntkcl.methods.custom" in {one.name for one in script.public("methods")}


def test_a_public_name_without_a_docstring_is_found(script, tmp_path, monkeypatch):
    import griffe

    package = tmp_path / "ntkcl"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\n')
    (package / "losses.py").write_text(
        '"""Losses."""\n\ndef one():\n    """Said."""\n\ndef two(): pass\n\ndef _own(): pass\n'
    )
    broken = griffe.load("ntkcl", search_paths=[str(tmp_path)], try_relative_path=False)
    monkeypatch.setattr(script, "package", lambda: broken)
    assert [(one.name, one.documented) for one in script.public("losses")] == [
        ("ntkcl.losses.one", True),
        ("ntkcl.losses.two", False),
    ]


@pytest.mark.slow
def test_the_site_is_built_strictly_and_shows_every_public_name(script, tmp_path):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, ROOT / "scripts/docs/build.py", "build", "--site-dir", tmp_path / "site"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for module in script.MODULES:
        page = (tmp_path / f"site/reference/api/{module}.html").read_text()
        missing = [one.name for one in script.public(module) if f'id="{one.path}"' not in page]
        assert not missing, missing
    pages = list(Path(tmp_path / "site").rglob("*.html"))
    for path in pages:
        assert not re.search(r'(?:src|href)="(?:https?:)?//', path.read_text()), path
