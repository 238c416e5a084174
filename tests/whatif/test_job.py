"""job=whatif: the last task of a stream is asked about, some of the candidates are trained."""

import json
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from cases import linear, quadratic_features, random_stream

from ntkcl import experiment, forecast, kernels, losses, methods, networks, optimizers, whatif
from ntkcl.metrics import correct, r2
from ntkcl.runs import files
from ntkcl.training.settings import Training
from ntkcl.whatif import advice, grid, job, last_task

SETTINGS = {
    "shares": [0, 0.5],
    "rates": [1.0, 0.5],
    "epochs": [1.0],
    "schedule": "linear",
    "clip": None,
    "base_share": 0.25,
    "anchors": 2,
    "keep": "passes",
    "outputs": None,
    "numbers": None,
    "budget_mib": 64,
    "orders": 2,
    "verify": None,
    "recommend": {"retention": None, "replay": None, "drop": None},
    "slices": None,
    "seed": 0,
}
NETWORK = linear(quadratic_features, 2)
STREAM = random_stream(jax.random.key(3), [6, 4, 8])


def named(stream=STREAM, network=NETWORK, method=None, loss=None, optimizer=None, **training):
    steps = dict(epochs=1.5, batch_size=4, learning_rate=0.05)
    return dict(
        key=jax.random.key(0),
        stream=stream,
        network=network,
        loss=loss or losses.squared_error(),
        optimizer=optimizer or optimizers.adam(),
        training=Training(**(steps | training)),
        method=method or methods.naive(),
        effort=forecast.Effort(),
        kernel=kernels.contraction,
    )


def answers(given=None, methods=grid.NO_METHODS, **settings):
    return whatif.run_job(given or named(), SETTINGS | settings, lambda line: None, methods=methods)


@pytest.fixture(scope="module")
def verified():
    """Every candidate trained, of a model that is linear in its parameters."""
    return answers(verify=4)


def test_a_row_a_candidate_and_of_a_linear_model_each_is_right(verified):
    rows, summary, arrays, _ = verified
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
    alone, _, of_one, _ = answers(verify=4, orders=1)
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
        recipe = last_task._recipe(experiment.initialise(**given), given["training"], SETTINGS)
        assert recipe.steps(size) == count and recipe.batch_size == (batch or size)


def test_slices_go_by_columns_that_are_given(verified):
    def size(x):
        return ["large" if norm > 1.5 else "small" for norm in np.linalg.norm(x, axis=1)]

    made = whatif.run_job(named(), SETTINGS, lambda line: None, {"size": size})
    own = [row for row in made.slices if row["slice"] == "size" and row["share"] == 0]
    assert {row["value"] for row in own} == {"large", "small"}
    x = np.concatenate([task.test.x for task in STREAM[:-1]])
    assert {row["value"]: row["samples"] for row in own} == Counter(size(x))


