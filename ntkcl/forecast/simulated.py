"""Step by step in dual coefficients: the true batches in their true order, any loss.

For rules that are linear in gradients, and no method.
"""

import jax.numpy as jnp
import numpy as np

from ntkcl import dynamics, kernels
from ntkcl.forecast.gram_solvers import largest
from ntkcl.forecast.outcome import Effort, Outcome
from ntkcl.training.problem import Anchor, Problem, batch_order


def simulated(kernel_fn, effort: Effort, by_columns: bool = False):
    """`(problem, anchor, count) -> outcomes`, step by step in the coefficients of each task's own
    Jacobian rows.

    Arguments as of `closed`.
    """

    def forecast(problem: Problem, anchor: Anchor, count: int) -> list[Outcome]:
        f, outcomes = anchor.history[-1], list[Outcome]()
        here = problem.network, anchor.theta, problem.x, f
        kernel = kernels.tangent(*here, kernel_fn, by_columns=by_columns).kernel
        places = dynamics.as_places(kernel)
        for t in anchor.ahead(count):
            outcomes.append(_outcome(problem, t, places, f))
            f = f + outcomes[-1].change
        return outcomes

    return forecast


def _outcome(problem: Problem, t: int, places: dynamics.Places, f) -> Outcome:
    """Of task t, from the outputs f [N, c] before it."""
    task = problem.tasks[t]
    k_tt = jnp.asarray(places.block(task.inputs, task.inputs))
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
        change=jnp.asarray(places.change(task.inputs, alpha), f.dtype),
        top=largest(np.asarray(k_tt), weights),
        negative_mass=float("nan"),
        pull=(task.inputs, alpha),
    )
