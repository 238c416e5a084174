"""Several seeds trained as one: each run is what it is alone, up to rounding, and is predicted
before any is trained."""

import time

import jax
import numpy as np
import pytest
from cases import mostly_slow, random_stream

from ntkcl import experiment, forecast, kernels, losses, methods, networks, optimizers
from ntkcl.experiment.events import AnchorForecast, Measurement, Plan
from ntkcl.runs import files
from ntkcl.training import loop
from ntkcl.training.settings import Training

SEEDS = (0, 1)
LOSS = losses.squared_error()
NETWORK = networks.mlp(outputs=2, width=8, b_std=0.1, centred=True)
CONVOLUTIONS = networks.cnn(outputs=2, width=2, depth=1)
CASES = {
    "naive": (methods.naive, optimizers.sgd(), dict()),
    "minibatches with momentum": (
        methods.naive,
        optimizers.sgd(momentum=0.5),
        dict(batch_size=3, optimizer_state="carry"),
    ),
    "a schedule": (
        methods.naive,
        optimizers.sgd(),
        dict(schedule=optimizers.schedule("cosine_decay_schedule", decay_steps=30)),
    ),
    "adam": (methods.naive, optimizers.adam(), dict(learning_rate=0.01)),
    "er": (
        lambda seed: methods.er(size=6, batch_size=2, seed=seed),
        optimizers.sgd(),
        dict(batch_size=3),
    ),
    "ewc": (
        lambda seed: methods.ewc_diagonal(seed=seed, labels="sampled"),
        optimizers.sgd(),
        dict(),
    ),
    "ogd": (
        lambda seed: methods.ogd(per_task=2, seed=seed),
        optimizers.sgd(),
        dict(learning_rate_fraction=0.25),
    ),
    "si": (methods.si, optimizers.sgd(), dict(batch_size=2)),
}


def arguments(
    seed, method=methods.naive, rule=None, stream=None, network=NETWORK, loss=None, **training
):
    return dict(
        key=jax.random.key(seed),
        stream=random_stream(jax.random.key(10 + seed), [6, 6, 6]) if stream is None else stream,
        network=network,
        loss=loss or LOSS,
        optimizer=rule or optimizers.sgd(),
        training=Training(**(dict(steps=30) | training)),
        method=method() if method in (methods.naive, methods.si) else method(seed),
        anchors=["init", "boundary"],
        form="auto",
        effort=forecast.Effort(),
        kernel=kernels.empirical,
    )


@pytest.mark.parametrize("case", mostly_slow(CASES, "naive", "er", "si"))
def test_each_seed_is_what_it_is_alone(case):
    method, rule, training = CASES[case]
    anchors = ["init", "boundary"] if case == "naive" else []  # to forecast is not to train
    runs = [arguments(seed, method, rule, **training) | {"anchors": anchors} for seed in SEEDS]
    rates = set()
    for reported, run in zip(experiment.run_seeds(runs), runs, strict=True):
        alone = list(experiment.run(**run))
        assert [type(e) for e in reported] == [type(e) for e in alone]
        for ours, other in zip(reported, alone, strict=True):
            if isinstance(ours, Plan):
                rates.add(ours.learning_rate)
                assert ours[:3] == other[:3]
            if isinstance(ours, AnchorForecast):
                np.testing.assert_allclose(ours.changes, other.changes, atol=1e-10)
                if ours.first == 0:
                    np.testing.assert_array_equal(ours.changes, other.changes)
            if isinstance(ours, Measurement):
                np.testing.assert_allclose(ours.outputs, other.outputs, atol=1e-10)
                np.testing.assert_allclose(ours.losses, other.losses, atol=1e-10)
    assert len(rates) == (
        1 if "learning_rate" in training else len(SEEDS)
    )  # those found by a limit are each seed's own


@pytest.mark.parametrize(
    ("method", "programs"),
    [(methods.naive(), 1), (methods.ogd(2), 3)],  # whose memory grows with every task
    ids=["naive", "ogd"],
)
def test_all_seeds_are_one_compilation_and_nothing_is_trained_alone(method, programs, monkeypatch):
    monkeypatch.setattr(loop, "segments", None)
    loop._advance_vmapped.clear_cache()
    more = {"anchors": [], "method": method}
    reported = experiment.run_seeds([arguments(seed) | more for seed in SEEDS])
    assert [len(events) for events in reported] == [1 + 1 + 3] * len(SEEDS)
    assert loop._advance_vmapped._cache_size() == programs


def test_a_forecast_is_made_before_any_seed_is_trained(monkeypatch):
    """Poisoned trainings leave what was predicted at initialisation as it was."""
    runs = [arguments(seed) for seed in SEEDS]
    honest, clean = loop.train_vmapped, experiment.run_seeds(runs)

    def poisoned(keys, states, datasets, *others, **settings):
        return honest(
            keys,
            states,
            [data._replace(x=-data.x[::-1], y=7 - data.y) for data in datasets],
            *others,
            **settings,
        )

    monkeypatch.setattr(loop, "train_vmapped", poisoned)
    for ours, other in zip(experiment.run_seeds(runs), clean, strict=True):
        first, again = (
            [e.changes for e in events if isinstance(e, AnchorForecast) and e.first == 0]
            for events in (ours, other)
        )
        assert len(first) == 2 and all(
            np.array_equal(a, b) for a, b in zip(first, again, strict=True)
        )
        assert not np.allclose(ours[-1].outputs, other[-1].outputs, atol=1e-2)


