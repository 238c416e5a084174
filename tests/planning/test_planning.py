"""Plans against numbers worked out on paper and against the training of a model that is linear in
its parameters."""

import io
import json
from types import SimpleNamespace

import jax.numpy as jnp
import jax.random
import numpy as np
import pytest
from cases import ROOT, linear, quadratic_features, random_stream
from rich.console import Console

from ntkcl import experiment, forecast, kernels, losses, methods, networks, optimizers, planning
from ntkcl.planning.ranking import agreement, places_to_verify
from ntkcl.reporting import final_table
from ntkcl.runs import files
from ntkcl.training.settings import Training
from ntkcl.types import Dataset, Network, Task

PLAN = {
    "score": "average_loss",
    "part": "train",
    "verify": None,
    "seed": 0,
    "orders": {"exact": 7, "beam": 100},
    "replay": {"per_task": 2, "weight": 1.0, "draws": 3, "proposals": 8},
    "lr": {"fractions": [0.1, 0.9], "steps": [1, 20]},
}


def named(stream, network, **settings):
    return dict(
        key=jax.random.key(0),
        stream=stream,
        network=network,
        loss=losses.squared_error(),
        optimizer=optimizers.sgd(),
        training=Training(**(dict(steps=20) | settings)),
        method=methods.naive(),
        effort=forecast.Effort(),
        kernel=kernels.contraction,
    )


def theory_12_4():
    """One sample a task, K = [[1, .5, .2], [.5, 1, .4], [.2, .4, 1]], targets (1, -1, 1), f_0 =
    0."""
    phi = np.linalg.cholesky(np.array([[1, 0.5, 0.2], [0.5, 1, 0.4], [0.2, 0.4, 1]]))
    data = [
        Dataset(jnp.asarray(phi[t : t + 1]), jnp.asarray([[y]]))
        for t, y in enumerate([1.0, -1.0, 1.0])
    ]
    network = Network(
        init=lambda key, x: jnp.zeros_like(x), apply=lambda theta, x: (x @ theta)[None]
    )
    return tuple(Task(one, one, jnp.ones(1)) for one in data), network


def small():
    return random_stream(jax.random.key(3), [5, 5, 5]), linear(quadratic_features, 2)


def plan(job, stream, network, grid=(), training=(), **changes):
    return planning.plan(
        job, named(stream, network, **dict(training)), PLAN | changes, grid, lambda line: None
    )


def test_all_orders_match_theory_12_4_and_their_training():
    ranking, summary = plan(
        "orders", *theory_12_4(), training=dict(steps=2, learning_rate=0.5), verify=4
    )
    expected = {
        "0 1 2": 0.1589482422,
        "2 1 0": 0.1646770996,
        "0 2 1": 0.1994245938,
        "2 0 1": 0.2008699097,
        "1 2 0": 0.2134558750,
        "1 0 2": 0.2172241211,
    }
    assert [row["order"] for row in ranking.rows] == list(expected)
    for row in ranking.rows:
        assert row["predicted_average_loss_train"] == pytest.approx(
            expected[row["order"]], abs=1e-9
        )
        for name in ("average_loss", "learning_loss", "forgetting", "average_accuracy"):
            assert row[f"measured_{name}_test"] == pytest.approx(
                row[f"predicted_{name}_test"], abs=1e-12
            )
    assert (
        summary["verified"] == 6
        and summary["spearman"] == pytest.approx(1.0)
        and summary["regret"] == 0.0
    )


def test_a_beam_as_wide_as_all_orders_finds_them_all_and_a_narrow_one_some_of_them():
    everything = {row["order"]: row for row in plan("orders", *small())[0].rows}
    wide = {
        row["order"]: row
        for row in plan("orders", *small(), orders={"exact": 2, "beam": 100})[0].rows
    }
    narrow = plan("orders", *small(), orders={"exact": 2, "beam": 2})[0].rows
    assert len(everything) == 6 and wide == everything
    # Products with fewer vectors at once add up in another order, in float32.
    assert len(narrow) == 2
    for row in narrow:
        numbers = everything[row["order"]]
        assert {**row, "order": 0} == pytest.approx({**numbers, "order": 0}, rel=1e-5)


