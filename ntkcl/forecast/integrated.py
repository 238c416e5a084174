"""Training itself in a few strides, the network linearised anew as they go: an exponential
integrator of gradient descent.

One stride of L steps from theta, K the kernel as last computed and r = y - f(theta) the true
residual:

    E_L(theta) = theta + J(theta)^T g_L(K) r,      g_L the filter of L steps

With K that of theta this is the prediction of `closed`. An older K still gives L steps to first
order in L, and one step exactly. Two strides of L/2 beside one of L give the second order,
2 E_{L/2} E_{L/2} - E_L, and the size of what it corrects: strides are as long as a tolerance on
that allows. A new kernel is computed, at most m times a task, where strides have become short
against the steps done so far. The form sees neither later tasks nor a trained network.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl import dynamics, kernels, networks
from ntkcl.dynamics import Prepared
from ntkcl.forecast import spot_check
from ntkcl.forecast.gram_solvers import prepare
from ntkcl.forecast.outcome import Effort, Outcome, rule
from ntkcl.forecast.stability import task_top
from ntkcl.training.problem import Anchor, Problem
from ntkcl.types import Params

REUSED = 6000  # rows up to which a Gram matrix, used by many strides, is diagonalised
# Of the steps so far: a rejected stride that would be shorter than this share of them asks for a
# new kernel.
SHORT = 0.3
# Bounds and margin of a change of stride, as usual for an order-2 method with an error estimate.
LONGER, SHORTER, SAFE = 4.0, 0.1, 0.9


class _TaskFunctions(NamedTuple):
    """What strides of one task are made of.

    residual: `theta -> head (y - f(theta))` [n, c].
    read: `theta -> f(theta)` [m, c], at the rows of the check.
    decomposed: `theta -> Prepared`, the Gram matrix of the task's rows at theta.
    stride: `(theta, residual, prepared, first, length) -> theta` after `length` steps.
    steps: how many the task takes.
    """

    residual: Callable[[Params], Float[Array, "n c"]]
    read: Callable[[Params], np.ndarray]
    decomposed: Callable[[Params], Prepared]
    stride: Callable[..., Params]
    steps: int


class _Walk(NamedTuple):
    """Where a task's training stands: theta, the residual [n, c] there, steps done.

    kernels, gradients: how many were computed so far.
    kernel: the kernel as last computed.  kernel_step: how many steps were done then.
    length: of the next stride, in steps.
    corrected: [m, c], what 2 E_{L/2} E_{L/2} - E_L has changed of E_{L/2} E_{L/2} so far, at the
      rows of the check.
    """

    theta: Params
    residual: Float[Array, "n c"]
    kernel: Prepared
    steps: int = 0
    kernels: int = 1
    gradients: int = 0
    kernel_step: int = 0
    length: int = 2
    corrected: np.ndarray | float = 0.0


def integrated(kernel_fn, effort: Effort):
    """`(problem, anchor, count) -> outcomes`, by at most `effort.kernels` kernels a task.

    For full batches, squared error, plain gradient descent.
    """

    def forecast(problem: Problem, anchor: Anchor, count: int) -> list[Outcome]:
        def forward(theta, x):
            return networks.forward(problem.network.apply, theta, x).astype(jnp.float64)

        theta, f, outcomes = anchor.theta, forward(anchor.theta, problem.x), []
        for t in anchor.ahead(count):
            at_anchor = theta is anchor.theta
            anchor_top = None if at_anchor else task_top(problem, kernel_fn, anchor.theta, t)
            places = spot_check.some(problem, anchor.ahead(count)[-1] + 1, _read_rows(problem, t))
            functions = _task_functions(problem, kernel_fn, effort, t, forward, places)
            first = functions.decomposed(theta)
            walk = _trained(functions, effort, theta, first)
            theta, before = walk.theta, f
            f = forward(theta, problem.x)
            one = _outcome(f - before, first, walk, anchor_top)
            lower = np.asarray(one.change)[places] - walk.corrected
            outcomes.append(one._replace(lower_order=spot_check.spread(lower, places, len(f))))
        return outcomes

    return forecast


def _outcome(change, first: Prepared, walk: _Walk, anchor_top: float | None) -> Outcome:
    lam = first.decomposed.eigenvalues()
    is_whole_spectrum = len(lam) == len(first.rows)
    negative_mass = dynamics.negative_mass(lam) if is_whole_spectrum else float("nan")
    spent = dict(kernels=walk.kernels, gradients=walk.gradients)
    return Outcome(change, float(lam[-1]), negative_mass, **spent, anchor_top=anchor_top)


def _read_rows(problem: Problem, t: int) -> float:
    """Rows a task that are read twice a stride, which itself takes some 12 passes of its own."""
    return 12 * spot_check.SHARE * len(problem.tasks[t].inputs) / (2 * (t + 1))


def _task_functions(problem: Problem, kernel_fn, effort: Effort, t: int, forward, places):
    task = problem.tasks[t]
    x, head = problem.inputs(task.inputs), jnp.asarray(task.head)[None]
    pull, checked = kernels.operator(problem.network).vjp, problem.inputs(places)
    decompose = prepare(effort.krylov_order, REUSED)

    def residual(theta):
        return head * (task.targets - forward(theta, x))

    def read(theta):
        return np.asarray(forward(theta, checked))

    def decomposed(theta):
        block = jnp.asarray(kernel_fn(theta, x))
        weights = np.broadcast_to(task.head, task.targets.shape)
        step = dynamics.Step(np.arange(len(x)), task.targets, weights)
        return decompose(lambda _: block, step, jnp.float64)

    def stride(theta, r, kernel, first, length):
        alpha = kernel.coefficients(rule(problem, t, first, first + length), r)
        return jax.tree.map(jnp.add, theta, pull(theta, x, alpha.astype(problem.dtype)))

    return _TaskFunctions(residual, read, decomposed, stride, problem.steps[t])


def _trained(task: _TaskFunctions, effort: Effort, theta: Params, kernel: Prepared) -> _Walk:
    """All steps of the task from theta, `kernel` that of theta."""
    walk = _Walk(theta, task.residual(theta), kernel)
    whole = float(jnp.linalg.norm(walk.residual))
    while walk.steps < task.steps:
        walk = walk._replace(length=min(walk.length, task.steps - walk.steps))
        walk = _one_step(task, walk) if walk.length < 2 else _attempt(task, effort, walk, whole)
    return walk


def _one_step(task: _TaskFunctions, walk: _Walk) -> _Walk:
    theta = task.stride(walk.theta, walk.residual, walk.kernel, walk.steps, 1)
    walk = walk._replace(steps=walk.steps + 1, gradients=walk.gradients + 1)
    return walk._replace(theta=theta, residual=task.residual(theta))


def _attempt(task: _TaskFunctions, effort: Effort, walk: _Walk, whole: float) -> _Walk:
    """The walk after its stride; or where it was, with a new kernel or a shorter stride.

    whole: the norm of the residual at the task's start.
    """
    once, twice = _once_and_twice(task, walk)
    walk = walk._replace(gradients=walk.gradients + 3)
    error = float(jnp.linalg.norm(task.residual(once) - task.residual(twice))) / max(whole, 1e-300)
    length = _next_length(walk.length, error, effort.tolerance)
    if error <= effort.tolerance or (walk.length == 2 and np.isfinite(error)):
        # Two single steps are training itself, and need no correction.
        is_exact = walk.length == 2
        theta = twice if is_exact else jax.tree.map(lambda a, b: 2 * a - b, twice, once)
        walk = walk if is_exact else _checked(task, walk, theta, twice)
        walk = walk._replace(steps=walk.steps + walk.length, length=length)
        return walk._replace(theta=theta, residual=task.residual(theta))
    is_kernel_old = walk.steps > walk.kernel_step and length < SHORT * walk.steps
    if is_kernel_old and walk.kernels < effort.kernels:
        kernel, spent = task.decomposed(walk.theta), walk.kernels + 1
        return walk._replace(kernel=kernel, kernel_step=walk.steps, kernels=spent)
    if walk.length == 2:  # training itself blows up
        return walk._replace(theta=twice, steps=task.steps)
    return walk._replace(length=length)


def _checked(task: _TaskFunctions, walk: _Walk, theta: Params, twice: Params) -> _Walk:
    """With what the second order has changed in this stride, at the rows of the check."""
    return walk._replace(corrected=walk.corrected + task.read(theta) - task.read(twice))


def _once_and_twice(task: _TaskFunctions, walk: _Walk) -> tuple[Params, Params]:
    """theta after the walk's stride, and after two of half its length."""
    first, second = walk.length // 2, walk.length - walk.length // 2
    once = task.stride(walk.theta, walk.residual, walk.kernel, walk.steps, walk.length)
    middle = task.stride(walk.theta, walk.residual, walk.kernel, walk.steps, first)
    residual = task.residual(middle)
    twice = task.stride(middle, residual, walk.kernel, walk.steps + first, second)
    return once, twice


def _next_length(length: int, error: float, tolerance: float) -> int:
    """The stride whose error would be a little below the tolerance."""
    factor = SAFE * (tolerance / max(error, 1e-300)) ** 0.5 if np.isfinite(error) else SHORTER
    return max(2, int(length * min(max(factor, SHORTER), LONGER)))
