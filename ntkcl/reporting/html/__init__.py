"""The report: one self-contained page of a run or a sweep, drawn from the files of its runs. The one door to plotly and jinja."""

from ntkcl.reporting.html.sections import page

__all__ = ["page"]
