"""The terminal while a run is made: what it is waiting for, and remarks on the way."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ntkcl.experiment.events import (
    AHEAD,
    ANCHORS,
    AnchorForecast,
    Baselines,
    Evaluation,
    Event,
    Plan,
)


def terminal(quiet: bool = False) -> Console:
    """The terminal; a quiet one prints nothing."""
    return Console(quiet=quiet)


def progress(
    events: Iterator[Event],
    anchors: Sequence[str],
    tasks: int,
    inputs: int,
    terminal: Console,
    trains: bool = True,
) -> Iterator[Event]:
    """The events as they come, with a line that says what is being waited for and for how long.

    trains: whether tasks are trained after the forecasts.
    Where the terminal cannot redraw such a line, one line is printed as each forecast begins.
    """
    first, *following = _phases(anchors, tasks, inputs, trains)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as progress:
        bar = progress.add_task(first, total=1 + len(following))
        coming = iter([*following, "comparing"])
        for event in remarks(events, terminal):
            if not isinstance(event, Evaluation):
                phase = next(coming, "comparing")
                progress.update(bar, advance=1, description=phase)
                if phase.startswith("forecasting") and not terminal.is_terminal:
                    printer(terminal)(phase)
            yield event


def _phases(anchors: Sequence[str], tasks: int, inputs: int, trains: bool) -> list[str]:
    """What a run does, in order; an event ends each."""
    whole = [anchor for anchor in ANCHORS if anchor in anchors and anchor not in AHEAD]
    phases = ["learning rate", "untrained network"]
    phases += [f"forecasting from {anchor}: {tasks} tasks, {inputs} inputs" for anchor in whole]
    phases += ["baselines"] if anchors else []
    for t in range(tasks if trains else 0):
        if "boundary" in anchors:
            phases.append(f"forecasting from boundary: task {t}, {inputs} inputs")
        phases.append(f"training task {t}")
        if "path" in anchors:
            phases.append(f"following task {t}")
    return phases


def remarks(events: Iterable[Event], terminal: Console) -> Iterator[Event]:
    """The events as they come.

    Prints the learning rate, what a forecast will take where that is asked for, a warning where the
    rate is over the stability limit, and what baselines lack.
    """
    for event in events:
        if isinstance(event, Plan):
            terminal.print(f"learning rate {event.learning_rate:.6g}{_share_of_limit(event)}")
            if event.estimate is not None:
                printer(terminal)(str(event.estimate))
        elif isinstance(event, AnchorForecast) and not all(event.stable):
            over = [event.first + k for k, stable in enumerate(event.stable) if not stable]
            warning = f"the learning rate is over the stability limit of tasks {over}"
            terminal.print(f"[yellow]{event.anchor}: {warning}[/yellow]")
        elif isinstance(event, Baselines) and event.remark:
            terminal.print(
                event.remark, style="yellow", markup=False, highlight=False, soft_wrap=True
            )
        yield event


def _share_of_limit(plan: Plan) -> str:
    if np.isinf(plan.limit):
        return ", no stability limit is known for this optimizer"
    share = plan.learning_rate / plan.limit
    return f", {share:.3g} of the stability limit {plan.limit:.6g}" if np.isfinite(share) else ""


def printer(terminal: Console) -> Callable[[str], None]:
    """A function that prints one line of what is being done."""
    return lambda line: terminal.print(f"[dim]{escape(line)}[/dim]", soft_wrap=True)


def show_settings(settings: Mapping[str, str], terminal: Console) -> None:
    """What is run: a line for each part, its name in front."""
    edge = max(map(len, settings)) + 2
    for name, value in settings.items():
        terminal.print(f"[dim]{name:<{edge}}[/dim]{escape(value)}", soft_wrap=True, highlight=False)


def print_path(what: str, folder: Path | str, terminal: Console) -> None:
    """One line: what lies where, or the command for it. Markup in a name is printed as it is."""
    terminal.print(f"[dim]{escape(what)} ->[/dim] {escape(str(folder))}", soft_wrap=True)


@contextmanager
def waiting(what: str, terminal: Console) -> Iterator[None]:
    """While the block runs, a spinner beside what it does, where the terminal can draw one."""
    with terminal.status(escape(what)) if terminal.is_terminal else nullcontext():
        yield
