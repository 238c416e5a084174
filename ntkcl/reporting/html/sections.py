"""From the folders of runs to the sections of the page."""

import base64
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image
from plotly.offline import get_plotlyjs

from ntkcl.reporting import panels, table
from ntkcl.reporting.html import plots
from ntkcl.runs.files import load, read_summary
from ntkcl.runs.stored import Damaged

COLUMNS = (
    "metrics.average_accuracy",
    "metrics.learning_accuracy",
    "metrics.forgetting_chaudhry",
    "metrics.bwt_gem",
)
MATRICES = 60  # cells whose R matrices are on the page


def page(
    runs: Sequence[Path],
    title: str,
    failures: Sequence[Mapping] = (),
    gathered: pd.DataFrame | None = None,
    skip: Callable[[str], None] | None = None,
) -> str:
    """The HTML of a report, which needs no other file and no network.

    Arguments:
      runs: folders of complete runs, one or many.  failures: what failed runs of the sweep left, `name` and `error` of each.
      gathered: `ntkcl.reporting.table.gather` of them, if that is there already.
      skip: called with a line that names a run of a sweep whose arrays are damaged: its samples are
        left out.
    Raises ValueError for a folder whose schema cannot be read, `ntkcl.runs.stored.Damaged` for a damaged
    one that is not skipped.
    """
    gathered = table.gather(runs) if gathered is None else gathered
    varied = table.varied(gathered)
    body = _one(runs[0]) if len(runs) == 1 else _sweep(runs, gathered, varied, skip)
    chosen = [*_failed(failures), *body]
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    ).get_template("page.html")
    status = gathered["status"].value_counts().to_dict()
    return template.render(
        title=title,
        subtitle=", ".join(
            [f"{count} {what}" for what, count in status.items()]
            + [f"{len(failures)} failed"] * bool(failures)
        ),
        plotly=jinja2.utils.markupsafe.Markup(get_plotlyjs()),
        sections=[
            section
            for section in [*chosen, *_conditions(runs, gathered, varied)]
            if section is not None
        ],
        footer=f"ntkcl, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    )


def _one(folder):
    summary, _, named = load(folder)
    anchors = list(summary["forecast"])
    yield _section(
        "Accuracy",
        "R, measured on test inputs and foretold: accuracy on each task after each. Boundary and path foretell one task ahead.",
        plots=[_html(plots.matrices(_matrices(summary)))],
        wide=True,
    )
    forecasts = {a: summary["forecast"][a]["R"] for a in anchors if a not in ("path",)}
    drawn = [
        plots.history(
            summary["R"], summary["b"], {a: R for a, R in forecasts.items() if a == "init"}
        )
    ]
    if (sides := _drift(named, anchors)) is not None:
        drawn.append(plots.drift(*sides))
    yield _section(
        "Within the stream",
        "What was foretold before training, and what came.",
        plots=[_html(one) for one in drawn],
    )
    yield _verdict({"": [summary]})
    yield _samples(folder, summary, named)
    told = [{"number": key, "value": _number(value)} for key, value in summary["metrics"].items()]
    yield _section("Metrics", "Each dialect by its name, on test inputs.", rows=told)


def _failed(failures):
    if failures:
        yield _section(
            "Failed",
            "The same command tries them again.",
            rows=[{"run": f["name"], "error": f["error"]} for f in failures],
        )


def _sweep(runs, gathered, varied, skip):
    cells = table.readable(table.summary(gathered, varied, [c for c in COLUMNS if c in gathered]))
    note = (
        "Means over seeds with the half-width of their 95 % Student intervals. "
        "In the figures below, intervals are drawn from three seeds on; of two, each has a dot."
    )
    yield _section("Cells", note, rows=_rows(cells))
    for one in panels.sections(*table.axes(gathered), table.anchors(gathered)):
        drawn = [
            figure for panel in one.panels if (figure := plots.figure(panel, gathered)) is not None
        ]
        yield (
            _section(one.title, one.question, plots=[_html(figure) for figure in drawn])
            if drawn
            else None
        )
    summaries = {folder: read_summary(folder) for folder in runs}
    by_cell: dict[str, list[dict]] = {}
    for folder, (_, row) in zip(runs, gathered.iterrows(), strict=True):
        by_cell.setdefault(_name(row, varied), []).append(summaries[folder])
    yield _verdict(by_cell)
    mean = {name: _mean_matrices(own) for name, own in list(by_cell.items())[:MATRICES]}
    yield _section(
        "Accuracy matrices",
        "R, measured on test inputs and foretold, means over seeds."
        + f" The first {MATRICES} cells." * (len(by_cell) > MATRICES),
        choices=[
            {"name": name, "figure": json.loads(plots.matrices(own).to_json())}
            for name, own in mean.items()
        ],
    )
    lost = gathered["metrics.forgetting_chaudhry"].astype(float).fillna(-math.inf).to_numpy()
    for folder in (runs[k] for k in np.argsort(-lost, kind="stable")):
        try:
            yield _samples(folder, summaries[folder], load(folder)[2])
            break
        except Damaged as error:
            if skip is None:
                raise
            skip(f"of the samples forgotten most: {error}")
    shown = ["run", *varied, "seed", "status", *COLUMNS[:3], "seconds.total"]
    yield _section(
        "Runs",
        "All of them.",
        rows=_rows(gathered[[c for c in dict.fromkeys(shown) if c in gathered]]),
    )


def _section(title, note, **contents) -> dict[str, Any]:
    return {"title": title, "note": note} | contents


def _html(figure):
    told = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return jinja2.utils.markupsafe.Markup(told)


def _rows(frame) -> list[dict]:
    return [{key: _number(value) for key, value in row.items()} for row in frame.to_dict("records")]


def _number(value) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(row, varied) -> str:
    return ", ".join(f"{name.split('.')[-1]} {_number(row[name])}" for name in varied) or "all"


def _matrices(summary) -> dict[str, Any]:
    return {"measured": summary["R"]} | {
        f"foretold, {a}": own["R"] for a, own in summary["forecast"].items()
    }


def _mean_matrices(summaries) -> dict[str, np.ndarray]:
    each = [_matrices(summary) for summary in summaries]
    shared = [
        name
        for name in each[0]
        if all(name in other and np.shape(other[name]) == np.shape(each[0][name]) for other in each)
    ]
    return {
        name: np.mean([np.array(other[name], float) for other in each], axis=0) for name in shared
    }


def _drift(named, anchors):
    """Drift of the old tasks' active outputs on train inputs until the end: measured, and by anchor; None of what diverged."""
    measured, starts = named["measured"], [*named["start_train"], named["start_test"][0]]
    tasks = len(named["heads"])
    rows = [slice(starts[s], starts[s + 1]) for s in range(tasks - 1)]
    active = [np.flatnonzero(head) for head in named["heads"]]
    if tasks < 2 or not anchors or not np.isfinite(measured[-1]).all():
        return None

    def pooled(change):
        return np.concatenate([change(s, own)[:, active[s]].ravel() for s, own in enumerate(rows)])

    foretold = {
        a: pooled(lambda s, own, a=a: named[f"changes_{a}"][s + 1 :, own].sum(0)) for a in anchors
    }
    return pooled(lambda s, own: measured[-1, own] - measured[s + 1, own]), foretold


def _verdict(by_cell) -> dict | None:
    rows, budgets = [], {}
    for name, summaries in by_cell.items():
        for anchor in summaries[0]["forecast"]:
            own = [
                summary["forecast"][anchor]
                for summary in summaries
                if anchor in summary["forecast"]
            ]
            verdicts = [one["verdict"] for one in own]
            told = dict.fromkeys(verdicts)
            row = {"cell": name} if name else {}
            row |= {
                "anchor": anchor,
                "verdict": ", ".join(
                    v if len(told) == 1 else f"{verdicts.count(v)} {v}" for v in told
                ),
            }
            row |= {
                key.replace("_", " "): _number(_mean(one[key] for one in own))
                for key in ("drift_r2", "skill", "trial_r2", "halved_r2")
            }
            rows.append(
                row
                | {
                    "because": "; ".join(
                        dict.fromkeys(reason for one in own for reason in one["reasons"])
                    )
                }
            )
        if parts := _budget(summaries):
            budgets[name or "this run"] = parts
    if not rows:
        return None
    figure = plots.budget(budgets)
    note = (
        "Told before training, by trial: the network's parameters moved as foretold. The budget says what keeps R² of the drift from "
        "1: the kernel that has moved before a task begins, that moves while it is learned, and what no kernel of the path tells."
    )
    return _section(
        "The forecast's verdict and its error budget",
        note,
        rows=rows,
        plots=[_html(figure)] if figure else [],
        wide=True,
    )


def _budget(summaries) -> dict[str, float]:
    missing = {
        a: 1 - _mean(s["forecast"][a]["drift_r2"] for s in summaries if a in s["forecast"])
        for a in ("init", "boundary", "path")
    }
    if not all(math.isfinite(missing[a]) for a in ("init", "boundary")):
        return {}
    told = {"kernel moved before the task": missing["init"] - missing["boundary"]}
    if not math.isfinite(missing["path"]):
        return told | {"kernel moves within the task, and the rest": missing["boundary"]}
    return told | {
        "kernel moves within the task": missing["boundary"] - missing["path"],
        "the rest": missing["path"],
    }


def _mean(values) -> float:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _samples(folder, summary, named) -> dict | None:
    """The test inputs forgotten most, as images: what they are, what they were taken for, how their loss rose."""
    if not len(named.get("forgotten", ())) or (images := _images(named["forgotten_x"])) is None:
        return None
    starts, heads, last = named["start_test"], named["heads"].astype(bool), len(named["heads"]) - 1
    anchor = next((a for a in ("init", "boundary") if a in summary["forecast"]), None)
    told = []
    for row, image in zip(named["forgotten"], images, strict=True):
        s = int(np.searchsorted(starts, row, side="right")) - 1
        before, after = (_answer(named["measured"][i, row], heads[s]) for i in (s + 1, last + 1))
        moved = float(
            np.abs(named["measured"][last + 1, row] - named["measured"][s + 1, row])[heads[s]].max()
        )
        more = f"moved {moved:.2f}"
        if anchor is not None:
            more += f", foretold {float(np.abs(named[f'changes_{anchor}'][s + 1 :, row].sum(0))[heads[s]].max()):.2f}"
        label = _answer(named["targets"][row], heads[s])
        told.append(
            {
                "image": image,
                "text": f"task {s}: {label}, taken for {before}, then {after}",
                "more": more,
            }
        )
    note = (
        f"Test inputs of old tasks whose loss rose most, in {folder.name}: class, answer just after its task and at the end, and how "
        "far an output moved at most."
    )
    return _section("Forgotten most", note, samples=told)


def _answer(f, head) -> str:
    """The class with the largest active output, or the sign of the one there is."""
    return (
        f"{np.sign(f[head][0]):+.0f}"
        if head.sum() == 1
        else str(int(np.argmax(np.where(head, f, -np.inf))))
    )


def _images(inputs) -> list[str] | None:
    """PNG data addresses of inputs [k, h, w] or [k, h, w, 1 or 3]; None of what is no picture."""
    if inputs.ndim == 3 or (inputs.ndim == 4 and inputs.shape[3] == 3):
        pictures = inputs
    elif inputs.ndim == 4 and inputs.shape[3] == 1:
        pictures = inputs[..., 0]
    else:
        return None
    low, high = float(pictures.min()), float(pictures.max())
    scaled = np.clip((pictures - low) / ((high - low) or 1) * 255, 0, 255).astype(np.uint8)
    return [_png(one) for one in scaled]


def _png(pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _conditions(runs, gathered, varied):
    """Configuration and environment, of all runs together."""
    settings = [c for c in gathered.columns if table.is_setting(c)]
    told = []
    for name in settings:
        values = list(dict.fromkeys(map(str, gathered[name].dropna().tolist())))
        shown = ", ".join(values[:12]) + (f", ... ({len(values)})" if len(values) > 12 else "")
        told.append({"setting": name, "value": shown, "": "varied" if len(values) > 1 else ""})
    yield _section("Configuration", "What makes these runs these runs.", rows=told)
    environments = {
        json.dumps(read_summary(folder)["environment"], sort_keys=True) for folder in runs
    }
    rows = []
    for k, text in enumerate(sorted(environments)):
        for key, value in (json.loads(text) or {"": "not recorded by this schema"}).items():
            rows.append(
                ({"": str(k + 1)} if len(environments) > 1 else {})
                | {"what": key, "value": str(value)}
            )
    yield _section("Environment", "Where they were made.", rows=rows)
