"""What README and the pages of the site show works: their Python, their files, their commands."""

import re
import sys
import types

import jax
import numpy as np
import pytest
from blocks import COMMAND, KINDS, Block, blocks, commands, lines, run
from cases import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Pages whose blocks take about three seconds at most; those of the others are slow tests.
FAST = {"docs/developers/extend.md"}
FINITE = ("K", "alpha", "flow", "largest", "predicted", "measured", "change")
PLACES = re.compile(r"(?<![\w/.])(?:scripts|conf|results/bench|ntkcl|tests)/[\w/.-]*\w")


def place(path):
    return path.relative_to(ROOT).as_posix()


def runs(path):
    """Whether a page has blocks that run."""
    found = (block for block in blocks(path.read_text()) if not block.skipped)
    return any(block.kind == "python" or list(commands(block)) for block in found)


def marked(path):
    marks = [] if place(path) in FAST else [pytest.mark.slow]
    return pytest.param(path, id=place(path), marks=marks)


@pytest.fixture
def names(monkeypatch, tmp_path):
    """The namespace of a page, whose own modules are found in tmp_path and forgotten after."""
    page = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield page.__dict__
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.filterwarnings("default")  # as where people run them; Optuna warns when imported
@pytest.mark.parametrize("path", [marked(path) for path in PAGES if runs(path)])
def test_the_blocks_of_a_page_run(path, ntkcl, names, tmp_path):
    run(path.read_text(), tmp_path, names, ntkcl)
    check_numbers(names)


def test_the_python_of_readme_runs(names, tmp_path):
    run((ROOT / "README.md").read_text(), tmp_path, names, command=None)
    check_numbers(names)


def check_numbers(names):
    """What the examples compute is finite, and what they say of it is so."""
    for name in FINITE:
        if isinstance(names.get(name), np.ndarray | jax.Array):
            assert np.isfinite(np.asarray(names[name])).all(), name
    if "by_layer" in names:
        K, split = names["K"], names["by_layer"]
        assert abs(sum(split.values()) - K[:5, :, :5]).max() < 1e-4 * abs(K).max()
    if "residual" in names and np.ndim(names["residual"]) == 0:
        assert names["residual"] < 1e-3
    if "limit" in names and "K" in names:
        assert names["kernels"].geometry.cka(names["K"], names["limit"]) > 0.9


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_a_page_keeps_the_form(path):
    text = path.read_text()
    fences = re.findall(r"^ *```(\w*)", text, re.M)
    assert len(fences) % 2 == 0, "a fence is not closed"
    for block in blocks(text):
        assert block.kind in KINDS, f"```{block.kind}: expected one of {sorted(KINDS)}"
        assert not block.skipped or re.match(r"skip, \w+", block.note), "skip, and why"
    assert len(list(blocks(text))) == len(fences) // 2


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_files_and_targets_that_a_page_names_exist(path):
    text = path.read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for block in blocks(text):
        for line in lines(block) if block.kind == "sh" else []:
            words = line.split()
            if words[0] == "make" and len(words) > 1:
                assert words[1] in targets, f"make {words[1]}"
    for name in PLACES.findall(text):
        assert (ROOT / name).exists(), name
    if path.name == "README.md":
        for link in re.findall(r"\]\(((?!\w+:|#)[^)#]+)", text):
            assert (ROOT / link).exists(), link


def test_every_preset_is_listed():
    """By a written page or by the page that is made of the presets themselves."""
    from cases import load_script

    page = load_script("docs/conf_pages").presets_page()
    for preset in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert f"## {preset.stem}\n" in page


PAGE = """
<!-- test: seed=3 -->
```sh
make run
ntkcl network.width=8 \\
  stream=split   # a comment
PYTHONPATH=. ntkcl --config-dir=mine source=mine tracking=offline
ntkcl table by=[method]
```

```yaml
# mine/source/mine.yaml
path: here
```

```python
# my_package.py
VALUE = 3
```

```python
import my_package

value = my_package.VALUE
```

<!-- test: skip, needs a cluster -->
```sh
ntkcl hydra/launcher=submitit_slurm
```

```text
output
```
"""


def test_blocks_are_read_and_run(tmp_path, names):
    ran = []

    def command(*words):
        ran.append(words)
        return 0, "", ""

    run(PAGE, tmp_path, names, command)
    assert ran == [
        ("network.width=8", "stream=split", "tracking=disabled", "seed=3"),
        ("--config-dir=mine", "source=mine", "tracking=offline", "seed=3"),
        ("table", "by=[method]"),
    ]
    assert (tmp_path / "mine/source/mine.yaml").read_text().endswith("path: here\n")
    assert names["value"] == 3
    assert [block.skipped for block in blocks(PAGE)] == [False] * 4 + [True, False]


def test_a_command_that_fails_fails_the_page(tmp_path, names):
    with pytest.raises(AssertionError, match="ntkcl seed=1 tracking=disabled: 2"):
        run("```sh\nntkcl seed=1\n```\n", tmp_path, names, lambda *words: (2, "", "why"))


def test_python_that_fails_fails_the_page(tmp_path, names):
    with pytest.raises(ZeroDivisionError):
        run("```python\nprint(1 / 0)\n```\n", tmp_path, names, None)


def test_lines_of_other_programs_are_no_commands():
    block = Block("sh", "pip install ntkcl\nscripts/ntkcl.sh\nntkcls\n", "")
    assert not list(commands(block)) and COMMAND.match("ntkcl")
