"""Conditions on runs: what they keep, and that nothing in them is run as code."""

import numpy as np
import pandas as pd
import pytest

from ntkcl.reporting import where

TABLE = pd.DataFrame(
    {
        "method": ["ewc", "naive", "ewc", "it's"],
        "network.width": [8, 16, 64, 256],
        "seed": [0, 1, 2, 3],
        "method.penalty": [1.0, np.nan, -2.0, np.nan],
        "training.allow_unstable": [True, False, True, np.nan],
        "a b": [1, 2, 3, 4],
    }
)

KEPT = {
    "method == 'ewc'": [0, 2],
    'method != "ewc" and seed < 3': [1],
    "`network.width` > 8": [1, 2, 3],
    "8 < `network.width` <= 64": [1, 2],
    "64 >= `network.width`": [0, 1, 2],
    "seed == 0 or (seed > 1 and not method == 'ewc')": [0, 3],
    "method in ['ewc', \"it's\"]": [0, 2, 3],
    "seed not in (0, 1)": [2, 3],
    "seed == [1, 2]": [1, 2],
    "seed != [1, 2]": [0, 3],
    "seed > 0 & `network.width` < 256": [1, 2],  # the signs bind as the words do
    "seed < 1 | seed > 2": [0, 3],
    "~(seed > 0)": [0],
    "method == 'a & b | `c`' or seed == 1": [1],  # signs in a text are a text
    "`method.penalty` == -2": [2],
    "`method.penalty` in [-2.0, 1]": [0, 2],
    "`method.penalty` == None": [1, 3],
    "`method.penalty` != None": [0, 2],
    "`method.penalty` != 1": [1, 2, 3],
    "`training.allow_unstable`": [0, 2],
    "not `training.allow_unstable`": [1, 3],
    "`training.allow_unstable` == True": [0, 2],
    "`a b` == seed": [],
    "`a b` > seed": [0, 1, 2, 3],
}


@pytest.mark.parametrize("condition", KEPT)
def test_a_condition_keeps_the_rows_for_which_it_holds(condition):
    found = where.holds(condition, TABLE)
    assert found.dtype == bool and found[found].index.tolist() == KEPT[condition]


def test_conditions_that_pandas_reads_as_well_keep_the_same_rows():
    ours_alone = ("None", "== True", "allow_unstable")
    shared = [condition for condition in KEPT if not any(part in condition for part in ours_alone)]
    assert len(shared) > 15
    for condition in shared:
        assert TABLE.query(condition, engine="python").index.tolist() == KEPT[condition], condition


CODE = (
    '@os.system("touch x") == 0',
    '@pd.io.common.os.system("touch x") == 0',
    "seed.to_csv('x') == None",
    "`a b`.to_csv('x') == None",
    "seed.map(print) == 0",
    "seed.values > 0",
    "seed[0] == 0",
    "open('x', 'w') == 0",
    "__import__('os').system('touch x') == 0",
    "(lambda: 0)() == 0",
    "(x := seed) == 0",
    'method == f\'{open("x", "w")}\'',
    "seed in [open('x', 'w')]",
    "seed in [i for i in seed]",
    "seed == {1: 2}",
    "seed == 9**9**9",
    "seed + 1 == 2",
    "method == 'ewc' if seed else 0",
    "seed == b'x'",
    "seed == ...",
    "seed == 1j",
    "seed == +1",
    "seed is None",
    "seed = 3",
    "import os",
    "seed == 1; seed == 2",
    "-seed == 0",
    "seed == -True",
    "1 == 1",
    "seed",
    "True",
    "method > 3",
    "seed > [1]",
    "seed > None",
    "'ewc' in method",
    "method in 'ewc'",
    "",
    "(" * 2000 + "seed == 1" + ")" * 2000,
    "not " * 2000 + "seed == 1",
    "seed == 1" * 5000,
    "seed\n== \x001",
    "nosuch == 1",
    "`nosuch",
)


@pytest.mark.parametrize("condition", CODE, ids=lambda text: text[:30])
def test_what_is_not_on_the_list_is_refused_in_one_line_and_never_run(
    condition, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        where.holds(condition, TABLE)
    line = str(caught.value)
    expected = ("expected comparisons", "compare numbers with numbers")
    assert "\n" not in line and any(text in line for text in expected), line
    assert not list(tmp_path.iterdir())


def test_a_name_with_dots_is_shown_its_backticks():
    for condition in ("network.width > 3", "width > 3"):
        with pytest.raises(ValueError, match=r"stand in backticks.*`network.width`"):
            where.holds(condition, TABLE)
