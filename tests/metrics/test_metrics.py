"""Metrics by numbers: the 4 x 4 matrix separates the dialects."""

import itertools

import numpy as np
import pytest

from ntkcl import metrics

R = np.array(
    [
        [0.80, 0.10, 0.20, 0.10],
        [0.90, 0.70, 0.90, 0.20],
        [0.60, 0.50, 0.85, 0.40],
        [0.50, 0.75, 0.55, 0.65],
    ]
)
B = np.array([0.10, 0.10, 0.12, 0.08])


A_IND = np.array([0.82, 0.80, 0.88, 0.75])
A_JOINT = np.array([0.78, 0.76, 0.84, 0.72])
PUBLISHED = {
    "average_accuracy": 0.6125,
    "learning_accuracy": 0.75,
    "average_incremental_accuracy": 0.715625,
    "accuracy_triangle": 0.68,
    "bwt_gem": -0.1833333333,
    "bwt_gem_code": -0.1375,
    "bwt_all_pairs": -0.1416666667,
    "bwt_positive": 0.0,
    "remembering": 0.8583333333,
    "fwt_gem": 0.3666666667,
    "fwt_gem_code": 0.275,
    "fwt_without_baseline": 0.4666666667,
    "forgetting_first": 0.1833333333,
    "forgetting_chaudhry": 0.2333333333,
    "forgetting_learned": 0.2166666667,
    "forgetting_peak": 0.2333333333,
    "forgetting_peak_next": 0.25,
    "forgetting_peak_all_tasks": 0.175,
    "forgetting_graldi": 0.1375,
    "forgetting_relative": 0.1641281513,
}


def test_every_dialect_has_its_value_on_the_matrix_that_separates_them():
    reported = metrics.summary(R, B)
    assert reported == pytest.approx(PUBLISHED, abs=1e-10)
    assert list(reported)[:5] == [
        "average_accuracy",
        "learning_accuracy",
        "bwt_gem",
        "forgetting_chaudhry",
        "fwt_gem",
    ]
    assert metrics.fwt_independent(R, A_IND) == pytest.approx(-0.0766666667, abs=1e-10)
    assert metrics.forgetting_rate(R, B, A_JOINT) == pytest.approx(-0.2347672497, abs=1e-10)


def test_what_needs_a_reference_is_told_where_there_is_one():
    assert metrics.referenced(R, B) == {}
    assert metrics.referenced(R, B, A_IND) == pytest.approx(
        {"fwt_independent": -0.0766666667}, abs=1e-10
    )
    both = metrics.referenced(R, B, A_IND, A_JOINT)
    assert tuple(both) == metrics.REFERENCED and both["forgetting_rate"] == pytest.approx(
        -0.2347672497, abs=1e-10
    )
    at_chance = A_JOINT.copy()
    at_chance[0] = np.nextafter(B[0], 1)  # nothing learned, and the rounding of a mean
    assert np.isnan(metrics.referenced(R, B, A_IND, at_chance)["forgetting_rate"])


@pytest.mark.parametrize(
    ("tasks", "bwt", "chaudhry", "learned"),
    [
        (2, 0.10, -0.10, -0.10),
        (3, -0.20, 0.25, 0.25),
        (4, -0.1833333333, 0.2333333333, 0.2166666667),
    ],
)
def test_after_each_task_the_cut_matrix_gives_its_own_values(tasks, bwt, chaudhry, learned):
    cut = R[:tasks, :tasks]
    assert metrics.bwt_gem(cut) == pytest.approx(bwt, abs=1e-10)
    assert metrics.forgetting_chaudhry(cut) == pytest.approx(chaudhry, abs=1e-10)
    assert metrics.forgetting_learned(cut) == pytest.approx(learned, abs=1e-10)


