"""The developers' pages say what the sources say."""

import re

from cases import ROOT
from test_architecture import FLOORS


def test_the_tree_shows_every_package_on_its_floor():
    page = (ROOT / "docs" / "developers" / "tree.md").read_text()
    shown = re.findall(r"^\| (\d) \| `ntkcl/(\w+)(?:\.py)?` \|", page, re.M)
    floors = {(str(k), name) for k, names in enumerate(FLOORS) for name in names}
    assert set(shown) == floors and len(shown) == len(floors)
