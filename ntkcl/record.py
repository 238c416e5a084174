"""A run as numbers: what was predicted and what was measured, gathered from the experiment's events and compared.

Everything follows from outputs: `measured[i]` [N, c] after i tasks, and each anchor's predicted `changes[t]` [N, c] by task t.
`init` knows the untrained network alone, `infinite` its outputs and the kernel of infinite width. `boundary` knows the network as
measured when each task begins, so its row i of R is one task ahead, and its drift over several tasks is the sum of
changes each of which was foretold one task ahead; `path` too, which is no forecast and knows each task's training as well.
"""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import metrics
from ntkcl.events import AHEAD, Baselines, Evaluation, Event, Forecast, Measurement, Plan
from ntkcl.forecast import agreement, baselines, flip_f1, r2, spearman, verdict
from ntkcl.meter import Cost
from ntkcl.types import Loss, Rows, Stream

PARTS = ("train", "test")
NUMERICS = ("rate_times_eigenvalue", "stable", "limit_share", "negative_mass", "condition", "kernels", "gradients")


class Record(NamedTuple):
    """One run. Entries that were not reached are NaN.

    measured [T+1, N, c]; changes[anchor], trials[anchor], halves[anchor] [T, N, c]; losses [T, S], NaN beyond the steps of a task
    that has fewer than others;
    numerics[anchor] what `Forecast` tells of each task;
    costs[phase]; baselines, None where nothing was foretold; slopes [T], the gradient's magnitude where each task's training begins;
    looks, outputs in the midst of training.
    """

    plan: Plan
    status: str
    measured: np.ndarray
    changes: dict[str, np.ndarray]
    trials: dict[str, np.ndarray]
    halves: dict[str, np.ndarray]
    losses: np.ndarray
    numerics: dict[str, dict[str, list]]
    costs: dict[str, list[Cost]]
    baselines: Baselines | None
    slopes: np.ndarray
    looks: tuple[Evaluation, ...]

    def outputs(self, what: str) -> np.ndarray:
        """Outputs [T+1, N, c] as `measured`, or foretold: one task ahead for `boundary` and `path`, else from f_0 on."""
        if what == "measured":
            return self.measured
        if what in AHEAD:
            return np.concatenate([self.measured[:1], self.measured[:-1] + self.changes[what]])
        return np.cumsum(np.concatenate([self.measured[:1], self.changes[what]]), axis=0)

    def drift(self, what: str, since: int, until: int, rows: slice) -> np.ndarray:
        """Change [n, c] of the outputs on some rows from just after task `since` to just after task `until`, measured, foretold, or
        `input_cosine`."""
        if what == "measured":
            return self.measured[until + 1, rows] - self.measured[since + 1, rows]
        changes = self.baselines.input_cosine if what == "input_cosine" and self.baselines else self.changes[what]
        return changes[since + 1 : until + 1, rows].sum(0)


def gather(events: Iterable[Event], stream: Stream) -> Record:
    """Play an experiment to its end."""
    played = list(events)
    (plan,) = (e for e in played if isinstance(e, Plan))
    measurements = [e for e in played if isinstance(e, Measurement)]
    forecasts = [e for e in played if isinstance(e, Forecast)]
    looks = tuple(e for e in played if isinstance(e, Evaluation))
    guesses = next((e for e in played if isinstance(e, Baselines)), None)
    anchors = dict.fromkeys(e.anchor for e in forecasts)
    tasks = len(stream)

    def filled(arrays, length):
        missing = np.full((length - len(arrays), *np.shape(arrays[0])), np.nan)
        return np.concatenate([np.stack(arrays), missing])

    def per_task(anchor, field):
        return [value for e in forecasts if e.anchor == anchor for value in getattr(e, field)]

    def padded(values):
        return values + [float("nan")] * (tasks - len(values))

    costs: dict[str, list[Cost]] = {"initialise": [measurements[0].cost], "plan": [plan.cost]}
    costs |= {f"forecast_{anchor}": [e.cost for e in forecasts if e.anchor == anchor] for anchor in anchors}
    costs |= {"baselines": [guesses.cost]} if guesses else {}
    costs |= {"train": [e.cost for e in measurements[1:]], "measure": [e.measuring for e in measurements]}
    costs |= {"evaluate": [e.cost for e in looks]} if looks else {}
    return Record(
        plan,
        "diverged" if measurements[-1].diverged else "completed",
        filled([e.outputs for e in measurements], tasks + 1),
        {anchor: filled(per_task(anchor, "changes"), tasks) for anchor in anchors},
        {anchor: filled(per_task(anchor, "trial"), tasks) for anchor in anchors},
        {anchor: filled(per_task(anchor, "halved"), tasks) for anchor in anchors},
        filled([np.pad(e.losses, (0, max(plan.steps) - len(e.losses)), constant_values=np.nan) for e in measurements[1:]], tasks),
        {a: {k: padded(per_task(a, k)) for k in NUMERICS} for a in anchors},
        costs,
        guesses,
        np.array(padded([e.slope for e in measurements][:tasks])),
        looks,
    )


