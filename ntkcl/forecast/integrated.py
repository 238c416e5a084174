"""Training itself in a few strides: an exponential integrator of gradient descent that linearises the network anew as it goes.

One stride of L steps from theta, K the kernel as last computed and r = y - f(theta) the true residual:

    E_L(theta) = theta + J(theta)^T g_L(K) r,      g_L the filter of L steps

With K that of theta this is what `closed` foretells; an older K still gives L steps to first order in L, and one step exactly. Two
strides of L/2 beside one of L give the second order, 2 E_{L/2} E_{L/2} - E_L, and the size of what it corrects: strides are as long as
a tolerance on that allows. A kernel is computed anew where strides have become short against the way behind, at most m times a task.
Neither data to come nor a trained network are looked at.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl import dynamics, kernels, networks
from ntkcl.forecast.gram_solvers import prepare
from ntkcl.forecast.outcome import Effort, Outcome, rule
from ntkcl.forecast.stability import task_top
from ntkcl.training.problem import Anchor, Problem
from ntkcl.types import Params

REUSED = 6000  # rows up to which a Gram matrix, used by many strides, is diagonalised
SHORT = 0.3  # of the steps so far: a rejected stride that would be shorter than that asks for a new kernel
LONGER, SHORTER, SAFE = (
    4.0,
    0.1,
    0.9,
)  # bounds and margin of a change of stride, as usual for an order-2 method with error estimate


class _Walk(NamedTuple):
    """Where a task's training stands: theta, the residual [n, c] there, steps done, kernels and gradients spent."""

    theta: Params
    residual: Float[Array, "n c"]
    steps: int
    kernels: int
    gradients: int


def integrated(kernel_fn, effort: Effort):
    """`(problem, anchor, count) -> outcomes`, by at most `effort.kernels` kernels a task; for full
    batches, squared error, plain gradient descent."""

    def forecast(problem: Problem, anchor: Anchor, count: int) -> list[Outcome]:
        def forward(theta, x):
            return networks.forward(problem.network.apply, theta, x).astype(jnp.float64)

        theta, f, outcomes = anchor.theta, forward(anchor.theta, problem.x), []
        for t in anchor.ahead(count):
            known = theta is anchor.theta
            first = None if known else task_top(problem, kernel_fn, anchor.theta, t)
            walk, top, negative = _task(problem, kernel_fn, effort, theta, t, forward)
            theta, before = walk.theta, f
            f = forward(theta, problem.x)
            outcomes.append(
                Outcome(f - before, top, negative, walk.kernels, walk.gradients, anchor_top=first)
            )
        return outcomes

    return forecast


def _task(problem, kernel_fn, effort, theta, t, forward):
    task = problem.tasks[t]
    x, head = problem.x[task.inputs], jnp.asarray(task.head)[None]
    pull, decompose = (
        kernels.operator(problem.network).vjp,
        prepare(effort.krylov_order, REUSED),
    )

    def residual(theta):
        return head * (task.targets - forward(theta, x))

    def decomposed(theta):
        block = jnp.asarray(kernel_fn(theta, x))
        step = dynamics.Step(
            np.arange(len(x)), task.targets, np.broadcast_to(task.head, task.targets.shape)
        )
        return decompose(lambda _: block, step, jnp.float64)

    def stride(theta, r, prepared, first, length):
        alpha = prepared.coefficients(rule(problem, t, first, first + length), r)
        return jax.tree.map(jnp.add, theta, pull(theta, x, alpha.astype(problem.x.dtype)))

    now = decomposed(theta)
    lam = now.decomposed.eigenvalues
    walk, length, since = _Walk(theta, residual(theta), 0, 1, 0), 2, 0
    whole = float(jnp.linalg.norm(walk.residual))
    while walk.steps < problem.steps[t]:
        length = min(length, problem.steps[t] - walk.steps)
        if length < 2:
            theta = stride(walk.theta, walk.residual, now, walk.steps, 1)
            walk = walk._replace(
                theta=theta,
                residual=residual(theta),
                steps=walk.steps + 1,
                gradients=walk.gradients + 1,
            )
            continue
        halves = length // 2, length - length // 2
        once = stride(walk.theta, walk.residual, now, walk.steps, length)
        middle = stride(walk.theta, walk.residual, now, walk.steps, halves[0])
        twice = stride(middle, residual(middle), now, walk.steps + halves[0], halves[1])
        walk = walk._replace(gradients=walk.gradients + 3)
        error = float(jnp.linalg.norm(residual(once) - residual(twice))) / max(whole, 1e-300)
        change = (
            SAFE * (effort.tolerance / max(error, 1e-300)) ** 0.5 if np.isfinite(error) else SHORTER
        )
        nearer = max(2, int(length * min(max(change, SHORTER), LONGER)))
        if error <= effort.tolerance or (length == 2 and np.isfinite(error)):
            # Two single steps are training itself, and need no correction.
            theta = jax.tree.map(lambda a, b: 2 * a - b, twice, once) if length > 2 else twice
            walk = walk._replace(theta=theta, residual=residual(theta), steps=walk.steps + length)
            length = nearer
        elif walk.kernels < effort.kernels and walk.steps > since and nearer < SHORT * walk.steps:
            now, since = decomposed(walk.theta), walk.steps
            walk = walk._replace(kernels=walk.kernels + 1)
        elif length == 2:  # training itself blows up
            walk = walk._replace(theta=twice, steps=problem.steps[t])
        else:
            length = nearer
    whole_spectrum = len(lam) == len(now.rows)
    return walk, float(lam[-1]), dynamics.negative_mass(lam) if whole_spectrum else float("nan")
