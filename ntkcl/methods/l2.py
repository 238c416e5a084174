"""A quadratic penalty on the distance of the parameters from a centre."""

import jax
import jax.numpy as jnp

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.dynamics.steps import task_step
from ntkcl.methods.custom import custom
from ntkcl.types import Method

CENTRES = ("previous", "start", "zero")


@once
def l2(penalty: float | int = 1e-3, centre: str = "previous") -> Method:
    """Minimises the task's mean loss + penalty/2 |theta - centre|^2.

    Arguments:
      penalty: lambda, in the units of the mean loss.
      centre: "previous", the parameters before this task (so task 0 is pulled to its start);
        "start", those before the first task; "zero", which is coupled weight decay of the same
        number, and with plain SGD decoupled decay of lambda x the learning rate.
    Kernel space: a ridge of lambda scale_t on the task's own rows, scale_t what turns its mean loss
    into the (1/2) sum. Exact for any rule.
    """
    validation.finite("method.penalty", penalty, above=0.0)
    validation.one_of("method.centre", centre, CENTRES)

    def begin(memory, network, theta, task):
        if centre == "zero":
            return jax.tree.map(jnp.zeros_like, theta)
        is_first_task = isinstance(memory, tuple) and memory == ()
        return theta if centre == "previous" or is_first_task else memory

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), theta, memory)
        return task_loss + penalty / 2 * sum(jax.tree.leaves(squares))

    def step(tangent, tasks, t, fs):
        origins = {"previous": lambda: None, "start": lambda: fs[0], "zero": tangent.at_zero}
        ridge, origin = penalty * tasks[t].scale, origins[centre]()
        return task_step(tasks[t])._replace(ridge=ridge, origin=origin)

    return custom(begin=begin, objective=objective, step=step)