def score_matrices(outputs: np.ndarray, stream: Stream, part: str, loss: Loss) -> dict[str, np.ndarray]:
    """R, R_loss [T, T] and b, b_loss [T] of outputs [T+1, N, c] on the train or test inputs; NaN where outputs are not finite."""
    accuracy, value = _scores(outputs, stream, part, loss, getattr(Rows.of(stream), part))
    return {"R": accuracy[1:], "b": accuracy[0], "R_loss": value[1:], "b_loss": value[0]}


def _scores(outputs, stream, part, loss, rows):
    """Accuracy and loss [k, T] on every task of outputs [k, n, c], in which task j has the `rows[j]`."""
    accuracy, value = (np.full((len(outputs), len(stream)), np.nan) for _ in range(2))
    for j, task in enumerate(stream):
        f, y = outputs[:, rows[j]], np.asarray(getattr(task, part).y)
        seen = np.isfinite(f).all((1, 2))
        accuracy[seen, j] = metrics.correct(f[seen], y, task.head).mean(-1)
        value[seen, j] = sample_losses(f[seen], y, task.head, loss).mean(-1)
    return accuracy, value


def curves(record: Record, stream: Stream, loss: Loss) -> list[dict]:
    """Accuracy and loss on every task's test inputs within the training of each: a row for each look and task, and for each end of a
    training."""
    test, begins = Rows.of(stream).test, np.cumsum([0, *record.plan.steps]).tolist()
    first = test[0].start
    rows = [slice(own.start - first, own.stop - first) for own in test]
    ends = [(t, steps, record.measured[t + 1, first:]) for t, steps in enumerate(record.plan.steps)]
    stops = sorted([(e.task, e.step, e.outputs) for e in record.looks] + ends, key=lambda stop: stop[:2])
    table = []
    for t, step, f in [(0, 0, record.measured[0, first:]), *stops]:
        accuracy, value = _scores(f[None], stream, "test", loss, rows)
        where = {"training": t, "step": begins[t] + step}
        table += [where | {"evaluated": j, "accuracy": accuracy[0, j], "loss": value[0, j]} for j in range(len(stream))]
    return table


