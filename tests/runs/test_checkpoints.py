"""A training that is stopped anywhere and started again ends with the same bits."""

import contextlib
import errno
import json
import logging
import shutil
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import linear, quadratic_features, random_stream

from ntkcl import experiment, losses, methods, optimizers
from ntkcl.experiment import record
from ntkcl.runs import checkpoints
from ntkcl.training.settings import Training
from ntkcl.types import Method

STREAM = random_stream(jax.random.key(5), [6, 6])
LINEAR = linear(quadratic_features, 2)
TRAINING = Training(steps=12, batch_size=2, optimizer_state="carry")


def counting() -> Method:
    """Remembers a key, a count and an array without entries, and adds to each step's loss what the
    key drew."""

    def observe(memory, apply, theta, batch, head, gradient, update):
        key, seen, nothing = memory
        return jax.random.split(key)[0], seen + len(batch.x), nothing

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        return task_loss * (1 + 0.1 * jax.random.normal(memory[0]))

    begun = (jax.random.key(3), jnp.zeros((), jnp.int32), jnp.zeros((0, 2)))
    return methods.custom(
        begin=lambda memory, *_: memory or begun, objective=objective, observe=observe
    )


METHOD = counting()


def run(checkpointer=None):
    arguments = (
        jax.random.key(0),
        STREAM,
        LINEAR,
        losses.squared_error(),
        optimizers.sgd(momentum=0.5),
        TRAINING,
    )
    return record.gather(
        experiment.run(*arguments, method=METHOD, anchors=(), checkpointer=checkpointer), STREAM
    )


@pytest.fixture(scope="module")
def undisturbed():
    return run()


class Killed(Exception):
    pass


def dying(checkpointer, saves):
    """A checkpointer that dies after so many saves."""
    left = [saves]

    def save(task, fit):
        if not left[0]:
            raise Killed
        left[0] -= 1
        checkpointer.save(task, fit)

    return checkpointer._replace(save=save)


def same(a, b):
    np.testing.assert_array_equal(a.measured, b.measured)
    np.testing.assert_array_equal(a.losses, b.losses)


@pytest.mark.parametrize("saves", [0, 1, 3, 4, 5])
def test_a_run_that_dies_and_goes_on_ends_with_the_same_bits(undisturbed, tmp_path, saves):
    reported = []
    checkpointer = checkpoints.checkpointer(tmp_path / "kept", "abc", 5, reported.append)
    with pytest.raises(Killed):
        run(dying(checkpointer, saves))
    assert not reported
    same(run(checkpointer), undisturbed)
    assert reported == [f"task {t}: going on from step {step}" for t, step in goes_on(saves)]


def goes_on(saves):
    """Where each task is found, its states being kept after 5, 10 and 12 steps."""
    steps = (5, 10, 12)
    return [(t, steps[min(saves - 3 * t, 3) - 1]) for t in range(2) if saves > 3 * t]


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(undisturbed, tmp_path):
    reported = []
    checkpointer = checkpoints.checkpointer(tmp_path, "abc", 5, reported.append)
    with pytest.raises(Killed):
        run(dying(checkpointer, 2))
    newest = max(tmp_path.glob("task*"))
    largest = max(
        (file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[:-1] + b"?")
    same(run(checkpointer), undisturbed)
    assert reported == [
        f"checkpoint {newest} is damaged; falling back on the one before it",
        "task 0: going on from step 5",
    ]


def test_checkpoints_of_another_run_are_refused(tmp_path):
    with pytest.raises(Killed):
        run(dying(checkpoints.checkpointer(tmp_path, "abc", 5, print), 1))
    with pytest.raises(ValueError, match="belongs to another run"):
        run(checkpoints.checkpointer(tmp_path, "def", 5, print))


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Error writing in OCDBT database"),
    ],
    ids=["of the system", "of orbax"],
)
def test_a_full_disk_is_one_line_and_loses_nothing(undisturbed, tmp_path, monkeypatch, error):
    checkpointer = checkpoints.checkpointer(tmp_path, "abc", 5, print)
    with pytest.raises(Killed):
        run(dying(checkpointer, 1))
    (before,) = tmp_path.glob("task*")

    def full(path, fit):
        path.mkdir()
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_write", full)
        with pytest.raises(ValueError, match=r"cannot be written \((?i:no space left)"):
            run(checkpointer)
    assert before.exists() and not list(tmp_path.glob(".stage-*"))
    same(run(checkpointer), undisturbed)
    assert not list(tmp_path.glob(".stage-*"))


def test_of_a_full_disk_no_thread_writes_or_prints_on(tmp_path, monkeypatch, caplog):
    """A writer whose thread goes on for a while after its error, as orbax's do."""
    unraised = []

    class Late(threading.Thread):
        __module__ = "orbax.late"

        def join(self, timeout=None):
            raise AssertionError("its own join raises")

    class Full(contextlib.AbstractContextManager):
        def __exit__(self, *_):
            pass

        def save(self, path, leaves):
            def write():
                time.sleep(0.3)
                path.mkdir(parents=True)
                logging.getLogger("absl").error("no space left")

            Late(target=write).start()
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.ocp, "StandardCheckpointer", Full)
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)"):
        run(checkpoints.checkpointer(tmp_path, "abc", 5, print))
    time.sleep(0.5)
    assert not list(tmp_path.iterdir()) and not caplog.records
    reasons = "Event loop is closed", "?"
    closed, other = (types.SimpleNamespace(exc_value=RuntimeError(why)) for why in reasons)
    for report in (closed, other):
        sys.unraisablehook(report)
    assert unraised == [other]


@pytest.mark.parametrize("key", sorted(checkpoints.FACTS))
def test_a_list_that_lacks_something_is_damaged(undisturbed, tmp_path, key):
    reported = []
    checkpointer = checkpoints.checkpointer(tmp_path, "abc", 5, reported.append)
    with pytest.raises(Killed):
        run(dying(checkpointer, 2))
    newest = max(tmp_path.glob("task*"))
    listed = json.loads((newest / checkpoints.LIST).read_text())
    del listed[key]
    (newest / checkpoints.LIST).write_text(json.dumps(listed))
    assert checkpoints._listed(newest) is None
    same(run(checkpointer), undisturbed)
    assert "damaged" in reported[0] and reported[1] == "task 0: going on from step 5"


def test_a_file_in_a_checkpoints_place_gives_way(undisturbed, tmp_path):
    checkpointer = checkpoints.checkpointer(tmp_path, "abc", 5, print)
    with pytest.raises(Killed):
        run(dying(checkpointer, 2))
    newest = max(tmp_path.glob("task*"))
    shutil.rmtree(newest)
    newest.write_text("a file")
    same(run(checkpointer), undisturbed)


def test_what_an_older_program_remembered_otherwise_is_left_aside(undisturbed, tmp_path):
    reported = []
    checkpointer = checkpoints.checkpointer(tmp_path, "abc", 5, reported.append)
    with pytest.raises(Killed):
        run(dying(checkpointer, 1))
    (kept,) = tmp_path.glob("task*")
    text = (kept / checkpoints.LIST).read_text()
    (kept / checkpoints.LIST).write_text(
        text.replace('"uint32"', '"uint8"').replace('"key<fry>"', '"uint8"')
    )
    same(run(checkpointer), undisturbed)
    assert reported == [
        f"checkpoint {kept} was written by a program that remembered other things; left aside"
    ]
    shutil.rmtree(tmp_path)
