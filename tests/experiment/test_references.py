"""References: trained as they say, once for all methods, and never in the way of the run."""

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import linear, quadratic_features, random_stream

from ntkcl import experiment, forecast, kernels, losses, methods, metrics, optimizers
from ntkcl.experiment import references
from ntkcl.runs import checkpoints, files, reference_cache, schema
from ntkcl.training import loop
from ntkcl.training.settings import Training
from ntkcl.types import Dataset, Rows, Task

LOSS = losses.squared_error()
LINEAR = linear(quadratic_features, 2)
KEY = jax.random.key(0)
RATE = 0.05
SIZES = [6, 3, 8]
STREAM = random_stream(jax.random.key(5), SIZES)
WITH_HEADS = random_stream(jax.random.key(5), SIZES, heads=((1, 0), (0, 1), (1, 1)))


def initialised(
    stream=STREAM, steps=25, batch_size=None, optimizer=None, method=experiment.NAIVE, **training
):
    settings = Training(steps=steps, batch_size=batch_size, learning_rate=RATE, **training)
    optimizer = optimizer or optimizers.sgd(momentum=0.5)
    return experiment.initialise(
        KEY, stream, LINEAR, LOSS, optimizer, settings, method, forecast.Effort(), kernels.empirical
    )


def ran(stream, steps=25, batch_size=None):
    """The parameters after the first task of a run."""
    settings = Training(steps=steps, batch_size=batch_size, learning_rate=RATE, allow_unstable=True)
    fits = []
    checkpointer = checkpoints.Checkpointer(
        lambda t, state: None, lambda t, fit: fits.append(fit), steps
    )
    list(
        experiment.run(
            KEY,
            stream,
            LINEAR,
            LOSS,
            optimizers.sgd(momentum=0.5),
            settings,
            anchors=(),
            checkpointer=checkpointer,
        )
    )
    return fits[0].theta


def own(outputs, stream, t):
    """Of outputs on all inputs, those on task t's train and test inputs."""
    rows = Rows.of(stream)
    return np.concatenate([outputs[rows.train[t]], outputs[rows.test[t]]])


@pytest.mark.parametrize("stream", [STREAM, WITH_HEADS], ids=["all outputs", "heads"])
def test_single_is_what_a_run_of_that_task_alone_does_bit_for_bit(stream):
    start = initialised(stream)
    outputs = references.single(start, RATE)
    for t, task in enumerate(stream):
        np.testing.assert_array_equal(outputs[t], start.outputs(ran((task,))))


@pytest.mark.parametrize("optimizer_state", ["reset", "carry"])
def test_single_takes_the_batches_that_the_run_takes_and_begins_at_rest(optimizer_state):
    start = initialised(batch_size=2, optimizer_state=optimizer_state)
    outputs = references.single(start, RATE)
    np.testing.assert_array_equal(outputs[0], start.outputs(ran(STREAM, batch_size=2)))
    transform = optimizers.sgd(momentum=0.5).transform(RATE)
    for t, task in enumerate(STREAM):
        reported = dict(apply=LINEAR.apply, loss=LOSS, transform=transform, steps=25, batch_size=2)
        fitted = loop.train(
            jax.random.fold_in(KEY, t + 1), start.theta, task.train, task.head, **reported
        )
        np.testing.assert_array_equal(outputs[t], start.outputs(fitted.theta))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_joint_is_what_a_run_of_the_union_does_in_as_many_steps_as_the_stream_takes(batch_size):
    start = initialised(batch_size=batch_size)
    outputs = references.joint(start, RATE)
    union = Dataset(
        *(jnp.concatenate(parts) for parts in zip(*(task.train for task in STREAM), strict=True))
    )
    theta = ran((Task(union, STREAM[0].test, STREAM[0].head),), steps=3 * 25, batch_size=batch_size)
    assert len(outputs) == 3
    for one in outputs:
        np.testing.assert_allclose(one, start.outputs(theta), atol=1e-12)


def test_joint_trains_every_sample_through_the_head_of_its_task():
    start = initialised(WITH_HEADS, steps=5, optimizer=optimizers.sgd())

    def mean_loss(theta):
        each = [
            LOSS.value(LINEAR.apply(theta, x), y, task.head)
            for task in WITH_HEADS
            for x, y in zip(*task.train, strict=True)
        ]
        return sum(each) / len(each)

    theta = start.theta
    for _ in range(3 * 5):
        theta = theta - RATE * jax.grad(mean_loss)(theta)
    np.testing.assert_allclose(references.joint(start, RATE)[0], start.outputs(theta), atol=1e-12)


@pytest.mark.parametrize("kind", references.TRAINED)
def test_references_do_not_know_the_method_of_the_run(kind):
    plain, held = (
        references.TRAINED[kind](initialised(method=method), RATE)
        for method in (methods.naive(), methods.l2(penalty=0.3))
    )
    np.testing.assert_array_equal(plain, held)