def test_all_answers_are_given_before_any_candidate_is_trained(monkeypatch, verified):
    order = []
    for name in ("ask", "train"):
        function = getattr(grid, name)
        monkeypatch.setattr(
            grid, name, lambda *given, n=name, f=function: order.append(n) or f(*given)
        )
    rows, summary, *_ = answers(verify=2)
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
    sizes = {"share": 0.1, "rate": 1.0, "learning_rate": 0.1, "epochs": 6.0}
    assert at == sizes | {"method": "naive"}
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
    columns, trained = grid.measured(
        cache.asked, grid.origins(cache), answer._replace(outputs=base[None])
    )
    assert columns["r2_from_base"] == pytest.approx(r2((true - base).ravel(), np.zeros(12)))
    assert columns["r2_from_base"] <= 0
    changes = ((outputs - cache.before).ravel() for outputs in (true, base))
    assert columns["r2_change"] == pytest.approx(r2(*changes))
    targets = np.asarray(cache.asked.old.y)
    risen = ((true - targets) ** 2 - (cache.before - targets) ** 2).mean(1) / 2
    np.testing.assert_allclose(trained.loss_change, risen[None])
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
    found = grid.agreement([*rows, row(0.1, np.nan, np.nan), row(np.nan, 0.1, 0.6)])
    assert found == {
        "verified": 5,
        "diverged": 1,
        "unanswered": 1,
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
    columns, trained = grid.measured(kept[0].asked, grid.origins(kept[0]), answer)
    assert np.isnan([columns["lost_measured"], columns["r2_change"], row["lost"]]).all()
    assert np.isfinite(row["accuracy_before"]) and trained.loss_change.shape == (1, 6)
    with pytest.raises(ValueError, match="the base diverged at 5e\\+28; use a smaller one"):
        answers(descent, rates=[1e30], epochs=[30.0])


def test_the_price_is_said_before_anything_is_trained(monkeypatch):
    lines, trained = [], last_task._trained
    monkeypatch.setattr(last_task, "_trained", lambda *a: lines.append("trains") or trained(*a))
    summary = whatif.run_job(named(), SETTINGS, lines.append).summary
    first, then = lines[: lines.index("trains")]
    assert re.match(r"a training takes about .* s, the base .*: asking never pays", first)
    assert re.match(r"train them: 4 trainings take about .* in 2 orders", then)
    assert list(whatif.bill_lines(summary["price"])) == [first, then]


def test_a_bill_says_from_when_on_it_pays():
    cheap = whatif.Price(train=20.0, prepare=60.0, answer=2.0, mib=109.0)
    bill = grid.bill([cheap], count=5, orders=3)
    # 3 orders and the check of one cost twice an answer, which is one order and its check.
    assert (bill["answers"], bill["asked"], bill["trained"]) == (20.0, 80.0, 100.0)
    (line,) = whatif.bill_lines(bill)
    assert line.endswith("(109 MiB kept), an answer 2 s: asking pays from 4 questions on")
    twice = grid.bill([cheap, cheap._replace(prepare=80.0, mib=90.0)], count=5, orders=3)
    assert (twice["candidates"], twice["answers"], twice["trained"]) == (10, 40.0, 200.0)
    assert (twice["prepare"], twice["mib"], twice["pays_from"]) == (140.0, 109.0, 8)
    assert "2 bases and their linearisations 1.4e+02 s" in next(whatif.bill_lines(twice))
    few = grid.bill([cheap], count=3, orders=1)
    assert [line[:11] for line in whatif.bill_lines(few)] == ["a training ", "train them:"]


RECOMMEND = {"retention": 0.5, "replay": 4, "drop": 3}


@pytest.fixture(scope="module")
def recommended():
    kept, prepare = [], job.prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "prepare", lambda *a, **k: kept.append(prepare(*a, **k)) or kept[-1])
        given = answers(verify=1, recommend=RECOMMEND)
    return given, kept[0]


def test_recommendations_are_checked_by_training_beside_what_is_drawn(recommended):
    (rows, summary, *_), cache = recommended
    came = summary["recommended"]
    assert list(came) == list(RECOMMEND)
    enough = [row["share"] for row in rows if row["rate"] == 1 and row["retained"] >= 0.5]
    assert came["retention"]["share"] == (min(enough) if enough else None)
    base = cache.recipe._replace(order=1)
    sizes = {"replay": (4, [6, 4], "replayed"), "drop": (3, [0, 0, 8], "left_out")}
    for name, (count, of_tasks, field) in sizes.items():
        places = came[name]["places"]
        starts = np.cumsum([0, *of_tasks])
        chosen = [starts[int(t[-1])] + k for t, own in places.items() for k in own]
        assert len(chosen) == count == came[name]["samples"]
        assert all(k < of_tasks[int(t[-1])] for t, own in places.items() for k in own)
        columns, _ = grid.measured(
            cache.asked, grid.origins(cache), whatif.ask(cache, base._replace(**{field: chosen}), 2)
        )
        assert came[name]["recommended"]["loss_rise_measured"] == columns["loss_rise_measured"]
        # Chosen by what is predicted, of which the drawn ones are some.
        assert came[name]["recommended"]["loss_rise"] != came[name]["compared"]["loss_rise"]
    dropped = came["drop"]
    assert dropped["recommended"]["loss_rise"] < dropped["compared"]["loss_rise"]


