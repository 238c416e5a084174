"""One run as numbers: what was predicted and what was measured, gathered from its events.

Everything follows from outputs: `measured[i]` [N, c] after i tasks, and each anchor's predicted
`changes[t]` [N, c] by task t. The anchors differ in what they know:

* `init` knows the untrained network, `infinite` its outputs and the kernel of infinite width. They
  predict the whole stream.
* `boundary` knows the network as measured when each task begins. Row i of its R is a prediction one
  task ahead, and its drift over several tasks is a sum of changes each predicted one task ahead.
* `path` knows each task's training as well and predicts nothing.
"""

from collections.abc import Iterable, Sequence
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
from ntkcl.experiment.scores import scores
from ntkcl.resources import Cost
from ntkcl.types import Loss, Rows, Stream

# Fields of `AnchorForecast` that hold one number a task.
NUMERICS = (
    "rate_times_eigenvalue",
    "stable",
    "limit_share",
    "negative_mass",
    "condition",
    "smallest_eigenvalue",
    "kernels",
    "gradients",
)


class Record(NamedTuple):
    """One run. Entries that were not reached are NaN.

    plan: the learning rate and the steps of each task.  status: completed, diverged, or forecast
      where nothing was trained.
    measured: outputs [T+1, N, c], the untrained network first.
    changes, trials, halves, coarser, resegmented, lower_orders: by anchor, [T, N, c] as in
      `AnchorForecast`.
    losses: [T, S], NaN beyond the steps of a task that has fewer than others.
    numerics: by anchor and field, the numbers of `NUMERICS` by task.  costs: by phase.
    baselines: None where nothing was predicted.
    slopes: [T], the gradient's magnitude where each task's training begins.
    loss_slopes: [T], how fast the first step of each task's training lowered its loss.
    evaluations: outputs within the training of tasks.
    """

    plan: Plan
    status: str
    measured: np.ndarray
    changes: dict[str, np.ndarray]
    trials: dict[str, np.ndarray]
    halves: dict[str, np.ndarray]
    coarser: dict[str, np.ndarray]
    resegmented: dict[str, np.ndarray]
    lower_orders: dict[str, np.ndarray]
    losses: np.ndarray
    numerics: dict[str, dict[str, list]]
    costs: dict[str, list[Cost]]
    baselines: Baselines | None
    slopes: np.ndarray
    loss_slopes: np.ndarray
    evaluations: tuple[Evaluation, ...]

    def outputs(self, what: str) -> np.ndarray:
        """Outputs [T+1, N, c]: `measured`, or predicted by the anchor `what`.

        `boundary` and `path` predict one task ahead, the others the whole stream from f_0.
        """
        if what == "measured":
            return self.measured
        if what in AHEAD:
            return np.concatenate([self.measured[:1], self.measured[:-1] + self.changes[what]])
        return np.cumsum(np.concatenate([self.measured[:1], self.changes[what]]), axis=0)

    def drift(self, what: str, since: int, until: int, rows: slice) -> np.ndarray:
        """Change [n, c] of outputs from just after task `since` to just after task `until`.

        `what` is `measured`, an anchor or the baseline `input_cosine`; `rows` are those of n inputs
        among all N.
        """
        if what == "measured":
            return self.measured[until + 1, rows] - self.measured[since + 1, rows]
        if what == "input_cosine" and self.baselines:
            changes = self.baselines.input_cosine
        else:
            changes = self.changes[what]
        return changes[since + 1 : until + 1, rows].sum(0)