def test_scores_judge_each_task_by_its_own_outputs():
    outputs = references.single(initialised(), RATE)
    reported = references.score(outputs, STREAM, LOSS)
    for t, task in enumerate(STREAM):
        parts = np.split(own(outputs[t], STREAM, t), [SIZES[t]])
        for suffix, f, data in zip(("_train", ""), parts, (task.train, task.test), strict=True):
            assert (
                reported[f"accuracy{suffix}"][t]
                == metrics.correct(f, np.asarray(data.y), task.head).mean()
            )
            values = [float(LOSS.value(g, y, task.head)) for g, y in zip(f, data.y, strict=True)]
            assert reported[f"loss{suffix}"][t] == pytest.approx(np.mean(values), rel=1e-12)


def test_a_reference_that_diverged_is_nan_and_kept_as_null(tmp_path):
    outputs = references.single(initialised(), 1e3)
    assert np.isnan(outputs).all() and np.isnan(references.joint(initialised(), 1e3)).all()
    scores = references.score(outputs, STREAM, LOSS)
    reference_cache.write(tmp_path / "single.json", {}, scores, pytest.fail)
    assert json.loads((tmp_path / "single.json").read_text())["scores"]["loss"] == [None] * 3
    assert np.isnan(reference_cache.read(tmp_path / "single.json", {}, pytest.fail)["loss"]).all()


COORDINATES = {
    "seed": 0,
    "network": {"width": 8},
    "method": {"_target_": "naive"},
    "forecast": {"anchors": ["init"]},
    "experiment_name": "main",
    "training": {
        "steps": 25,
        "batch_size": None,
        "learning_rate": None,
        "learning_rate_fraction": 0.5,
        "evaluate_every": None,
    },
}
FACTS = reference_cache.facts_of(COORDINATES, RATE, STREAM)


def facts(rate=RATE, stream=STREAM, **changed):
    training = COORDINATES["training"] | changed.pop("training", {})
    return reference_cache.facts_of(COORDINATES | {"training": training} | changed, rate, stream)


def test_facts_hold_what_references_are_made_of_and_nothing_else():
    same = [
        facts(method={"_target_": "ewc"}),
        facts(forecast={"anchors": []}),
        facts(experiment_name="other"),
        facts(training={"learning_rate_fraction": 0.25, "evaluate_every": 5}),
    ]
    assert all(one == FACTS for one in same)
    last = STREAM[-1]
    moved = (
        *STREAM[:-1],
        last._replace(test=last.test._replace(x=last.test.x.at[0, 0].add(1e-12))),
    )
    others = [
        facts(rate=np.nextafter(RATE, 1)),
        facts(seed=1),
        facts(training={"steps": 26}),
        facts(stream=moved),
    ]
    assert all(one != FACTS for one in others)


def known(folder, say=pytest.fail, begin=None, kinds=("single", "joint"), facts=FACTS):
    return reference_cache.load_or_train(kinds, folder, facts, begin or initialised, say)


def untrained():
    pytest.fail("nothing is to be trained")


def same(a, b):
    assert list(a) == list(b)
    for kind in a:
        assert list(a[kind]) == list(b[kind])
        for name in a[kind]:
            np.testing.assert_array_equal(a[kind][name], b[kind][name])


def test_what_was_trained_once_is_read_the_next_time_to_the_last_bit(tmp_path):
    reported = []
    first = known(tmp_path, reported.append)
    assert reported == ["training the reference single", "training the reference joint"]
    same(known(tmp_path, begin=untrained), first)
    same(known(tmp_path, begin=untrained, kinds=("joint",)), {"joint": first["joint"]})
    other = []
    known(tmp_path, other.append, kinds=("single",), facts=facts(seed=1))
    assert other == ["training the reference single"]
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.glob("*/.*"))


DAMAGES = {
    "cut short": lambda text: text[: len(text) // 2],
    "a digit": lambda text: text.replace('"loss": [\n   ', '"loss": [\n   1'),
    "empty": lambda text: "",
    "something else": lambda text: "[1, 2]",
    "no checksum": lambda text: "{}",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_in_one_line_and_made_again(tmp_path, damage):
    first = known(tmp_path, print, kinds=("single",))
    (path,) = tmp_path.glob("*/single.json")
    whole = path.read_text()
    assert DAMAGES[damage](whole) != whole
    path.write_text(DAMAGES[damage](whole))
    reported = []
    same(known(tmp_path, reported.append, kinds=("single",)), first)
    assert reported == [
        f"reference {path} is damaged; making it again",
        "training the reference single",
    ]
    assert path.read_text() == whole


def test_a_file_of_another_configuration_is_told_and_made_again(tmp_path):
    first = known(tmp_path, print, kinds=("single",))
    (path,) = tmp_path.glob("*/single.json")
    whole = path.read_text()
    reference_cache.write(
        path,
        facts(seed=1),
        {name: 0 * values for name, values in first["single"].items()},
        pytest.fail,
    )
    reported = []
    same(known(tmp_path, reported.append, kinds=("single",)), first)
    assert reported == [
        f"reference {path} is of another configuration; making it again",
        "training the reference single",
    ]
    assert path.read_text() == whole


def test_writing_that_fails_half_way_leaves_what_was_there_and_the_run_goes_on(
    tmp_path, monkeypatch
):
    first = known(tmp_path, print, kinds=("single",))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}

    def full(content, file, **settings):
        file.write('{"facts"')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reference_cache.json, "dump", full)
    reported = []
    again = known(tmp_path, reported.append)
    assert (
        reported[0] == "training the reference joint"
        and "joint.json cannot be written (No space left on device)" in reported[1]
    )
    same({"single": again["single"]}, first)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_written_is_told_and_the_scores_are_there(tmp_path):
    (tmp_path / "references").write_text("in the way")
    reported = []
    assert known(tmp_path / "references", reported.append, kinds=("single",))["single"][
        "loss"
    ].shape == (3,)
    assert len(reported) == 2 and "cannot be written" in reported[1]