def test_nothing_is_recommended_unasked_and_nothing_trained_without_verify():
    assert answers().summary["recommended"] == {}
    summary = answers(recommend=RECOMMEND | {"replay": None}).summary
    assert list(summary["recommended"]) == ["retention", "drop"]
    assert not any("_measured" in key for key in summary["recommended"]["drop"]["recommended"])


def test_the_share_is_the_smallest_that_keeps_enough_beside_the_one_below(recommended):
    base = whatif.Recipe(learning_rate=0.1, share=0.2)
    any_answer = whatif.ask(recommended[1], recommended[1].recipe)

    def of(share, kept, **other):
        recipe, right = base._replace(share=share, **other), np.arange(10)[None] < 10 * kept
        return any_answer._replace(recipe=recipe, correct_before=np.ones(10), correct=right)

    given = [of(0.5, 0.9), of(0.0, 0.1), of(0.1, 0.8), of(0.1, 0.9, learning_rate=0.05)]
    given += [of(0.05, 0.9, method=methods.l2(0.1))]
    facts, answer, beside = advice._share(base, 0.8, given)
    assert (facts["share"], answer, beside) == (0.1, given[2], [given[1]])
    facts, answer, beside = advice._share(base, 0.95, given)
    assert (facts["share"], answer, beside) == (None, None, [given[0]])
    assert advice._share(base, 0.1, given)[2] == []


def test_drawn_sets_are_of_the_classes_of_the_recommended_one():
    kinds = np.array([0] * 6 + [1] * 6 + [2] * 2)
    places = np.array([0, 1, 2, 7, 13])
    seen = set()
    for seed in range(5):
        drawn = advice.drawn_like(np.random.default_rng(seed), kinds, places)
        assert np.bincount(kinds[drawn]).tolist() == [3, 1, 1] and len(set(drawn)) == 5
        seen |= set(drawn.tolist())
    assert len(seen) > 8
    assert advice.by_task(np.array([0, 5, 6, 9]), [6, 4]) == {"task 0": [0, 5], "task 1": [0, 3]}


def test_slices_add_up_to_the_whole(verified):
    rows, _, arrays, slices = verified
    assert {(row["slice"], row["value"]) for row in slices} == {
        ("class", "0"), ("class", "1"), ("task", "0"), ("task", "1")
    }  # fmt: skip
    for row in rows:
        for kind in ("class", "task"):
            at = kind, row["share"], row["rate"]
            own = [one for one in slices if (one["slice"], one["share"], one["rate"]) == at]
            counts = [one["samples"] for one in own]
            assert sum(counts) == len(arrays["task"])
            for name in ("accuracy_before", "accuracy_after", "loss_rise", "loss_rise_measured"):
                mean = np.average([one[name] for one in own], weights=counts)
                assert mean == pytest.approx(row[name]), name
    of_task = next(row for row in slices if row["slice"] == "task")
    of_first = arrays["loss_change"][0, arrays["task"] == 0]
    assert of_task["loss_rise"] == pytest.approx(of_first.mean())


L2, EWC = ({"method": "l2", "penalty": 2.0}, methods.l2(2.0)), ({"method": "ewc"}, methods.ewc(9.0))


