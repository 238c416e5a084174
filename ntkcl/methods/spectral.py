"""Spectral regularisation: an old task's outputs are held along the leading modes of its kernel."""

import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import eigsh

from ntkcl import kernels, validation
from ntkcl.compilation import once
from ntkcl.dynamics import Combined, as_places, combined, own, stacked
from ntkcl.methods.custom import custom
from ntkcl.methods.memory import draw_memory, outputs
from ntkcl.types import Method
from ntkcl.validation import SettingError


@once
def spectral(
    strength: float | int = 0.1, modes: int = 10, per_task: int | None = None, *, seed: int = 0
) -> Method:
    """Minimises the task's mean loss + strength/modes sum_j sum_i (u_ji . (f - f_j))^2.

    The sum is over old tasks j and the `modes` leading eigenvectors u_ji, each of length 1, of
    K(X_j, X_j) over the task's active outputs just after it; f and f_j are the outputs at X_j now
    and then.

    Arguments:
      strength: mu. At modes / (2 n |head|), n the kept inputs of a task, a drift within the modes
        weighs as much as in the mean squared error of that task.
      modes: k.  per_task, seed: which inputs X_j are kept of each task, None for all.
    Kernel space: rows u_ji J(X_j) beside the task's own, with the model's own old outputs as
    targets. Exact for any rule, full batch.
    Raises ValueError, before the task is trained, for a memory larger than the task, and for no
    more rows of it (inputs x active outputs) than modes.
    Cost: the Gram matrix of a task's kept rows, in float64, and its products by Lanczos.
    Source: Hidekel, Raviv 2026.
    """
    validation.finite("method.strength", strength, above=0.0)
    validation.whole("method.modes", modes)
    if per_task is not None:
        validation.whole("method.per_task", per_task)
    validation.seed("method.seed", seed)

    def kept(j, task, n):
        places = draw_memory(seed, j, n, per_task)
        rows = len(places) * np.count_nonzero(task.head)
        if modes >= rows:
            raise SettingError(
                f"method.modes={modes}: expected fewer than the {rows} rows kept of task {j}, "
                "its inputs times its outputs"
            )
        return places

    def begin(memory, network, theta, task):
        kept(len(memory), task, len(task.train.x))  # refused before it is trained
        return memory

    def consolidate(memory, network, loss, theta, task):
        x = task.train.x[kept(len(memory), task, len(task.train.x))]
        f = outputs(network.apply, theta, x)
        leading = _leading(kernels.empirical(network)(theta, x), task.head, modes)
        leading = jnp.asarray(leading, f.dtype)
        return (*memory, (x, leading, _along(leading, f)))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        terms = (
            jnp.sum((_along(leading, outputs(apply, theta, x)) - held) ** 2)
            for x, leading, held in memory
        )
        return task_loss + strength / modes * sum(terms)

    def step(tangent, tasks, t, fs):
        places, rows, parts = as_places(tangent.kernel), list[Combined](), [own(tasks[t])]
        for j, task in enumerate(tasks[:t]):
            inputs = np.asarray(task.inputs)[kept(j, task, len(task.inputs))]
            one = Combined(inputs, _leading(places.block(inputs, inputs), task.head, modes))
            weight = 2 * strength / modes * tasks[t].scale
            parts.append(one.rows(fs[-1], fs[j + 1], weight))
            rows.append(one)
        return stacked(*parts)._replace(kernel=combined(places, rows) if rows else None)

    return custom(begin=begin, objective=objective, consolidate=consolidate, step=step)


def _along(leading, f):
    """u_i . f [k] of modes [k, n, c] and outputs [n, c]."""
    return jnp.tensordot(leading, f, 2)


def _leading(block, head, k: int) -> np.ndarray:
    """The k leading eigenvectors [k, n, c] of a block [n, c, n, c] over the active outputs; NaN
    where training has diverged."""
    n, c = block.shape[:2]
    found, active = np.zeros((k, n * c)), np.flatnonzero(np.tile(np.asarray(head), n))
    gram = np.asarray(block, np.float64).reshape(n * c, n * c)[np.ix_(active, active)]
    start = np.random.default_rng(0).normal(size=len(gram))
    known = np.isfinite(gram).all()
    found[:, active] = eigsh(gram, k, v0=start)[1].T if known else np.nan
    return found.reshape(k, n, c)
