"""Elastic weight consolidation by the diagonal of the Fisher information."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import validation
from ntkcl.compilation import once
from ntkcl.dynamics.steps import own, task_step
from ntkcl.methods.custom import custom
from ntkcl.methods.fisher import LABELS, diagonal_fisher, is_softmax
from ntkcl.types import Method
from ntkcl.validation import SettingError


class Memory(NamedTuple):
    """Where the penalty is centred, the sum of the tasks' diagonals (with their damping where each
    has a centre of its own), and how many tasks there were."""

    centre: Any
    fisher: Any
    tasks: Any


@once
def ewc_diagonal(
    penalty: float | int = 1.0,
    *,
    damping: float | int = 1e-3,
    labels: str = "all",
    batch: int = 1,
    online: bool = True,
    seed: int = 0,
) -> Method:
    """Minimises the task's mean loss + penalty/2 sum_k D_k (theta - theta_before)_k^2.

    D = damping + sum over old tasks j of F_j, the diagonal of the Fisher information of task j at
    the parameters theta_j just after it (`ntkcl.methods.fisher`). One penalty, centred at the
    parameters before the task (online EWC). Task 0 has none. For squared error and all labels F_j
    is the mean of sum_a J_a^2 over active outputs.

    Arguments:
      penalty: lambda.
      damping: added to D, so that parameters no old output depends on are not free to move without
        bound.
      labels: which targets y the expectation is over: "all" of them, weighted by the model's
        probabilities, exactly; "sampled", one drawn from the model for each sample, right on
        average; "predicted", the model's most probable class; "true", the data's. The last two are
        not the Fisher information but are often called so ("true": the empirical Fisher).
      batch: how many samples' gradients, in the order of the data, are averaged before they are
        squared. 1: the Fisher information; more: with true labels what avalanche computes, about
        `batch` times smaller.
      online: false: a penalty for each old task,
        penalty/2 sum_j sum_k (damping + F_j)_k (theta - theta_j)_k^2, kept as the one quadratic
        that their sum is, up to a constant.
      seed: of sampled labels.
    Kernel space: the kernel J diag(1/D) J^T with a ridge of lambda scale_t, for training to the end
    alone: gradient descent on this penalty mixes two matrices that do not commute. None for other
    labels, batches, or centres: forecasts train the linearised network.
    Raises ValueError for a D with zeros; predicted labels and squared error, where g is zero; a
    batch larger than a task.
    Source: Kirkpatrick et al. 2017; online: Schwarz et al. 2018; labels and batches: van de Ven
    2025.
    """
    _check(penalty, damping, labels, batch, online)
    validation.seed("method.seed", seed)

    def begin(memory, network, theta, task):
        if batch > 1 and batch > len(task.train.x):
            t = int(memory.tasks) if memory else 0
            raise SettingError(
                f"method.batch={batch}: expected at most {len(task.train.x)}, the samples of task "
                f"{t}"
            )
        return memory._replace(centre=theta) if memory and online else memory

    def consolidate(memory, network, loss, theta, task):
        key = jax.random.fold_in(jax.random.key(seed), int(memory.tasks) if memory else 0)
        static = dict(softmax=_is_softmax(loss, labels), labels=labels, batch=batch)
        head = jnp.asarray(task.head)
        fresh = diagonal_fisher(network.apply, theta, key, *task.train, head, **static)
        if online:
            return _added(memory, theta, fresh)
        return _merged(memory, theta, jax.tree.map(lambda d: d + damping, fresh))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        if not memory:
            return task_loss
        more = damping if online else 0.0

        def term(a, b, d):
            return jnp.sum((d + more) * (a - b) ** 2)

        terms = jax.tree.map(term, theta, memory.centre, memory.fisher)
        return task_loss + penalty / 2 * sum(jax.tree.leaves(terms))

    def step(tangent, tasks, t, fs):
        if t == 0:
            return task_step(tasks[t])
        kernel = tangent.scaled(_metric(tangent, tasks[:t], damping))
        return task_step(tasks[t])._replace(ridge=penalty * tasks[t].scale, kernel=kernel)

    has_step = labels == "all" and online
    parts: dict = dict(begin=begin, objective=objective, consolidate=consolidate)
    return custom(**parts, step=step if has_step else None, converged=has_step)


def _check(penalty, damping, labels, batch, online) -> None:
    validation.finite("method.penalty", penalty, above=0.0)
    validation.finite("method.damping", damping, least=0.0)
    validation.one_of("method.labels", labels, LABELS)
    if validation.whole("method.batch", batch) > 1 and labels == "all":
        raise SettingError(
            f"method.batch={batch}: expected 1 with method.labels=all, or labels that are sampled, "
            "predicted or true"
        )
    validation.flag("method.online", online)


def _is_softmax(loss, labels) -> bool:
    softmax = is_softmax(loss)
    if labels == "predicted" and not softmax:
        raise SettingError(
            "method.labels=predicted: the gradient at squared error's own prediction is zero; "
            "expected all, sampled or true"
        )
    return softmax


def _added(memory: Memory | tuple, theta, fresh) -> Memory:
    """One penalty, centred at theta."""
    if not isinstance(memory, Memory):
        return Memory(theta, fresh, jnp.int32(1))
    return Memory(theta, jax.tree.map(jnp.add, memory.fisher, fresh), memory.tasks + 1)


def _merged(memory: Memory | tuple, theta, fresh) -> Memory:
    """A penalty for each task as one quadratic.

    sum_j D_j (theta - theta_j)^2 = D (theta - centre)^2 + a constant, the centre being the mean of
    theta_j weighted by D_j.
    """
    if not isinstance(memory, Memory):
        return Memory(theta, fresh, jnp.int32(1))
    total = jax.tree.map(jnp.add, memory.fisher, fresh)

    def weighted(a, d, b, own):
        return a + own / jnp.where(d > 0, d, 1.0) * (b - a)

    centre = jax.tree.map(weighted, memory.centre, total, theta, fresh)
    return Memory(centre, total, memory.tasks + 1)


def _metric(tangent, old_tasks, damping):
    """D, shaped as theta, of a network linearised at one anchor."""
    rows = [own(task, 1 / len(task.inputs)) for task in old_tasks]
    inputs = np.concatenate([inputs for inputs, _, _ in rows])
    weights = np.concatenate([weights for *_, weights in rows])
    metric = jax.tree.map(lambda d: d + damping, tangent.squares(inputs, weights))
    if min(float(jnp.min(d)) for d in jax.tree.leaves(metric)) <= 0:
        raise SettingError(
            f"method.damping={damping}: the Fisher information has zeros on its diagonal; use a "
            "damping above 0"
        )
    return metric
