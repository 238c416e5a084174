"""Streams: balanced, disjoint, deterministic, and the transformation each of them names."""

import numpy as np
import pytest
from cases import tiny_source
from oracles import two_teachers
from PIL import Image

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
    source = SOURCE._replace(
        train=Dataset(image, np.eye(4, dtype=np.float32)),
        test=Dataset(image, np.eye(4, dtype=np.float32)),
    )
    stream = streams.rotated(
        source, tasks=3, angles=[0.0, 90.0, 45.0], train_per_class=1, test_per_class=1
    )
    turned = [raw(task.train.x[0]) for task in stream]
    np.testing.assert_allclose(turned[0], image[0], atol=1e-6)
    assert turned[1][0, 0] == pytest.approx(1.0, abs=1e-6)  # top left after a quarter turn
    assert turned[2].sum() < 1 and turned[2].min() > -1e-6
    assert turned[2][0, 0] == pytest.approx(0.0, abs=1e-6)


def test_a_right_angle_agrees_with_numpy():
    stream = streams.rotated(SOURCE, tasks=2, step=90.0, **SIZES)
    np.testing.assert_allclose(
        stream[1].train.x, np.rot90(stream[0].train.x, axes=(1, 2)), atol=1e-9
    )


def test_a_patch_moves_only_its_own_pixels():
    plain, patched = streams.permuted(SOURCE, tasks=2, patch=4, **SIZES)
    changed = np.any(plain.train.x != patched.train.x, axis=0)
    assert changed[1:5, 1:5].any() and not changed[[0, 5]].any() and not changed[:, [0, 5]].any()
    assert images(plain.train) == images(patched.train)


def test_the_first_task_may_be_shuffled_too():
    identity, shuffled = (
        streams.permuted(SOURCE, tasks=1, first_identity=f, **SIZES)[0] for f in (True, False)
    )
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
        own = {"domain": 0, "task": t * (2 if targets == "one_hot" else 1), "class": 2 * t}[
            scenario
        ]
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


def test_nearest_rotation_is_pils_pixel_for_pixel():
    rng = np.random.default_rng(0)
    for side in (6, 7):
        bytes_ = rng.integers(1, 256, (4, side, side), dtype=np.uint8)
        data = Dataset((bytes_ / np.float32(255)).astype(np.float32), np.eye(4, dtype=np.float32))
        source = SOURCE._replace(train=data, test=data, mean=0.0, sd=1.0)
        angles = [0.0, 5.0, 22.5, 45.0, 67.5, 90.0, 135.0, -30.0, 400.0]
        stream = streams.rotated(
            source,
            tasks=9,
            angles=angles,
            interpolation="nearest",
            train_per_class=1,
            test_per_class=1,
        )
        for angle, task in zip(angles, stream, strict=True):
            theirs = [
                np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.NEAREST))
                for image in bytes_
            ]
            np.testing.assert_array_equal(
                np.round(task.train.x * 255), theirs, err_msg=f"{side} pixels, {angle} degrees"
            )


def test_both_interpolations_turn_the_same_way_about_the_same_centre():
    blob = np.exp(-((np.arange(28)[:, None] - 6.0) ** 2 + (np.arange(28)[None] - 17.0) ** 2) / 8)
    data = Dataset(np.stack([blob] * 4).astype(np.float32), np.eye(4, dtype=np.float32))
    source = SOURCE._replace(train=data, test=data, mean=0.0, sd=1.0)
    sizes = dict(train_per_class=1, test_per_class=1)
    near, smooth = (
        streams.rotated(source, tasks=4, step=37.0, interpolation=how, **sizes)
        for how in ("nearest", "bilinear")
    )
    for a, b in zip(near, smooth, strict=True):
        centres = [
            np.array([np.sum(g * x[0]) / x[0].sum() for g in np.mgrid[:28, :28]])
            for x in (a.train.x, b.train.x)
        ]
        assert np.abs(centres[0] - centres[1]).max() < 0.1


def test_tasks_may_have_sizes_of_their_own_and_larger_ones_hold_the_images_of_smaller_ones():
    stream = streams.permuted(
        SOURCE, tasks=3, train_per_class=[2, 5, None], test_per_class=[1, None, 3]
    )
    assert [len(task.train.x) for task in stream] == [8, 20, 48] and [
        len(task.test.x) for task in stream
    ] == [4, 24, 12]
    small, middle, large = (set(images(task.train)) for task in stream)
    assert small < middle < large
    fresh = streams.permuted(
        SOURCE, tasks=3, train_per_class=[2, 5, None], test_per_class=2, same_images=False
    )
    seen = [name for task in fresh for name in images(task.train)]
    assert [len(task.train.x) for task in fresh] == [8, 20, 20] and len(seen) == len(
        set(seen)
    ) == 48
    parts = streams.split(SOURCE, tasks=2, train_per_class=[3, None], test_per_class=2)
    assert [len(task.train.x) for task in parts] == [6, 24]


