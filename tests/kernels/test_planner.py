"""The planner: one line before anything is computed, a choice that can be argued with, a refusal
that helps."""

import re
import sys

import jax
import numpy as np
import pytest
from models import model

from ntkcl import kernels, networks
from ntkcl.types import Network

empirical = sys.modules["ntkcl.kernels.empirical"]  # the face has a function of that name


def problem(width=32, n=20):
    network = networks.mlp(outputs=3, width=width, depth=2)
    x = jax.random.normal(jax.random.key(1), (n, 6))
    return network, network.init(jax.random.key(0), x[0]), x


@pytest.fixture(autouse=True)
def steady_machine(monkeypatch):
    """Choices do not hang on how fast this machine is right now."""
    monkeypatch.setattr(empirical, "matmul_rate", lambda: 1e10)


def test_the_plan_is_one_line_with_time_and_tiles_of_each_and_the_choice():
    network, theta, x = problem()
    plan = kernels.plan(network, theta, x, x[:7])
    line = str(plan)
    assert (
        "\n" not in line
        and line.startswith("kernel 20 x 7 inputs, 3 outputs, ")
        and "budget 1024 MiB: structured (" in line
    )
    assert [cost.implementation for cost in plan.costs] == [
        "structured",
        "contraction",
        "vector_products",
    ]
    assert plan.result_mib == 20 * 7 * 9 * 8 / 2**20
    for cost in plan.costs:
        assert f"{cost.implementation} {cost.seconds:.3g} s in tiles of 20" in line


def test_the_work_it_counts_is_the_work_of_the_formulas():
    """An MLP 6-32-32-3 without biases: k + c^2 m multiply-adds a pair in the first layer, k in the
    readout; c^2 p by contraction.

    In the last hidden layer, whose signals commute, 3 + 2 + 1 pairs of outputs instead of 9.
    """
    network, theta, x = problem()
    assert kernels.structured(network).work(theta, x).pair == (6 + 9 * 32) + (32 + 6 * 32) + 32
    assert kernels.contraction(network).work(theta, x).pair == 9 * (6 * 32 + 32 * 32 + 32 * 3)
    forward = kernels.vector_products(network).work(theta, x).pair / 6
    assert forward == pytest.approx(6 * 32 + 32 * 32 + 32 * 3, rel=0.1)


def test_symmetry_halves_the_time_and_twice_the_samples_cost_twice_at_least():
    network, theta, x = problem(n=40)

    def seconds(*sides):
        return [cost.seconds for cost in kernels.plan(network, theta, *sides).costs]

    for own, full in zip(seconds(x), seconds(x, x), strict=True):
        assert 0.49 * full < own < 0.56 * full
    for half, full in zip(seconds(x, x[:20]), seconds(x, x), strict=True):
        assert half < 0.8 * full


def test_a_small_budget_changes_the_choice_and_a_smaller_one_is_refused_with_every_number():
    network, theta, x = problem(width=256)
    generic = Network(network.init, network.apply)
    costs = {cost.implementation: cost for cost in kernels.plan(generic, theta, x).costs}
    fast = min(costs.values(), key=lambda cost: cost.seconds)
    between = (costs["contraction"].least_mib + costs["vector_products"].least_mib) / 2
    assert kernels.plan(generic, theta, x).choice == fast.implementation
    cramped = kernels.plan(generic, theta, x, budget_mib=between)
    assert cramped.choice == "vector_products" and "contraction needs" in str(cramped)
    message = (
        r"smallest tiles take structured .* contraction .* vector_products .*; expected at least "
        r"(\d+), or"
    )
    with pytest.raises(ValueError, match=message) as refused:
        kernels.plan(network, theta, x, budget_mib=1e-6)
    enough = int(re.search(message, str(refused.value))[1])
    block = kernels.empirical(network, budget_mib=enough)(theta, x[:4])
    np.testing.assert_allclose(block, kernels.contraction(network)(theta, x[:4]), rtol=1e-4)


def test_a_result_that_does_not_fit_into_memory_is_refused_unless_it_goes_to_a_store(monkeypatch):
    network, theta, x = problem()
    monkeypatch.setattr(
        empirical.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100})
    )
    with pytest.raises(
        ValueError,
        match=r"20 x 20 inputs with 3 outputs make 0 MiB and 0 MiB are free; give a store",
    ):
        kernels.plan(network, theta, x)
    assert kernels.plan(network, theta, x, in_memory=False).choice == "structured"


@pytest.mark.parametrize("implementation", ["auto", "structured", "contraction", "vector_products"])
def test_the_front_door_gives_the_same_kernel_by_every_implementation(implementation):
    network, theta, x = problem()
    expected = kernels.contraction(network)(theta, x, x[:7])
    kernel_fn = kernels.empirical(network, implementation=implementation, budget_mib=1)
    np.testing.assert_allclose(kernel_fn(theta, x, x[:7]), expected, atol=1e-10)
    np.testing.assert_allclose(kernel_fn(theta, x[:7]), expected[:7], atol=1e-10)


@pytest.mark.parametrize("name", ["NNX", "Equinox", "plain function"])
def test_the_front_door_takes_plain_functions(name):
    network, theta, x = model(name)
    expected = kernels.contraction(network)(theta, x)
    np.testing.assert_allclose(kernels.empirical(network.apply)(theta, x), expected, atol=1e-10)
    with pytest.raises(
        ValueError,
        match=(
            r"kernel.implementation=structured: this network has no taps; use contraction or "
            r"vector_products"
        ),
    ):
        kernels.empirical(network.apply, implementation="structured")(theta, x)


def test_settings_of_the_front_door_are_named():
    network, theta, _ = problem()
    with pytest.raises(
        ValueError,
        match=(
            r"kernel.implementation=jacobian: expected auto, structured, contraction or "
            r"vector_products"
        ),
    ):
        kernels.empirical(network, implementation="jacobian")
    with pytest.raises(ValueError, match=r"kernel.budget_mib=0: expected a finite number above 0"):
        kernels.empirical(network, budget_mib=0)
    with pytest.raises(ValueError, match="x1 is a list; expected an array"):
        kernels.empirical(network)(theta, [[1.0] * 6])
