"""Step by step in dual coefficients: the true batches in their true order, any loss.

For rules that are linear in gradients, and no method.
"""

import jax.numpy as jnp
import numpy as np

from ntkcl import dynamics
from ntkcl.forecast.outcome import Effort, Outcome, energies
from ntkcl.training.problem import Anchor, Problem, batch_order


def simulated(kernel_fn, effort: Effort):
    """`(problem, anchor, count) -> outcomes`, step by step in the coefficients of each task's own
    Jacobian rows."""

    def forecast(problem: Problem, anchor: Anchor, count: int) -> list[Outcome]:
        f, outcomes = anchor.history[-1], []
        has_energies = count == len(problem.tasks)  # of one task alone nobody asks for them
        for t in anchor.ahead(count):
            inputs = problem.tasks[t].inputs
            block = jnp.asarray(kernel_fn(anchor.theta, problem.x, problem.x[inputs]))
            outcome = _outcome(problem, t, block, f)
            if has_energies:
                outcome = outcome._replace(energies=energies(problem, t, block))
            outcomes.append(outcome)
            f = f + outcome.change
        return outcomes

    return forecast


def _outcome(problem: Problem, t: int, block, f) -> Outcome:
    """Of task t, from its block K(x, X_t) [N, c, n, c] and the outputs f [N, c] before it."""
    task = problem.tasks[t]
    k_tt = block[task.inputs]
    alpha = dynamics.simulate(
        k_tt,
        f[task.inputs],
        task.targets,
        jnp.asarray(task.head),
        loss=problem.loss,
        transform=problem.transform,
        steps=problem.steps[t],
        order=batch_order(problem, t),
    )
    weights = np.broadcast_to(task.head, task.targets.shape)
    return Outcome(
        change=dynamics.read_out(block, alpha),
        top=dynamics.largest_eigenvalue(k_tt, weights),
        negative_mass=float("nan"),
        pull=(task.inputs, alpha),
    )
