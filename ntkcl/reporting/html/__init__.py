"""The report: a self-contained page of a run, a plan or a sweep, drawn from files of theirs.

The one door to plotly and jinja.
"""

from ntkcl.reporting.html.document import page, plan_page

__all__ = ["page", "plan_page"]
