"""One training that could be done: predicted from the untrained network, or done."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ntkcl import dynamics, forecast, kernels
from ntkcl.experiment.scores import PARTS, score_matrices
from ntkcl.experiment.start import Initialised
from ntkcl.training.loop import diverged
from ntkcl.training.problem import Anchor, Problem, consolidate, train
from ntkcl.types import Rows, Tangent


class Candidate(NamedTuple):
    """One training that could be done.

    coordinates: what distinguishes it from the others, a column each.
    order: [T], of the tasks; `problem` holds them in it.
    """

    coordinates: dict[str, Any]
    order: tuple[int, ...]
    problem: Problem


class SharedKernel(NamedTuple):
    """What all candidates share.

    here: the untrained network.  tangent: its kernel, held as one block.
    prepare: decompositions of it, each made once.
    rows: of every task.  outputs: `outputs(theta)` [N, c].
    kernel_fn, effort: the kernel's function, and what a forecast may spend, for forms that hold no
      block.
    """

    here: Anchor
    tangent: Tangent
    prepare: Callable[..., Any]
    rows: Rows
    outputs: Callable[..., np.ndarray]
    kernel_fn: Callable[..., Any]
    effort: forecast.Effort

    def limits(self, problem: Problem) -> list[float]:
        """Each task's largest stable learning rate."""
        theta = self.here.theta
        return forecast.limits(problem, theta, self.kernel_fn, self.tangent, self.prepare)


TAIL = 1e-7  # of a solve by Lanczos; candidates differ by more
# Rows of a task above which Lanczos for each candidate costs less than all eigenvalues once.
LARGEST = 6000


def shared_kernel(
    initialised: Initialised, prepare: Callable[..., Any] | None = None
) -> SharedKernel:
    """The kernel of an untrained network, for all candidates.

    Memory: K(x, all train inputs), N c n c entries, and once more for what is prepared of it.
    `prepare` if not the usual one: Gram matrices of a task's own rows, which candidates share,
    diagonalised, larger ones by Lanczos.
    """
    problem, theta, kernel_fn = initialised.problem, initialised.theta, initialised.kernel_fn
    f = jnp.asarray(initialised.outputs(theta))
    rows = Rows.of(problem.stream)
    tangent = kernels.tangent(problem.network, theta, problem.x, f, kernel_fn)
    held = kernels.held(kernel_fn, theta, problem.x, rows.train[-1].stop)
    return SharedKernel(
        here=Anchor(theta, (), (f,)),
        tangent=tangent._replace(kernel=held),
        prepare=_cached(problem, initialised.effort.krylov_order, prepare),
        rows=rows,
        outputs=initialised.outputs,
        kernel_fn=kernel_fn,
        effort=initialised.effort,
    )


def _cached(problem, krylov_order, prepare):
    own = max(len(task.inputs) * int(np.sum(task.head)) for task in problem.tasks)
    diagonalised = max(own if own <= LARGEST else 0, forecast.DIAGONALISED)
    most = max(12, 2 * len(problem.tasks))
    if prepare:
        return dynamics.cached(prepare, most=most)
    return dynamics.cached(
        forecast.prepare(krylov_order, diagonalised, TAIL),
        forecast.extend(krylov_order, tail=TAIL),
        forecast.prepare(krylov_order, tail=TAIL),
        most,
    )


def predicted_outputs(candidate: Candidate, shared: SharedKernel) -> np.ndarray:
    """Outputs [T+1, N, c] before and after each task, predicted from the untrained network.

    By the first form that is exact for it linearised.
    """
    problem, tasks = candidate.problem, len(candidate.problem.tasks)
    parts = problem.loss, problem.optimizer, problem.method, problem.full_batches
    form = forecast.form_of("auto", *parts)
    if form == "closed":
        kernel = shared.tangent, shared.prepare
        outcomes = forecast.solved(problem, shared.here, range(tasks), *kernel)
    else:
        predict = forecast.FORMS[form](shared.kernel_fn, shared.effort)
        outcomes = predict(problem, shared.here, tasks)
    first = np.asarray(shared.here.history[0])[None]
    changes = np.stack([outcome.change for outcome in outcomes])
    return np.cumsum(np.concatenate([first, changes]), axis=0)


def measured_outputs(candidate: Candidate, shared: SharedKernel) -> np.ndarray:
    """Outputs [T+1, N, c] as training makes them; NaN from where it has diverged."""
    problem, theta, memory = candidate.problem, shared.here.theta, shared.here.memory
    outputs = [np.asarray(shared.here.history[0])]
    for t, task in enumerate(problem.stream):
        fitted = train(problem, t, problem.trained, theta, memory)
        theta, memory = fitted.theta, consolidate(problem, t, problem.network, fitted)
        outputs.append(shared.outputs(theta))
        if diverged(task, problem.loss, np.asarray(fitted.losses), outputs[-1]):
            nothing = [np.full_like(outputs[0], np.nan)] * (len(problem.stream) - t)
            return np.stack([*outputs[:-1], *nothing])
    return np.stack(outputs)


def scores(outputs: np.ndarray, candidate: Candidate, shared: SharedKernel) -> dict[str, float]:
    """Of outputs [T+1, N, c]: losses, forgetting, accuracy, on train and on test inputs.

    average_loss = mean_j R_loss[T-1, j]        learning_loss = mean_j R_loss[j, j]
    average_accuracy = mean_j R[T-1, j]
    forgetting = mean_{j<T-1} (R_loss[T-1, j] - R_loss[j, j])
    """
    order, stream = candidate.order, candidate.problem.stream
    slices = [part[t] for part in shared.rows for t in order]
    places = np.concatenate([np.arange(one.start, one.stop) for one in slices])
    row: dict[str, float] = {}
    for part in PARTS:
        matrices = score_matrices(outputs[:, places], stream, part, candidate.problem.loss)
        last, just_after = matrices["R_loss"][-1], np.diag(matrices["R_loss"])
        forgetting = float((last - just_after)[:-1].mean()) if len(order) > 1 else float("nan")
        row |= {
            f"average_loss_{part}": float(last.mean()),
            f"learning_loss_{part}": float(just_after.mean()),
            f"forgetting_{part}": forgetting,
            f"average_accuracy_{part}": float(matrices["R"][-1].mean()),
        }
    return row


def named(order: Sequence[int]) -> str:
    """An order of tasks in words, such as "2 0 1"."""
    return " ".join(map(str, order))
