"""What training will do to a network, foretold at an anchor (theta, and all that was measured up to there) in one of these forms.

* `closed`: the solve of a training rule, `ntkcl.forecast.sequence`; squared error, full batches (for minibatches their mean path).
* `matrix_free`: the same rule by Lanczos on kernel-vector products, for tasks whose kernels no memory holds; no method.
* `simulated`: step by step in dual coefficients, the true batches in their true order, any loss; rules linear in gradients, no method.
* `linearised`: the linearised network is trained, by the trainer itself with any loss, rule and method; no kernel is held.

All of them foretell the network linearised at the anchor, and agree where they overlap.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl import forecast, kernels, networks, train
from ntkcl.settings import one_of
from ntkcl.types import Key, Loss, Method, Network, Optimizer, Params, Stream, TaskRows


class Setting(NamedTuple):
    """The training that is to be foretold: everything but the network's parameters.

    x: all N inputs of the stream, the train sets in turn and then the test sets.  tasks: where each task stands among them.
    network: as it is trained, its `apply` centred where that is asked for.  transform: the optimizer's at this learning rate, made once
    so that it is compiled once.
    """

    key: Key
    stream: Stream
    x: Any
    tasks: tuple[TaskRows, ...]
    network: Network
    kernel_fn: Callable[..., Any]
    loss: Loss
    optimizer: Optimizer
    method: Method
    learning_rate: float
    transform: Any
    steps: int
    batch_size: int | None
    krylov_order: int


class Anchor(NamedTuple):
    """A network on its way: theta, the method's memory, and the outputs [f_0, ..., f_t] before and after each task so far."""

    theta: Params
    memory: Any
    history: tuple[Float[Array, "N c"], ...]

    def ahead(self, count: int) -> range:
        """The next `count` tasks."""
        first = len(self.history) - 1
        return range(first, first + count)


class Outcome(NamedTuple):
    """What one task will do: the change [N, c] of all outputs; the largest eigenvalue its rule sees, and the share of eigenvalues below
    zero, NaN where no kernel was held.

    `energies` [T, 2]: what `forecast.baselines.energy` tells of the blocks between the train inputs of every task and of this one; None
    where no kernel was held.
    """

    change: Float[Array, "N c"]
    top: float
    negative_mass: float
    energies: Any = None


def closed(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, by the training rule and the method's twin in kernel space."""
    tangent = kernels.tangent(setting.network, anchor.theta, setting.x, anchor.history[-1], setting.kernel_fn)
    ahead, energies = anchor.ahead(count), {}

    def columns(inputs):
        block = tangent.columns(inputs)
        for t in ahead:  # a method's step begins with the task's own rows
            if t not in energies and np.array_equal(inputs[: len(setting.tasks[t].inputs)], setting.tasks[t].inputs):
                energies[t] = _energies(setting, t, block)
        return block

    def step(t):
        return lambda fs: setting.method.step(tangent, setting.tasks, t, [*anchor.history, *fs[1:]])

    rules = [_rule(setting, setting.tasks[t]) for t in ahead]
    solves = forecast.sequence(columns, anchor.history[-1], [step(t) for t in ahead], rules)
    return [
        Outcome(solve.change, float(solve.top), forecast.negative_mass(solve.eigenvalues), energies.get(t))
        for t, solve in zip(ahead, solves, strict=True)
    ]


def matrix_free(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks by the training rule, alpha = g(K_tt) r from `krylov_order` products with K_tt and no block of it."""
    product = kernels.operator(setting.network).product
    f, outcomes = anchor.history[-1], []
    for t in anchor.ahead(count):
        task = setting.tasks[t]
        x_t, rule = setting.x[task.inputs], _rule(setting, task)
        head = jnp.asarray(task.head, setting.x.dtype)[None]

        def matvec(v, x_t=x_t, head=head):
            return head * product(anchor.theta, x_t, None, head * v)

        residual = (task.targets - f[task.inputs]).astype(setting.x.dtype)
        alpha = kernels.krylov.filtered(matvec, rule, order=setting.krylov_order)(head * residual)
        change = product(anchor.theta, setting.x, x_t, alpha).astype(f.dtype)
        outcomes.append(Outcome(change, float("nan"), float("nan")))
        f = f + change
    return outcomes


def simulated(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, step by step in the coefficients of their own Jacobian rows."""
    f, outcomes = anchor.history[-1], []
    for t in anchor.ahead(count):
        task = setting.tasks[t]
        block = jnp.asarray(setting.kernel_fn(anchor.theta, setting.x, setting.x[task.inputs]))
        k_tt = block[task.inputs]
        alpha = forecast.simulate(
            k_tt,
            f[task.inputs],
            task.targets,
            jnp.asarray(task.head),
            loss=setting.loss,
            transform=setting.transform,
            steps=setting.steps,
            order=order(setting, t),
        )
        change = forecast.read_out(block, alpha)
        weights = np.broadcast_to(task.head, task.targets.shape)
        outcomes.append(Outcome(change, forecast.largest_eigenvalue(k_tt, weights), float("nan"), _energies(setting, t, block)))
        f = f + change
    return outcomes


def linearised(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, by training the network linearised at the anchor."""
    return _trained(setting, networks.linearised(setting.network, anchor.theta), anchor, count)


def input_cosine(setting: Setting, f0: Float[Array, "N c"]) -> np.ndarray:
    """A baseline: the changes [T, N, c] of f_0(x) + W x / sqrt(n_0), whose kernel is X X^T / n_0 (x) I. Does the network matter?

    Trained from W = 0 as the network would be, with any loss, rule and method; being linear it is its own forecast. A rate that is
    stable for the network need not be so here: then the changes grow without bound, and say so.
    """
    flat = setting.x.reshape(len(setting.x), -1)
    x = jnp.concatenate([flat / flat.shape[1] ** 0.5, jnp.asarray(f0, flat.dtype)], 1)
    stream = tuple(
        task._replace(train=task.train._replace(x=x[rows.inputs])) for task, rows in zip(setting.stream, setting.tasks, strict=True)
    )
    weights = jnp.zeros((flat.shape[1], f0.shape[1]), flat.dtype)
    told = _trained(setting._replace(stream=stream, x=x), INPUTS, Anchor(weights, (), (f0,)), len(stream))
    return np.stack([outcome.change for outcome in told])


def _from_inputs(weights, x):
    return x[len(weights) :] + x[: len(weights)] @ weights


INPUTS = Network(None, _from_inputs)  # one for all runs, so that it is compiled once


def slopes(setting: Setting) -> Callable[..., float]:
    """A baseline: `(t, theta, f) -> |dL_t/dtheta|`, the gradient of task t's mean loss at theta, where the outputs are f [N, c]."""
    operator = kernels.operator(setting.network)

    @jax.jit
    def signal(f, y, head):
        return jax.grad(lambda f: jnp.mean(jax.vmap(setting.loss.value, (0, 0, None))(f, y, head)))(f)

    def slope(t, theta, f):
        x, y = setting.stream[t].train
        own = jnp.asarray(f[setting.tasks[t].inputs], y.dtype)
        gradient = operator.vjp(theta, x, signal(own, y, setting.stream[t].head))
        return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))))

    return slope