@pytest.mark.parametrize("keep", ["passes", "gradients"])
def test_methods_are_answered_for_as_they_are_trained_each_along_its_own_base(keep, monkeypatch):
    bases, prepare = [], job.prepare
    monkeypatch.setattr(job, "prepare", lambda *a, **k: bases.append(a[1]) or prepare(*a, **k))
    told = answers(methods=(L2, *grid.NO_METHODS, EWC), keep=keep, rates=[1.0], orders=1, verify=6)
    assert [base.method for base in bases] == [L2[1], methods.naive(), EWC[1]]
    assert told.summary["price"]["bases"] == 3
    named = ["l2 penalty=2.0"] * 2 + ["naive"] * 2 + ["ewc"] * 2
    assert [row["method"] for row in told.rows] == named
    assert told.summary["base"]["method"] == "l2 penalty=2.0"
    for row in told.rows:
        assert row["r2_change"] > 1 - 1e-9
    after = told.arrays["after_measured"]
    assert min(np.abs(after[i] - after[j]).max() for i, j in ((0, 2), (2, 4), (0, 4))) > 1e-3


WILD = {"method": "lwf"}, methods.lwf(1e30)


def test_of_several_bases_one_that_diverges_is_data_and_recommends_nothing():
    settings = SETTINGS | {"rates": [1.0], "epochs": [30.0], "verify": 4}
    lines, settings = [], settings | {"recommend": RECOMMEND}
    descent = named() | {"optimizer": optimizers.sgd()}
    for order in ((WILD, *grid.NO_METHODS), (*grid.NO_METHODS, WILD)):
        told = whatif.run_job(descent, settings, lines.append, methods=order)
        wild = [row for row in told.rows if row["method"] == "lwf"]
        assert np.isnan([row["lost"] for row in wild]).all()
        assert {row["verdict"] for row in wild} == {"poor"}
        assert all(row["r2_change"] > 1 - 1e-9 for row in told.rows if row["method"] == "naive")
        assert (told.summary["verified"], told.summary["diverged"]) == (4, 2)
        assert bool(told.summary["recommended"]) == (order[0] is not WILD)
    assert "followed along the base with lwf trainings diverge: it has no answers" in lines
    with pytest.raises(ValueError, match="the base diverged"):
        answers(descent, methods=(WILD,), rates=[1.0], epochs=[30.0])


def test_errors_of_a_method_name_it():
    ogd = {"method": "ogd"}, methods.ogd(200)
    with pytest.raises(ValueError, match=r"whatif\.methods, ogd: method\.per_task=200: expected"):
        answers(methods=(*grid.NO_METHODS, ogd))


@pytest.mark.parametrize(("keep", "kept"), [("sketch", "sketches"), ("gram", "Gram blocks")])
def test_what_is_kept_is_asked_for_by_name(keep, kept):
    linear_rule = named(optimizer=optimizers.sgd(0.9))
    told = answers(linear_rule, keep=keep, shares=[0.5], rates=[1.0], verify=1)
    assert told.summary["kept"] == kept and told.summary["outside"] < 1e-9
    assert told.summary["r2_change"] == pytest.approx(1, abs=1e-6)  # more numbers than parameters


def heads(*masks):
    return random_stream(jax.random.key(3), [6] * len(masks), heads=masks)