GRID = [
    ({"method": "naive"}, methods.naive()),
    ({"method": "l2", "penalty": 0.1}, methods.l2(0.1)),
    ({"method": "lwf", "weight": 1.0}, methods.lwf(1.0)),
    ({"method": "replay", "per_task": 2}, methods.replay(2)),
    ({"method": "functional", "per_task": 2}, methods.functional(1.0, 2)),
    ({"method": "ogd", "per_task": 1}, methods.ogd(1)),
    ({"method": "ewc_diagonal"}, methods.ewc_diagonal(0.1)),
]


def test_a_grid_of_methods_is_predicted_exactly_where_the_model_is_linear():
    ranking, summary = plan("methods", *small(), grid=GRID, verify=5)
    assert summary["verified"] == len(GRID) and summary["spearman"] == pytest.approx(1.0)
    losses_seen = {row["method"]: row["measured_average_loss_train"] for row in ranking.rows}
    assert len({round(loss, 6) for loss in losses_seen.values()}) == len(
        GRID
    )  # the methods do differ
    for row in ranking.rows:
        for score in ("average_loss", "forgetting"):
            assert row[f"measured_{score}_train"] == pytest.approx(
                row[f"predicted_{score}_train"], abs=1e-10
            ), row["method"]


def test_rows_of_old_tasks_and_directions_kept_out_of_are_an_arrow_in_the_eigenvectors_of_the_task(
    monkeypatch,
):
    def losses_by_method():
        return {
            str(row["method"]): row["predicted_average_loss_train"]
            for row in plan("methods", *small(), grid=GRID)[0].rows
        }

    exact, sizes = losses_by_method(), set()

    def extend(*arguments, **settings):
        arrow = forecast.extend(*arguments, **settings | {"diagonalised": 0})

        def extended(base, columns, step, dtype):
            sizes.add((len(base.rows), np.count_nonzero(step.weights), step.removed is not None))
            return arrow(base, columns, step, dtype)

        return extended

    monkeypatch.setattr(
        "ntkcl.planning.candidate.forecast", SimpleNamespace(**vars(forecast) | {"extend": extend})
    )
    assert losses_by_method() == pytest.approx(exact, abs=1e-9)
    assert {
        (10, 14, False),
        (10, 18, False),
        (10, 10, True),
    } <= sizes  # of 10 rows a task, and 4 of each old one


def test_the_buffer_that_is_found_is_no_worse_than_those_it_started_from():
    ranking, _ = plan("replay", *small(), verify=2)
    assert ranking.rows[0]["buffer"] == "searched" and len(ranking.rows) == 4
    for row in ranking.rows:
        assert row["measured_average_loss_train"] == pytest.approx(
            row["predicted_average_loss_train"], abs=1e-10
        )


def test_learning_rates_are_ranked_with_their_steps_and_the_unstable_ones_are_marked():
    ranking, summary = plan("lr", *small(), lr={"fractions": [0.5, 1.4], "steps": [1, 5]}, verify=2)
    limit = min(summary["limits"])
    loss = {}
    for row in ranking.rows:
        assert row["learning_rate"] == pytest.approx(row["fraction"] * limit)
        assert row["measured_average_loss_train"] == pytest.approx(
            row["predicted_average_loss_train"], rel=1e-8
        )
        loss[row["stable"], row["steps"]] = row["measured_average_loss_train"]
    assert loss[True, 5] < loss[True, 1] and loss[False, 5] > loss[False, 1]
    assert (ranking.rows[-1]["steps"], ranking.rows[-1]["fraction"]) == (5, 1.4)


