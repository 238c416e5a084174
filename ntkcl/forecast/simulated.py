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
        for t in anchor.ahead(count):
            task = problem.tasks[t]
            block = jnp.asarray(kernel_fn(anchor.theta, problem.x, problem.x[task.inputs]))
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
            whole = count == len(problem.tasks)  # of one task alone nobody asks for energies
            outcomes.append(
                Outcome(
                    change=dynamics.read_out(block, alpha),
                    top=dynamics.largest_eigenvalue(k_tt, weights),
                    negative_mass=float("nan"),
                    energies=energies(problem, t, block) if whole else None,
                    pull=(task.inputs, alpha),
                )
            )
            f = f + outcomes[-1].change
        return outcomes

    return forecast