def gather(events: Iterable[Event], stream: Stream) -> Record:
    """Run an experiment to its end by taking all its events; the record of them."""
    taken = list(events)
    tasks = len(stream)
    (plan,) = (event for event in taken if isinstance(event, Plan))
    baselines = next((event for event in taken if isinstance(event, Baselines)), None)
    measurements = [event for event in taken if isinstance(event, Measurement)]
    evaluations = tuple(event for event in taken if isinstance(event, Evaluation))
    forecasts: dict[str, list[AnchorForecast]] = {}
    for event in taken:
        if isinstance(event, AnchorForecast):
            forecasts.setdefault(event.anchor, []).append(event)

    def by_anchor(field: str) -> dict[str, np.ndarray]:
        return {a: _filled(_by_task(own, field), tasks) for a, own in forecasts.items()}

    return Record(
        plan=plan,
        status=_status(measurements),
        measured=_filled([event.outputs for event in measurements], tasks + 1),
        changes=by_anchor("changes"),
        trials=by_anchor("trial"),
        halves=by_anchor("halved"),
        coarser=by_anchor("coarser"),
        resegmented=by_anchor("resegmented"),
        lower_orders=by_anchor("lower_order"),
        losses=_losses(measurements, plan, tasks),
        numerics={
            anchor: {key: _padded(_by_task(own, key), tasks) for key in NUMERICS}
            for anchor, own in forecasts.items()
        },
        costs=_costs(plan, measurements, forecasts, baselines, evaluations),
        baselines=baselines,
        slopes=np.array(_padded([event.slope for event in measurements][:tasks], tasks)),
        loss_slopes=np.array(_padded([event.loss_slope for event in measurements[1:]], tasks)),
        evaluations=evaluations,
    )


def _status(measurements: Sequence[Measurement]) -> str:
    if len(measurements) == 1:  # of the untrained network alone
        return "forecast"
    return "diverged" if measurements[-1].diverged else "completed"


def _by_task(forecasts: Sequence[AnchorForecast], field: str) -> list:
    """A field of one anchor's forecasts, which follow each other, by task."""
    return [value for forecast in forecasts for value in getattr(forecast, field)]


def _filled(arrays: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Stacked, and NaN in place of those that are missing at the end."""
    missing = np.full((length - len(arrays), *np.shape(arrays[0])), np.nan)
    return np.concatenate([np.stack(arrays), missing])


def _padded(values: list, length: int) -> list:
    return values + [float("nan")] * (length - len(values))


def _losses(measurements: Sequence[Measurement], plan: Plan, tasks: int) -> np.ndarray:
    losses = np.full((tasks, max(plan.steps)), np.nan)
    for row, event in zip(losses, measurements[1:], strict=False):
        row[: len(event.losses)] = event.losses
    return losses


def _costs(
    plan: Plan,
    measurements: Sequence[Measurement],
    forecasts: dict[str, list[AnchorForecast]],
    baselines: Baselines | None,
    evaluations: Sequence[Evaluation],
) -> dict[str, list[Cost]]:
    """What each phase cost, in the order of phases."""
    costs = {"initialise": [measurements[0].cost], "plan": [plan.cost]}
    for anchor, own in forecasts.items():
        costs[f"forecast_{anchor}"] = [event.cost for event in own]
    if baselines is not None:
        costs["baselines"] = [baselines.cost]
    if measurements[1:]:
        costs["train"] = [event.cost for event in measurements[1:]]
    costs["measure"] = [event.measuring for event in measurements]
    if evaluations:
        costs["evaluate"] = [event.cost for event in evaluations]
    return costs


def curves(record: Record, stream: Stream, loss: Loss) -> list[dict]:
    """Accuracy and loss on every task's test inputs within the training of each task.

    One row for each task evaluated at each of these moments: the untrained network, every
    evaluation, the end of each task. `step` counts from the beginning of the stream.
    """
    test = Rows.of(stream).test
    first = test[0].start
    rows = [slice(own.start - first, own.stop - first) for own in test]
    begins = np.cumsum([0, *record.plan.steps]).tolist()
    table = []
    for training, step, outputs in _moments(record, first):
        accuracy, value = scores(outputs[None], stream, "test", loss, rows)
        table += [
            {
                "training": training,
                "step": begins[training] + step,
                "evaluated": j,
                "accuracy": accuracy[0, j],
                "loss": value[0, j],
            }
            for j in range(len(stream))
        ]
    return table


def _moments(record: Record, first: int) -> list[tuple[int, int, np.ndarray]]:
    """(task in training, its step, outputs of test inputs), in order; they begin at row `first`."""
    within = [(event.task, event.step, event.outputs) for event in record.evaluations]
    ends = [(t, steps, record.measured[t + 1, first:]) for t, steps in enumerate(record.plan.steps)]
    untrained = (0, 0, record.measured[0, first:])
    return [untrained, *sorted(within + ends, key=lambda moment: moment[:2])]