def compare(record: Record, anchor: str, stream: Stream, part: str, loss: Loss) -> dict:
    """One anchor's forecast beside the measurement, on the train or the test inputs: the numbers of `summary.json`."""
    measured = score_matrices(record.measured, stream, part, loss)
    predicted = score_matrices(record.outputs(anchor), stream, part, loss)
    pairs = _old_tasks(record, anchor, stream, part, loss)
    finite = bool(pairs) and all(np.isfinite(values).all() for pair in pairs for values in pair)
    forgetting = {side: [float(getattr(p, f"loss_change_{side}").mean()) for p in pairs] for side in ("predicted", "measured")}
    return predicted | {
        "metrics": metrics.summary(predicted["R"], predicted["b"]),
        "metrics_loss": metrics.loss_summary(predicted["R_loss"], predicted["b_loss"]),
        **agreement([p.drift_measured for p in pairs], [p.drift_predicted for p in pairs]),
        "change_r2": _change_r2(record, anchor, stream, part) if finite else float("nan"),
        "spearman_offdiagonal": _off_diagonal(measured, predicted, measured if anchor in AHEAD else predicted),
        "spearman_samples": spearman(*_pooled(pairs, "loss_change")) if finite else float("nan"),
        "flip_f1": flip_f1(*_pooled(pairs, "flip")) if finite else float("nan"),
        **_baselines(record, anchor, stream, part, pairs),
        **_trusted(record, anchor, stream, part),
        "forgetting_predicted": forgetting["predicted"],
        "forgetting_measured": forgetting["measured"],
        "mean_forgetting_predicted": float(np.mean(forgetting["predicted"])) if pairs else float("nan"),
        "mean_forgetting_measured": float(np.mean(forgetting["measured"])) if pairs else float("nan"),
    }


class _Pair(NamedTuple):
    """An old task at the end of the stream: drift [n, active], loss change and flips [n], on both sides."""

    drift_measured: np.ndarray
    drift_predicted: np.ndarray
    loss_change_measured: np.ndarray
    loss_change_predicted: np.ndarray
    flip_measured: np.ndarray
    flip_predicted: np.ndarray


def _old_tasks(record, anchor, stream, part, loss) -> list[_Pair]:
    """Both sides of every old task S. The drift foretold starts where the anchor stood: `boundary` at the measured f_S, which is known
    when the task after S begins, any other at its own."""
    starts = record.outputs("measured" if anchor in AHEAD else anchor)
    pairs = []
    for s, own in enumerate(getattr(Rows.of(stream), part)[:-1]):
        y, head = np.asarray(getattr(stream[s], part).y), np.asarray(stream[s].head)
        before = record.measured[s + 1, own], starts[s + 1, own]
        drifts = [record.drift(what, s, len(stream) - 1, own) for what in ("measured", anchor)]
        after = [f + d for f, d in zip(before, drifts, strict=True)]
        losses = [sample_losses(g, y, head, loss) - sample_losses(f, y, head, loss) for f, g in zip(before, after, strict=True)]
        flips = [np.sign(metrics.correct(g, y, head) - metrics.correct(f, y, head)) for f, g in zip(before, after, strict=True)]
        active = np.flatnonzero(head)
        pairs.append(_Pair(*(d[:, active] for d in drifts), *losses, *flips))
    return pairs


def _baselines(record, anchor, stream, part, pairs) -> dict:
    """`spearman_pairs` of the forecast, and `baselines`: its skill over each that has units, and the rank correlation of each without.

    Pairs are an old task S and a later one t, ranked by the mean squared change of S's active outputs by training t.
    """
    rows, tasks = Rows.of(stream), len(stream)
    active = [np.flatnonzero(task.head) for task in stream]
    measured, predicted = ([getattr(p, f"drift_{side}") for p in pairs] for side in ("measured", "predicted"))
    guesses = {"zero_drift": baselines.zero_drift(measured), "constant_shift": baselines.constant_shift(measured)}
    nothing = np.full((tasks, tasks), np.nan)

    def squared(what):
        """Mean squared change [S, t] of task S's outputs by task t."""
        own = getattr(rows, part)
        change = [[record.drift(what, t - 1, t, own[s])[:, active[s]] if t else np.nan for t in range(tasks)] for s in range(tasks)]
        return np.array([[np.mean(np.square(d)) for d in row] for row in change])

    moved = [np.mean(record.changes[anchor][t, rows.train[t]][:, active[t]] ** 2) for t in range(tasks)]
    every = {"forecast": squared(anchor), "new_task_kernel": np.broadcast_to(moved, (tasks, tasks))}
    every |= {"gradient": np.broadcast_to(record.slopes, (tasks, tasks)), "cka": nothing, "cross_energy": nothing}
    if record.baselines is not None:
        last = tasks - 1
        drifts = [record.drift("input_cosine", s, last, own)[:, active[s]] for s, own in enumerate(getattr(rows, part)[:-1])]
        guesses |= {"input_cosine": drifts}
        every |= {"input_cosine": squared("input_cosine"), "cka": record.baselines.cka, "cross_energy": record.baselines.cross_energy}
    compared: dict[str, dict[str, float]] = baselines.skills(measured, predicted, guesses)
    ranked = baselines.ranks(squared("measured"), every)
    for name, value in ranked.items():
        if name != "forecast":
            compared.setdefault(name, {})["spearman_pairs"] = value
    return {"spearman_pairs": ranked["forecast"], "baselines": compared}