def test_a_mixture_goes_from_the_other_task_to_the_first_in_images_and_keeps_targets():
    def make(source):
        return streams.split(source, tasks=2, targets="sign", **SIZES)

    apart = make(SOURCE)
    for share in (0.0, 0.25, 1.0):
        first, second = streams.mixture(SOURCE, of=make, share=share)
        np.testing.assert_array_equal(first.train.x, apart[0].train.x)
        for part in ("train", "test"):
            ends = (getattr(task, part) for task in apart)
            a, b = (raw(data.x) for data in ends)
            np.testing.assert_allclose(
                raw(getattr(second, part).x), share * a + (1 - share) * b, atol=1e-12
            )
        np.testing.assert_array_equal(second.train.y, apart[1].train.y)
    for scenario, message in (
        ("class", "other targets than task 0"),
        ("task", "other targets than task 0"),
    ):
        with pytest.raises(ValueError, match=message):
            streams.mixture(
                SOURCE,
                of=lambda source, s=scenario: streams.split(source, tasks=2, scenario=s, **SIZES),
            )
    with pytest.raises(
        ValueError, match="task 0 has 6 train images and task 1 8; expected as many"
    ):
        streams.mixture(
            SOURCE,
            of=lambda source: streams.split(
                source, tasks=2, train_per_class=[3, 4], test_per_class=2
            ),
        )
    with pytest.raises(ValueError, match=r"stream.share=1.5: expected a number from 0 to 1"):
        streams.mixture(SOURCE, of=make, share=1.5)


def teachers(stream):
    """Each task's teacher, recovered from its noiseless samples."""
    return [
        np.linalg.lstsq(task.train.x / np.sqrt(task.train.x.shape[1]), task.train.y[:, 0])[0]
        for task in stream
    ]


@pytest.mark.parametrize("inputs", ["gaussian", "sphere"])
def test_teachers_of_consecutive_tasks_are_correlated_as_asked(inputs):
    settings = dict(tasks=3, dimension=200, train_size=220, test_size=1, inputs=inputs, decay=0.5)
    a, b, c = teachers(streams.teacher_student(SOURCE, correlation=0.6, **settings))
    for u, w, cosine in ((a, b, 0.6), (b, c, 0.6), (a, c, 0.36)):
        assert np.corrcoef(u, w)[0, 1] == pytest.approx(cosine, abs=0.15)  # sd 1 / sqrt(200)
    same, alone = (
        teachers(streams.teacher_student(SOURCE, correlation=rho, **settings)) for rho in (1.0, 0.0)
    )
    np.testing.assert_allclose(same[0], same[2], atol=1e-8)
    np.testing.assert_allclose(
        b, 0.6 * same[0] + 0.8 * alone[1], atol=1e-8
    )  # the dial turns between the same two teachers


def test_inputs_of_two_tasks_meet_at_the_angle_asked_and_have_the_norm_of_images():
    stream = streams.teacher_student(
        SOURCE, tasks=3, dimension=6, overlap=0.5, inputs="sphere", train_size=40, test_size=3
    )
    bases = [np.linalg.svd(task.train.x, full_matrices=False)[2][:6] for task in stream]
    for s, t, cosine in ((0, 1, 0.5), (1, 2, 0.5), (0, 2, 0.25)):
        np.testing.assert_allclose(np.linalg.svd(bases[s] @ bases[t].T)[1], cosine, atol=1e-10)
    np.testing.assert_allclose((stream[1].train.x ** 2).sum(1), 18)
    one = streams.teacher_student(SOURCE, dimension=6, train_size=[5, 9], test_size=2000, seed=3)
    assert [task.train.x.shape for task in one] == [(5, 6), (9, 6)]
    assert (one[0].test.x ** 2).sum(1).mean() == pytest.approx(6, rel=0.1)
    more = streams.teacher_student(SOURCE, dimension=6, train_size=9, test_size=2000, seed=3)
    np.testing.assert_array_equal(more[0].train.x[:5], one[0].train.x)
    assert not np.array_equal(
        streams.teacher_student(SOURCE, dimension=6, train_size=9, seed=4)[0].train.x,
        more[0].train.x,
    )


