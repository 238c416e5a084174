"""One training that could be done: foretold from the untrained network, or done."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ntkcl import dynamics, forecast, kernels
from ntkcl.experiment.scores import PARTS, score_matrices
from ntkcl.experiment.start import Begun
from ntkcl.training.loop import diverged
from ntkcl.training.problem import Anchor, Setting, consolidated, fit
from ntkcl.training.settings import full_batches
from ntkcl.types import Rows, Tangent


class Candidate(NamedTuple):
    """`coordinates` tell it from the others, a column each; `order` [T] is that of the tasks, in which `setting` holds them."""

    coordinates: dict[str, Any]
    order: tuple[int, ...]
    setting: Setting


class Ground(NamedTuple):
    """What all candidates start from: the untrained network `here`, its kernel held as one block, what is prepared of it once, the
    rows of every task, and `outputs(theta)` [N, c]."""

    here: Anchor
    tangent: Tangent
    prepare: Callable[..., Any]
    rows: Rows
    outputs: Callable[..., np.ndarray]


TAIL = 1e-7  # candidates differ by more
LARGEST = 6000  # rows of a task, above which Lanczos for every candidate costs less than all eigenvalues once


def ground(begun: Begun, prepare: Callable[..., Any] | None = None) -> Ground:
    """Memory: K(x, all train inputs), N c n c entries, and once more for what is prepared of it.

    `prepare` if not the usual one: Gram matrices of a task's own rows, which candidates share, diagonalised, larger ones by Lanczos.
    """
    setting, theta = begun.setting, begun.theta
    f = jnp.asarray(begun.outputs(theta))
    rows = Rows.of(setting.stream)
    trained_on = np.arange(rows.train[-1].stop)
    tangent = kernels.held(
        kernels.tangent(setting.network, theta, setting.x, f, setting.kernel_fn), trained_on
    )
    return Ground(
        Anchor(theta, (), (f,)), tangent, _remembered(setting, prepare), rows, begun.outputs
    )


def _remembered(setting, prepare):
    own = max(len(task.inputs) * int(np.sum(task.head)) for task in setting.tasks)
    shared = forecast.prepare(
        setting.effort.krylov_order, max(own if own <= LARGEST else 0, forecast.DIAGONALISED), TAIL
    )
    anew, extend = (
        make(setting.effort.krylov_order, tail=TAIL) for make in (forecast.prepare, forecast.extend)
    )
    return dynamics.remembered(
        prepare or shared,
        None if prepare else extend,
        prepare or anew,
        max(12, 2 * len(setting.tasks)),
    )


def foretold(candidate: Candidate, ground: Ground) -> np.ndarray:
    """Outputs [T+1, N, c] before and after each task, from the untrained network, by the first form that is exact for it linearised."""
    setting = candidate.setting
    full = full_batches(setting.stream, setting.batch_size)
    form = forecast.form_of("auto", setting.loss, setting.optimizer, setting.method, full)
    if form == "closed":
        outcomes = forecast.solved(
            setting, ground.here, range(len(setting.tasks)), ground.tangent, ground.prepare
        )
    else:
        outcomes = forecast.FORMS[form](setting, ground.here, len(setting.tasks))
    first = np.asarray(ground.here.history[0])[None]
    return np.cumsum(
        np.concatenate([first, np.stack([outcome.change for outcome in outcomes])]), axis=0
    )


def trained(candidate: Candidate, ground: Ground) -> np.ndarray:
    """Outputs [T+1, N, c] as they come of training; NaN from where it has diverged."""
    setting, theta, memory = candidate.setting, ground.here.theta, ground.here.memory
    seen = [np.asarray(ground.here.history[0])]
    for t, task in enumerate(setting.stream):
        fitted = fit(setting, t, setting.trained, theta, memory)
        theta, memory = fitted.theta, consolidated(setting, t, setting.network, fitted)
        seen.append(ground.outputs(theta))
        if diverged(task, setting.loss, np.asarray(fitted.losses), seen[-1]):
            return np.stack(
                [*seen[:-1], *[np.full_like(seen[0], np.nan)] * (len(setting.stream) - t)]
            )
    return np.stack(seen)


def scores(outputs: np.ndarray, candidate: Candidate, ground: Ground) -> dict[str, float]:
    """Of outputs [T+1, N, c]: losses after all tasks and just after each, forgetting, accuracy; on train and on test inputs.

    average_loss = mean_j R_loss[T-1, j]; learning_loss = mean_j R_loss[j, j]; average_accuracy = mean_j R[T-1, j];
    forgetting = mean_{j<T-1} (R_loss[T-1, j] - R_loss[j, j]).
    """
    order, stream = candidate.order, candidate.setting.stream
    places = np.concatenate(
        [np.arange(part[t].start, part[t].stop) for part in ground.rows for t in order]
    )
    row: dict[str, float] = {}
    for part in PARTS:
        matrices = score_matrices(outputs[:, places], stream, part, candidate.setting.loss)
        last, just_after = matrices["R_loss"][-1], np.diag(matrices["R_loss"])
        row |= {
            f"average_loss_{part}": float(last.mean()),
            f"learning_loss_{part}": float(just_after.mean()),
            f"forgetting_{part}": float((last - just_after)[:-1].mean())
            if len(order) > 1
            else float("nan"),
            f"average_accuracy_{part}": float(matrices["R"][-1].mean()),
        }
    return row


def named(order: Sequence[int]) -> str:
    return " ".join(map(str, order))
