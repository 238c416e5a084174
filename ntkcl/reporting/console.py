"""What the terminal shows: what is being waited for, and the table at the end. The one door to rich."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ntkcl import metrics
from ntkcl.experiment.events import AHEAD, ANCHORS, AnchorForecast, Baselines, Evaluation, Plan

SHOWN = 8  # candidates at the top of a ranking, and half as many at its end


def terminal(quiet: bool = False) -> Console:
    return Console(quiet=quiet)


def progress(events: Iterator, anchors, tasks: int, inputs: int, terminal: Console) -> Iterator:
    """The events as they come, with a line that says what is being waited for and for how long
    already; where no such line can be drawn, one is printed as each forecast begins."""
    one_ahead = f"forecasting from boundary: task {{}}, {inputs} inputs"
    forecasting = [one_ahead] * ("boundary" in anchors)
    following = ["following task {}"] * ("path" in anchors)
    one_task = [*forecasting, "training task {}", *following]
    whole = [anchor for anchor in ANCHORS if anchor in anchors and anchor not in AHEAD]
    phases = ["learning rate", "untrained network"]
    phases += [f"forecasting from {anchor}: {tasks} tasks, {inputs} inputs" for anchor in whole]
    phases += ["baselines"] if anchors else []
    phases += [phase.format(t) for t in range(tasks) for phase in one_task]
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as progress:
        bar = progress.add_task(phases[0], total=len(phases))
        coming = iter([*phases[1:], "comparing"])
        for event in remarks(events, terminal):
            if not isinstance(event, Evaluation):
                phase = next(coming, "comparing")
                progress.update(bar, advance=1, description=phase)
                if phase.startswith("forecasting") and not terminal.is_terminal:
                    told(terminal)(phase)
            yield event


def remarks(events: Iterable, terminal: Console) -> Iterator:
    """The events as they come; said on the way: the learning rate, where it is over the limit, and what baselines lack."""
    for event in events:
        if isinstance(event, Plan):
            share = event.learning_rate / event.limit
            of = (
                f", {share:.3g} of the stability limit {event.limit:.6g}"
                if np.isfinite(share)
                else ""
            )
            if np.isinf(event.limit):
                of = ", no stability limit is known for this optimizer"
            terminal.print(f"learning rate {event.learning_rate:.6g}{of}")
        elif isinstance(event, AnchorForecast) and not all(event.stable):
            over = [event.first + k for k, stable in enumerate(event.stable) if not stable]
            terminal.print(
                f"[yellow]{event.anchor}: the learning rate is over the stability limit of tasks {over}[/yellow]"
            )
        elif isinstance(event, Baselines) and event.remark:
            terminal.print(
                event.remark, style="yellow", markup=False, highlight=False, soft_wrap=True
            )
        yield event


def show(summary: dict, terminal: Console) -> None:
    """The compact table at the end: what was foretold beside what came."""
    table = Table(
        caption="drift, loss: train inputs; accuracies: test\ninputs, for boundary and path one task ahead",
        caption_justify="left",
    )
    anchors = summary["forecast"]
    for heading in ("", "measured", *anchors):
        table.add_column(heading, justify="left" if not heading else "right")
    first: dict = next(iter(anchors.values()), {})
    more = [name for name in metrics.REFERENCED if name in summary["metrics"]]
    for name in (
        "average_accuracy",
        "learning_accuracy",
        "forgetting_chaudhry",
        "bwt_gem",
        "fwt_gem",
        *more,
    ):
        table.add_row(
            name,
            _number(summary["metrics"][name]),
            *(_number(a["metrics"][name]) for a in anchors.values()),
        )
    table.add_section()
    forgetting = "mean_forgetting_predicted"
    table.add_row(
        "forgetting (loss)",
        _number(first.get("mean_forgetting_measured")),
        *(_number(a[forgetting]) for a in anchors.values()),
    )
    for name in (
        "drift_r2",
        "drift_cosine",
        "drift_slope",
        "skill",
        "change_r2",
        "spearman_offdiagonal",
        "spearman_samples",
        "flip_f1",
        "trial_r2",
        "halved_r2",
    ):
        table.add_row(name, "", *(_number(a[name]) for a in anchors.values()))
    table.add_row("verdict before training", "", *(a["verdict"] for a in anchors.values()))
    table.add_section()
    table.add_row(
        "skill over the best baseline",
        "",
        *(_best(a["baselines"], "skill", min) for a in anchors.values()),
    )
    table.add_row("spearman_pairs", "", *(_number(a["spearman_pairs"]) for a in anchors.values()))
    table.add_row(
        "of the best baseline",
        "",
        *(_best(a["baselines"], "spearman_pairs", max) for a in anchors.values()),
    )
    table.add_section()
    seconds = summary["seconds"]
    table.add_row(
        "seconds",
        f"{seconds.get('train', 0):.1f}",
        *(f"{seconds[f'forecast_{a}']:.1f}" for a in anchors),
    )
    terminal.print(table)


def _best(baselines, key, choose) -> str:
    """The number of the baseline that is hardest to beat, by `choose`, and its name."""
    finite = {
        name: own[key] for name, own in baselines.items() if np.isfinite(own.get(key, np.nan))
    }
    if not finite:
        return "-"
    name = choose(finite, key=lambda name: abs(finite[name]) if choose is max else finite[name])
    return f"{_number(finite[name])}\n{name}"


def _number(value) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


def told(terminal: Console) -> Callable[[str], None]:
    """Prints one line of what is being done."""
    return lambda line: terminal.print(f"[dim]{escape(line)}[/dim]", soft_wrap=True)


def pointed(what: str, folder: Path, terminal: Console) -> None:
    """Prints one line: what lies where. A folder's name may hold what rich takes for markup."""
    terminal.print(f"[dim]{escape(what)} ->[/dim] {escape(str(folder))}", soft_wrap=True)


