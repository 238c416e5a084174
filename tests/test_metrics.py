"""Metrics by numbers: the 4 x 4 matrix separates the dialects."""

import numpy as np
import pytest

from ntkcl import metrics

R = np.array([[0.80, 0.10, 0.20, 0.10], [0.90, 0.70, 0.90, 0.20], [0.60, 0.50, 0.85, 0.40], [0.50, 0.75, 0.55, 0.65]])
B = np.array([0.10, 0.10, 0.12, 0.08])


def test_the_default_metrics_have_their_published_values():
    expected = {
        "average_accuracy": 0.6125,
        "learning_accuracy": 0.75,
        "bwt_gem": -0.1833333333,
        "forgetting_chaudhry": 0.2333333333,
        "fwt_gem": 0.3666666667,
    }
    assert metrics.summary(R, B) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("tasks", "bwt", "forgetting"), [(2, 0.10, -0.10), (3, -0.20, 0.25), (4, -0.1833333333, 0.2333333333)])
def test_after_each_task_the_cut_matrix_gives_its_own_values(tasks, bwt, forgetting):
    cut = R[:tasks, :tasks]
    assert metrics.bwt_gem(cut) == pytest.approx(bwt, abs=1e-10)
    assert metrics.forgetting_chaudhry(cut) == pytest.approx(forgetting, abs=1e-10)


def test_backward_transfer_is_learning_accuracy_minus_average_accuracy():
    rng = np.random.default_rng(0)
    for tasks in range(2, 9):
        r = rng.random((tasks, tasks))
        gap = metrics.learning_accuracy(r) - metrics.average_accuracy(r)
        assert metrics.bwt_gem(r) == pytest.approx(-tasks / (tasks - 1) * gap, abs=1e-12)
        assert metrics.forgetting_chaudhry(r) >= -metrics.bwt_gem(r) - 1e-12


def test_one_task_has_no_transfer():
    one = metrics.summary(np.array([[0.7]]), np.array([0.1]))
    assert one["average_accuracy"] == one["learning_accuracy"] == 0.7
    assert all(np.isnan(one[name]) for name in ("bwt_gem", "fwt_gem", "forgetting_chaudhry"))


def test_an_entry_that_was_not_measured_is_named_and_never_counted_as_zero():
    holed = R.copy()
    holed[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"R\[3, 1\]"):
        metrics.average_accuracy(holed)
    assert metrics.learning_accuracy(holed) == pytest.approx(0.75)
    assert np.isnan(metrics.summary(holed, B)["average_accuracy"])


def test_a_missing_baseline_is_named_too():
    with pytest.raises(ValueError, match=r"b\[2\] was not measured"):
        metrics.fwt_gem(R, np.array([np.nan, 0.1, np.nan, 0.1]))


def test_correct_looks_at_active_outputs_only_and_at_the_sign_of_a_single_one_and_ties_are_chance():
    f = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, -1.0], [0.0, 0.0, 0.0]])
    y = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    assert metrics.correct(f, y, np.array([0, 1, 1])).tolist() == [1.0, 1.0, 0.5]
    assert metrics.correct(f, y, np.array([0, 0, 1])).tolist() == [1.0, 1.0, 0.5]
    assert metrics.correct(f, y, np.ones(3)).tolist() == [0.0, 0.0, 1 / 3]
    assert metrics.correct(np.stack([f, -f]), y, np.ones(3)).shape == (2, 3)
