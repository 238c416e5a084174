"""job=whatif: the last task of a stream is asked about, some of the candidates are trained."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import linear, quadratic_features, random_stream

from ntkcl import experiment, forecast, kernels, losses, methods, networks, optimizers, whatif
from ntkcl.metrics import correct, r2
from ntkcl.runs import files
from ntkcl.training.settings import Training
from ntkcl.whatif import grid, job

SETTINGS = {
    "shares": [0, 0.5],
    "rates": [1.0, 0.5],
    "epochs": [1.0],
    "schedule": "linear",
    "clip": None,
    "base_share": 0.25,
    "anchors": 2,
    "keep": "passes",
    "budget_mib": 64,
    "orders": 2,
    "verify": None,
    "seed": 0,
}
NETWORK = linear(quadratic_features, 2)
STREAM = random_stream(jax.random.key(3), [6, 4, 8])


def named(stream=STREAM, network=NETWORK, method=None, loss=None, **training):
    steps = dict(epochs=1.5, batch_size=4, learning_rate=0.05)
    return dict(
        key=jax.random.key(0),
        stream=stream,
        network=network,
        loss=loss or losses.squared_error(),
        optimizer=optimizers.adam(),
        training=Training(**(steps | training)),
        method=method or methods.naive(),
        effort=forecast.Effort(),
        kernel=kernels.contraction,
    )


def answers(given=None, **settings):
    return whatif.run_job(given or named(), SETTINGS | settings, lambda line: None)


@pytest.fixture(scope="module")
def verified():
    """Every candidate trained, of a model that is linear in its parameters."""
    return answers(verify=4)


def test_a_row_a_candidate_and_of_a_linear_model_each_is_right(verified):
    rows, summary, arrays = verified
    assert [(row["rate"], row["share"]) for row in rows] == [(1, 0), (1, 0.5), (0.5, 0), (0.5, 0.5)]
    assert [row["learning_rate"] for row in rows] == [0.05, 0.05, 0.025, 0.025]
    assert summary["verified"] == 4 and summary["diverged"] == 0
    for row in rows:
        assert row["r2_change"] > 1 - 1e-9 and row["r2_from_base"] > 1 - 1e-9
        assert row["accuracy_after_low"] <= row["accuracy_after"] <= row["accuracy_after_high"]
        assert row["lost"] == pytest.approx(row["accuracy_before"] - row["accuracy_after"])
    assert arrays["loss_change"].shape == arrays["loss_change_measured"].shape == (4, 6)
    # Orders differ: the mean over two is not the one that is trained.
    assert not np.allclose(arrays["loss_change"], arrays["loss_change_measured"])
    (alone, _, of_one) = answers(verify=4, orders=1)
    np.testing.assert_allclose(of_one["loss_change"], of_one["loss_change_measured"], atol=1e-9)
    assert [row["lost"] for row in alone] == pytest.approx([row["lost_measured"] for row in alone])


def test_old_are_the_test_samples_before_the_last_task_and_their_train_samples_are_replayed(
    monkeypatch,
):
    seen = []
    prepare = job.prepare
    monkeypatch.setattr(job, "prepare", lambda *a, **k: seen.append(a) or prepare(*a, **k))
    answers(shares=[0], rates=[1.0])
    ((asked, base),) = seen
    for part, sets in (
        (asked.old, [task.test for task in STREAM[:2]]),
        (asked.pool, [task.train for task in STREAM[:2]]),
        (asked.new, [STREAM[2].train]),
    ):
        np.testing.assert_array_equal(part.x, np.concatenate([one.x for one in sets]))
        np.testing.assert_array_equal(part.y, np.concatenate([one.y for one in sets]))
    # 1.5 epochs of 8 in batches of 4, from where the two tasks before have left the network.
    assert base.steps(8) == 3 and base.share == 0.25 and base.learning_rate == 0.05
    untrained = NETWORK.init(jax.random.fold_in(jax.random.key(0), 0), STREAM[0].train.x[0])
    assert np.abs(asked.theta - untrained).min() > 1e-3


def test_steps_given_as_steps_stay_as_many():
    for count, size, batch in ((7, 8, 3), (29, 7, 2), (13, 8, None)):
        given = named(random_stream(jax.random.key(1), [3, size]), steps=count, epochs=None)
        given["training"] = given["training"]._replace(batch_size=batch)
        recipe = job._recipe(experiment.initialise(**given), given["training"], SETTINGS)
        assert recipe.steps(size) == count and recipe.batch_size == (batch or size)


def test_all_answers_are_given_before_any_candidate_is_trained(monkeypatch, verified):
    order = []
    for name in ("ask", "train"):
        function = getattr(grid, name)
        monkeypatch.setattr(
            grid, name, lambda *given, n=name, f=function: order.append(n) or f(*given)
        )
    rows, summary, _ = answers(verify=2)
    assert order == ["ask"] * 4 + ["train"] * 2 and summary["verified"] == 2
    for row, all_trained in zip(rows, verified.rows, strict=True):
        for key in set(row) - {"seconds", "seconds_measured"}:
            assert row[key] == all_trained[key], key
    trained = [row["lost"] for row in rows if "lost_measured" in row]
    assert sorted(trained) == [min(row["lost"] for row in rows), max(row["lost"] for row in rows)]
    assert not any("_measured" in key for row in answers().rows for key in row)


def test_the_base_is_the_largest_and_candidates_are_in_other_orders():
    recipe = whatif.Recipe(learning_rate=0.1, epochs=2.0, order=4)
    listed = whatif.candidates(recipe, [0, 0.1], [0.5, 1.0], [1.0, 3.0])
    assert len(listed) == 8 and {one.order for _, one in listed} == {5}
    at, one = listed[-1]
    assert at == {"share": 0.1, "rate": 1.0, "learning_rate": 0.1, "epochs": 6.0}
    assert (one.share, one.learning_rate, one.epochs) == (0.1, 0.1, 6.0)
    base = grid.base_of(recipe, [0.5, 1.0], [1.0, 3.0], 0.2)
    assert (base.share, base.learning_rate, base.epochs, base.order) == (0.2, 0.1, 6.0, 4)


def test_copying_the_base_explains_nothing_of_the_change_from_it(monkeypatch):
    kept = []
    prepare = job.prepare
    monkeypatch.setattr(job, "prepare", lambda *a, **k: kept.append(prepare(*a, **k)) or kept[-1])
    answers(shares=[0], rates=[1.0])
    (cache,) = kept
    recipe = cache.recipe._replace(share=0.5, order=1)
    answer = grid.answered(cache, recipe, 1)[1]
    (theta,) = whatif.train(cache.asked, cache.recipe)
    (candidate,) = whatif.train(cache.asked, recipe)
    base, true = (np.asarray(networks.forward(NETWORK.apply, at, cache.asked.old.x))
                  for at in (theta, candidate))  # fmt: skip
    columns, rise = grid.measured(cache, recipe, answer._replace(outputs=base[None]))
    assert columns["r2_from_base"] == pytest.approx(r2((true - base).ravel(), np.zeros(12)))
    assert columns["r2_from_base"] <= 0
    changes = ((outputs - cache.before).ravel() for outputs in (true, base))
    assert columns["r2_change"] == pytest.approx(r2(*changes))
    targets = np.asarray(cache.asked.old.y)
    risen = ((true - targets) ** 2 - (cache.before - targets) ** 2).mean(1) / 2
    np.testing.assert_allclose(rise, risen)
    right = correct(true, targets, np.ones(2)).mean()
    assert columns["accuracy_after_measured"] == right
    assert columns["loss_rise_measured"] == pytest.approx(risen.mean())


def test_extremes_and_evenly_spread_ones_are_trained():
    rows = [{"lost": lost} for lost in (0.4, 0.0, 0.3, 0.1, 0.2)]
    assert grid.places_to_verify(rows, 0) == []
    assert grid.places_to_verify(rows, 2) == [0, 1]
    assert grid.places_to_verify(rows, 3) == [0, 1, 4]
    assert grid.places_to_verify(rows, 5) == [0, 1, 2, 3, 4]


def test_agreement_of_numbers_worked_out_by_hand():
    def row(lost, measured, after, r2=0.5):
        band = {"accuracy_after_low": 0.5, "accuracy_after_high": 0.7}
        of_training = {"lost_measured": measured, "accuracy_after_measured": after}
        return {"lost": lost} | band | of_training | {"r2_change": r2, "r2_from_base": -1.0}

    rows = [row(0.1, 0.2, 0.6, 0.9), row(0.3, 0.3, 0.8), row(0.5, 0.9, 0.7), {"lost": 0.2}]
    found = grid.agreement([*rows, row(0.1, np.nan, np.nan)])
    assert found == {
        "verified": 4,
        "diverged": 1,
        "lost_error": pytest.approx(0.5 / 3),
        "spearman": pytest.approx(1.0),
        "covered": pytest.approx(2 / 3),
        "r2_change": 0.5,
        "r2_from_base": -1.0,
    }
    assert np.isnan(grid.agreement([{"lost": 0.2}])["spearman"])


def test_a_training_that_diverges_is_data_and_a_base_that_does_is_refused(monkeypatch):
    kept = []
    prepare = job.prepare
    monkeypatch.setattr(job, "prepare", lambda *a, **k: kept.append(prepare(*a, **k)) or kept[-1])
    descent = named() | {"optimizer": optimizers.sgd()}
    answers(descent, shares=[0], rates=[1.0])
    wild = kept[0].recipe._replace(learning_rate=1e30, epochs=30.0)
    row, answer = grid.answered(kept[0], wild, 1)
    columns, rise = grid.measured(kept[0], wild, answer)
    assert np.isnan([columns["lost_measured"], columns["r2_change"], row["lost"]]).all()
    assert np.isfinite(row["accuracy_before"]) and rise.shape == (6,)
    with pytest.raises(ValueError, match="the base diverged at 5e\\+28; use a smaller one"):
        answers(descent, rates=[1e30], epochs=[30.0])


def heads(*masks):
    return random_stream(jax.random.key(3), [6] * len(masks), heads=masks)


BAD = {
    "one task": ({"stream": STREAM[:1]}, {}, "stream.tasks=1: job=whatif expected at least 2"),
    "heads of their own": ({"stream": heads([1.0, 0.0], [0.0, 1.0])}, {},
                           "expected stream.scenario=class or domain"),
    "a method": ({"method": methods.l2(0.1)}, {}, "expected method=naive"),
    "a centred network": ({"network": NETWORK._replace(centred=True)}, {},
                          "expected network.centred=false"),
    "momentum carried": ({"optimizer_state": "carry"}, {}, "training.optimizer_state: .*reset"),
    "a schedule of training": ({"schedule": jnp.cos}, {}, "training.schedule: .*whatif.schedule"),
    "low precision": ({"compute": "bfloat16"}, {}, "training.compute: .*expected null"),
    "no rate, no limit": ({"learning_rate": None}, {}, "no stability limit"),
    "more to verify": ({}, {"verify": 5}, "whatif.verify=5: expected at most 4"),
    "none to verify": ({}, {"verify": 0}, "whatif.verify=0: expected a whole number"),
    "a share of 1": ({}, {"shares": [0, 1]}, "whatif.shares=1: expected a number from 0 to below"),
    "no shares": ({}, {"shares": []}, r"whatif.shares=\[\]: expected a list of at least one"),
    "one number": ({}, {"rates": 2.0}, "whatif.rates=2.0: expected a list"),
    "a rate of 0": ({}, {"rates": [0]}, "whatif.rates=0: expected a finite number above 0"),
    "no orders": ({}, {"orders": 0}, "whatif.orders=0: expected a whole number"),
    "a base of 1": ({}, {"base_share": 1.0}, "whatif.base_share=1.0"),
    "more anchors than steps": ({}, {"anchors": 9}, "whatif.anchors=9: expected at most 3"),
    "no budget": ({}, {"keep": "gradients", "budget_mib": 1e-4}, "whatif.budget_mib=0.0001: "),
    "a schedule": ({}, {"schedule": "step"}, "whatif.schedule=step: expected constant, linear"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_line(case, monkeypatch):
    given, settings, message = BAD[case]
    parts = {key: given[key] for key in given if key in ("stream", "network", "method")}
    training = {key: given[key] for key in given if key not in parts}
    with pytest.raises(ValueError, match=message) as raised:
        answers(named(**parts, **training), **settings)
    assert "\n" not in str(raised.value)


def test_a_share_needs_old_samples():
    new = STREAM[2].train
    theta = NETWORK.init(jax.random.key(0), new.x[0])
    asked = whatif.question(NETWORK, theta, new, new, loss=losses.squared_error())
    with pytest.raises(ValueError, match=r"whatif\.share=0\.1: there are no old samples to replay"):
        whatif.prepare(asked, whatif.Recipe(learning_rate=0.1, batch_size=4, share=0.1))


def test_the_command_writes_rows_arrays_figures_and_a_page(ntkcl, tmp_path):
    code, out, err = ntkcl("experiment=whatif_digits", "size=small", "tracking=disabled")
    assert (code, err) == (0, "")
    assert "1 trained, 0 diverged: mean error of the accuracy lost" in out
    (folder,) = (tmp_path / "results" / "plans" / "whatif_digits_small").iterdir()
    summary, table = files.load_plan(folder)
    assert folder.name.startswith("whatif-sgd-naive-split-w8-s0-")
    assert summary["job"] == "whatif" and summary["candidates"] == len(table) == 2
    assert list(table["share"]) == [0, 0.2] and table["accuracy_after_measured"].count() == 1
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {"retention.png", "at_risk.png"}
    arrays = dict(np.load(folder / "arrays.npz"))
    before = correct(arrays["before"], arrays["targets"], arrays["head"]).mean()
    assert table["accuracy_before"][0] == before
    worst = arrays["loss_change"][0, arrays["at_risk"]]
    assert (np.diff(worst) <= 0).all() and worst[0] == arrays["loss_change"][0].max()
    assert arrays["at_risk_x"].shape == (len(worst), 8, 8)

    assert ntkcl("report", f"run={folder}")[0] == 0
    (page,) = (tmp_path / "results" / "reports").iterdir()
    text = page.read_text()
    for words in ("Answers", "Most at risk", "old, measured", "whatif.base_share", "jax"):
        assert words in text, words
    assert text.count("data:image/png") == 1 + len(worst)
    assert json.loads((folder / "summary.json").read_text())["base"]["share"] == 0.2
