"""The table of quantities: complete, without rows that no run writes, with one label each."""

import json
import re

import pytest

from ntkcl import metrics
from ntkcl.experiment.events import ANCHORS
from ntkcl.reporting import columns, final_table, panels
from ntkcl.reporting.html import sweep, verdict
from ntkcl.runs import schema
from ntkcl.runs.identity import flat

RUN = (
    "network.width=8", "stream.tasks=2", "stream.train_per_class=2", "stream.test_per_class=2",
    "training.steps=5", "tracking=disabled", "figures=false", "forecast.anchors=[init,boundary]",
    "references=[single,joint]",
)  # fmt: skip


def concrete(key):
    """A key with a name in place of each placeholder."""
    places = {"<anchor>": "init", "<phase>": "train", "<baseline>": "cka"}
    for place, name in places.items():
        key = key.replace(place, name)
    return re.sub("<.*>", "x", key)


@pytest.fixture
def summary(ntkcl, tmp_path):
    code, _, err = ntkcl(*RUN)
    assert code == 0, err
    (path,) = (tmp_path / "results" / "runs" / "main").glob("*/summary.json")
    return flat(json.loads(path.read_text()))


def test_a_run_writes_the_quantities_of_the_table_and_no_others(summary):
    found = {name: schema.find(name) for name in summary}
    assert not [name for name, row in found.items() if row is None]
    written = {row.key for row, _ in found.values()}
    assert not [row.key for row in schema.QUANTITIES if row.key not in written]


def test_the_form_of_a_value_is_the_one_that_the_table_says(summary):
    scalars = (int, float, type(None))
    for name, value in summary.items():
        form = schema.find(name)[0].form
        if form == schema.TEXT:
            continue
        assert isinstance(value, scalars) == (form == schema.NUMBER), name
        nested = isinstance(value, list) and isinstance(value[0], list)
        assert nested == (form == schema.MATRIX), name


def test_keys_and_headings_are_unique_and_every_row_says_what_it_means():
    keys = [row.key for row in schema.QUANTITIES]
    assert len(set(keys)) == len(keys)
    headings = [schema.heading(concrete(key)) for key in keys]
    assert len(set(headings)) == len(headings)
    assert all(row.label and row.meaning for row in schema.QUANTITIES)


def test_a_placeholder_stands_for_one_name():
    for row in schema.QUANTITIES:
        assert schema.find(concrete(row.key))[0] == row
    assert schema.find("forecast.init.a.drift_r2") is None and schema.find("forecast.init") is None
    assert schema.heading("forecast.init.drift_r2") == "drift, predicted and measured (R², init)"
    assert schema.heading("seconds.train") == "time (train, s)"
    assert schema.heading("metrics.bwt_gem") == "backward transfer (GEM)"
    assert schema.axis("seconds.total") == "time (s)" and schema.heading("nothing") == "nothing"


def test_every_metric_has_a_row():
    names = [f.__name__ for f in (*metrics.DEFAULTS, *metrics.DIALECTS)]
    for name in (*names, *metrics.REFERENCED):
        assert schema.find(f"metrics.{name}") is not None, name
    for name in (*metrics.LEVELS, *(f.__name__ for f in metrics.DIFFERENCES)):
        assert schema.find(f"metrics_loss.{name}") is not None, name
    assert set(schema.NEEDS_REFERENCE) == set(metrics.REFERENCED)


PREDICTED = (
    "mean_forgetting_predicted",
    "verdict",
    "spearman_pairs",
)  # rows of the terminal's table


def test_terminal_tables_panels_and_pages_show_quantities_of_the_table_alone():
    drawn = panels.sections(["network.width"], ["method"], ANCHORS)
    shown = {name for one in drawn for panel in one.panels for name in panel.y}
    shown |= {panel.x for one in drawn for panel in one.panels if panel.kind == "scatter"}
    shown |= {*columns.DEFAULT_VALUES, *sweep.COLUMNS, *verdict.VERDICT_COLUMNS}
    shown |= {f"metrics.{name}" for name in (*final_table.METRICS, final_table.FIRST)}
    shown |= {f"forecast.init.{name}" for name in (*final_table.AGREEMENT, *PREDICTED)}
    assert not [name for name in shown if schema.find(name) is None]


def test_a_number_is_known_by_anchors_and_references():
    schema.check_number("by", "forecast.init.baselines.cka.spearman_pairs", ["init"], [])
    schema.check_number("by", "kernel.top_drift", ["init", "boundary"], [])
    schema.check_number("by", "metrics.forgetting_rate", [], ["joint"])
    for name in ("forecast.path.skill", "kernel.top_drift", "metrics.forgetting_rate", "R"):
        with pytest.raises(ValueError, match=f"by={name}: no such number in summary.json"):
            schema.check_number("by", name, ["init"], ["single"])
