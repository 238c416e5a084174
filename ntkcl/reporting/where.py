"""Conditions on the columns of the sweep table, read by an allow-list of their syntax.

Nothing in a condition is ever run as code. Python's parser makes a tree of it, every node that is
not on the list is refused, and the rest is evaluated here. Calculations, calls, attributes and
subscripts are refused.
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import pandas as pd

from ntkcl.validation import SettingError, printable

EXPECTED = (
    "expected comparisons of columns with numbers, texts or lists of them, joined by and, or, not, "
    "such as \"method == 'ewc' and `network.width` > 64\""
)
COMPARED: dict[type, Callable] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
# A text, a quoted name, or one of the signs that bind like words, as they do in pandas' `query`:
# `a > 1 & b < 2` needs no parentheses.
TOKENS = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|`([^`]*)`|([&|])""")
LONGEST = 10_000  # characters


def holds(condition: str, table: pd.DataFrame) -> pd.Series:
    """Whether a condition holds, row by row; names with dots stand in backticks.

    `&`, `|`, `~` are `and`, `or`, `not`; `==` with a list is `in`; `== None` finds missing values.
    Raises ValueError, one line, for a condition outside the allow-list, for a column that is not in
    the table, for sides that cannot be compared.
    """
    if len(condition) > LONGEST:
        raise SettingError(f"longer than {LONGEST} characters; {EXPECTED}")
    quoted: dict[str, str] = {}

    def plain(match: re.Match) -> str:
        text, name, sign = match.groups()
        if text is not None:
            return text
        if sign is not None:
            return " and " if sign == "&" else " or "
        return f" {quoted.setdefault(name, f'quoted_{len(quoted)}_')} "

    source = TOKENS.sub(plain, condition).strip()
    if not printable(source):  # before 3.11.4 Python's own parser raises another error for these
        raise SettingError(f"control characters; {EXPECTED}")
    try:
        tree = ast.parse(source, mode="eval").body
        return _truth(tree, _Columns(table, {short: name for name, short in quoted.items()}))
    except (SyntaxError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "nested too deeply"
        raise SettingError(f"{reason}; {EXPECTED}") from error
    except (TypeError, OverflowError) as error:  # of pandas: a text below a number
        raise SettingError(f"{error}; compare numbers with numbers and texts with texts") from error


class _Columns:
    """The columns of a table by their names, or by the names that stand for quoted ones."""

    def __init__(self, table: pd.DataFrame, quoted: dict[str, str]):
        self.table, self.quoted = table, quoted

    def __getitem__(self, name: str) -> pd.Series:
        name = self.quoted.get(name, name)
        if name not in self.table:
            last = name.split(".")[-1]
            near = [c for c in self.table.columns if "." in c and c.split(".")[-1] == last]
            hint = f"; settings with dots stand in backticks, such as `{near[0]}`" if near else ""
            raise SettingError(f"name '{name}' is not defined{hint or f'; {EXPECTED}'}")
        return self.table[name]


def _truth(node: ast.expr, columns: _Columns) -> pd.Series:
    """A node that is true or false of each row."""
    if isinstance(node, ast.BoolOp):
        joined = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        first, *others = (_truth(one, columns) for one in node.values)
        for other in others:
            first = joined(first, other)
        return first
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
        return ~_truth(node.operand, columns)
    if isinstance(node, ast.Compare):
        sides = [_side(one, columns) for one in (node.left, *node.comparators)]
        pairs = [_pair(op, a, b) for op, a, b in zip(node.ops, sides, sides[1:], strict=False)]
        for other in pairs[1:]:
            pairs[0] &= other
        return pairs[0]
    column = _side(node, columns)
    flags = isinstance(column, pd.Series) and all(
        isinstance(value, bool) for value in column.dropna()
    )
    if not flags:
        raise SettingError(f"{_name(node, columns)} is neither true nor false; {EXPECTED}")
    return column.map(lambda value: value is True).astype(bool)


def _side(node: ast.expr, columns: _Columns) -> Any:
    """A column, a constant, or a list of constants."""
    if isinstance(node, ast.Name):
        return columns[node.id]
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_constant(one, columns) for one in node.elts]
    return _constant(node, columns)


def _constant(node: ast.expr, columns: _Columns) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _constant(node.operand, columns)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
        return node.value
    raise SettingError(f"{_name(node, columns)} is not allowed{_hint(node, columns)}; {EXPECTED}")


def _pair(op: ast.cmpop, left: Any, right: Any) -> pd.Series:
    """One comparison, at least one side of which is a column."""
    if isinstance(op, ast.In | ast.NotIn):
        if not isinstance(left, pd.Series) or not isinstance(right, list):
            raise SettingError(
                f"`in` expects a column and then a list: method in ['ewc']; {EXPECTED}"
            )
        found = left.isin(right)
        return found if isinstance(op, ast.In) else ~found
    if type(op) not in COMPARED:
        raise SettingError(f"`is` is not allowed, == is; {EXPECTED}")
    if not isinstance(left, pd.Series) and not isinstance(right, pd.Series):
        raise SettingError(f"no column is compared; {EXPECTED}")
    if isinstance(left, list) or left is None:
        left, right = right, left
    if isinstance(right, list) or right is None:
        if not isinstance(op, ast.Eq | ast.NotEq):
            what = "None" if right is None else "a list"
            raise SettingError(f"{what} is neither above nor below anything; {EXPECTED}")
        found = left.isna() if right is None else left.isin(right)
        return found if isinstance(op, ast.Eq) else ~found
    return COMPARED[type(op)](left, right).astype(bool)


def _name(node: ast.expr, columns: _Columns) -> str:
    """A node as it was written, cut short."""
    text = ast.unparse(node)
    for short, name in columns.quoted.items():
        text = text.replace(short, f"`{name}`")
    return re.sub(r"\s+", " ", text)[:60]


def _hint(node: ast.expr, columns: _Columns) -> str:
    """That a name with dots needs backticks, where it is a column."""
    name = ast.unparse(node)
    dotted = isinstance(node, ast.Attribute) and name in columns.table
    return f"; settings with dots stand in backticks: `{name}`" if dotted else ""
