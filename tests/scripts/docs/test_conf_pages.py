"""The pages of settings, from the files of conf/ and their comments."""

import pytest
import yaml
from cases import ROOT, load_script

FILE = """# @package _global_
# What the file
# is about.
defaults:
  - quiet
_target_: ntkcl.networks.mlp
width: 64                 # units, # and more
# Share of the energy;
# or a list.
threshold: 0.97
form: auto                # closed; auto takes
                          # the first
plan:                     # candidates
  orders:
    exact: 7
    grid: {a: [1, 2]}
hydra:
  job: {name: x}
"""


@pytest.fixture(scope="module")
def script():
    return load_script("docs/conf_pages")


def test_a_file_is_read_with_its_comments(script, tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text(FILE)
    node = script.read(path)
    assert (node.about, node.target) == ("What the file is about.", "ntkcl.networks.mlp")
    assert [tuple(one) for one in node.settings] == [
        ("width", "64", "units, # and more"),
        ("threshold", "0.97", "Share of the energy; or a list."),
        ("form", "auto", "closed; auto takes the first"),
        ("plan", "", "candidates"),
        ("plan.orders", "", ""),
        ("plan.orders.exact", "7", ""),
        ("plan.orders.grid", "{a: [1, 2]}", ""),
    ]


def flat(node, prefix=""):
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")


NODES = sorted(
    path
    for path in (ROOT / "conf").rglob("*.yaml")
    if path.parent.name not in ("experiment", "figure", "wandb", "help")
    and path.name not in ("config.yaml", "quiet.yaml")
)


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_setting_of_every_choice_is_read_with_its_default(script, path):
    """As a YAML parser reads it, which knows no comments."""
    stored = {
        key: value
        for key, value in yaml.safe_load(path.read_text()).items()
        if not key.startswith("_") and key not in ("defaults", "hydra")
    }
    node = script.read(path)
    read = {one.key: one.default for one in node.settings}
    assert {key for key in read if "." not in key} == set(stored)
    for key, value in stored.items():
        if not isinstance(value, dict):
            assert yaml.safe_load(read[key]) == value, key


def test_every_top_level_setting_and_every_choice_is_on_a_page(script):
    from ntkcl.runs.settings import GROUPS, SETTINGS

    pages = script.pages()
    settings, groups = pages["reference/settings.md"], pages["reference/groups.md"]
    for name in SETTINGS.keys() - {*GROUPS, "tracking"}:
        assert f"| `{name}` |" in settings or f"## {name}\n" in settings, name
    for group in script.GROUPS:
        assert f"[`{group}`]" in settings
        for name in script.choices(group) if group != "method" else []:
            assert f"### {group}={name}\n" in groups


def test_text_may_stand_in_a_table(script):
    assert script.cell("a | b_c") == "a \\| b\\_c"


def test_a_preset_says_its_command_as_code(script):
    page = script.presets_page()
    assert "* command: `ntkcl experiment=width` (12 runs; size=small: 4 in seconds)" in page
    assert "`python scripts/figures/guha_width.py`" in page
