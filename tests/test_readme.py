"""What the README shows works: its Python, its files, its commands' presets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = [code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "x_train" not in code]


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_the_examples_run(code):
    names = {}
    exec(code, names)
    assert names["gram"].shape == (200, 200)
    assert abs(names["K"] - names["K_any"]).max() < 1e-4 * abs(names["K"]).max()


def test_every_linked_file_exists_and_every_preset_is_listed():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for preset in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert f"experiment={preset.stem}" in README
    assert "PLACE" not in README and "PRESET_TABLE" not in README