def test_a_candidate_whose_training_blows_up_has_no_measured_scores_and_says_so():
    """At a hundred times the limit every ReLU dies, and a dead network has a finite loss."""
    stream, _ = small()
    positive = [
        [part._replace(x=jnp.abs(part.x)) for part in (task.train, task.test)] for task in stream
    ]
    stream = tuple(
        task._replace(train=train, test=test)
        for task, (train, test) in zip(stream, positive, strict=True)
    )
    network = networks.mlp(outputs=stream[0].train.y.shape[1], width=16)
    with np.errstate(over="ignore", invalid="ignore"):
        ranking, summary = plan(
            "lr", stream, network, lr={"fractions": [0.25, 0.5, 100.0], "steps": [20]}, verify=2
        )
    measured = {row["fraction"]: row["measured_average_loss_train"] for row in ranking.rows}
    assert np.isfinite(measured[0.5]) and np.isnan(measured[100.0])
    assert (summary["verified"], summary["diverged"]) == (3, 1) and summary["regret"] >= 0
    terminal = Console(file=io.StringIO(), width=200)
    final_table.show_ranking(ranking.rows, summary, terminal)
    printed = terminal.file.getvalue()
    assert "3 trained, 1 diverged" in printed and [
        line.count("diverged") for line in printed.splitlines() if " 100 " in line
    ] == [1]


def test_steps_on_the_same_rows_share_one_decomposition():
    taken = []

    def prepare(*arguments):
        taken.append(1)
        return forecast.prepare(100)(*arguments)

    initialised = experiment.initialise(**named(*small()))
    shared = planning.shared_kernel(initialised, prepare)
    assert (
        len(list(planning.every_order(initialised.problem.at(0.1), shared))) == 6
        and len(taken) == 3
    )


def test_agreement_by_hand():
    rows = [
        {"predicted_forgetting_test": p, "measured_forgetting_test": m}
        for p, m in [(0.1, 0.3), (0.2, 0.2), (0.3, 0.6), (0.4, 0.7)]
    ]
    summary = agreement([*rows, {"predicted_forgetting_test": 0.0}], "forgetting", "test")
    assert summary == pytest.approx(
        {"verified": 4, "diverged": 0, "spearman": 0.8, "regret": 0.1, "regret_share": 0.2}
    )
    lost = {"predicted_forgetting_test": 0.5, "measured_forgetting_test": float("nan")}
    assert agreement([*rows, lost], "forgetting", "test") == pytest.approx(
        summary | {"verified": 5, "diverged": 1}
    )
    best = agreement([*rows, lost | {"predicted_forgetting_test": 0.05}], "forgetting", "test")
    assert (
        best["spearman"] == pytest.approx(0.8)
        and np.isnan(best["regret"])
        and np.isnan(best["regret_share"])
    )
    unknown = agreement(
        [{"predicted_forgetting_test": float("nan"), "measured_forgetting_test": 0.9}, *rows],
        "forgetting",
        "test",
    )
    assert unknown == pytest.approx(
        {"verified": 5, "diverged": 0, "spearman": 0.9, "regret": 0.1, "regret_share": 1 / 7}
    )
    accuracy = [
        {"predicted_average_accuracy_test": p, "measured_average_accuracy_test": m}
        for p, m in [(0.9, 0.8), (0.5, 0.9), (0.1, 0.4)]
    ]
    assert agreement(accuracy, "average_accuracy", "test")["regret"] == pytest.approx(
        0.1
    )  # more is better
    places = places_to_verify(5, 2, 0)
    assert places[0] == 0 and places[-1] == 4 and len(places) == 4
    assert places_to_verify(1, 3, 0) == [0] and places_to_verify(3, 9, 0) == [0, 1, 2]


