"""The page as a whole: the sections of a run or a sweep, then what made these runs."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from plotly.offline import get_plotlyjs

from ntkcl.reporting import columns, table
from ntkcl.reporting.html import plan, run, sweep
from ntkcl.reporting.html.section import section
from ntkcl.runs import stored
from ntkcl.runs.files import read_summary
from ntkcl.runs.identity import flat

VALUES = 12  # of a setting are listed


def page(
    runs: Sequence[Path],
    title: str,
    failures: Sequence[Mapping] = (),
    gathered: pd.DataFrame | None = None,
    skip: Callable[[str], None] | None = None,
) -> str:
    """The HTML of a report, which needs no other file and no network.

    Arguments:
      runs: folders of complete runs, one or many.
      failures: the failed runs of the sweep, `name` and `error` of each.
      gathered: `ntkcl.reporting.table.gather` of the runs, if it is there already.
      skip: called with a line that names a run whose arrays are damaged; its samples are left out.
    Raises ValueError for a folder whose schema cannot be read, `ntkcl.runs.stored.Damaged` for a
    damaged run where there is no `skip`.
    """
    gathered = table.gather(runs) if gathered is None else gathered
    body = run.sections(runs[0]) if len(runs) == 1 else sweep.sections(runs, gathered, skip)
    sections = [*_failed(failures), *body, _configuration(gathered), _environment(runs)]
    plotly = jinja2.utils.markupsafe.Markup(get_plotlyjs())
    return _rendered(title, _subtitle(gathered, failures), sections, plotly)


def plan_page(folder: Path) -> str:
    """The HTML of a plan's report, as `page`."""
    summary, settings = stored.summary(folder), flat(stored.settings(folder))
    environment = summary.get("environment", {"": "not recorded by this schema"})
    rows = [{"setting": name, "value": str(value)} for name, value in settings.items()]
    sections = [
        *plan.sections(folder),
        section("Configuration", "The settings of this plan.", rows=rows),
        section("Environment", "Where the plan was made.", rows=_facts(environment)),
    ]
    return _rendered(folder.name, f"{summary['candidates']} candidates", sections)


def _rendered(
    title: str, subtitle: str, sections: Sequence[Mapping | None], plotly: str = ""
) -> str:
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    ).get_template("page.html")
    return template.render(
        title=title,
        subtitle=subtitle,
        plotly=plotly,
        sections=[one for one in sections if one is not None],
        footer=f"ntkcl, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    )


def _subtitle(gathered: pd.DataFrame, failures: Sequence[Mapping]) -> str:
    counts = gathered["status"].value_counts().to_dict()
    parts = [f"{count} {status}" for status, count in counts.items()]
    return ", ".join(parts + [f"{len(failures)} failed"] * bool(failures))


def _failed(failures: Sequence[Mapping]) -> Iterator[dict[str, Any]]:
    if failures:
        rows = [{"run": one["name"], "error": one["error"]} for one in failures]
        yield section("Failed", "The same command tries them again.", rows=rows)


def _configuration(gathered: pd.DataFrame) -> dict[str, Any]:
    """Every setting of the runs, and whether it varies."""
    rows = []
    for name in (column for column in gathered.columns if columns.is_setting(column)):
        values = list(dict.fromkeys(map(str, gathered[name].dropna().tolist())))
        listed = ", ".join(values[:VALUES])
        more = f", ... ({len(values)})" if len(values) > VALUES else ""
        varies = "varied" if len(values) > 1 else ""
        rows.append({"setting": name, "value": listed + more, "": varies})
    return section("Configuration", "The settings of these runs.", rows=rows)


def _environment(runs: Sequence[Path]) -> dict[str, Any]:
    """Versions and devices, once for all runs that share them."""
    texts = {json.dumps(read_summary(folder)["environment"], sort_keys=True) for folder in runs}
    rows = []
    for k, text in enumerate(sorted(texts)):
        place = {"": str(k + 1)} if len(texts) > 1 else {}
        environment = json.loads(text) or {"": "not recorded by this schema"}
        rows += [place | one for one in _facts(environment)]
    return section("Environment", "Where the runs were made.", rows=rows)


def _facts(environment: Mapping) -> list[dict[str, str]]:
    return [{"what": key, "value": str(value)} for key, value in environment.items()]
