"""The solve of a training rule, `ntkcl.forecast.sequence`: squared error, full batches (for minibatches their mean path)."""

import numpy as np

from ntkcl import forecast, kernels
from ntkcl.predict.decompositions import prepare
from ntkcl.predict.setting import Anchor, Outcome, Setting, energies, memoryless, rule


def closed(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, by the training rule and the method's twin in kernel space."""
    tangent = kernels.tangent(setting.network, anchor.theta, setting.x, anchor.history[-1], setting.kernel_fn)
    ahead, seen = anchor.ahead(count), {}

    def columns(inputs):
        block = tangent.columns(inputs)
        for t in ahead if count == len(setting.tasks) else ():  # of one task alone nobody asks
            # a method's step begins with the task's own rows
            if t not in seen and np.array_equal(inputs[: len(setting.tasks[t].inputs)], setting.tasks[t].inputs):
                seen[t] = energies(setting, t, block)
        return block

    decompose, held = prepare(setting.effort.krylov_order), []
    again = setting.method.plain and memoryless(setting.optimizer)

    def kept(*step):
        one = decompose(*step)
        # The Gram matrix alone: a block K(x, X_t) lives no longer than its task.
        held.append(one._replace(blocks=(), kept_out=None).coefficients if again else None)
        return one

    outcomes = solved(setting, anchor, ahead, tangent._replace(columns=columns), kept)
    return [
        outcome._replace(energies=seen.get(t), coefficients=coefficients)
        for t, outcome, coefficients in zip(ahead, outcomes, held, strict=True)
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
    solves = forecast.sequence(tangent.columns, anchor.history[-1], [step(t) for t in ahead], rules, prepare)
    return [
        Outcome(
            solve.change,
            float(solve.top),
            _negative_mass(solve.eigenvalues, step),
            condition=_condition(solve.eigenvalues, step, np.finfo(setting.x.dtype).eps),
            pull=(step.inputs, solve.alpha) if (step.origin, step.removed, step.columns) == (None, None, None) else None,
        )
        for step, solve in zip(steps, solves, strict=True)
    ]


def _negative_mass(eigenvalues, step) -> float:
    return forecast.negative_mass(eigenvalues) if _all(eigenvalues, step) else float("nan")


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
