"""What looks at runs that were made: `ntkcl table`, `ntkcl report`, `ntkcl dashboard`, each from
its configuration."""

import sys
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from ntkcl.reporting import cells, columns, formats, panels, table
from ntkcl.reporting.where import EXPECTED
from ntkcl.runs.status import failures
from ntkcl.validation import SettingError, text

EXAMPLES = {
    "by": "method,network.width",
    "values": "metrics.average_accuracy",
    "experiment_name": "width,methods",
}


def table_of(cfg: DictConfig) -> None:
    """`ntkcl table`: runs gathered, means over seeds with their intervals, printed or written."""
    _check(cfg)
    by, values = (None if cfg[key] is None else _list(key, cfg[key]) for key in ("by", "values"))
    _, gathered = table.read(table.folders(cfg.results_dir, _experiments(cfg)), _skipped)
    gathered = table.select(gathered, cfg.where)
    by = columns.varied(gathered) if by is None else by
    if values is None:
        values = columns.default_values(gathered)
    content = formats.write(cells.summary(gathered, by, values), cfg.format, cfg.pivot, values)
    if cfg.out is None:
        if isinstance(content, bytes):
            raise SettingError(f"out=null: format={cfg.format} is for a file; expected its name")
        sys.stdout.write(content)
        return
    Path(cfg.out).parent.mkdir(parents=True, exist_ok=True)
    Path(cfg.out).write_bytes(content if isinstance(content, bytes) else content.encode())
    print(f"{len(gathered)} runs -> {cfg.out}")


def report_of(cfg: DictConfig) -> None:
    """`ntkcl report`: one self-contained page of a run, a plan or a sweep."""
    _check(cfg)
    title, what, text = _of_sweep(cfg) if cfg.run is None else _of_folder(cfg.run)
    out = (
        Path(cfg.out)
        if cfg.out is not None
        else Path(cfg.results_dir)
        / "reports"
        / f"{title.replace(', ', '+').replace(' ', '_')}.html"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(f"{what} -> {out}")


def _of_folder(run: str) -> tuple[str, str, str]:
    """The title, what it is, and the page of one run or plan."""
    from ntkcl.reporting.html import page, plan_page

    folder = Path(run)
    if not (folder / "summary.json").is_file():
        raise SettingError(
            f"run={run}: expected the folder of a complete run, which holds summary.json"
        )
    if (folder / "candidates.parquet").is_file():
        return folder.name, "1 plan", plan_page(folder)
    return folder.name, "1 runs", page([folder], folder.name, skip=_skipped)


def _of_sweep(cfg: DictConfig) -> tuple[str, str, str]:
    """The title, what it is, and the page of the runs of some experiments."""
    from ntkcl.reporting.html import page

    experiments = _experiments(cfg)
    folders, gathered = table.read(table.folders(cfg.results_dir, experiments), _skipped)
    title = ", ".join(experiments) or "all runs"
    failed = failures(Path(cfg.results_dir), experiments)
    kept = table.select(gathered, cfg.where)
    folders, gathered = [folders[k] for k in kept.index], kept.reset_index(drop=True)
    return title, f"{len(folders)} runs", page(folders, title, failed, gathered, _skipped)


def dashboard_of(cfg: DictConfig) -> None:
    """`ntkcl dashboard`: the report's panels as a workspace and a report of Weights & Biases."""
    from ntkcl.reporting import wandb_runs, wandb_workspace

    if len(_experiments(cfg)) > 1:
        raise SettingError(
            f"experiment_name={cfg.experiment_name}: a dashboard is of one experiment, or of all; "
            "expected a name or null"
        )
    name = ", ".join(_experiments(cfg)) or "all runs"
    _, gathered = table.read(table.folders(cfg.results_dir, _experiments(cfg)), _skipped)
    sections = panels.sections(*columns.axes(gathered), columns.anchors(gathered))
    to = dict(
        name=name,
        project=cfg.project,
        entity=cfg.entity or "",
        experiment=_experiments(cfg)[0] if len(_experiments(cfg)) == 1 else None,
    )
    workspace = wandb_workspace.workspace(sections, **to)
    for one in workspace.sections:
        names = (getattr(panel, "title", None) or panel.table_name for panel in one.panels)
        print(f"{one.name}: {', '.join(names)}")
    if not cfg.save:
        print("built, and not saved: save=true does that, online")
        return
    if cfg.entity is None:
        raise SettingError(
            "entity=null: expected whose project it is, a user or a team of Weights & Biases"
        )
    wandb_runs.check()
    workspace.save()
    wandb_workspace.report(sections, **to).save()


def _check(cfg):
    """ValueError for a setting of another kind than a text, where it is one."""
    if cfg.where is not None and not isinstance(cfg.where, str):
        raise SettingError(f"where={cfg.where}: {EXPECTED}")
    for name in ("results_dir", "out", "run"):
        if cfg.get(name) is not None:
            text(name, cfg[name])


def _skipped(line):
    """Tells of a damaged run that it is left out."""
    print(f"ntkcl: left out {line}", file=sys.stderr)


def _experiments(cfg) -> list[str]:
    return [] if cfg.experiment_name is None else _list("experiment_name", cfg.experiment_name)


def _list(setting, names) -> list[str]:
    """One name, or a list of them; ValueError for anything else."""
    found = list(names) if isinstance(names, ListConfig) else [names]
    if not all(isinstance(name, str) and name for name in found):
        example = f"[{EXAMPLES[setting]}]"
        raise SettingError(f"{setting}={names}: expected a name or a list of names, as {example}")
    return found
