"""A run as numbers: what was predicted and what was measured, gathered from the experiment's events and compared.

Everything follows from outputs: `measured[i]` [N, c] after i tasks, and each anchor's predicted `changes[t]` [N, c] by task t.
`init` knows the untrained network alone, `infinite` its outputs and the kernel of infinite width. `boundary` knows the network as
measured when each task begins, so its row i of R is one task ahead, and its drift over several tasks is the sum of
changes each of which was foretold one task ahead; `path` too, which is no forecast and knows each task's training as well.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ntkcl.experiment.events import (
    AHEAD,
    AnchorForecast,
    Baselines,
    Evaluation,
    Event,
    Measurement,
    Plan,
)
from ntkcl.experiment.scores import _scores
from ntkcl.resources import Cost
from ntkcl.types import Loss, Rows, Stream

NUMERICS = (
    "rate_times_eigenvalue",
    "stable",
    "limit_share",
    "negative_mass",
    "condition",
    "kernels",
    "gradients",
)


class Record(NamedTuple):
    """One run. Entries that were not reached are NaN.

    measured [T+1, N, c]; changes[anchor], trials[anchor], halves[anchor] [T, N, c]; losses [T, S], NaN beyond the steps of a task
    that has fewer than others;
    numerics[anchor] what `AnchorForecast` tells of each task;
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
        changes = (
            self.baselines.input_cosine
            if what == "input_cosine" and self.baselines
            else self.changes[what]
        )
        return changes[since + 1 : until + 1, rows].sum(0)


def gather(events: Iterable[Event], stream: Stream) -> Record:
    """Play an experiment to its end."""
    played = list(events)
    (plan,) = (e for e in played if isinstance(e, Plan))
    measurements = [e for e in played if isinstance(e, Measurement)]
    forecasts = [e for e in played if isinstance(e, AnchorForecast)]
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
    costs |= {
        f"forecast_{anchor}": [e.cost for e in forecasts if e.anchor == anchor]
        for anchor in anchors
    }
    costs |= {"baselines": [guesses.cost]} if guesses else {}
    costs |= {
        "train": [e.cost for e in measurements[1:]],
        "measure": [e.measuring for e in measurements],
    }
    costs |= {"evaluate": [e.cost for e in looks]} if looks else {}
    return Record(
        plan,
        "diverged" if measurements[-1].diverged else "completed",
        filled([e.outputs for e in measurements], tasks + 1),
        {anchor: filled(per_task(anchor, "changes"), tasks) for anchor in anchors},
        {anchor: filled(per_task(anchor, "trial"), tasks) for anchor in anchors},
        {anchor: filled(per_task(anchor, "halved"), tasks) for anchor in anchors},
        filled(
            [
                np.pad(e.losses, (0, max(plan.steps) - len(e.losses)), constant_values=np.nan)
                for e in measurements[1:]
            ],
            tasks,
        ),
        {a: {k: padded(per_task(a, k)) for k in NUMERICS} for a in anchors},
        costs,
        guesses,
        np.array(padded([e.slope for e in measurements][:tasks])),
        looks,
    )


def curves(record: Record, stream: Stream, loss: Loss) -> list[dict]:
    """Accuracy and loss on every task's test inputs within the training of each: a row for each look and task, and for each end of a
    training."""
    test, begins = Rows.of(stream).test, np.cumsum([0, *record.plan.steps]).tolist()
    first = test[0].start
    rows = [slice(own.start - first, own.stop - first) for own in test]
    ends = [(t, steps, record.measured[t + 1, first:]) for t, steps in enumerate(record.plan.steps)]
    stops = sorted(
        [(e.task, e.step, e.outputs) for e in record.looks] + ends, key=lambda stop: stop[:2]
    )
    table = []
    for t, step, f in [(0, 0, record.measured[0, first:]), *stops]:
        accuracy, value = _scores(f[None], stream, "test", loss, rows)
        where = {"training": t, "step": begins[t] + step}
        table += [
            where | {"evaluated": j, "accuracy": accuracy[0, j], "loss": value[0, j]}
            for j in range(len(stream))
        ]
    return table
