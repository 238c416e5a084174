"""What the README shows works: its Python, its files, its commands' presets."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = [
    code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "x_train" not in code
]


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_the_examples_run(code):
    names = {}
    exec(code, names)
    assert all(
        np.isfinite(np.asarray(names[name])).all()
        for name in ("K", "alpha", "flow", "largest")
        if isinstance(names.get(name), np.ndarray | jax.Array)
    )
    if "by_layer" in names:
        K, split = names["K"], names["by_layer"]
        assert names["gram"].shape == (200, 200) and set(split) == {"Conv_0", "Dense_0", "rest"}
        assert abs(sum(split.values()) - K[:5, :, :5]).max() < 1e-4 * abs(K).max()
    if "residual" in names:
        assert names["residual"] < 1e-3
    if "limit" in names:
        assert names["kernels"].geometry.cka(names["K"], names["limit"]) > 0.9


def test_every_linked_file_exists_and_every_preset_is_listed():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for preset in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert f"experiment={preset.stem}" in README
    assert "PLACE" not in README and "PRESET_TABLE" not in README
