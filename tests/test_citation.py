"""`CITATION.cff` is what CFF 1.2.0 asks for, and of this version."""

import tomllib
from importlib.metadata import version

import yaml
from cases import ROOT

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_is_of_this_version_and_license():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert CITATION["version"] == project["version"] == version("ntkcl")
    assert CITATION["license"] == project["license"]


def test_the_citation_has_what_its_format_requires_and_nothing_else():
    required = {"cff-version", "message", "title", "authors"}
    optional = {"type", "abstract", "version", "license", "keywords"}
    assert required <= set(CITATION) <= required | optional
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software"
    assert CITATION["authors"] == [{"name": "The ntkcl developers"}]
    texts = [*(CITATION[key] for key in ("message", "title", "abstract")), *CITATION["keywords"]]
    assert all(isinstance(text, str) and text for text in texts)
    assert len(set(CITATION["keywords"])) == len(CITATION["keywords"])