@contextmanager
def waiting(what: str, terminal: Console) -> Iterator[None]:
    """While the block runs, a spinner beside what it does, where the terminal can draw one."""
    with terminal.status(escape(what)) if terminal.is_terminal else nullcontext():
        yield


def show_ranking(rows: Sequence[dict], summary: dict, terminal: Console) -> None:
    """The best candidates, the last, and every one that was trained; how well the ranking was right."""
    score, part = summary["score"], summary["part"]
    names = list(
        dict.fromkeys(
            name for row in rows for name in row if not name.startswith(("predicted_", "measured_"))
        )
    )
    shown = [
        k
        for k, row in enumerate(rows)
        if k < SHOWN or k >= len(rows) - SHOWN // 2 or f"measured_{score}_{part}" in row
    ]
    columns = [
        f"{quantity}_{part}"
        for quantity in dict.fromkeys((score, "average_loss", "forgetting", "average_accuracy"))
    ]
    table = Table(
        caption=f"{len(rows)} candidates by predicted {score} on {part} inputs",
        caption_justify="left",
    )
    for heading in ("", *names, *columns, f"measured {score}"):
        table.add_column(heading.replace("_", " "), justify="right")
    for k in shown:
        told = [_number(rows[k][f"predicted_{column}"]) for column in columns]
        values = (_short(rows[k].get(name)) for name in names)
        measured = rows[k].get(f"measured_{score}_{part}")
        lost = measured is not None and measured != measured
        table.add_row(str(k + 1), *values, *told, "diverged" if lost else _number(measured))
    terminal.print(table)
    if summary["verified"]:
        terminal.print(
            f"{summary['verified']} trained, {summary['diverged']} diverged: Spearman {_number(summary['spearman'])}, "
            f"regret of the best predicted {_number(summary['regret'])}, {_number(summary['regret_share'])} of the range"
        )


def _short(value) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
