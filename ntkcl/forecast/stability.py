"""The largest learning rate at which training is stable, from the kernel of the untrained network."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import dynamics, kernels
from ntkcl.compilation import portable
from ntkcl.forecast.gram_solvers import DIAGONALISED, LARGEST
from ntkcl.training.problem import Problem
from ntkcl.types import Params, Tangent

DENSE = 5000  # rows x outputs up to which the stability limit is read off the Gram matrix itself


def limit(problem: Problem, theta: Params, kernel_fn) -> float:
    """The largest stable learning rate: the smallest of `limits`."""
    return min(limits(problem, theta, kernel_fn))


def limits(
    problem: Problem, theta: Params, kernel_fn, tangent: Tangent | None = None, prepare=None
) -> list[float]:
    """Each task's largest stable learning rate, at the largest eigenvalue, at theta, of what its method trains on. For minibatches one
    that no batch exceeds, that of the task's worst single sample. A method without a twin in kernel space has the limit of the task
    alone: what it adds, such as the curvature of a penalty, is not in it. With a schedule the limit holds for its largest rate.

    `tangent`, `prepare`: one at theta whose columns are held, and the decompositions of its steps, where they are there already.
    Raises ValueError for a kernel that is zero or not finite.
    """
    c = problem.tasks[0].targets.shape[1]
    f0 = jnp.zeros((len(problem.x), c))  # targets and outputs do not matter here
    peak = problem.extremes[1]
    twin = tangent or kernels.tangent(problem.network, theta, problem.x, f0, kernel_fn)

    def gram(inputs):
        return (
            kernel_fn(theta, problem.x[inputs])
            if tangent is None
            else tangent.columns(inputs)[inputs]
        )

    def whole(
        step,
    ):  # without what is projected away, on the safe side, and without a metric of the method's own, which need not be
        return float(
            prepare(
                twin.columns, step._replace(removed=None, columns=None), jnp.float64
            ).decomposed.eigenvalues[-1]
        )

    def own(t, task):
        method = problem.method
        step = (
            method.step(twin, problem.tasks, t, [f0] * (t + 1))
            if method.step
            else dynamics.task_step(task)
        )
        n = len(task.inputs)
        if problem.batch_size in (None, n):
            top = whole(step) if prepare else _top(problem, theta, gram, step.inputs, step.weights)
        else:
            # The Gram matrix of any batch, divided by its size, has eigenvalues no larger than those of its worst sample.
            top = n * _worst(problem, theta, step.inputs[:n], step.weights[:n])
            top += (
                _top(problem, theta, gram, step.inputs[n:], step.weights[n:])
                if len(step.inputs) > n
                else 0.0
            )
        if not np.isfinite(top):
            raise ValueError(
                f"network: the kernel of task {t} is not finite; use a smaller network.output_scale or network.w_std"
            )
        if top <= 0:
            raise ValueError(
                f"network: the kernel of task {t} is zero, all units dead? Try another network.width or activation"
            )
        return (
            problem.optimizer.limit(problem.loss.curvature * top + step.ridge) * task.scale / peak
        )

    return [own(t, task) for t, task in enumerate(problem.tasks)]


def task_top(problem: Problem, kernel_fn, theta: Params, t: int) -> float:
    """lam_max(K_tt) at theta, of task t's rows and active outputs."""
    task = problem.tasks[t]
    weights = np.broadcast_to(task.head, task.targets.shape)

    def gram(rows):
        return kernel_fn(theta, problem.x[rows])

    return _top(problem, theta, gram, task.inputs, weights)


def _top(problem, theta, gram, inputs, weights) -> float:
    """Largest eigenvalue of the weighted Gram matrix of rows: from the matrix, or from products where it is large."""
    rows, root = np.count_nonzero(weights), jnp.sqrt(jnp.asarray(weights, problem.x.dtype))
    if rows > DENSE:
        x, product = problem.x[inputs], kernels.operator(problem.network).product
        ritz = kernels.krylov.spectrum(
            lambda v: root * product(theta, x, None, root * v),
            root,
            order=LARGEST,
            key=jax.random.key(0),
        )
        return float(ritz[0])
    block = np.asarray(gram(inputs))
    if not np.isfinite(block).all():
        return float("nan")
    if rows <= DIAGONALISED:
        return dynamics.largest_eigenvalue(block, weights)
    weighted = (
        jnp.ravel(root)[:, None]
        * block.reshape(root.size, root.size).astype(np.float64)
        * jnp.ravel(root)[None]
    )
    start = jnp.asarray(np.random.default_rng(0).normal(size=root.size), weighted.dtype)
    return float(kernels.krylov.ritz_of(jnp.matmul, weighted, start, order=LARGEST).values[-1])


def _worst(problem, theta, inputs, weights) -> float:
    """Largest eigenvalue over the Gram matrices of single rows."""
    return float(
        _worst_of(portable(problem.network.apply), theta, problem.x[inputs], jnp.asarray(weights))
    )


@jax.jit
def _worst_of(apply, theta, x, weights):
    kernel = kernels.contraction(apply)

    def one(row):
        x, root = row[0], jnp.sqrt(row[1]).astype(row[0].dtype)
        gram = kernel.gram(kernel.factors(theta, x[None]))[0, :, 0]
        return jnp.linalg.eigvalsh(root[:, None] * gram * root[None])[-1]

    return jnp.max(jax.lax.map(one, (x, weights)))
