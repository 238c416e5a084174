"""The report: a self-contained page of a run or a sweep, drawn from the files of its runs.

The one door to plotly and jinja.
"""

from ntkcl.reporting.html.document import page

__all__ = ["page"]