def _trained(setting, network, anchor, count):
    forward = jax.jit(jax.vmap(network.apply, (None, 0)))
    theta, memory, outcomes = anchor.theta, anchor.memory, []
    f = forward(theta, setting.x)
    for t in anchor.ahead(count):
        fitted, memory = fit(setting, t, network.apply, theta, memory)
        theta, before = fitted.theta, f
        f = forward(theta, setting.x)
        outcomes.append(Outcome(f.astype(jnp.float64) - before.astype(jnp.float64), float("nan"), float("nan")))
    return outcomes


DENSE = 5000  # rows x outputs up to which the stability limit is read off the Gram matrix itself
LARGEST = 30  # products for the largest eigenvalue of a larger one: it is found first, and best

FORMS = {"closed": closed, "matrix_free": matrix_free, "simulated": simulated, "linearised": linearised}
AUTO = ("auto", *FORMS)


def form_of(form: str, loss: Loss, optimizer: Optimizer, method: Method, full_batches: bool) -> str:
    """The form that "auto" stands for, the first that is exact for the linearised network; ValueError for one that cannot be."""
    one_of("forecast.form", form, AUTO)
    against = {
        "closed": {
            "the loss is not squared error": not loss.quadratic,
            "the optimizer has no rule in kernel space": optimizer.rule is None,
            "the method has a twin for training to the end alone": method.converged,
        },
        "matrix_free": {
            "the loss is not squared error": not loss.quadratic,
            "the optimizer has no rule in kernel space": optimizer.rule is None,
            "a method other than naive changes more than the targets": not method.plain,
        },
        "simulated": {
            "the optimizer is not linear in gradients": optimizer.rule is None,
            "a method other than naive changes more than the targets": not method.plain,
        },
        "linearised": {},
    }
    reasons = {name: [reason for reason, holds in each.items() if holds] for name, each in against.items()}
    if form == "auto":
        return next(name for name in ("closed", "simulated", "linearised") if not reasons[name] and (full_batches or name != "closed"))
    if reasons[form]:
        fit = " or ".join(name for name in FORMS if not reasons[name])
        raise ValueError(f"forecast.form={form}: {reasons[form][0]}; use {fit} or auto")
    return form


