"""The closed-form solve of a training rule, `ntkcl.dynamics.sequence`.

For squared error and full batches; for minibatches it is their mean path.
"""

from typing import Any

import numpy as np

from ntkcl import dynamics, kernels, methods
from ntkcl.dynamics import Prepared, Solve, Step
from ntkcl.forecast.gram_solvers import prepare
from ntkcl.forecast.outcome import Effort, Outcome, rule
from ntkcl.training.problem import Anchor, Problem


def closed(kernel_fn, effort: Effort, by_columns: bool = False):
    """`(problem, anchor, count) -> outcomes` of the next `count` tasks, by the training rule and
    the method's kernel-space equivalent.

    kernel_fn: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]`.
    by_columns: where it is not the network's own kernel, but such as that of infinite width.
    Cost: the Gram matrix of each task, its decomposition, and two passes through the network; no
    block of all inputs, but for another kernel than the network's.
    """

    def forecast(problem: Problem, anchor: Anchor, count: int) -> list[Outcome]:
        f = anchor.history[-1]
        tangent = kernels.tangent(
            problem.network, anchor.theta, problem.x, f, kernel_fn, by_columns=by_columns
        )
        decompose, reusable = prepare(effort.krylov_order), list[Any]()

        def prepare_and_keep(kernel, step, dtype):  # called once a task, in their order
            ready = decompose(kernel, step, dtype)
            reusable.append(_reusable_coefficients(problem, ready))
            return ready

        outcomes = solved(problem, anchor, anchor.ahead(count), tangent, prepare_and_keep)
        return [
            one._replace(coefficients=coefficients)
            for one, coefficients in zip(outcomes, reusable, strict=True)
        ]

    return forecast


def _reusable_coefficients(problem: Problem, ready: Prepared):
    """The coefficients of other filters of the same rows, to three digits, where an outcome has
    them."""
    if not (methods.is_naive(problem.method) and problem.optimizer.memoryless):
        return None
    # The Gram matrix alone is kept: what changes are read off lives no longer than its task.
    decomposed = ready.decomposed.roughly or ready.decomposed
    return ready._replace(change=None, removal=None, decomposed=decomposed).coefficients


def solved(problem: Problem, anchor: Anchor, ahead, tangent, prepare) -> list[Outcome]:
    """The tasks `ahead` in that order, of a network linearised as `tangent` says."""
    steps = []

    def step(t):
        def step_of(outputs):
            history = [*anchor.history, *outputs[1:]]
            steps.append(problem.method.step(tangent, problem.tasks, t, history))
            return steps[-1]

        return step_of

    step_functions, rules = [step(t) for t in ahead], [rule(problem, t) for t in ahead]
    f = anchor.history[-1]
    solves = dynamics.sequence(tangent.kernel, f, step_functions, rules, prepare)
    rounding = np.finfo(problem.dtype).eps
    return [_outcome(one, solve, rounding) for one, solve in zip(steps, solves, strict=True)]


def solved_from_each(problem: Problem, t: int, outputs: np.ndarray, tangent, prepare) -> np.ndarray:
    """The changes [b, N, c] by task t, trained plainly, from each of several outputs [b, N, c]."""
    assert problem.method.step is not None
    step = problem.method.step(tangent, problem.tasks, t, ())
    return dynamics.one_task_from_each(tangent.kernel, outputs, step, rule(problem, t), prepare)


def _outcome(step: Step, solve: Solve, rounding: np.floating) -> Outcome:
    smallest = _smallest(solve.eigenvalues, step, rounding)
    top = float(solve.eigenvalues[-1])
    return Outcome(
        change=solve.change,
        top=float(solve.top),
        negative_mass=_negative_mass(solve.eigenvalues, step),
        condition=top / smallest if smallest else float("inf"),
        smallest=smallest,
        pull=(step.inputs, solve.alpha) if _is_gradient_step(step) else None,
    )


def _is_gradient_step(step) -> bool:
    """Whether theta moves by J^T alpha and by nothing else."""
    return step.origin is None and step.removed is None and step.kernel is None


def _negative_mass(eigenvalues, step) -> float:
    if not _is_whole_spectrum(eigenvalues, step):
        return float("nan")
    return dynamics.negative_mass(eigenvalues)


def _smallest(eigenvalues, step, rounding) -> float:
    """The smallest eigenvalue, 0 for one that is zero up to the rounding of kernel or solve, NaN
    where not all are known.

    `rounding`: the unit of the kernel's type. Of 1,000 rows in float32, zeros came out as .02 of it
    times the largest eigenvalue, and no small eigenvalue was off by more than .06.
    """
    if not _is_whole_spectrum(eigenvalues, step):
        return float("nan")
    low, top = float(eigenvalues[0]), float(eigenvalues[-1])
    solve = len(eigenvalues) * np.finfo(eigenvalues.dtype).eps  # where `dynamics.converged` cuts
    return low if low > max(rounding, solve) * top else 0.0


def _is_whole_spectrum(eigenvalues, step) -> bool:
    """Whether all eigenvalues are there, and not a few Ritz values."""
    return bool(len(eigenvalues) == np.count_nonzero(step.weights))
