"""What job=whatif recommends, in words."""

import io

import numpy as np
from rich.console import Console

from ntkcl.reporting import answers, figures, final_table
from ntkcl.reporting.html import plan


def side(value, **measured):
    names = "accuracy_after", "loss_rise", "accuracy_new"
    return dict.fromkeys(names, value) | measured


SUMMARY = {
    "recommended": {
        "retention": {"retention": 0.9, "share": 0.2, "beside": [0.1]}
        | {"recommended": side(0.95), "compared": side(0.85)},
        "replay": {"samples": 12, "drawn": 3, "places": {"task 0": list(range(11)), "task 1": [4]}}
        | {"recommended": side(0.7, loss_rise_measured=0.25), "compared": side(0.6)},
    }
}


def test_a_recommendation_stands_above_what_it_is_compared_with():
    rows = answers.recommended(SUMMARY)
    assert [(row["recommended"], row["old, after"], row["rise, measured"]) for row in rows] == [
        ("share 20 %, the least to retain 90 %", "0.950", ""),
        ("beside: share 10 %", "0.850", ""),
        ("replay 12 old samples", "0.700", "0.250"),
        ("beside: 12 drawn, mean of 3 draws", "0.600", ""),
    ]
    assert "old, measured" not in rows[0]  # of which there is none
    assert answers.recommended({"recommended": {}}) == answers.recommended({}) == []


def test_where_no_share_or_none_below_keeps_enough():
    facts = {"retention": 0.9, "share": None, "beside": [0.5]}
    only = {"recommended": {"retention": facts | {"compared": side(0.5)}}}
    rows = answers.recommended(only)
    assert [row["recommended"] for row in rows] == ["no share retains 90 %", "beside: share 50 %"]
    assert [row["old, after"] for row in rows] == ["", "0.500"]
    lowest = {"retention": 0.9, "share": 0.0, "beside": [], "recommended": side(0.9)}
    (row,) = answers.recommended({"recommended": {"retention": lowest}})
    assert row["recommended"] == "share 0 %, the least to retain 90 %"


def test_samples_are_places_of_their_task():
    first, second = answers.places(SUMMARY, most=2)
    assert first == "replay, of the training samples of task 0: 0, 1, ..."
    assert second == "replay, of the training samples of task 1: 4"
    _, listed = plan._recommended(SUMMARY)
    assert listed["rows"][0]["places"] == ", ".join(map(str, range(11)))


def test_slices_are_drawn_at_the_largest_rate_and_tasks_where_there_are_several():
    def rows(tasks):
        for share in (0.0, 0.5):
            for rate in (0.1, 0.2):
                at = {"method": "naive", "share": share, "learning_rate": rate, "epochs": 1.0}
                for kind, value in (("class", "0"), *(("task", str(t)) for t in range(tasks))):
                    yield at | {"slice": kind, "value": value} | {
                        "accuracy_before": 0.9, "accuracy_after": share + rate, "samples": 5
                    }  # fmt: skip

    for tasks, labels in ((1, ["class 0"]), (2, ["class 0", "task 0", "task 1"])):
        (axis,) = figures.by_slice(list(rows(tasks))).axes
        assert [label.get_text() for label in axis.get_yticklabels()] == labels
        drawn = [text.get_text() for text in axis.texts]
        assert drawn == ["0.90", "0.20", "0.70"] * len(labels)
        ticks = [label.get_text() for label in axis.get_xticklabels()]
        assert ticks == ["before", "0 %", "50 %"]


def answered(method, share, rate=0.1):
    at = {"method": method, "share": share, "learning_rate": rate, "epochs": 1.0}
    low, high = (0.4, 0.6) if method == "naive" else (0.7, 0.9)
    numbers = {"accuracy_after_low": low, "accuracy_after": (low + high) / 2}
    numbers |= {"accuracy_after_high": high, "accuracy_before": 1.0, "accuracy_new": 1.0}
    return at | numbers | {"distance": 0.1, "coarse_r2": 0.99, "verdict": "good"}


def test_methods_are_told_apart_in_the_figure_and_the_tables():
    methods = "naive", "ewc penalty=1", "ewc penalty=10", "ogd"
    rows = [answered(method, share) for method in methods for share in (0.0, 0.5)]
    rows[3]["accuracy_after_measured"] = 0.8
    figure = figures.retention(rows)
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == [*methods, "before"] and figure.axes[0].get_legend() is None
    few = figures.retention(rows[:4])
    assert [text.get_text() for text in few.axes[0].get_legend().get_texts()] == [
        "naive", "ewc penalty=1", "ewc penalty=1, measured", "before"
    ]  # fmt: skip
    assert [row["method"] for row in answers.texts(rows)] == [row["method"] for row in rows]
    assert not any("method" in row for row in answers.texts(rows[:2]))
    base = {"share": 0.2, "learning_rate": 0.1, "epochs": 1.0, "method": "naive"}
    summary = {"base": base, "verified": 0, "recommended": {}}
    assert "one training of each method answers" in list(answers.remarks(rows, summary))[1]
    assert "one training answers" in list(answers.remarks(rows[:2], summary))[1]
    terminal = Console(width=80, file=io.StringIO())
    final_table.show_answers(rows, summary, terminal)
    text = terminal.file.getvalue()
    places = [text.index(f"  {method}\n") for method in methods]
    assert places == sorted(places) and text.count("50 %") == 4


def test_a_table_of_earlier_versions_knows_no_methods():
    rows = [answered("naive", share) for share in (0.0, 0.5)]
    for row in rows:
        del row["method"]
    assert answers.texts(rows) == answers.texts([row | {"method": "naive"} for row in rows])


def test_classes_have_names_where_the_configuration_lists_them_in_order():
    source, stream = {"classes": ["games", "art", "net"]}, {"scenario": "class"}
    assert plan.class_names({"source": source, "stream": stream}, 2) == {"0": "games", "1": "art"}
    for other in ({"scenario": "domain"}, stream | {"shuffle_classes": True}):
        assert plan.class_names({"source": source, "stream": other}, 2) == {}
    assert plan.class_names({"source": {}, "stream": stream}, 2) == {}
    assert plan.class_names({"source": {"classes": 10}, "stream": stream}, 2) == {}
    arrays = {
        "head": np.ones(2), "targets": np.eye(2), "before": np.eye(2), "task": np.zeros(2, int),
        "after": np.array([[[0.0, 1.0], [0.0, 1.0]]]), "loss_change": np.array([[1.5, -0.5]]),
    }  # fmt: skip
    assert plan._facts(0, arrays, {"0": "games", "1": "art"}) == {
        "task": "0", "class": "games", "before": "games", "after": "art", "rise of loss": "+1.50"
    }  # fmt: skip
    assert plan._facts(1, arrays, {})["class"] == "1"
