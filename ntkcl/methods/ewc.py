"""Elastic weight consolidation: a quadratic penalty on the parameters, weighted by how much old outputs depend on them.

The Fisher information is that of the model's own distribution over targets, mean over samples of
E_y [g g^T], g = d log p(y | x) / dtheta: normal with variance 1 around the active outputs for
squared error, the softmax of them for cross-entropy. It is a sum over outputs where the loss is a
mean, so that squared error's is J^T J whatever the size of the head.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import validation
from ntkcl.compilation import once, portable
from ntkcl.dynamics.steps import own, stacked, task_step
from ntkcl.methods.custom import custom
from ntkcl.methods.memory import mean_over
from ntkcl.types import Loss, Method


@once
def ewc(penalty: float | int = 1.0, *, online: bool = False) -> Method:
    """Minimises the task's mean loss + penalty/2 sum over old tasks j of (theta - theta_j)^T F_j (theta - theta_j).

    F_j = mean over the samples of task j of J^T J over its active outputs, at theta_j: the full
    Fisher information of squared error, which is its generalised Gauss-Newton matrix; of J^T (diag
    p - p p^T) J for cross-entropy, p the softmax at theta_j. It is applied, never stored; the
    memory holds theta_j and the inputs.

    Arguments:
      penalty: lambda.
      online: every penalty is centred where the parameters were before this task, in place of
        theta_j.
    Kernel space: replay of the model's own outputs, those after task j (online: those before task
    t), an output weighing lambda scale_t / n_j. Exact for any rule, finite steps included, full
    batch.
    Source: Kirkpatrick et al. 2017 (centres theta_j); online: Schwarz et al. 2018.
    """
    validation.finite("method.penalty", penalty, above=0.0)
    validation.flag("method.online", online)

    def begin(memory, network, theta, task):
        return tuple(
            (there, theta if online else centre, x, head) for there, centre, x, head in memory
        )

    def consolidate(memory, network, loss, theta, task):
        return (*memory, (theta, theta, task.train.x, task.head))

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        known(loss)

        def moved(there, centre, x, head):
            away = jax.tree.map(jnp.subtract, theta, centre)
            f, change = jax.vmap(lambda x: jax.jvp(lambda p: apply(p, x), (there,), (away,)))(x)
            if loss.quadratic:
                return jnp.sum(head[None] * change**2) / len(x)
            p = jax.nn.softmax(f, where=head[None] > 0, axis=-1)
            mean = jnp.sum(p * change, -1, keepdims=True)
            return jnp.sum(p * (change - mean) ** 2) / len(x)

        return task_loss + penalty / 2 * sum(moved(*kept) for kept in memory)

    def step(tangent, tasks, t, fs):
        held = [
            task._replace(targets=fs[-1 if online else j + 1][np.asarray(task.inputs)])
            for j, task in enumerate(tasks[:t])
        ]
        return stacked(
            own(tasks[t]),
            *(own(task, penalty * tasks[t].scale / len(task.inputs)) for task in held),
        )

    return custom(begin=begin, objective=objective, consolidate=consolidate, step=step)


def known(loss: Loss) -> bool:
    """Whether the loss is that of a softmax, and not squared error; ValueError for one whose model is neither."""
    if loss.quadratic:
        return False
    with jax.ensure_compile_time_eval():
        f, y = jnp.array([0.3, -1.2, 0.5]), jnp.array([0.0, 0.7, 0.3])
        # Compared in here too: outside, even a constant is traced while a training is compiled.
        apart = float(
            jnp.max(jnp.abs(jax.grad(loss.value)(f, y, jnp.ones(3)) - (jax.nn.softmax(f) - y)))
        )
    if not apart < 1e-4:
        raise ValueError(
            "loss: the Fisher information of this loss is not known; expected squared_error or cross_entropy"
        )
    return True


class Memory(NamedTuple):
    """Where the penalty is centred, the sum of the tasks' diagonals (with their damping where each has a centre of its own), and how
    many there were."""

    centre: Any
    fisher: Any
    tasks: Any


def diagonal_fisher(apply, theta, key, x, y, head, *, softmax, labels, batch):
    """The diagonal of the Fisher information, shaped as theta; see `ewc_diagonal`."""
    return _diagonal_fisher(
        portable(apply), theta, key, x, y, head, softmax=softmax, labels=labels, batch=batch
    )


@partial(jax.jit, static_argnames=("softmax", "labels", "batch"))
def _diagonal_fisher(apply, theta, key, x, y, head, *, softmax, labels, batch):
    active = head > 0

    def model(f):
        return jax.nn.softmax(f, where=active) if softmax else f

    def score(f, y):
        """d log p(y | x) / df, of active outputs."""
        return jnp.where(
            active,
            jnp.sum(y, where=active, keepdims=True) * -model(f) + y if softmax else y - f,
            0.0,
        )

    def label(key, f, y):
        if labels == "true":
            return y
        if not softmax:
            return f + jax.random.normal(key, f.shape, f.dtype)
        place = (
            jax.random.categorical(key, jnp.where(active, f, -jnp.inf))
            if labels == "sampled"
            else jnp.argmax(model(f))
        )
        return jax.nn.one_hot(place, len(f), dtype=f.dtype)

    def exact(sample):
        """sum_a p_a (J^T (e_a - p))^2, or sum_a (J^T e_a)^2."""
        f, back = jax.vjp(lambda theta: apply(theta, sample[0]), theta)
        rows = jnp.eye(len(f), dtype=f.dtype)
        weights, cotangents = (
            (model(f), jax.vmap(score, (None, 0))(f, rows)) if softmax else (head, rows)
        )
        return jax.tree.map(
            lambda j: jnp.tensordot(weights, j**2, 1), jax.vmap(lambda v: back(v)[0])(cotangents)
        )

    def squared(samples):
        """The square of the mean gradient over some samples."""
        x, y, keys, counts = samples
        f, back = jax.vjp(lambda theta: jax.vmap(apply, (None, 0))(theta, x), theta)
        cotangents = (
            counts[:, None] * jax.vmap(score)(f, jax.vmap(label)(keys, f, y)) / jnp.sum(counts)
        )
        return jax.tree.map(jnp.square, back(cotangents)[0])

    if labels == "all":
        return mean_over(exact, theta, (x,))
    n, groups = len(x), -(-len(x) // batch)
    filled = jnp.arange(groups * batch) % n  # the last one may be smaller
    counts = (jnp.arange(groups * batch) < n).astype(
        x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else y.dtype
    )
    samples = jax.tree.map(lambda a: a[filled], (x, y, jax.random.split(key, n)))
    return mean_over(
        squared,
        theta,
        jax.tree.map(lambda a: a.reshape(groups, batch, *a.shape[1:]), (*samples, counts)),
    )


LABELS = ("all", "sampled", "predicted", "true")


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
    """Minimises the task's mean loss + penalty/2 sum_k D_k (theta - theta_before)_k^2, D the diagonal of the Fisher information.

    D = damping + sum over old tasks j of the diagonal F_j of the mean over samples of E_y [g g^T],
    g = d log p(y | x) / dtheta, each at the parameters theta_j just after its task; one penalty,
    centred at the parameters before the task (online EWC). Task 0 has none. For squared error and
    all labels F_j is the mean of sum_a J_a^2 over active outputs.

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
      online: false: a penalty for each old task, penalty/2 sum_j sum_k (damping + F_j)_k (theta -
        theta_j)_k^2, kept as the one quadratic that their sum is, up to a constant.
      seed: of sampled labels.
    Kernel space: the kernel J diag(1/D) J^T with a ridge of lambda scale_t, for training to the end
    alone: gradient descent on this penalty mixes two matrices that do not commute. None for other
    labels, batches, or centres: forecasts train the linearised network.
    Raises ValueError for a D with zeros; predicted labels and squared error, where g is zero; a
    batch larger than a task.
    Source: Kirkpatrick et al. 2017; online: Schwarz et al. 2018; labels and batches: van de Ven
    2025.
    """
    validation.finite("method.penalty", penalty, above=0.0)
    validation.finite("method.damping", damping, least=0.0)
    validation.one_of("method.labels", labels, LABELS)
    if validation.whole("method.batch", batch) > 1 and labels == "all":
        raise ValueError(
            f"method.batch={batch}: expected 1 with method.labels=all, or labels that are sampled, predicted or true"
        )
    validation.flag("method.online", online)
    validation.seed("method.seed", seed)

    def begin(memory, network, theta, task):
        if batch > 1 and batch > len(task.train.x):
            t = int(memory.tasks) if memory else 0
            raise ValueError(
                f"method.batch={batch}: expected at most {len(task.train.x)}, the samples of task {t}"
            )
        return memory._replace(centre=theta) if memory and online else memory

    def consolidate(memory, network, loss, theta, task):
        softmax, t = known(loss), int(memory.tasks) if memory else 0
        if labels == "predicted" and not softmax:
            raise ValueError(
                "method.labels=predicted: the gradient at squared error's own prediction is zero; expected all, sampled or true"
            )
        key = jax.random.fold_in(jax.random.key(seed), t)
        told = dict(softmax=softmax, labels=labels, batch=batch)
        fresh = diagonal_fisher(
            network.apply, theta, key, *task.train, jnp.asarray(task.head), **told
        )
        if not online:
            fresh = jax.tree.map(lambda d: d + damping, fresh)
        if not memory:
            return Memory(theta, fresh, jnp.int32(1))
        total = jax.tree.map(jnp.add, memory.fisher, fresh)
        if online:
            return Memory(theta, total, memory.tasks + 1)
        # sum_j D_j (theta - theta_j)^2 = D (theta - centre)^2 + a constant, the centre being the mean of theta_j weighted by D_j
        centre = jax.tree.map(
            lambda a, d, b, own: a + own / jnp.where(d > 0, d, 1.0) * (b - a),
            memory.centre,
            total,
            theta,
            fresh,
        )
        return Memory(centre, total, memory.tasks + 1)

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        if not memory:
            return task_loss
        more = damping if online else 0.0
        terms = jax.tree.map(
            lambda a, b, d: jnp.sum((d + more) * (a - b) ** 2), theta, memory.centre, memory.fisher
        )
        return task_loss + penalty / 2 * sum(jax.tree.leaves(terms))

    def step(tangent, tasks, t, fs):
        if t == 0:
            return task_step(tasks[t])
        rows = [own(task, 1 / len(task.inputs)) for task in tasks[:t]]
        fisher = tangent.squares(
            np.concatenate([inputs for inputs, _, _ in rows]),
            np.concatenate([weights for *_, weights in rows]),
        )
        metric = jax.tree.map(lambda d: d + damping, fisher)
        least = min(float(jnp.min(d)) for d in jax.tree.leaves(metric))
        if least <= 0:
            raise ValueError(
                f"method.damping={damping}: the Fisher information has zeros on its diagonal; use a damping above 0"
            )
        return task_step(tasks[t])._replace(
            ridge=penalty * tasks[t].scale, columns=tangent.scaled(metric)
        )

    twin = labels == "all" and online
    parts: dict = dict(begin=begin, objective=objective, consolidate=consolidate)
    return custom(**parts, step=step if twin else None, converged=twin)