def test_the_oracle_of_two_teachers_has_the_numbers_of_the_theory():
    spectrum = np.array([0.4, 0.3, 0.2, 0.1])
    for rho, forward, back in (
        (0.5, 0.4450870062, 0.7635242629),
        (0.9, 0.2656954495, 0.3293829008),
        (1.0, 0.2208475603, 0.2208475603),
    ):
        assert two_teachers(spectrum, 2, 2, rho) == pytest.approx(
            (0.4450870062, forward, back), abs=1e-9
        )


def test_kernel_regression_on_teachers_forgets_as_much_as_the_theory_says():
    d, n, rho, seeds = 200, 40, 0.8, 40
    errors = np.zeros((seeds, 3))
    for seed in range(seeds):
        a, b = streams.teacher_student(
            SOURCE, dimension=d, correlation=rho, train_size=n, test_size=200, seed=seed
        )

        def learn(f, x, y):
            alpha = np.linalg.solve(x @ x.T, y - f(x))
            return lambda z: f(z) + z @ x.T @ alpha

        f_a = learn(lambda z: np.zeros((len(z), 1)), *a.train)
        f_b = learn(f_a, *b.train)
        errors[seed] = [
            np.mean((f(task.test.x) - task.test.y) ** 2)
            for f, task in ((f_a, a), (f_b, b), (f_b, a))
        ]
    spectrum = np.arange(1, d + 1) ** -1.3
    expected = two_teachers(spectrum / spectrum.sum(), n, n, rho)
    assert expected[2] > 1.5 * expected[0]  # task A is forgotten
    np.testing.assert_allclose(errors.mean(0), expected, rtol=0.12)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (
            streams.rotated,
            dict(tasks=3, angles=[0.0, 10.0]),
            r"stream.angles=\[0.0, 10.0\]: expected 3 angles",
        ),
        (streams.rotated, dict(tasks=0), "stream.tasks=0"),
        (
            streams.rotated,
            dict(interpolation="cubic"),
            "stream.interpolation=cubic: expected bilinear or nearest",
        ),
        (
            streams.rotated,
            dict(tasks=3, train_per_class=[1, 2]),
            r"stream.train_per_class=\[1, 2\]: expected 3 numbers, one for each",
        ),
        (
            streams.permuted,
            dict(tasks=2, test_per_class=[1, 0]),
            "stream.test_per_class=0: expected a whole number of at least 1",
        ),
        (
            streams.permuted,
            dict(train_per_class=None, same_images=False),
            "=null: class 0 has 12 images in the train set, of which all",
        ),
        (
            streams.teacher_student,
            dict(inputs="cube"),
            "stream.inputs=cube: expected gaussian or sphere",
        ),
        (
            streams.teacher_student,
            dict(correlation=1.01),
            "stream.correlation=1.01: expected a number from -1 to 1",
        ),
        (
            streams.teacher_student,
            dict(overlap=-0.1),
            "stream.overlap=-0.1: expected a number from 0 to 1",
        ),
        (
            streams.teacher_student,
            dict(train_size=[3]),
            r"stream.train_size=\[3\]: expected 2 numbers",
        ),
        (
            streams.teacher_student,
            dict(train_size=None),
            "stream.train_size=None: expected a whole number",
        ),
        (streams.rotated, dict(train_per_class=0), "stream.train_per_class=0"),
        (
            streams.rotated,
            dict(train_per_class=13),
            "stream.train_per_class=13: class 0 has 12 images in the train set",
        ),
        (
            streams.permuted,
            dict(test_per_class=4, same_images=False),
            "of which 4 went to the tasks before",
        ),
        (streams.permuted, dict(patch=7), "stream.patch=7: expected 2 to 6"),
        (streams.split, dict(tasks=3), "3 tasks x 2 classes need 6 classes, the source has 4"),
        (streams.split, dict(tasks=1, scenario="both"), "stream.scenario=both"),
        (streams.split, dict(tasks=1, classes_per_task=3, targets="sign"), "stream.targets=sign"),
    ],
)
def test_bad_settings_are_named(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(SOURCE, **((SIZES if make is not streams.teacher_student else {}) | settings))


def test_images_that_are_not_square_cannot_be_rotated():
    flat = SOURCE._replace(train=SOURCE.train._replace(x=SOURCE.train.x[:, :, :4]))
    with pytest.raises(ValueError, match=r"shape \(6, 4\) cannot be rotated"):
        streams.rotated(flat, **SIZES)
