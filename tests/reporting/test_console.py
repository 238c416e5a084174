"""What is said on the way: the lines that stand where no table is."""

from io import StringIO

import pytest
from rich.console import Console

from ntkcl.experiment.events import Plan
from ntkcl.reporting import console
from ntkcl.resources import Cost


@pytest.mark.parametrize(
    ("optimizer", "limit", "line"),
    [
        (
            "adam",
            float("inf"),
            "learning rate 0.001, no stability limit is known for this optimizer\n",
        ),
        ("sgd", 0.004, "learning rate 0.001, 0.25 of the stability limit 0.004\n"),
        ("unstable, by leave", float("nan"), "learning rate 0.001\n"),
    ],
)
def test_the_learning_rate_is_shown_beside_its_limit_where_one_is_known(optimizer, limit, line):
    written = StringIO()
    list(
        console.remarks([Plan(1e-3, limit, (1,), Cost(0.0, 0.0))], Console(file=written, width=200))
    )
    assert written.getvalue() == line