def test_avalanches_own_matrix_gives_the_forgetting_that_its_unit_test_expects():
    theirs = np.array([[1, 0, 0], [0.5, 0.8, 1], [0.2, 1, 0.5]])
    rows = [[theirs[j, j] - theirs[i, j] if j < i else 0.0 for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(rows, [[0, 0, 0], [0.5, 0, 0], [0.8, -0.2, 0]], atol=1e-12)
    assert metrics.forgetting_first(theirs) == pytest.approx((0.8 - 0.2) / 2)
    assert metrics.forgetting_first(theirs[:2, :2]) == pytest.approx(0.5)


def test_dialects_are_bound_by_their_identities_on_random_matrices():
    rng = np.random.default_rng(0)
    for tasks in [2, 3, 5, 8] * 10:
        r, b = rng.random((tasks, tasks)), rng.random(tasks)
        m, share = metrics.summary(r, b), (tasks - 1) / tasks
        gap = m["learning_accuracy"] - m["average_accuracy"]
        equal = {
            "bwt_gem": -gap / share,
            "forgetting_first": -m["bwt_gem"],
            "bwt_gem_code": share * m["bwt_gem"],
            "forgetting_graldi": gap,
            "forgetting_peak_all_tasks": share * m["forgetting_peak"],
            "fwt_gem": m["fwt_without_baseline"] - b[1:].mean(),
            "fwt_gem_code": share * m["fwt_gem"],
        }
        assert {name: m[name] for name in equal} == pytest.approx(equal, abs=1e-12)
        falling = [
            ("forgetting_chaudhry", "forgetting_learned", "forgetting_first"),
            ("forgetting_peak_next", "forgetting_peak", "forgetting_learned"),
        ]
        for names in falling:
            for larger, smaller in itertools.pairwise(names):
                assert m[larger] >= m[smaller] - 1e-12
        assert m["forgetting_peak"] >= 0 and m["forgetting_peak_all_tasks"] >= gap - 1e-12
        if tasks == 2:
            assert (
                m["forgetting_chaudhry"]
                == m["forgetting_learned"]
                == pytest.approx(m["forgetting_first"])
            )


def test_losses_have_levels_of_their_own_and_differences_whose_sign_says_the_same():
    reported = metrics.loss_summary(1 - R, 1 - B)
    assert reported["average_loss"] == pytest.approx(1 - 0.6125) and reported[
        "learning_loss"
    ] == pytest.approx(0.25)
    assert reported["average_incremental_loss"] == pytest.approx(1 - 0.715625) and reported[
        "loss_triangle"
    ] == pytest.approx(0.32)
    shared = set(reported) & set(PUBLISHED)
    assert {name: reported[name] for name in shared} == pytest.approx(
        {name: PUBLISHED[name] for name in shared}, abs=1e-10
    )
    assert (
        len(shared) == 13
        and not {"forgetting_relative", "remembering", "fwt_without_baseline"} & shared
    )


def test_one_task_has_no_transfer():
    one = metrics.summary(np.array([[0.7]]), np.array([0.1]))
    assert one["average_accuracy"] == one["learning_accuracy"] == 0.7
    levels = (
        "average_accuracy",
        "learning_accuracy",
        "average_incremental_accuracy",
        "accuracy_triangle",
    )
    assert all(np.isnan(value) for name, value in one.items() if name not in levels)
    assert np.isnan(metrics.fwt_independent(np.array([[0.7]]), np.ones(1)))
    assert np.isnan(metrics.forgetting_rate(np.array([[0.7]]), np.zeros(1), np.ones(1)))


def test_an_entry_that_was_not_measured_is_named_and_never_counted_as_zero():
    holed = R.copy()
    holed[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"R\[3, 1\]"):
        metrics.average_accuracy(holed)
    assert metrics.learning_accuracy(holed) == pytest.approx(0.75)
    assert np.isnan(metrics.summary(holed, B)["average_accuracy"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_dialect_needs_the_entries_of_its_formula_and_no_other(name):
    """An entry that changes a dialect's value when it is moved is needed; without it, its place is
    named."""
    function = getattr(metrics, name)
    arguments = (B,) if name.startswith("fwt_gem") else ()
    for i, j in np.ndindex(4, 4):
        hole, moved = R.copy(), [R.copy(), R.copy()]
        hole[i, j], moved[0][i, j], moved[1][i, j] = np.nan, 5.0, -5.0
        if any(abs(function(r, *arguments) - function(R, *arguments)) > 1e-9 for r in moved):
            with pytest.raises(ValueError, match=rf"R\[{i}, {j}\] was not measured"):
                function(hole, *arguments)
        else:
            assert function(hole, *arguments) == function(R, *arguments)


def test_reference_vectors_are_checked_and_shares_of_nothing_refused():
    with pytest.raises(ValueError, match=r"b\[2\] was not measured"):
        metrics.fwt_gem(R, np.array([np.nan, 0.1, np.nan, 0.1]))
    with pytest.raises(ValueError, match=r"a_ind\[3\] was not measured"):
        metrics.fwt_independent(R, np.array([0.8, 0.8, 0.8, np.nan]))
    with pytest.raises(
        ValueError, match=r"a_joint of shape \(3,\): expected a number for each of 4 tasks"
    ):
        metrics.forgetting_rate(R, B, A_JOINT[:3])
    with pytest.raises(ValueError, match=r"a_joint\[1\] is b\[1\]"):
        metrics.forgetting_rate(R, B, np.array([0.8, 0.1, 0.8, 0.8]))
    with pytest.raises(ValueError, match=r"R\[1, 1\] is 0"):
        metrics.forgetting_relative(R - np.diag([0, 0.7, 0, 0]))
    with pytest.raises(ValueError, match=r"R of shape \(3, 4\): expected a square"):
        metrics.forgetting_peak(R[:3])


def test_correct_looks_at_active_outputs_only_and_at_the_sign_of_a_single_one_and_ties_are_chance():
    f = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, -1.0], [0.0, 0.0, 0.0]])
    y = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    assert metrics.correct(f, y, np.array([0, 1, 1])).tolist() == [1.0, 1.0, 0.5]
    assert metrics.correct(f, y, np.array([0, 0, 1])).tolist() == [1.0, 1.0, 0.5]
    assert metrics.correct(f, y, np.ones(3)).tolist() == [0.0, 0.0, 1 / 3]
    assert metrics.correct(np.stack([f, -f]), y, np.ones(3)).shape == (2, 3)


def test_flips_explain_the_change_of_accuracy_exactly_ties_included():
    rng = np.random.default_rng(0)
    f = rng.integers(-1, 2, (5, 200, 3)).astype(float)  # many ties
    y = np.eye(3)[rng.integers(0, 3, 200)]
    right = metrics.correct(f, y, np.ones(3))
    lost, gained = metrics.flip_lost(right[1], right[4]), metrics.flip_gained(right[1], right[4])
    assert lost.mean() - gained.mean() == pytest.approx(
        right[1].mean() - right[4].mean(), abs=1e-12
    )
    assert (lost * gained == 0).all() and lost.min() == 0 and lost.max() == gained.max() == 1
    sure = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=bool)
    assert metrics.flip_lost(*sure).tolist() == [0, 1, 0, 0] and metrics.flip_gained(
        *sure
    ).tolist() == [0, 0, 1, 0]