@pytest.mark.parametrize(
    ("job", "changes", "message"),
    [
        ("orders", dict(orders={"exact": 9, "beam": 1}), "plan.orders.exact=9: expected at most 8"),
        ("orders", dict(orders={"exact": 0, "beam": 1}), "plan.orders.exact=0"),
        (
            "orders",
            dict(score="loss"),
            "plan.score=loss: expected average_loss, forgetting or average_accuracy",
        ),
        ("orders", dict(part="dev"), "plan.part=dev"),
        ("orders", dict(verify=-1), "plan.verify=-1"),
        (
            "replay",
            dict(replay={"per_task": 6, "weight": 1.0, "draws": 1, "proposals": 1}),
            "plan.replay.per_task=6: expected at most 5",
        ),
        ("replay", dict(replay=PLAN["replay"] | {"weight": -1.0}), "plan.replay.weight=-1.0"),
        ("lr", dict(lr={"fractions": [0.0], "steps": [1]}), "plan.lr.fractions=0.0"),
        ("lr", dict(lr={"fractions": [0.5], "steps": [0]}), "plan.lr.steps=0"),
        (
            "lr",
            dict(lr={"fractions": [0.5], "steps": [10**20]}),
            "plan.lr.steps=1[0]+: expected at most 2147483647",
        ),
        ("lr", dict(lr={"fractions": [], "steps": 3}), "plan.lr: fractions="),
        (
            "replay",
            dict(replay={"per_task": 2, "weight": 1.0, "draws": 0, "proposals": 1}),
            "plan.replay.draws=0",
        ),
        ("orders", dict(verify=False), "plan.verify=False"),
        ("methods", dict(), "plan.methods: expected at least one method"),
    ],
)
def test_a_plan_that_makes_no_sense_is_named(job, changes, message):
    with pytest.raises(ValueError, match=message):
        plan(job, *small(), **changes)


def test_orders_need_two_tasks_and_a_closed_form():
    stream, network = small()
    with pytest.raises(ValueError, match="job=orders expected at least 2 tasks"):
        plan("orders", stream[:1], network)
    with pytest.raises(
        ValueError, match=r"job=orders solves in closed form, and the optimizer has no rule"
    ):
        given = named(stream, network, learning_rate=0.1) | {"optimizer": optimizers.adam()}
        planning.plan("orders", given, PLAN, (), lambda line: None)
    with pytest.raises(ValueError, match="job=lr: this optimizer has no stability limit"):
        planning.plan("lr", given, PLAN, (), lambda line: None)


def test_a_plan_is_written_and_read_back(ntkcl, tmp_path):
    code, out, err = ntkcl(
        "job=orders",
        "stream=split",
        "stream.tasks=2",
        "stream.train_per_class=3",
        "stream.test_per_class=2",
        "network.width=8",
        "training.steps=3",
        "plan.verify=0",
    )
    assert code == 0, err
    (folder,) = (tmp_path / "results" / "plans" / "main").iterdir()
    summary, candidates = files.load_plan(folder)
    assert summary["job"] == "orders" and summary["candidates"] == 2 == len(candidates)
    assert set(candidates["order"]) == {"0 1", "1 0"}
    assert (folder / "figures" / "orders.png").is_file() and list(
        folder.glob("wandb/offline-run-*")
    )
    assert candidates["measured_average_loss_train"].notna().all()
    assert "2 trained, 0 diverged: Spearman" in out


STORED = json.loads((ROOT / "results" / "tables" / "plans.json").read_text())


@pytest.mark.parametrize("row", STORED, ids=lambda row: row["preset"])
def test_the_stored_table_follows_from_its_pairs(row):
    name = f"{row['score']}_{row['part']}"
    rows = [{f"predicted_{name}": p, f"measured_{name}": m} for p, m in row["pairs"]]
    summary = agreement(rows, row["score"], row["part"])
    assert summary.pop("diverged") == 0
    assert summary == pytest.approx({key: row[key] for key in summary}) and row["verified"] >= 24


@pytest.mark.parametrize("preset", ["orders_rotated", "orders_split", "orders_permuted"])
def test_the_orders_of_these_streams_are_ranked(preset):
    (row,) = (row for row in STORED if row["preset"] == preset)
    assert row["candidates"] == 120 and row["spearman"] >= 0.95 and row["regret_share"] <= 0.02


def test_the_grid_of_methods_is_ranked():
    (row,) = (row for row in STORED if row["preset"] == "methods_rotated")
    assert row["verified"] == row["candidates"] >= 30 and row["spearman"] >= 0.9
