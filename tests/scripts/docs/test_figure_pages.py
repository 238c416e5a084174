"""The page of papers' figures: every preset of a figure, with its command, figure and table."""

import pytest
from cases import ROOT, load_script


@pytest.fixture(scope="module")
def script():
    return load_script("docs/figure_pages")


def test_every_preset_has_its_section(script):
    (page,) = script.pages().values()
    names = [path.stem for path in (ROOT / "conf" / "figure").glob("*.yaml")]
    assert len(names) > 8
    for name in names:
        assert f"python scripts/figures/{name}.py\n" in page
        assert f"](results/figures/{name}.png)" in page
        assert (ROOT / "results" / "figures" / f"{name}.png").exists()
    assert page.count("\n## ") == len(names) and "\n# " not in page


def test_a_section_is_named_by_the_scripts_first_words(script):
    assert script.title("steele_angles").startswith("Steele 2026: the smallest angle")
    assert script.title("jacot_fig2").startswith("Jacot, Gabriel, Hongler 2018, Fig. 2: ")


def test_a_long_table_is_folded_and_a_short_one_is_not(script):
    head, row = "| a |\n|---|\n", "| 1 |\n"
    short, long = head + 5 * row, head + 40 * row
    assert script.folded(f"x\n\n{short}\ny") == f"x\n\n{short}\ny"
    text = script.folded(f"x\n\n{long}\ny")
    assert "<summary>40 rows</summary>\n\n| a |" in text and text.endswith("</details>\n\ny")
