"""Docstrings as Markdown."""

import griffe
import pytest
from cases import load_script

DOCSTRING = """Change of f at all inputs: K(x, X) G (Y - f(X)) <= |a|_F * b_j.

    With a ridge the rule sees lam,
        change(x) = e(ridge) u(x)
            + K(x, X) [g(K)].
    Arguments:
      columns: `columns(inputs) -> K[x]`, of any type;
        the solve is in f's.
      rate, steps: h, S.
    Returns: three functions that callers
      may jit.
    Raises ValueError for a step that does not fit.
    Source: Jacot et al. 2018.
    """
MARKDOWN = r"""
Change of f at all inputs: K(x, X) G (Y - f(X)) &lt;= |a|\_F \* b\_j.

With a ridge the rule sees lam,

```text
change(x) = e(ridge) u(x)
    + K(x, X) [g(K)].
```

**Arguments**:

* `columns`: `columns(inputs) -> K[x]`, of any type; the solve is in f's.
* `rate`, `steps`: h, S.

**Returns**: three functions that callers may jit.

**Raises** ValueError for a step that does not fit.

**Source**: Jacot et al. 2018.
""".strip()


@pytest.fixture(scope="module")
def script():
    return load_script("docs/docstrings")


def test_sentences_formulas_labels_and_arguments(script):
    assert script.markdown(DOCSTRING) == MARKDOWN


def test_the_fields_of_a_tuple_are_a_list_where_a_paragraph_begins(script):
    text = "One task.\n\nchange: [N, c], of\n  the outputs.\nalpha: [m, c].\n\nNo item."
    assert script.markdown(text).split("\n\n") == [
        "One task.",
        "* `change`: \\[N, c\\], of the outputs.\n* `alpha`: \\[m, c\\].",
        "No item.",
    ]


def test_lists_and_items_on_one_line(script):
    text = "Forms:\n\n* `closed`: the solve,\n  a_b.\n* `path`: none.\n\nrate: h.  time: t >= 0."
    assert script.markdown(text).split("\n\n") == [
        "Forms:",
        "* `closed`: the solve, a\\_b.\n* `path`: none.\n* `rate`: h.\n* `time`: t &gt;= 0.",
    ]


def test_a_colon_within_a_paragraph_begins_no_list(script):
    assert script.markdown("It is so\nbecause: why.") == "It is so because: why."


def test_code_spans_are_left_as_they_are(script):
    assert script.plain("`a_b[0] < *` and a_b") == "`a_b[0] < *` and a\\_b"


CODE = """
class Plan(NamedTuple):
    \"\"\"The choice.\"\"\"

    choice: str
    costs: tuple[Cost, ...] = ()
    _own: int = 0

    @property
    def best(self): ...


class Layer:
    \"\"\"A layer.\"\"\"

    width: int
"""


def test_the_fields_of_a_tuple_are_shown_behind_its_docstring(script, tmp_path):
    (tmp_path / "shown.py").write_text(CODE)
    extensions = griffe.load_extensions(script.Docstrings)
    module = griffe.load("shown", search_paths=[str(tmp_path)], extensions=extensions)
    assert module["Plan"].docstring.value == (
        "The choice.\n\n```python\nchoice: str\ncosts: tuple[Cost, ...] = ()\n```"
    )
    assert module["Layer"].docstring.value == "A layer."