def test_those_who_write_at_once_never_leave_half_a_file_to_those_who_read(tmp_path):
    path, reported = tmp_path / "single.json", []
    scores = {name: np.random.default_rng(0).random(200) for name in ("accuracy", "loss")}
    reference_cache.write(path, FACTS, scores, pytest.fail)

    def work():
        for _ in range(40):
            reference_cache.write(path, FACTS, scores, reported.append)
            read = reference_cache.read(path, FACTS, reported.append)
            reported.extend(
                []
                if read and np.array_equal(read["loss"], scores["loss"])
                else ["not what was written"]
            )

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert reported == [] and [p.name for p in tmp_path.iterdir()] == ["single.json"]


TINY = (
    "network.width=8",
    "stream.tasks=2",
    "stream.train_per_class=2",
    "stream.test_per_class=2",
    "training.steps=20",
    "training.batch_size=5",
    "forecast.anchors=[init]",
    "tracking=disabled",
)
BOTH = "references=[single,joint]"


@pytest.mark.slow
def test_a_run_is_the_same_with_references_and_another_method_reads_them(
    ntkcl, tmp_path, monkeypatch
):
    assert ntkcl(*TINY, "results_dir=without")[0] == 0
    code, out, err = ntkcl(*TINY, BOTH, "results_dir=with")
    assert (code, err) == (0, "") and "training the reference joint" in out
    (without,), (held,) = (
        (tmp_path / name / "runs" / "main").iterdir() for name in ("without", "with")
    )
    assert without.name == held.name
    for name in ("arrays.npz", "rows.parquet", "config.yaml"):
        assert (without / name).read_bytes() == (held / name).read_bytes(), name
    assert not (tmp_path / "without" / "references").exists()

    plain, summary = (files.load(folder)[0] for folder in (without, held))
    assert "reference" not in plain and not set(metrics.REFERENCED) & set(plain["metrics"])
    reference = summary["reference"]
    assert list(reference) == ["untrained", "single", "joint"]
    assert (
        reference["untrained"]["accuracy"] == summary["b"]
        and reference["untrained"]["loss_train"] == summary["b_loss_train"]
    )
    # What the run does to its first task is what the reference does, by another compilation of the
    # same network.
    assert reference["single"]["accuracy"][0] == summary["R"][0][0]
    assert reference["single"]["loss_train"][0] == pytest.approx(
        summary["R_loss_train"][0][0], rel=1e-5
    )
    single, joint = (np.array(reference[kind]["accuracy"]) for kind in ("single", "joint"))
    for name in ("fwt_independent", "forgetting_rate"):
        assert schema.label(f"metrics.{name}").split()[0] in out
    for reported in (summary, summary["forecast"]["init"]):
        R, b = np.array(reported["R"]), np.array(summary["b"])
        assert reported["metrics"]["fwt_independent"] == pytest.approx(
            metrics.fwt_independent(R, single)
        )
        assert reported["metrics"]["forgetting_rate"] == pytest.approx(
            metrics.forgetting_rate(R, b, joint)
        )
        minus = metrics.fwt_independent(
            -np.array(reported["R_loss"]), -np.array(reference["single"]["loss"])
        )
        assert reported["metrics_loss"]["fwt_independent"] == pytest.approx(minus)
        assert "forgetting_rate" not in reported["metrics_loss"]

    monkeypatch.setattr(
        references,
        "TRAINED",
        dict.fromkeys(references.TRAINED, lambda *_: pytest.fail("it was to be read")),
    )
    code, out, err = ntkcl(
        *TINY,
        BOTH,
        "results_dir=with",
        "method=er",
        "experiment_name=others",
        "forecast.anchors=[]",
    )
    assert (code, err) == (0, "") and "training the reference" not in out
    (other,) = (tmp_path / "with" / "runs" / "others").iterdir()
    assert files.load(other)[0]["reference"] == reference
