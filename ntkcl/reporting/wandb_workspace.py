"""The dashboard in Weights & Biases, built from `ntkcl.reporting.panels`: a workspace and a report. The one door to wandb-workspaces.

The package comes with the extra `dashboards`. Building asks no network; `save` does.
"""

import warnings
from collections.abc import Sequence
from typing import Any

from ntkcl.reporting.panels import Panel, Section
from ntkcl.runs.settings import GROUPS

TASKS = 20  # whose history has a line of its own


def _library():
    try:
        with warnings.catch_warnings():  # its own, of the pydantic that it is written for
            warnings.simplefilter("ignore")
            import wandb_workspaces.reports.v2 as reports
            import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise ValueError(
            "dashboard: wandb-workspaces is not installed; it comes with an extra: "
            "pip install -e '.[dashboards]' in a checkout of ntkcl"
        ) from error
    return reports, workspaces


def workspace(
    sections: Sequence[Section], name: str, project: str, entity: str, experiment: str | None = None
) -> Any:
    """A workspace with a section for each of ours, one for the history within the stream, one for the matrices.

    Arguments:
      sections: as `ntkcl.reporting.panels.sections` makes them.  name: of the view.  project, entity: where the runs are.
      experiment: shows the runs of this experiment_name alone.
    Raises ValueError where wandb-workspaces is not installed.
    """
    reports, workspaces = _library()
    made = [
        workspaces.Section(
            name=one.title,
            panels=[drawn for panel in one.panels for drawn in _drawn(reports, panel)],
            is_open=True,
        )
        for one in sections
    ]
    made.append(
        workspaces.Section(name="Within the stream", panels=_history(reports), is_open=True)
    )
    made.append(
        workspaces.Section(name="Accuracy matrices", panels=_matrices(reports), is_open=False)
    )
    shown = workspaces.RunsetSettings(filters=_filters(experiment))
    return workspaces.Workspace(
        entity=entity, project=project, name=name, sections=made, runset_settings=shown
    )


def report(
    sections: Sequence[Section], name: str, project: str, entity: str, experiment: str | None = None
) -> Any:
    """The same panels as a report, each section under its question. It looks its project up online; arguments as `workspace`."""
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
        description="Forgetting, foretold and measured",
        blocks=blocks,
    )


def blocks_of(sections: Sequence[Section]) -> list:
    """A report's headings, questions and grids of panels, still without runs."""
    reports, _ = _library()
    blocks: list = [reports.TableOfContents()]
    for one in sections:
        panels = [drawn for panel in one.panels for drawn in _drawn(reports, panel)]
        blocks += [
            reports.H2(text=one.title),
            reports.P(text=one.question),
            reports.PanelGrid(panels=panels),
        ]
    return [
        *blocks,
        reports.H2(text="Within the stream"),
        reports.PanelGrid(panels=_history(reports)),
    ]


def _filters(experiment):
    return f"Config('experiment_name') = '{experiment}'" if experiment else ""


def _drawn(reports, panel: Panel) -> list:
    """One plot of W&B or several: its scatter plots, which are what draws a number over a setting, have one number each."""
    if panel.kind == "bar":
        return [
            reports.BarPlot(
                title=panel.title,
                metrics=[_metric(reports, name) for name in panel.y],
                groupby=_setting(reports, panel.x),
                groupby_aggfunc="mean",
                groupby_rangefunc="stderr",
                title_x=panel.label,
            )
        ]
    return [
        reports.ScatterPlot(
            title=panel.title if len(panel.y) == 1 else f"{panel.title}: {name}",
            x=_metric(reports, panel.x) if panel.kind == "scatter" else _setting(reports, panel.x),
            y=_metric(reports, name),
            running_ymean=panel.kind == "line",
            regression=panel.kind == "scatter",
        )
        for name in panel.y
    ]


def _history(reports) -> list:
    def over_tasks(title, key, label):
        return reports.LinePlot(
            title=title,
            x="task",
            y=[key.format(j) for j in range(TASKS)],
            title_y=label,
            max_runs_to_show=10,
        )

    return [
        over_tasks("Accuracy on each task", "acc/{}", "test accuracy"),
        over_tasks("The same, foretold from init", "forecast/init/acc/{}", "test accuracy"),
        over_tasks("Loss on each task", "loss/{}", "test loss"),
        over_tasks(
            "Kernel drift: top eigenvalue over that at initialisation",
            "kernel/{0}_{0}/top_ratio",
            "ratio",
        ),
        reports.LinePlot(
            title="Training loss", x="step", y=["train/loss"], title_y="loss", max_runs_to_show=10
        ),
    ]


def _matrices(reports) -> list:
    tables = [
        reports.WeavePanelSummaryTable(table_name=name)
        for name in ("R_measured", "R_forecast_init", "R_forecast_boundary")
    ]
    return [
        *tables,
        reports.MediaBrowser(
            title="Figures",
            media_keys=["figures/R", "figures/drift", "figures/forgetting"],
            num_columns=3,
        ),
    ]


def _metric(reports, name: str):
    return reports.SummaryMetric(name.replace(".", "/"))


def _setting(reports, name: str):
    return reports.Config(f"chosen.{name}" if name in GROUPS else name)