def test_forgetting_events_count_right_to_wrong_after_the_task_was_learned():
    right = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 0]])
    assert metrics.forgetting_events(right, 0).tolist() == [2, 1, 1]
    assert metrics.forgetting_events(right, 1).tolist() == [1, 1, 1]
    assert metrics.forgetting_events(right, 4).tolist() == [0, 0, 0]


def test_the_margin_is_positive_where_the_prediction_is_right_and_of_active_outputs_alone():
    rng = np.random.default_rng(1)
    f, y, head = rng.normal(size=(2, 50, 4)), np.zeros((50, 4)), np.array([0, 1, 1, 1])
    y[np.arange(50), rng.integers(1, 4, 50)] = 1
    margins = metrics.margin(f, y, head)
    np.testing.assert_array_equal(margins > 0, metrics.correct(f, y, head) == 1)
    label = y[0].argmax()
    others = [f[0, 0, a] for a in (1, 2, 3) if a != label]
    assert margins[0, 0] == pytest.approx(f[0, 0, label] - max(others))
    np.testing.assert_allclose(metrics.margin_change(f[0], f[1], y, head), margins[1] - margins[0])
    assert metrics.margin(
        np.array([[0.0, -2.0]]), np.array([[0.0, -1.0]]), np.array([0, 1])
    ).tolist() == [2.0]
