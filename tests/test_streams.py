"""Streams: balanced, disjoint, deterministic, and the transformation each of them names."""

import numpy as np
import pytest
from cases import tiny_source

from ntkcl import streams
from ntkcl.types import Dataset

SOURCE = tiny_source()
SIZES = dict(train_per_class=3, test_per_class=2)
MAKERS = {
    "rotated": lambda **k: streams.rotated(SOURCE, tasks=3, **SIZES, **k),
    "permuted": lambda **k: streams.permuted(SOURCE, tasks=3, **SIZES, **k),
    "split": lambda **k: streams.split(SOURCE, tasks=2, **SIZES, **k),
}


def raw(x):
    return x * SOURCE.sd + SOURCE.mean


def images(dataset):
    """Each image as bytes of its sorted pixels, which a permutation keeps."""
    return [np.sort(np.round(raw(x), 6), axis=None).tobytes() for x in dataset.x]


@pytest.mark.parametrize("name", MAKERS)
def test_streams_are_deterministic_by_seed_and_balanced(name):
    one, same, other = (MAKERS[name](seed=s) for s in (1, 1, 2))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a.train.x, b.train.x)
        np.testing.assert_array_equal(a.test.y, b.test.y)
    assert any(not np.array_equal(a.train.x, c.train.x) for a, c in zip(one, other, strict=True))
    for task in one:
        assert set(task.train.y.sum(0)) == {3.0} and set(task.test.y.sum(0)) == {2.0}


def test_train_and_test_never_share_an_image_nor_do_fresh_tasks():
    stream = streams.permuted(SOURCE, tasks=3, same_images=False, **SIZES)
    seen = [name for task in stream for part in (task.train, task.test) for name in images(part)]
    assert len(seen) == len(set(seen)) == 3 * 4 * 5
    same = streams.permuted(SOURCE, tasks=3, **SIZES)
    assert images(same[0].train) == images(same[1].train)


def test_rotation_is_counter_clockwise_bilinear_with_black_corners():
    image = np.zeros((4, 6, 6), np.float32)
    image[:, 0, 5] = 1.0  # top right
    source = SOURCE._replace(train=Dataset(image, np.eye(4, dtype=np.float32)), test=Dataset(image, np.eye(4, dtype=np.float32)))
    stream = streams.rotated(source, tasks=3, angles=[0.0, 90.0, 45.0], train_per_class=1, test_per_class=1)
    turned = [raw(task.train.x[0]) for task in stream]
    np.testing.assert_allclose(turned[0], image[0], atol=1e-6)
    assert turned[1][0, 0] == pytest.approx(1.0, abs=1e-6)  # top left after a quarter turn
    assert turned[2].sum() < 1 and turned[2].min() > -1e-6
    assert turned[2][0, 0] == pytest.approx(0.0, abs=1e-6)


def test_a_right_angle_agrees_with_numpy():
    stream = streams.rotated(SOURCE, tasks=2, step=90.0, **SIZES)
    np.testing.assert_allclose(stream[1].train.x, np.rot90(stream[0].train.x, axes=(1, 2)), atol=1e-9)


def test_a_patch_moves_only_its_own_pixels():
    plain, patched = streams.permuted(SOURCE, tasks=2, patch=4, **SIZES)
    changed = np.any(plain.train.x != patched.train.x, axis=0)
    assert changed[1:5, 1:5].any() and not changed[[0, 5]].any() and not changed[:, [0, 5]].any()
    assert images(plain.train) == images(patched.train)


def test_the_first_task_may_be_shuffled_too():
    identity, shuffled = (streams.permuted(SOURCE, tasks=1, first_identity=f, **SIZES)[0] for f in (True, False))
    assert not np.array_equal(identity.train.x, shuffled.train.x)


@pytest.mark.parametrize(
    ("scenario", "targets", "outputs", "heads"),
    [
        ("domain", "one_hot", 2, [[1, 1], [1, 1]]),
        ("domain", "sign", 1, [[1], [1]]),
        ("task", "one_hot", 4, [[1, 1, 0, 0], [0, 0, 1, 1]]),
        ("task", "sign", 2, [[1, 0], [0, 1]]),
        ("class", "one_hot", 4, [[1, 1, 1, 1], [1, 1, 1, 1]]),
    ],
)
def test_split_scenarios_differ_in_heads_and_targets_alone(scenario, targets, outputs, heads):
    stream = streams.split(SOURCE, tasks=2, scenario=scenario, targets=targets, **SIZES)
    assert [task.head.tolist() for task in stream] == heads
    for t, task in enumerate(stream):
        assert task.train.y.shape == (6, outputs)
        assert np.all(task.train.y[:, task.head == 0] == 0)
        first = task.train.y[:3]  # the task's first class comes first
        own = {"domain": 0, "task": t * (2 if targets == "one_hot" else 1), "class": 2 * t}[scenario]
        assert np.all(first[:, own] == 1)
        assert np.all(task.train.y[3:, own] == (-1 if targets == "sign" else 0))


def test_the_images_of_a_split_task_belong_to_its_classes():
    labels = {x.tobytes(): y.argmax() for x, y in zip(SOURCE.train.x, SOURCE.train.y, strict=True)}
    stream = streams.split(SOURCE, tasks=2, shuffle_classes=True, seed=3, **SIZES)
    order = np.random.default_rng(3).permutation(4)
    for t, task in enumerate(stream):
        found = [labels[np.float32(raw(x)).tobytes()] for x in task.train.x]
        assert found == np.repeat(order[2 * t : 2 * t + 2], 3).tolist()


def test_channels_move_together():
    coloured = SOURCE._replace(
        train=Dataset(np.stack([SOURCE.train.x] * 3, -1), SOURCE.train.y),
        test=Dataset(np.stack([SOURCE.test.x] * 3, -1), SOURCE.test.y),
    )
    for make in (streams.permuted, streams.rotated):
        x = make(coloured, tasks=2, **SIZES)[1].train.x
        assert x.shape[1:] == (6, 6, 3)
        np.testing.assert_allclose(x[..., 0], x[..., 2], atol=1e-12)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (streams.rotated, dict(tasks=3, angles=[0.0, 10.0]), r"stream.angles=\[0.0, 10.0\]: expected 3 angles"),
        (streams.rotated, dict(tasks=0), "stream.tasks=0"),
        (streams.rotated, dict(train_per_class=0), "stream.train_per_class=0"),
        (streams.rotated, dict(train_per_class=13), "stream.train_per_class=13: class 0 has 12 images in the train set"),
        (streams.permuted, dict(test_per_class=4, same_images=False), "of which 4 went to the tasks before"),
        (streams.permuted, dict(patch=7), "stream.patch=7: expected 2 to 6"),
        (streams.split, dict(tasks=3), "3 tasks x 2 classes need 6 classes, the source has 4"),
        (streams.split, dict(tasks=1, scenario="both"), "stream.scenario=both"),
        (streams.split, dict(tasks=1, classes_per_task=3, targets="sign"), "stream.targets=sign"),
    ],
)
def test_bad_settings_are_named(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(SOURCE, **(dict(SIZES) | settings))


def test_images_that_are_not_square_cannot_be_rotated():
    flat = SOURCE._replace(train=SOURCE.train._replace(x=SOURCE.train.x[:, :, :4]))
    with pytest.raises(ValueError, match=r"shape \(6, 4\) cannot be rotated"):
        streams.rotated(flat, **SIZES)
