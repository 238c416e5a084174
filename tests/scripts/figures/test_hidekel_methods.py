"""Hidekel and Raviv's table of methods: drift by modes, and claims that fail where they should."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from cases import load_script, random_stream

from ntkcl import networks

ROOT = Path(__file__).parents[3]
SETTINGS = {"modes": 2, "shown": 5}


@pytest.fixture(scope="module")
def script():
    return load_script("figures/hidekel_methods")


def test_drift_is_split_by_the_modes_of_the_kernel_just_after_its_task(script):
    stream = random_stream(jax.random.key(0), [5, 5, 3], d=3, c=2)
    network = networks.mlp(outputs=2, width=6)
    thetas = [network.init(jax.random.key(t), stream[0].train.x[0]) for t in range(4)]
    moves = {0: np.ones((5, 2)), 1: np.arange(10.0).reshape(5, 2)}
    rec = SimpleNamespace(drift=lambda what, since, until, rows: moves[since])

    def inside(j, theta):
        rows = jax.vmap(jax.jacrev(network.apply), (None, 0))(theta, stream[j].train.x)
        leaves = [leaf.reshape(moves[j].size, -1) for leaf in jax.tree.leaves(rows)]
        modes = np.linalg.svd(np.concatenate(leaves, 1))[0][:, :2]
        return np.sum((modes.T @ moves[j].ravel()) ** 2)

    whole = np.mean([np.sum(move**2) for move in moves.values()])
    for what, after in (("measured", thetas[1:3]), ("init", [thetas[0]] * 2)):
        found = script.drift(SETTINGS, rec, thetas, network, stream, what)
        expected = np.mean([inside(j, theta) for j, theta in enumerate(after)])
        assert found["inside"] == pytest.approx(expected, rel=1e-4)
        assert found["inside"] + found["outside"] == pytest.approx(whole, rel=1e-5)
        assert len(found["cumulative"]) == 5


def test_the_heads_of_lwf_name_the_classes_so_far(script):
    stream = random_stream(jax.random.key(0), [4, 4], d=3, c=4)
    one_hot = [np.eye(4)[[0, 1, 1, 0]], np.eye(4)[[2, 3, 3, 2]]]
    stream = tuple(
        task._replace(train=task.train._replace(y=y))
        for task, y in zip(stream, one_hot, strict=True)
    )
    heads = [task.head.tolist() for task in script.so_far(stream)]
    assert heads == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_the_committed_table_backs_its_claims_and_broken_numbers_do_not(script):
    stored = json.loads((ROOT / "results" / "tables" / "hidekel_methods.json").read_text())
    assert script.judge(stored) == stored["claims"]
    broken = copy.deepcopy(stored)
    for name, one in broken["methods"].items():
        for run in one["runs"]:
            run["init"] |= {key: -run["measured"][key] for key in ("accuracy", "forgetting")}
            run["init"] |= {"inside": run["measured"]["outside"], "outside": 1.0}
            run["measured"]["accuracy"] *= -1
            if name == "spectral":
                run["measured"] |= {"inside": 1e6, "forgetting": 100.0, "accuracy": 100.0}
            if name in script.WEAK:
                run["measured"]["accuracy"] = 90.0
    assert not any(claim["holds"] for claim in script.judge(broken))
