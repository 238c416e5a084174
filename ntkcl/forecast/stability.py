"""The largest stable learning rate, from the kernel of the untrained network."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import dynamics, kernels
from ntkcl.compilation import portable
from ntkcl.forecast.gram_solvers import largest_at
from ntkcl.training.problem import Anchor, Problem
from ntkcl.types import Network, Params, Tangent, Taps
from ntkcl.validation import SettingError

SAMPLED, PRODUCTS = 24, 3  # rows and products of `limit_share`: a few per cent of a short training


def limit(problem: Problem, theta: Params, kernel_fn) -> float:
    """The largest stable learning rate: the smallest of `limits`."""
    return min(limits(problem, theta, kernel_fn))


def limits(
    problem: Problem, theta: Params, kernel_fn, tangent: Tangent | None = None, prepare=None
) -> list[float]:
    """Each task's largest stable learning rate, by the largest eigenvalue, at theta, of what its
    method trains on.

    For minibatches it is a rate that no batch exceeds, that of the task's worst single sample. A
    method without a kernel-space equivalent has the limit of the task alone: what it adds, such as
    the curvature of a penalty, is not in it. With a schedule the limit holds for its largest rate.

    Arguments:
      tangent, prepare: a tangent at theta whose kernel is held, and the decompositions of its
        steps, where these exist already.
    Raises ValueError for a kernel that is zero or not finite.
    """
    c = problem.tasks[0].targets.shape[1]
    f0 = np.zeros((len(problem.x), c))  # targets and outputs do not matter here
    tangent = tangent or kernels.tangent(problem.network, theta, problem.x, f0, kernel_fn)

    def top_of(t, step):
        places = dynamics.as_places(step.kernel or tangent.kernel)
        if problem.batch_size not in (None, len(problem.tasks[t].inputs)):
            return _minibatch_top(problem, theta, places, t, step)
        if prepare is None:
            return largest_at(places, step.inputs, step.weights)
        return _prepared_top(prepare, tangent, step)

    def own(t):
        step = _step_of(problem, tangent, t, f0)
        top = _positive(top_of(t, step), t)
        limit = problem.optimizer.limit(problem.loss.curvature * top + step.ridge)
        return limit * problem.tasks[t].scale / problem.extremes[1]

    return [own(t) for t in range(len(problem.tasks))]


def _step_of(problem: Problem, tangent: Tangent, t: int, f0) -> dynamics.Step:
    """What the method trains on in task t; the task alone where it has no step in kernel space. In
    the stream's kernel where the method's own, a metric, says where training ends and not how."""
    if problem.method.step is None:
        return dynamics.task_step(problem.tasks[t])
    step = problem.method.step(tangent, problem.tasks, t, [f0] * (t + 1))
    return step._replace(kernel=None) if problem.method.converged else step


def _prepared_top(prepare, tangent: Tangent, step: dynamics.Step) -> float:
    """The largest eigenvalue, as decomposed already: without what a projection removes, which is on
    the safe side and not decomposed already."""
    plain = step._replace(removed=None)
    return float(prepare(tangent.kernel, plain, jnp.float64).decomposed.eigenvalues()[-1])


def _minibatch_top(problem: Problem, theta: Params, places, t: int, step: dynamics.Step) -> float:
    """A bound for every batch of task t, and what the step has besides the task's rows.

    The Gram matrix of a batch, divided by its size, has no eigenvalue above that of its worst row.
    """
    n = len(problem.tasks[t].inputs)
    top = n * _worst(problem, theta, step.inputs[:n], step.weights[:n])
    if len(step.inputs) > n:
        top += largest_at(places, step.inputs[n:], step.weights[n:])
    return top


def _positive(top: float, t: int) -> float:
    if not np.isfinite(top):
        raise SettingError(
            f"network: the kernel of task {t} is not finite; use a smaller network.output_scale or "
            "network.w_std"
        )
    if top <= 0:
        raise SettingError(
            f"network: the kernel of task {t} is zero, all units dead? Try another network.width "
            "or activation"
        )
    return top


def task_top(problem: Problem, kernel_fn, theta: Params, t: int) -> float:
    """lam_max(K_tt) at theta, of task t's rows and active outputs."""
    task = problem.tasks[t]
    weights = np.broadcast_to(task.head, task.targets.shape)
    tangent = kernels.tangent(problem.network, theta, problem.x, None, kernel_fn)
    return largest_at(dynamics.as_places(tangent.kernel), task.inputs, weights)


def limit_share(problem: Problem, anchor: Anchor) -> float:
    """The learning rate over the largest stable one of the next task, for full batches, from below:
    by `PRODUCTS` products with the Gram matrix of `SAMPLED` of its rows at the anchor.

    NaN for a rule without a limit.
    """
    if problem.optimizer.rule is None:
        return float("nan")
    t = anchor.ahead(1).start
    task, n = problem.tasks[t], len(problem.tasks[t].inputs)
    pick = np.linspace(0, n - 1, min(SAMPLED, n)).astype(int)
    own, f = np.asarray(task.inputs)[pick], np.asarray(anchor.history[-1])
    head = jnp.asarray(task.head, problem.dtype)[None]
    start = head * jnp.asarray(np.asarray(task.targets)[pick] - f[own], problem.dtype)
    matvec = kernels.operator(problem.network).matvec(anchor.theta, problem.inputs(own))
    top = float(_top(matvec, head, start)) * n / len(pick)
    rate = problem.learning_rate * problem.extremes[1] / task.scale
    return rate / problem.optimizer.limit(problem.loss.curvature * top)


@jax.jit
def _top(matvec, head, v):
    """The Rayleigh quotient after a few products, from below."""

    def product(v, _):
        v = v / jnp.linalg.norm(v)
        w = head * matvec(v)
        return w, jnp.vdot(v, w)

    return jax.lax.scan(product, v, length=PRODUCTS)[1][-1]


def _worst(problem, theta, inputs, weights) -> float:
    """Largest eigenvalue over the Gram matrices of single rows."""
    network, rows = problem.network, (theta, problem.inputs(inputs), jnp.asarray(weights))
    # Neither holds a Jacobian of all parameters, which would take a hundred times as long.
    if network.taps is None:
        return float(_worst_by_products(portable(network.apply), *rows))
    return float(_worst_by_layers(Taps(*map(portable, network.taps)), *rows))


@jax.jit
def _worst_by_products(apply, theta, x, weights):
    return _worst_of(kernels.vector_products(apply), theta, x, weights)


@jax.jit
def _worst_by_layers(taps, theta, x, weights):
    return _worst_of(kernels.structured(Network(None, None, taps)), theta, x, weights)


def _worst_of(kernel, theta, x, weights):
    def one(row):
        x, weights = row
        gram = kernel.gram(kernel.factors(theta, x[None]))[0, :, 0]
        root = jnp.sqrt(weights).astype(gram.dtype)
        return jnp.linalg.eigvalsh(root[:, None] * gram * root[None])[-1]

    return jnp.max(jax.lax.map(one, (x, weights)))
