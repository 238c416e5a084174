"""What looks at runs that were made: `ntkcl table`, `ntkcl report`, `ntkcl dashboard`, each from its configuration."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from ntkcl import panels, sweeps, table


def table_of(cfg: DictConfig) -> None:
    """`ntkcl table`: runs gathered, means over seeds with their intervals, printed or written."""
    gathered = table.chosen(table.gather(table.folders(cfg.results_dir, _experiments(cfg))), cfg.where)
    by = table.varied(gathered) if cfg.by is None else _list(cfg.by)
    values = [name for name in table.SHOWN if name in gathered] if cfg["values"] is None else _list(cfg["values"])
    told = table.written(table.summary(gathered, by, values), cfg.format, cfg.pivot, values)
    if cfg.out is None:
        if isinstance(told, bytes):
            raise ValueError(f"out=null: format={cfg.format} is for a file; expected its name")
        sys.stdout.write(told)
        return
    Path(cfg.out).parent.mkdir(parents=True, exist_ok=True)
    Path(cfg.out).write_bytes(told if isinstance(told, bytes) else told.encode())
    print(f"{len(gathered)} runs -> {cfg.out}")


def report_of(cfg: DictConfig) -> None:
    """`ntkcl report`: one self-contained page of a run or a sweep."""
    from ntkcl import report

    if cfg.run is not None:
        folders = [Path(cfg.run)]
        if not (folders[0] / "summary.json").is_file():
            raise ValueError(f"run={cfg.run}: expected the folder of a complete run, which holds summary.json")
        title, failed = folders[0].name, []
    else:
        folders = table.folders(cfg.results_dir, _experiments(cfg))
        title, failed = ", ".join(_experiments(cfg)) or "all runs", sweeps.failures(Path(cfg.results_dir), _experiments(cfg))
        if cfg.where is not None:
            kept = set(table.chosen(table.gather(folders), cfg.where)["run"])
            folders = [folder for folder in folders if folder.name in kept]
    out = (
        Path(cfg.out)
        if cfg.out is not None
        else Path(cfg.results_dir) / "reports" / f"{title.replace(', ', '+').replace(' ', '_')}.html"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(report.page(folders, title, failed))
    print(f"{len(folders)} runs -> {out}")


def dashboard_of(cfg: DictConfig) -> None:
    """`ntkcl dashboard`: the report's panels as a workspace and a report of Weights & Biases."""
    from ntkcl import dashboards, tracking

    if len(_experiments(cfg)) > 1:
        raise ValueError(f"experiment_name={cfg.experiment_name}: a dashboard is of one experiment, or of all; expected a name or null")
    name = ", ".join(_experiments(cfg)) or "all runs"
    gathered = table.gather(table.folders(cfg.results_dir, _experiments(cfg)))
    sections = panels.sections(*table.axes(gathered), table.anchors(gathered))
    to = dict(
        name=name,
        project=cfg.project,
        entity=cfg.entity or "",
        experiment=_experiments(cfg)[0] if len(_experiments(cfg)) == 1 else None,
    )
    workspace = dashboards.workspace(sections, **to)
    for one in workspace.sections:
        print(f"{one.name}: {', '.join(getattr(panel, 'title', None) or panel.table_name for panel in one.panels)}")
    if not cfg.save:
        print("built, and not saved: save=true does that, online")
        return
    if cfg.entity is None:
        raise ValueError("entity=null: expected whose project it is, a user or a team of Weights & Biases")
    tracking.check()
    workspace.save()
    dashboards.report(sections, **to).save()


def _experiments(cfg) -> list[str]:
    return _list(cfg.experiment_name or ())


def _list(names) -> list[str]:
    """One name, or a list of them."""
    return [names] if isinstance(names, str) else list(names)
