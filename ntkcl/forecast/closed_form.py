"""The closed-form solve of a training rule, `ntkcl.dynamics.sequence`.

For squared error and full batches; for minibatches it is their mean path.
"""

import numpy as np

from ntkcl import dynamics, kernels, methods
from ntkcl.forecast.gram_solvers import prepare
from ntkcl.forecast.outcome import Effort, Outcome, energies, rule
from ntkcl.training.problem import Anchor, Problem


def closed(kernel_fn, effort: Effort):
    """`(problem, anchor, count) -> outcomes` of the next `count` tasks, by the training rule and
    the method's kernel-space equivalent.

    kernel_fn: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]`.
    """

    def forecast(problem: Problem, anchor: Anchor, count: int) -> list[Outcome]:
        network, x = problem.network, problem.x
        tangent = kernels.tangent(network, anchor.theta, x, anchor.history[-1], kernel_fn)
        ahead, whole = anchor.ahead(count), count == len(problem.tasks)
        decompose = prepare(effort.krylov_order)
        solves_again = methods.is_naive(problem.method) and problem.optimizer.memoryless
        kept: list[tuple] = []

        def prepare_and_keep(columns, step, dtype):  # called once a task, in their order
            prepared = decompose(columns, step, dtype)
            # A method's step begins with the task's own rows; its own metric is no kernel of ours.
            # Of one task alone nobody asks for energies.
            known = whole and step.columns is None
            block = prepared.blocks[0]
            energy = energies(problem, ahead[len(kept)], np.asarray(block)) if known else None
            # The Gram matrix alone: a block K(x, X_t) lives no longer than its task.
            gram = prepared._replace(blocks=(), kept_out=None)
            kept.append((energy, gram.coefficients if solves_again else None))
            return prepared

        outcomes = solved(problem, anchor, ahead, tangent, prepare_and_keep)
        return [
            outcome._replace(energies=energy, coefficients=coefficients)
            for outcome, (energy, coefficients) in zip(outcomes, kept, strict=True)
        ]

    return forecast


def solved(problem: Problem, anchor: Anchor, ahead, tangent, prepare) -> list[Outcome]:
    """The tasks `ahead` in that order, of a network linearised as `tangent` says."""
    steps = []

    def step(t):
        def step_of(outputs):
            history = [*anchor.history, *outputs[1:]]
            steps.append(problem.method.step(tangent, problem.tasks, t, history))
            return steps[-1]

        return step_of

    rules = [rule(problem, t) for t in ahead]
    solves = dynamics.sequence(
        tangent.columns, anchor.history[-1], [step(t) for t in ahead], rules, prepare
    )
    rounding = np.finfo(problem.x.dtype).eps
    return [
        Outcome(
            change=solve.change,
            top=float(solve.top),
            negative_mass=_negative_mass(solve.eigenvalues, step),
            condition=_condition(solve.eigenvalues, step, rounding),
            pull=(step.inputs, solve.alpha) if _is_gradient_step(step) else None,
        )
        for step, solve in zip(steps, solves, strict=True)
    ]


def _is_gradient_step(step) -> bool:
    """Whether theta moves by J^T alpha and by nothing else."""
    return step.origin is None and step.removed is None and step.columns is None


def _negative_mass(eigenvalues, step) -> float:
    if not _is_whole_spectrum(eigenvalues, step):
        return float("nan")
    return dynamics.negative_mass(eigenvalues)


def _condition(eigenvalues, step, rounding) -> float:
    """Infinite for a smallest eigenvalue that is zero up to the rounding of kernel or solve.

    `rounding`: the unit of the kernel's type. Of 1,000 rows in float32, zeros came out as .02 of it
    times the largest eigenvalue, and no small eigenvalue was off by more than .06.
    """
    if not _is_whole_spectrum(eigenvalues, step):
        return float("nan")
    low, top = float(eigenvalues[0]), float(eigenvalues[-1])
    solve = len(eigenvalues) * np.finfo(eigenvalues.dtype).eps  # where `dynamics.converged` cuts
    return top / low if low > max(rounding, solve) * top else float("inf")


def _is_whole_spectrum(eigenvalues, step) -> bool:
    """A few Ritz values do not tell."""
    return bool(len(eigenvalues) == np.count_nonzero(step.weights))
