"""The solve of a training rule, `ntkcl.forecast.sequence`: squared error, full batches (for minibatches their mean path)."""

import jax.numpy as jnp
import numpy as np

from ntkcl import forecast, kernels
from ntkcl.forecast import Decomposed
from ntkcl.predict.setting import Anchor, Outcome, Setting, energies, rule

# Rows up to which a Gram matrix is diagonalised. Measured on 2 cores at 2,000 rows: 1.7 s, and .5 s for the 100 products after
# which Lanczos differs from it by 1e-13; at 10,000 rows minutes, and 6 s.
DIAGONALISED = 1500
TAIL = 1e-11  # of a filtered vector on the last Krylov vector; more than that, and the space is doubled
PADDED = 256  # Gram matrices for Lanczos are padded to multiples of this
LARGEST = 30  # products for the largest eigenvalue alone


def closed(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, by the training rule and the method's twin in kernel space."""
    tangent = kernels.tangent(setting.network, anchor.theta, setting.x, anchor.history[-1], setting.kernel_fn)
    ahead, seen = anchor.ahead(count), {}

    def columns(inputs):
        block = tangent.columns(inputs)
        for t in ahead if count == len(setting.tasks) else ():  # of one task alone nobody asks
            # a method's step begins with the task's own rows
            if t not in seen and np.array_equal(inputs[: len(setting.tasks[t].inputs)], setting.tasks[t].inputs):
                seen[t] = energies(setting, t, block)
        return block

    outcomes = solved(setting, anchor, ahead, tangent._replace(columns=columns), prepare(setting.effort.krylov_order))
    return [outcome._replace(energies=seen.get(t)) for t, outcome in zip(ahead, outcomes, strict=True)]


def solved(setting: Setting, anchor: Anchor, ahead, tangent, prepare) -> list[Outcome]:
    """The tasks `ahead` in that order, of a network linearised as `tangent` tells."""

    steps = []

    def step(t):
        def taken(fs):
            steps.append(setting.method.step(tangent, setting.tasks, t, [*anchor.history, *fs[1:]]))
            return steps[-1]

        return taken

    rules = [rule(setting, setting.tasks[t]) for t in ahead]
    solves = forecast.sequence(tangent.columns, anchor.history[-1], [step(t) for t in ahead], rules, prepare)
    return [
        Outcome(
            solve.change,
            float(solve.top),
            _negative_mass(solve.eigenvalues, step),
            pull=(step.inputs, solve.alpha) if (step.origin, step.removed, step.columns) == (None, None, None) else None,
        )
        for step, solve in zip(steps, solves, strict=True)
    ]


def _negative_mass(eigenvalues, step) -> float:
    """Of all eigenvalues; a few Ritz values do not tell."""
    return forecast.negative_mass(eigenvalues) if len(eigenvalues) == np.count_nonzero(step.weights) else float("nan")


def prepare(krylov_order: int, diagonalised: int = DIAGONALISED, tail: float = TAIL):
    """`ntkcl.forecast.prepared`; Gram matrices of more than `diagonalised` rows by Lanczos, `krylov_order` products at first, as many
    as are needed in the end."""

    def decompose(gram):
        if len(gram) <= diagonalised:
            return forecast.eigendecomposed(gram)
        # Zero rows change nothing, and one compiled program serves all tasks of nearly one size.
        more = -len(gram) % PADDED
        start = jnp.asarray(np.pad(np.random.default_rng(0).normal(size=len(gram)), (0, more)), gram.dtype)
        gram = jnp.asarray(np.pad(gram, (0, more)))
        return _lanczos(gram, krylov_order, tail, kernels.krylov.ritz_of(jnp.matmul, gram, start, order=LARGEST).values)

    return lambda columns, step, dtype: forecast.prepared(columns, step, dtype, decompose)


def _lanczos(gram, order, tail, values, scale=1.0) -> Decomposed:
    def filtered(rule, v):
        def scaled(lam, r):
            return rule(scale * lam, r)

        n, v = len(v), jnp.asarray(np.pad(v, (0, len(gram) - len(v))))
        k = min(order, n)
        ritz = kernels.krylov.ritz_of(jnp.matmul, gram, v, order=k)
        while k < n and ritz.tail(scaled) > tail:
            k = min(2 * k, n)
            ritz = kernels.krylov.ritz_of(jnp.matmul, gram, v, order=k)
        return np.asarray(ritz.filtered(scaled))[:n]

    return Decomposed(filtered, scale * values, lambda s: _lanczos(gram, order, tail, values, s * scale))