def test_a_seed_that_diverges_ends_and_the_others_go_on():
    mad = random_stream(jax.random.key(5), [6, 6, 6])
    mad = (mad[0], mad[1]._replace(train=mad[1].train._replace(x=1e3 * mad[1].train.x)), mad[2])
    training = dict(learning_rate=0.1, allow_unstable=True)
    runs = [
        arguments(0, **training),
        arguments(1, stream=mad, **training),
        arguments(2, **training),
    ]
    ends = [
        [e for e in events if isinstance(e, Measurement)] for events in experiment.run_seeds(runs)
    ]
    assert [(len(end), end[-1].diverged) for end in ends] == [(4, False), (3, True), (4, False)]
    alone = [e for e in experiment.run(**runs[2]) if isinstance(e, Measurement)]
    np.testing.assert_allclose(ends[2][-1].outputs, alone[-1].outputs, atol=1e-10)


def test_what_trainings_cost_is_shared_and_no_second_counted_twice():
    start = time.perf_counter()
    reported = experiment.run_seeds(
        [arguments(seed, steps=300) | {"anchors": []} for seed in SEEDS]
    )
    taken = time.perf_counter() - start
    ends = [e for events in reported for e in events if isinstance(e, Measurement)]
    plans = [e.cost.seconds for events in reported for e in events if isinstance(e, Plan)]
    assert min(end.cost.seconds for end in ends if end.task) > 0
    assert (
        0.7 * taken
        < sum(plans) + sum(end.cost.seconds + end.measuring.seconds for end in ends)
        <= taken
    )


def test_no_second_of_a_run_alone_is_counted_twice():
    start = time.perf_counter()
    reported = [*experiment.run(**arguments(0) | {"anchors": []})]
    taken = time.perf_counter() - start
    costs = [e.cost.seconds for e in reported] + [
        e.measuring.seconds for e in reported if isinstance(e, Measurement)
    ]
    assert sum(costs) <= taken


@pytest.mark.parametrize(("setting", "value"), [("evaluate_every", 5), ("devices", "all")])
def test_what_cannot_be_done_side_by_side_is_refused(setting, value):
    with pytest.raises(ValueError, match=f"training.{setting}={value}"):
        experiment.run_seeds([arguments(seed, **{setting: value}) for seed in SEEDS])


@pytest.mark.parametrize("what", ["sizes that differ", "convolutions"])
def test_what_is_no_one_program_is_trained_one_after_the_other(what, monkeypatch):
    stream, network = random_stream(jax.random.key(0), [6, 4]), NETWORK
    streams = [stream, stream[::-1]]
    if what == "convolutions":
        stream, network = (
            jax.tree.map(lambda a: a.reshape(len(a), -1, 1) if a.shape[1:] == (5,) else a, stream),
            CONVOLUTIONS,
        )
        streams = [stream, stream]
    runs = [
        arguments(seed, stream=stream, network=network) | {"anchors": []}
        for seed, stream in zip(SEEDS, streams, strict=True)
    ]
    monkeypatch.setattr(loop, "train_vmapped", None)
    for reported, run in zip(experiment.run_seeds(runs), runs, strict=True):
        np.testing.assert_array_equal(reported[-1].outputs, list(experiment.run(**run))[-1].outputs)


TINY = (
    "network.width=8",
    "stream.tasks=2",
    "stream.train_per_class=2",
    "stream.test_per_class=2",
    "training.steps=20",
)


@pytest.mark.slow
def test_the_command_makes_a_run_of_each_seed_by_either_way(ntkcl, tmp_path):
    def made(*overrides):
        code, _, err = ntkcl(*TINY, "tracking=disabled", *overrides)
        assert (code, err) == (0, "")
        folders = sorted((tmp_path / "results" / "runs" / "main").iterdir())
        read = {folder.name: files.load(folder) for folder in folders}
        for folder in folders:
            for file in sorted(folder.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            folder.rmdir()
        return read

    alone = made("seed=3") | made("seed=5")
    loop, side_by_side = made("seeds=[3,5]", "seeds_by=loop"), made("seeds=[3,5]")
    assert set(alone) == set(loop) == set(side_by_side) and len(alone) == 2
    for name, (summary, rows, arrays) in alone.items():
        np.testing.assert_array_equal(loop[name][2]["measured"], arrays["measured"])
        np.testing.assert_allclose(
            side_by_side[name][2]["measured"], arrays["measured"], atol=1e-4
        )  # in float32
        assert list(side_by_side[name][1].columns) == list(rows.columns) and set(
            side_by_side[name][1]["seed"]
        ) == set(rows["seed"])
        assert set(side_by_side[name][0]) == set(summary)
