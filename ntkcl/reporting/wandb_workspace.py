"""The panels of `ntkcl.reporting.panels` as a workspace and a report of Weights & Biases.

The one door to wandb-workspaces, which comes with the extra `dashboards`. Building needs no network
(except for `report`, which looks its project up); saving does.
"""

import warnings
from collections.abc import Sequence
from typing import Any

from ntkcl.reporting.panels import Panel, Section
from ntkcl.runs import schema
from ntkcl.runs.settings import GROUPS
from ntkcl.validation import SettingError

TASKS = 20  # tasks with a line of their own; more colours cannot be distinguished
RUNS = 10  # runs drawn at once in a history
FIGURES = ("R", "drift", "forgetting")


def _library() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():  # its own, about the pydantic that it was written for
            warnings.simplefilter("ignore")
            import wandb_workspaces.reports.v2 as reports
            import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise SettingError(
            "dashboard: wandb-workspaces is not installed; it comes with an extra: "
            "pip install -e '.[dashboards]' in a checkout of ntkcl"
        ) from error
    return reports, workspaces


def workspace(
    sections: Sequence[Section], name: str, project: str, entity: str, experiment: str | None = None
) -> Any:
    """A workspace: the given sections, one for the history of the stream, one for R matrices.

    Arguments:
      sections: as `ntkcl.reporting.panels.sections` makes them.
      name: of the view.  project, entity: where the runs are.
      experiment: the experiment_name whose runs alone are shown; None shows all.
    Raises ValueError where wandb-workspaces is not installed.
    """
    reports, workspaces = _library()
    built = [(one.title, _panels(reports, one), True) for one in sections]
    built.append(("Within the stream", _history(reports), True))
    built.append(("Accuracy matrices", _matrices(reports), False))
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name=title, panels=panels, is_open=is_open)
            for title, panels, is_open in built
        ],
        runset_settings=workspaces.RunsetSettings(filters=_filters(experiment)),
    )


def report(
    sections: Sequence[Section], name: str, project: str, entity: str, experiment: str | None = None
) -> Any:
    """The same panels as a report, each section under its question; arguments as `workspace`."""
    reports, _ = _library()
    blocks = blocks_of(sections)
    runs = reports.Runset(
        project=project, entity=entity, name=experiment or "all runs", filters=_filters(experiment)
    )
    for block in blocks:
        if isinstance(block, reports.PanelGrid):
            block.runsets = [runs]
    return reports.Report(
        project=project,
        entity=entity,
        title=name,
        description="Forgetting, predicted and measured",
        blocks=blocks,
    )


def blocks_of(sections: Sequence[Section]) -> list:
    """A report's headings, questions and grids of panels, not yet with runs."""
    reports, _ = _library()
    blocks: list = [reports.TableOfContents()]
    for one in sections:
        grid = reports.PanelGrid(panels=_panels(reports, one))
        blocks += [reports.H2(text=one.title), reports.P(text=one.question), grid]
    history = reports.PanelGrid(panels=_history(reports))
    return [*blocks, reports.H2(text="Within the stream"), history]


def _filters(experiment: str | None) -> str:
    return f"Config('experiment_name') = '{experiment}'" if experiment else ""


def _panels(reports: Any, section: Section) -> list:
    return [plot for panel in section.panels for plot in _plots(reports, panel)]


def _plots(reports: Any, panel: Panel) -> list:
    """The plots of a panel: one, or one a number where lines and dots are scatter plots of W&B.

    Its scatter plots alone draw a number over a setting, and each draws a single number.
    """
    if panel.kind == "bar":
        return [_bars(reports, panel)]
    scatter = panel.kind == "scatter"
    x = _metric(reports, panel.x) if scatter else _setting(reports, panel.x)
    return [
        reports.ScatterPlot(
            title=panel.title if len(panel.y) == 1 else schema.capital(schema.heading(name)),
            x=x,
            y=_metric(reports, name),
            running_ymean=panel.kind == "line",
            regression=scatter,
        )
        for name in panel.y
    ]


def _bars(reports: Any, panel: Panel) -> Any:
    return reports.BarPlot(
        title=panel.title,
        metrics=[_metric(reports, name) for name in panel.y],
        groupby=_setting(reports, panel.x),
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
        title_x=panel.label,
    )


def _history(reports: Any) -> list:
    """Lines over the tasks, one a task, and the training loss over the steps."""
    over_tasks = (
        "acc.<task>",
        "forecast.init.acc.<task>",
        "loss.<task>",
        "kernel.<task>_<task>.top_ratio",
    )
    plots = [_lines(reports, "task", key, range(TASKS)) for key in over_tasks]
    return [*plots, _lines(reports, "step", "train.loss")]


def _lines(reports: Any, axis: str, key: str, tasks: Sequence[int] = (0,)) -> Any:
    """A plot of a history's key over its axis, a line for each task that it names."""
    names = dict.fromkeys(key.replace("<task>", str(task)) for task in tasks)
    return reports.LinePlot(
        title=schema.capital(schema.heading(key)),
        x=axis,
        y=[name.replace(".", "/") for name in names],
        title_y=schema.axis(key),
        max_runs_to_show=RUNS,
    )


def _matrices(reports: Any) -> list:
    names = ("R_measured", "R_forecast_init", "R_forecast_boundary")
    tables = [reports.WeavePanelSummaryTable(table_name=name) for name in names]
    keys = [f"figures/{name}" for name in FIGURES]
    return [*tables, reports.MediaBrowser(title="Figures", media_keys=keys, num_columns=3)]


def _metric(reports: Any, name: str) -> Any:
    return reports.SummaryMetric(name.replace(".", "/"))


def _setting(reports: Any, name: str) -> Any:
    return reports.Config(f"chosen.{name}" if name in GROUPS else name)
