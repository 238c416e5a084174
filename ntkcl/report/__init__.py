"""The report: one self-contained page of a run or a sweep, drawn from the files of its runs. The one door to plotly and jinja."""

from ntkcl.report.sections import page

__all__ = ["page"]
