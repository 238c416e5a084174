"""What was compiled for one run serves the next: with another seed, learning rate or data of the
same shapes nothing is compiled."""

import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import mostly_slow, random_stream
from jax.tree_util import Partial

from ntkcl import compilation, experiment, losses, methods, networks, optimizers
from ntkcl.compilation import once, portable
from ntkcl.experiment.events import Measurement
from ntkcl.training.settings import Training

CASES = {
    "closed, centred": (dict(network=dict(centred=True)), ["init", "boundary"]),
    "not centred": (dict(network=dict(centred=False)), ["init", "boundary"]),
    "a schedule": (dict(training=dict(schedule=("cosine_decay_schedule", 30))), ["init"]),
    "simulated": (dict(training=dict(batch_size=2)), ["boundary"]),
    "linearised, adam": (
        dict(optimizer=optimizers.adam, training=dict(learning_rate=0.01)),
        ["boundary"],
    ),
    "bfloat16": (dict(training=dict(compute="bfloat16")), []),
    "er": (dict(method=lambda: methods.er(size=4, batch_size=2)), []),
    "ewc": (dict(method=methods.ewc_diagonal), []),
    "mas": (dict(method=lambda: methods.mas(0.01)), []),
    "ogd": (dict(method=lambda: methods.ogd(per_task=2)), []),
}


def run(seed, rate, changed, anchors):
    """A whole run, all of its parts made anew, as a job of a sweep makes them."""
    reported = dict(steps=10) | changed.get("training", {})
    reported |= (
        {
            "schedule": optimizers.schedule(
                reported["schedule"][0], decay_steps=reported["schedule"][1]
            )
        }
        if "schedule" in reported
        else {}
    )
    if "learning_rate" not in reported:
        reported |= dict(learning_rate_fraction=rate)
    parts = [
        networks.mlp(**dict(outputs=2, width=8) | changed.get("network", {})),
        losses.squared_error(),
        changed.get("optimizer", optimizers.sgd)(),
        Training(**reported),
    ]
    stream = random_stream(jax.random.key(seed), [6, 6, 6], dtype=jnp.float32)
    method = changed.get("method", methods.naive)()
    return list(
        experiment.run(jax.random.key(seed), stream, *parts, method=method, anchors=anchors)
    )


FAST = ("closed, centred", "simulated", "linearised, adam", "er", "mas")


@pytest.mark.parametrize("case", mostly_slow(CASES, *FAST))
def test_the_second_run_compiles_nothing(case, caplog):
    first = run(1, 0.5, *CASES[case])
    with jax.log_compiles():
        second = run(2, 0.3, *CASES[case])
    assert [r.getMessage() for r in caplog.records if "XLA compilation" in r.getMessage()] == []
    ends = [
        [e.outputs for e in events if isinstance(e, Measurement)][-1] for events in (first, second)
    ]
    assert np.isfinite(ends).all() and not np.allclose(*ends, atol=1e-3)


def test_what_compiles_is_seen(caplog):
    """The test above would say so."""
    with jax.log_compiles():
        jax.jit(lambda x: x * 3)(jnp.ones(7))
    assert any("XLA compilation" in record.getMessage() for record in caplog.records)


def test_the_same_settings_give_the_same_object_and_others_another():
    @once
    def make(a=1, *, b=()):
        return [a, b]

    assert make(1) is make(1) and make(1, b=(2,)) is make(1, b=(2,)) and make(1) is not make(2)
    assert make(1) is not make(1.0) and make(True) is not make(
        1
    )  # what is refused is not what has been accepted
    assert (
        make(b=[2]) == [1, [2]] and make(b=[2]) is make(b=[2]) and make(b=[2]) is not make(b=(2,))
    )
    assert make(b={"x": [1], "y": 2}) is make(b={"x": [1], "y": 2})
    assert make(b={"x": 1, "y": 2}) is not make(
        b={"y": 2, "x": 1}
    )  # methods are put together in their order
    array = jnp.ones(2)
    assert make(b=array)[1] is array and make(b=array) is not make(b=array)


def test_a_portable_function_holds_its_arrays_as_leaves():
    plain, bound = portable(jnp.sin), portable(Partial(jnp.add, jnp.ones(3)))
    assert (
        jax.tree.leaves(plain) == []
        and len(jax.tree.leaves(bound)) == 1
        and portable(bound) is bound
    )
    rule = portable(optax.sgd(0.1, momentum=0.9))
    state = jax.jit(lambda rule, theta: rule.init(theta))(rule, jnp.ones(2))
    np.testing.assert_allclose(rule.update(jnp.ones(2), state)[0], -0.1)


SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"  # compilation that is kept


def stored(monkeypatch, wanted, folder, shortest=None):
    """What `compilation.stored` sets in JAX's configuration, where it has that cache folder, and
    the environment says how long a program that is kept must take to compile."""
    monkeypatch.delenv(SHORTEST, raising=False)
    if shortest is not None:
        monkeypatch.setenv(SHORTEST, shortest)
    settings = {}
    config = SimpleNamespace(jax_compilation_cache_dir=folder, update=settings.__setitem__)
    monkeypatch.setattr(compilation, "jax", SimpleNamespace(config=config))
    compilation.stored(wanted)
    return settings


def test_programs_are_kept_in_the_users_cache_folder_unless_there_is_another(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = stored(monkeypatch, True, None)["jax_compilation_cache_dir"]
    assert folder.startswith(f"{tmp_path}/ntkcl/") and os.path.isdir(folder)
    # However soon a program is compiled, wherever it is kept.
    assert stored(monkeypatch, True, "elsewhere") == {
        "jax_persistent_cache_min_compile_time_secs": 0.0
    }
    assert stored(monkeypatch, True, "elsewhere", "2") == {}
    assert stored(monkeypatch, False, None) == {"jax_enable_compilation_cache": False}
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert stored(monkeypatch, True, None) == {}  # nowhere to keep them, and the run goes on


def test_the_oldest_programs_go_first_from_a_folder_that_is_too_large(tmp_path):
    for age in range(4):
        (tmp_path / str(age)).write_bytes(bytes(2**20))
        os.utime(tmp_path / str(age), (age, age))
    compilation.trimmed(tmp_path, 2)
    assert {file.name for file in tmp_path.iterdir()} == {"2", "3"}
