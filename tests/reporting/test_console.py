"""What the terminal shows: lines on the way, the table at the end."""

from io import StringIO

import pytest
from rich.console import Console

from ntkcl.experiment.events import Plan
from ntkcl.forecast import Estimate
from ntkcl.reporting import console, final_table
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


def test_what_a_forecast_will_take_is_shown_where_it_is_asked_for():
    written = StringIO()
    estimate = Estimate("closed", "all at once", 1.23, 4567.0)
    plan = Plan(1e-3, float("nan"), (1,), Cost(0.0, 0.0), estimate)
    list(console.remarks([plan], Console(file=written, width=40)))
    assert written.getvalue().splitlines()[1] == (
        "forecast by form=closed: all at once; about 1.2 s and 4,567 MiB once it is compiled"
    )


BASELINES = {
    "zero_drift": {"skill": 0.95},
    "constant_shift": {"skill": 0.6},
    "input_cosine": {"skill": 0.7},
    "cka": {"spearman_pairs": -0.5},
}


OTHERS = ("mean_forgetting_measured", "mean_forgetting_predicted", "verdict", "spearman_pairs")


def summary_of(*anchors, measured=0.2, predicted=0.19, baselines=BASELINES, reasons=()):
    names = (*final_table.METRICS, final_table.FIRST)
    forecast = dict.fromkeys((*final_table.AGREEMENT, *OTHERS), 0.5)
    forecast |= {"baselines": baselines, "reasons": list(reasons), "verdict": "fair"}
    forecast["metrics"] = dict.fromkeys(names, predicted)
    return {
        "metrics": dict.fromkeys(names, measured),
        "forecast": dict.fromkeys(anchors, forecast),
        "seconds": {"train": 1.0} | {f"forecast_{anchor}": 2.0 for anchor in anchors},
    }


def shown(summary, width=80):
    written = StringIO()
    final_table.show(summary, Console(file=written, width=width))
    return written.getvalue()


def test_the_three_rows_that_are_read_first_come_first_with_a_word_each():
    text = shown(summary_of("init", reasons=["the kernel moves", "so does the rate"]), width=100)
    first = text.split("├")[0]
    assert first.index("forgetting (Chaudhry et al.)") < first.index("skill over the best baseline")
    assert first.index("skill over the best baseline") < first.index("verdict before training")
    assert "0.1900" in first and "close" in first
    assert "0.6000" in first and "better than" in first and "constant shift" in first
    assert first.count("fair") == 1
    for label in ("forgetting (Chaudhry", "best baseline", "verdict before"):
        others = text.replace(first, "").replace("the same of the best baseline", "")
        assert label not in others
    assert text.splitlines()[-1] == "init: fair; the kernel moves; so does the rate"


@pytest.mark.parametrize(
    ("predicted", "word"),
    [(0.18, "close"), (0.22, "close"), (0.17, "too low"), (0.23, "too high"), (None, "-")],
)
def test_forgetting_is_said_to_be_near_or_on_which_side(predicted, word):
    first = shown(summary_of("init", predicted=predicted)).split("├")[0]
    words = {"close", "too low", "too high"}
    assert word in first and not [other for other in words - {word} if other in first]


@pytest.mark.parametrize(
    ("skill", "word"),
    [
        (0.95, "far better than"),
        (0.9, "far better than"),
        (0.5, " better than"),
        (0.05, "no better than"),
        (-0.05, "no better than"),
        (-3.0, "worse than"),
    ],
)
def test_skill_is_said_in_words(skill, word):
    text = shown(summary_of("init", baselines={"zero_drift": {"skill": skill}}))
    first = text.split("├")[0]
    assert word in first and "zero drift" in first
    assert ("far" in first, "no better" in first) == ("far" in word, "no better" in word)


def test_what_is_missing_is_a_dash_and_a_diagnostic_has_no_words():
    first = shown(summary_of("init", measured=float("nan"), baselines={})).split("├")[0]
    assert "close" not in first and "than" not in first and first.count(" - ") == 2
    first = shown(summary_of("path")).split("├")[0]
    assert "0.1900" in first and "close" not in first and "than" not in first


@pytest.mark.parametrize("anchors", [(), ("init",), ("infinite", "init", "boundary", "path")])
def test_the_table_fits_a_terminal_of_80_columns(anchors):
    reasons = ["the learning rate is 0.95 of the stability limit, which later kernels may lower"]
    text = shown(summary_of(*anchors, reasons=reasons))
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert ("skill" in text) == ("boundary and path" in text) == bool(anchors)
    for anchor in anchors:
        assert anchor in text.split("┡")[0]


def test_what_is_run_is_a_line_a_part():
    written = StringIO()
    settings = {"data": "digits [red]", "network": "mlp of width 8"}
    console.show_settings(settings, Console(file=written, width=20))
    assert written.getvalue() == "data     digits [red]\nnetwork  mlp of width 8\n"