def _trusted(record, anchor, stream, part) -> dict:
    """`trial_r2`, of the predicted drift with that of the network moved as foretold, `halved_r2`, of that with the one moved in two
    strides, and the verdict that they allow."""
    rows, last = getattr(Rows.of(stream), part)[:-1], len(stream) - 1

    def drift(changes):
        each = [changes[s + 1 : last + 1, own].sum(0)[:, np.flatnonzero(stream[s].head)].ravel() for s, own in enumerate(rows)]
        return np.concatenate(each) if each else np.empty(0)

    def agreed(moved, foretold):
        if np.isinf(moved).any():  # there was a trial, and it blew up
            return float("-inf")
        return r2(moved, foretold) if len(moved) and np.isfinite(moved).all() and np.isfinite(foretold).all() else float("nan")

    foretold, once, twice = (drift(told[anchor]) for told in (record.changes, record.trials, record.halves))
    signs = {"trial_r2": agreed(once, foretold), "halved_r2": agreed(twice, once)}
    numerics = record.numerics[anchor]
    stable = [one is not False for one in numerics["stable"]]
    known = (numerics[key] for key in ("negative_mass", "condition", "limit_share"))
    told, reasons = verdict(signs["trial_r2"], signs["halved_r2"], stable, *known)
    return signs | {"verdict": told, "reasons": list(reasons)}


def _pooled(pairs, quantity):
    return [np.concatenate([getattr(p, f"{quantity}_{side}") for p in pairs]) for side in ("measured", "predicted")]


def _change_r2(record, anchor, stream, part) -> float:
    """R2 over the changes of old tasks' active outputs by each later task, one task at a time."""
    rows = getattr(Rows.of(stream), part)
    active = [np.flatnonzero(task.head) for task in stream]
    where = [(s, t) for t in range(1, len(stream)) for s in range(t)]
    sides = [
        np.concatenate([record.drift(what, t - 1, t, rows[s])[:, active[s]].ravel() for s, t in where]) for what in ("measured", anchor)
    ]
    return r2(*sides)


def _off_diagonal(measured, predicted, starts) -> float:
    """Rank correlation, over i != j, of the change of the loss on task j by training task i; `starts` foretells from where."""
    both = (measured, measured), (predicted, starts)
    changes = [after["R_loss"] - np.concatenate([before["b_loss"][None], before["R_loss"][:-1]]) for after, before in both]
    m, p = (change[~np.eye(len(change), dtype=bool)] for change in changes)
    return spearman(m, p) if len(m) and np.isfinite(m).all() and np.isfinite(p).all() else float("nan")


def sample_losses(f: np.ndarray, y: np.ndarray, head, loss: Loss) -> np.ndarray:
    """Loss of every sample: [..., n, c], [n, c], mask [c] -> [..., n] in float64."""
    flat = jnp.asarray(f.reshape(int(np.prod(f.shape[:-2])), *y.shape), jnp.float64)
    values = _values(flat, jnp.asarray(y, jnp.float64), jnp.asarray(head, jnp.float64), loss)
    return np.asarray(values).reshape(f.shape[:-1])


@partial(jax.jit, static_argnums=3)
def _values(f, y, head, loss):
    each = jax.vmap(loss.value, (0, 0, None))
    return jax.vmap(each, (0, None, None))(f, y, head)
