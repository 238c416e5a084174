"""What the forecast of a whole stream takes, estimated before it is made."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import kernels, methods, resources
from ntkcl.compilation import activations, one_of
from ntkcl.forecast.gram_solvers import DIAGONALISED, ROOM, cheaper_products
from ntkcl.kernels.operator import CHUNK
from ntkcl.training.problem import Problem
from ntkcl.types import Params

# Readings of a task's matrix: 52 products for the forecast, two vectors at once, which takes as
# long as 68, and 26 for each of the two strides of its check.
READINGS = 120
READING_RATE = 8e9  # entries of a float32 matrix from memory a second, 2 cores
EIGENVECTORS = 12  # of n rows take so many n^3 multiply-adds at the rate of a matrix product
PASSES = 4  # through the network, of all inputs: to read a task off, to check it in two ways
TASK = 0.01  # seconds beside a task's multiply-adds
STEP = 5e-5  # seconds beside a step's multiply-adds
CHECKED = 1.1  # of a forecast, with its check at a few inputs
STEP_PASSES = 4  # of a batch, forwards and backwards, of the linearised network
ANY = 1e9  # MiB for tiles: how they are cut changes no time


class Estimate(NamedTuple):
    """A forecast of all tasks from one anchor: its form, how it is solved, seconds without
    compilation, and MiB that the whole process will then hold at most."""

    form: str
    how: str
    seconds: float
    mib: float

    def __str__(self):
        cost = f"about {self.seconds:.2g} s and {self.mib:,.0f} MiB"
        return f"forecast by form={self.form}: {self.how}; {cost} once it is compiled"


def estimate(
    problem: Problem, theta: Params, form: str, coarsen: int = 1, segments: int | str = 1
) -> Estimate:
    """From the shapes of the tasks and the network, and this machine's rate of a matrix product.

    Of a method's rows and directions of old tasks nothing is counted. The forms `matrix_free` and
    `integrated` take what the rule or the network asks for, and are estimated as `closed`.
    """
    if form == "linearised":
        return _trained(problem, theta, coarsen, segments)
    rows = [task.inputs.size * int(np.count_nonzero(task.head)) for task in problem.tasks]
    places = kernels.tangent(problem.network, theta, problem.x, None, None).kernel
    most, largest = max(rows), int(np.argmax(rows))
    products = None
    if methods.is_naive(problem.method) and form != "simulated":
        inputs = problem.tasks[largest].inputs
        products = cheaper_products(places, inputs, most, DIAGONALISED)
    read = len(rows) * (TASK + PASSES * _pass_seconds(problem, theta, len(problem.x)))
    itemsize = jnp.result_type(*jax.tree.leaves(theta)).itemsize
    held = _activations(problem, theta) * itemsize
    if products is not None:
        seconds = READINGS * len(rows) * products.seconds
        held += 3 * ROOM * most * 8  # a Krylov space, and what is made of it
        how = f"Lanczos by products J (J^T u), {most:,} rows a task, no matrix held"
    else:
        x = problem.inputs(problem.tasks[largest].inputs)
        gram = kernels.plan(problem.network, theta, x, budget_mib=ANY, in_memory=False)
        seconds, solve = _solved(problem, rows, form)
        seconds += sum((r / most) ** 2 for r in rows) * _seconds_of(gram)
        held += (sum(r**2 for r in rows) + 3 * most**2) * itemsize  # 3: of the one that is solved
        how = f"Gram matrices of {most:,} rows by {gram.choice}, {solve}"
    return _estimate(problem, form, how, seconds + read, held)


def _estimate(problem, form, how, seconds, held) -> Estimate:
    if not methods.is_naive(problem.method):
        how += ", the method's own work not counted"
    return Estimate(form, how, seconds, resources.resident_mib() + held / resources.MIB)


def _solved(problem: Problem, rows, form: str) -> tuple[float, str]:
    if form == "simulated":
        shares = [
            b / task.inputs.size for b, task in zip(_batches(problem), problem.tasks, strict=True)
        ]
        each = zip(problem.steps, rows, shares, strict=True)
        seconds = sum(s * (STEP + share * r**2 / READING_RATE) for s, r, share in each)
        return seconds, f"the {max(problem.steps):,} steps one by one in dual coefficients"
    if max(rows) <= DIAGONALISED:
        work = sum(EIGENVECTORS * r**3 for r in rows)
        return work / kernels.matmul_rate(), "all their eigenvectors"
    seconds = sum(READINGS * r**2 for r in rows) / READING_RATE
    return seconds, "Lanczos by products with the matrix"


def _trained(problem: Problem, theta: Params, coarsen: int, segments: int | str) -> Estimate:
    """Of the linearised network, by the trainer itself, with all numbers of segments that "auto"
    may try; and with steps taken together once more, with half as many."""
    share = (CHECKED * (5 if segments == "auto" else 1) + (coarsen > 1) / 2) / coarsen
    seconds = sum(
        share * steps * (STEP + STEP_PASSES * _pass_seconds(problem, theta, batch))
        for steps, batch in zip(problem.steps, _batches(problem), strict=True)
    )
    how = f"the linearised network is trained, {max(problem.steps) // coarsen:,} steps a task"
    if segments != 1:
        how += f", in {'up to 16' if segments == 'auto' else segments} segments"
    held = _activations(problem, theta) * jnp.result_type(*jax.tree.leaves(theta)).itemsize
    return _estimate(problem, "linearised", how, seconds, held)


def _batches(problem: Problem) -> list[int]:
    return [problem.batch_size or task.inputs.size for task in problem.tasks]


def _pass_seconds(problem: Problem, theta: Params, n: int) -> float:
    return kernels.pass_seconds(problem.network, theta, n, one_of(problem.x))


def _seconds_of(plan: kernels.Plan) -> float:
    return next(cost.seconds for cost in plan.costs if cost.implementation == plan.choice)


def _activations(problem: Problem, theta: Params) -> int:
    """Numbers that a pass over all inputs makes of them, in the chunks in which it is made."""
    each = activations(problem.network.apply, theta, one_of(problem.x))
    return each * min(len(problem.x), CHUNK)
