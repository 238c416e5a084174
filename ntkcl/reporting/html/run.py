"""The sections of one run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntkcl.reporting.html import plots
from ntkcl.reporting.html.samples import samples
from ntkcl.reporting.html.section import html, number, section
from ntkcl.reporting.html.verdict import verdict
from ntkcl.runs import schema
from ntkcl.runs.files import load

KERNEL = (
    "While there is something to learn the loss falls with the quadratic form of the kernel, "
    "strictly where its smallest eigenvalue is above zero. A first step of finite length usually "
    "falls less than the slope says."
)


def sections(folder: Path) -> Iterator[dict[str, Any] | None]:
    """Accuracies, the stream, verdict, samples and metrics of the run in a folder."""
    summary, _, arrays = load(folder)
    yield section(
        "Accuracy",
        "R on test inputs, measured and predicted: accuracy on each task after each. The anchors "
        "boundary and path predict one task ahead.",
        plots=[html(plots.matrices(matrices(summary)))],
        wide=True,
    )
    yield section(
        "Within the stream",
        "What was predicted before training, and what was measured.",
        plots=[html(figure) for figure in _stream(summary, arrays)],
    )
    yield verdict({"": [summary]})
    yield section("The kernel as each task begins", KERNEL, rows=_kernel(summary["kernel"]))
    yield samples(folder, summary, arrays)
    yield section("Metrics", "On test inputs.", rows=_metrics(summary["metrics"]))


def matrices(summary: Mapping) -> dict[str, Any]:
    """R by what it is: measured, or predicted from an anchor."""
    forecasts = {f"predicted, {a}": one["R"] for a, one in summary["forecast"].items()}
    return {"measured": summary["R"]} | forecasts


def _kernel(kernel: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row a task, of what there is one number a task of; older runs have fewer."""
    columns = {
        schema.heading(f"kernel.{name}"): values
        for name, values in kernel.items()
        if isinstance(values, list)
    }
    count = max((len(values) for values in columns.values()), default=0)
    return [
        {"task": str(t)} | {heading: number(values[t]) for heading, values in columns.items()}
        for t in range(count)
    ]


def _metrics(metrics: Mapping[str, float | None]) -> list[dict[str, str]]:
    """Each metric with its label, its key in `summary.json`, and its formula."""
    rows = []
    for name, value in metrics.items():
        found = schema.find(f"metrics.{name}")
        label, meaning = (found[0].label, found[0].meaning) if found else (name, "")
        rows.append({"metric": label, "value": number(value), "key": name, "meaning": meaning})
    return rows


def _stream(summary: Mapping, arrays: Mapping[str, np.ndarray]) -> Iterator[Any]:
    """Figures: accuracies over the stream, and the drift of outputs where it is finite."""
    init = {a: one["R"] for a, one in summary["forecast"].items() if a == "init"}
    yield plots.history(summary["R"], summary["b"], init)
    if (sides := _drift(arrays, list(summary["forecast"]))) is not None:
        yield plots.drift(*sides)


def _drift(
    arrays: Mapping[str, np.ndarray], anchors: Sequence[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Drift of old tasks' active outputs on train inputs until the end: measured, and by anchor.

    None where there is no old task, no forecast, or training diverged.
    """
    measured, heads = arrays["measured"], arrays["heads"]
    if len(heads) < 2 or not anchors or not np.isfinite(measured[-1]).all():
        return None
    starts = [*arrays["start_train"], arrays["start_test"][0]]
    old = [
        (s, slice(starts[s], starts[s + 1]), np.flatnonzero(head))
        for s, head in enumerate(heads[:-1])
    ]

    def pooled(changes: Any) -> np.ndarray:
        """Sums of changes [T, N, c] of outputs by each task, over the tasks after each old one."""
        drifts = [changes[s + 1 :, rows].sum(0)[:, active] for s, rows, active in old]
        return np.concatenate([drift.ravel() for drift in drifts])

    ends = [(measured[-1, rows] - measured[s + 1, rows])[:, active] for s, rows, active in old]
    predicted = {anchor: pooled(arrays[f"changes_{anchor}"]) for anchor in anchors}
    return np.concatenate([drift.ravel() for drift in ends]), predicted
