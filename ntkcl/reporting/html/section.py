"""A section of the page as the template takes it, and numbers as texts."""

import math
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go

MISSING = "-"


def section(title: str, note: str, **contents: Any) -> dict[str, Any]:
    """A title, a note below it, and any of `rows`, `plots`, `wide`, `choices`, `samples`."""
    return {"title": title, "note": note} | contents


def html(figure: go.Figure) -> str:
    """A figure as HTML that the template does not escape; the page holds plotly itself once."""
    text = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return jinja2.utils.markupsafe.Markup(text)


def rows(frame: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of a table, as texts by heading."""
    return [{key: number(value) for key, value in row.items()} for row in frame.to_dict("records")]


def number(value: Any) -> str:
    """Four digits of a number; a dash where it is missing or not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)