def fit(setting: Setting, t: int, apply, theta, memory) -> tuple[train.Fit, Any]:
    """Task t trained, and the method's memory afterwards: of the network itself, or of a linearised one."""
    task = setting.stream[t]
    memory = setting.method.begin(memory, apply, theta, task)
    fitted = train.fit(
        _key(setting, t),
        theta,
        task.train,
        task.head,
        apply=apply,
        loss=setting.loss,
        transform=setting.transform,
        steps=setting.steps,
        batch_size=setting.batch_size,
        method=setting.method,
        memory=memory,
    )
    return fitted, setting.method.consolidate(memory, apply, fitted.theta, task)


def order(setting: Setting, t: int):
    """The batches that `fit` will draw for task t, or None for full ones."""
    if setting.batch_size is None:
        return None
    return train.batches(_key(setting, t), len(setting.tasks[t].inputs), setting.batch_size, setting.steps)


def limit(setting: Setting, theta: Params) -> float:
    """The largest stable learning rate: the smallest of the tasks' limits, each at the largest eigenvalue, at theta, of what its method
    trains on. For minibatches one that no batch exceeds, that of the task's worst single sample.

    Raises ValueError for a kernel that is zero or not finite.
    """
    c = setting.tasks[0].targets.shape[1]
    f0 = jnp.zeros((len(setting.x), c))  # targets and outputs do not matter here
    tangent = kernels.tangent(setting.network, theta, setting.x, f0, setting.kernel_fn)

    def own(t, task):
        step = setting.method.step(tangent, setting.tasks, t, [f0] * (t + 1))
        n = len(task.inputs)
        if setting.batch_size in (None, n):
            top = _top(setting, theta, step.inputs, step.weights)
        else:
            # The Gram matrix of any batch, divided by its size, has eigenvalues no larger than those of its worst sample.
            top = n * _worst(setting, theta, step.inputs[:n], step.weights[:n])
            top += _top(setting, theta, step.inputs[n:], step.weights[n:]) if len(step.inputs) > n else 0.0
        if not np.isfinite(top):
            raise ValueError(f"network: the kernel of task {t} is not finite; use a smaller network.output_scale or network.w_std")
        if top <= 0:
            raise ValueError(f"network: the kernel of task {t} is zero, all units dead? Try another network.width or activation")
        return setting.optimizer.limit(setting.loss.curvature * top + step.ridge) * task.scale

    return min(own(t, task) for t, task in enumerate(setting.tasks))


def _top(setting, theta, inputs, weights) -> float:
    """Largest eigenvalue of the weighted Gram matrix of rows: from the matrix, or from products where it is large."""
    x = setting.x[inputs]
    if np.count_nonzero(weights) <= DENSE:
        block = np.asarray(setting.kernel_fn(theta, x))
        return forecast.largest_eigenvalue(block, weights) if np.isfinite(block).all() else float("nan")
    root, product = jnp.sqrt(jnp.asarray(weights, x.dtype)), kernels.operator(setting.network).product
    ritz = kernels.krylov.spectrum(lambda v: root * product(theta, x, None, root * v), root, order=LARGEST, key=jax.random.key(0))
    return float(ritz[0])


def _worst(setting, theta, inputs, weights) -> float:
    """Largest eigenvalue over the Gram matrices of single rows."""

    kernel = kernels.contraction(setting.network)

    @jax.jit
    def each(x, weights):
        def one(row):
            x, root = row[0], jnp.sqrt(row[1]).astype(setting.x.dtype)
            gram = kernel.gram(kernel.factors(theta, x[None]))[0, :, 0]
            return jnp.linalg.eigvalsh(root[:, None] * gram * root[None])[-1]

        return jnp.max(jax.lax.map(one, (x, weights)))

    return float(each(setting.x[inputs], jnp.asarray(weights)))


def task_rows(stream: Stream, loss: Loss, places: Sequence[slice]) -> tuple[TaskRows, ...]:
    """Each task as kernel space sees it, its train inputs at `places`."""
    return tuple(
        TaskRows(
            np.arange(own.start, own.stop),
            jnp.asarray(task.train.y, jnp.float64),
            np.asarray(task.head, np.float64),
            1.0 / loss.rate(1.0, len(task.train.x), task.head),
        )
        for task, own in zip(stream, places, strict=True)
    )


def _energies(setting, t, block):
    """`forecast.baselines.energy` [T, 2] of task t's columns and every task's rows, active outputs alone."""
    own = setting.tasks[t]
    active = np.flatnonzero(own.head)
    columns = block[:, :, : len(own.inputs)]

    def one(task):
        rows = np.flatnonzero(task.head)
        return forecast.baselines.energy(columns[task.inputs][:, rows][..., active])

    return np.stack([one(task) for task in setting.tasks])


def _rule(setting, task):
    assert setting.optimizer.rule is not None  # `form_of` has seen to it
    return setting.optimizer.rule(setting.learning_rate / task.scale, setting.steps)


def _key(setting, t):
    return jax.random.fold_in(setting.key, t + 1)
