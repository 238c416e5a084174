"""Step by step in dual coefficients, the true batches in their true order, any loss; rules linear in gradients, no method."""

import jax.numpy as jnp
import numpy as np

from ntkcl import dynamics
from ntkcl.forecast.outcome import Outcome, energies
from ntkcl.training.problem import Anchor, Setting, order


def simulated(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, step by step in the coefficients of their own Jacobian rows."""
    f, outcomes = anchor.history[-1], []
    for t in anchor.ahead(count):
        task = setting.tasks[t]
        block = jnp.asarray(setting.kernel_fn(anchor.theta, setting.x, setting.x[task.inputs]))
        k_tt = block[task.inputs]
        alpha = dynamics.simulate(
            k_tt,
            f[task.inputs],
            task.targets,
            jnp.asarray(task.head),
            loss=setting.loss,
            transform=setting.transform,
            steps=setting.steps[t],
            order=order(setting, t),
        )
        change = dynamics.read_out(block, alpha)
        weights = np.broadcast_to(task.head, task.targets.shape)
        outcomes.append(
            Outcome(
                change,
                dynamics.largest_eigenvalue(k_tt, weights),
                float("nan"),
                energies=energies(setting, t, block)
                if count == len(setting.tasks)
                else None,  # of one task alone nobody asks
                pull=(task.inputs, alpha),
            )
        )
        f = f + change
    return outcomes