BAD = {
    "one task": ({"stream": STREAM[:1]}, {}, "stream.tasks=1: job=whatif needs at least 2"),
    "heads of their own": ({"stream": heads([1.0, 0.0], [0.0, 1.0])}, {},
                           "expected stream.scenario=class or domain"),
    "a method": ({"method": methods.l2(0.1)}, {}, "those of whatif.methods; expected"),
    "a centred network": ({"network": NETWORK._replace(centred=True)}, {},
                          "expected network.centred=false"),
    "momentum carried": ({"optimizer_state": "carry"}, {}, "training.optimizer_state: .*reset"),
    "a schedule of training": ({"schedule": jnp.cos}, {}, "training.schedule: .*whatif.schedule"),
    "low precision": ({"compute": "bfloat16"}, {}, "training.compute: .*expected null"),
    "no rate, no limit": ({"learning_rate": None}, {}, "no stability limit"),
    "more to verify": ({}, {"verify": 5}, "whatif.verify=5: expected at most 4"),
    "none to verify": ({}, {"verify": 0}, "whatif.verify=0: expected a whole .* or null"),
    "a share of 1": ({}, {"shares": [0, 1]}, "whatif.shares=1: expected a number from 0 to below"),
    "no shares": ({}, {"shares": []}, r"whatif.shares=\[\]: expected a list of numbers"),
    "one number": ({}, {"rates": 2.0}, "whatif.rates=2.0: expected a list"),
    "a rate of 0": ({}, {"rates": [0]}, "whatif.rates=0: expected a finite number above 0"),
    "no orders": ({}, {"orders": 0}, "whatif.orders=0: expected a whole number"),
    "a base of 1": ({}, {"base_share": 1.0}, "whatif.base_share=1.0"),
    "more anchors than steps": ({}, {"anchors": 9}, "whatif.anchors=9: expected at most 3"),
    "no outputs": ({}, {"outputs": 0}, "whatif.outputs=0: "),
    "no numbers": ({}, {"numbers": 0}, "whatif.numbers=0: "),
    "a sketch for a rule by layer": ({"optimizer": optimizers.by_name("lamb")}, {"keep": "sketch"},
                                     "whatif.keep=sketch: the optimizer does not update"),
    "Gram blocks of Adam": ({"optimizer": optimizers.adam()}, {"keep": "gram"},
                            "whatif.keep=gram: the optimizer is not linear"),
    "no budget": ({}, {"keep": "gradients", "budget_mib": 1e-4}, "whatif.budget_mib=0.0001: "),
    "a setting that there is not": ({}, {"share": 0.2}, "whatif: share is unknown or missing"),
    "a way to keep": ({}, {"keep": "all"}, "whatif.keep=all: expected auto, gradients"),
    "no recommendations": ({}, {"recommend": {"replay": 3}}, "whatif.recommend=.*: expected ret"),
    "all to be kept": ({}, {"recommend": RECOMMEND | {"retention": 2}}, "retention=2: expected a"),
    "nothing to be kept": ({}, {"recommend": RECOMMEND | {"retention": 0}}, "above 0, up to 1"),
    "more to replay": ({}, {"recommend": RECOMMEND | {"replay": 11}}, "replay=11: expected at"),
    "all left out": ({}, {"recommend": RECOMMEND | {"drop": 8}}, "fewer than the 8 new samples"),
    "replay without a share": ({}, {"recommend": RECOMMEND, "base_share": 0},
                               "whatif.base_share=0: nothing is replayed"),
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
    assert "a training takes about" in out.split("base trained")[0]
    (folder,) = (tmp_path / "results" / "plans" / "whatif_digits_small").iterdir()
    summary, table = files.load_plan(folder)
    assert folder.name.startswith("whatif-sgd-naive-split-w8-s0-")
    assert summary["job"] == "whatif" and summary["candidates"] == len(table) == 2
    assert list(table["share"]) == [0, 0.2] and table["accuracy_after_measured"].count() == 1
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {"retention.png", "slices.png", "at_risk.png"}
    arrays = dict(np.load(folder / "arrays.npz"))
    slices = pd.read_parquet(folder / "slices.parquet")
    assert list(slices["slice"]) == ["class", "class", "task"] * 2
    assert slices["accuracy_after"][2] == table["accuracy_after"][0]
    before = correct(arrays["before"], arrays["targets"], arrays["head"]).mean()
    assert table["accuracy_before"][0] == before
    worst = arrays["loss_change"][0, arrays["at_risk"]]
    assert (np.diff(worst) <= 0).all() and worst[0] == arrays["loss_change"][0].max()
    assert arrays["at_risk_x"].shape == (len(worst), 8, 8)

    assert ntkcl("report", f"run={folder}")[0] == 0
    (page,) = (tmp_path / "results" / "reports").iterdir()
    text = page.read_text()
    shown = "Answers", "By class", "Price", "Most at risk", "old, measured", "Train them", "jax"
    for words in (*shown, "whatif.base_share"):
        assert words in text, words
    assert text.count("data:image/png") == 2 + len(worst)
    assert json.loads((folder / "summary.json").read_text())["base"]["share"] == 0.2
