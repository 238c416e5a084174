"""Every preset under conf/figure runs from end to end at size=small."""

import pytest
from cases import load_script
from test_publish_figures import PRESETS


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_small_figure_is_computed_and_drawn(run_figure, tmp_path, name):
    assert run_figure(load_script(f"figures/{name}"), "size=small") == 0
    for kind in ("png", "pdf"):
        assert (tmp_path / "figures" / f"{name}.{kind}").stat().st_size > 5_000
    assert (tmp_path / "tables" / f"{name}.md").read_text().count("|") > 10
