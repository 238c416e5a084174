"""The solve of a training rule, `ntkcl.dynamics.sequence`: squared error, full batches (for minibatches their mean path)."""

import numpy as np

from ntkcl import dynamics, kernels, methods
from ntkcl.forecast.gram_solvers import prepare
from ntkcl.forecast.outcome import Outcome, energies, memoryless, rule
from ntkcl.training.problem import Anchor, Setting


def closed(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, by the training rule and the method's twin in kernel space."""
    tangent = kernels.tangent(
        setting.network, anchor.theta, setting.x, anchor.history[-1], setting.kernel_fn
    )
    ahead, whole = (
        anchor.ahead(count),
        count == len(setting.tasks),
    )  # of one task alone nobody asks for energies
    decompose = prepare(setting.effort.krylov_order)
    held: list[tuple] = []
    again = methods.is_naive(setting.method) and memoryless(setting.optimizer)

    def kept(columns, step, dtype):  # once a task, in their order
        one = decompose(columns, step, dtype)
        known = (
            whole and step.columns is None
        )  # a method's step begins with the task's own rows; its own metric is no kernel of ours
        told = energies(setting, ahead[len(held)], np.asarray(one.blocks[0])) if known else None
        # The Gram matrix alone: a block K(x, X_t) lives no longer than its task.
        held.append((told, one._replace(blocks=(), kept_out=None).coefficients if again else None))
        return one

    outcomes = solved(setting, anchor, ahead, tangent, kept)
    return [
        outcome._replace(energies=told, coefficients=own)
        for outcome, (told, own) in zip(outcomes, held, strict=True)
    ]


def solved(setting: Setting, anchor: Anchor, ahead, tangent, prepare) -> list[Outcome]:
    """The tasks `ahead` in that order, of a network linearised as `tangent` tells."""

    steps = []

    def step(t):
        def taken(fs):
            steps.append(setting.method.step(tangent, setting.tasks, t, [*anchor.history, *fs[1:]]))
            return steps[-1]

        return taken

    rules = [rule(setting, t) for t in ahead]
    solves = dynamics.sequence(
        tangent.columns, anchor.history[-1], [step(t) for t in ahead], rules, prepare
    )
    return [
        Outcome(
            solve.change,
            float(solve.top),
            _negative_mass(solve.eigenvalues, step),
            condition=_condition(solve.eigenvalues, step, np.finfo(setting.x.dtype).eps),
            pull=(step.inputs, solve.alpha)
            if (step.origin, step.removed, step.columns) == (None, None, None)
            else None,
        )
        for step, solve in zip(steps, solves, strict=True)
    ]


def _negative_mass(eigenvalues, step) -> float:
    return dynamics.negative_mass(eigenvalues) if _all(eigenvalues, step) else float("nan")


def _condition(eigenvalues, step, rounding) -> float:
    """Infinite for a smallest eigenvalue that is zero up to the rounding of the kernel, or of the solve.

    `rounding`: the unit of the kernel's type. Of 1,000 rows in float32, zeros came out as .02 of it times the largest eigenvalue, and
    no small eigenvalue was off by more than .06.
    """
    if not _all(eigenvalues, step):
        return float("nan")
    low, top = float(eigenvalues[0]), float(eigenvalues[-1])
    solve = len(eigenvalues) * np.finfo(eigenvalues.dtype).eps  # where `forecast.converged` cuts
    return top / low if low > max(rounding, solve) * top else float("inf")


def _all(eigenvalues, step) -> bool:
    """A few Ritz values do not tell."""
    return bool(len(eigenvalues) == np.count_nonzero(step.weights))
