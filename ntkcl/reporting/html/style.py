"""How every figure of the page looks."""

import plotly.graph_objects as go

COLOURS = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#6cc5b0",
    "#3ca951",
    "#ff8ab7",
    "#a463f2",
    "#97bbf5",
    "#9c6b4e",
    "#9498a0",
)
LAYOUT = dict(
    template="plotly_white",
    height=380,
    margin=dict(l=64, r=40, t=48, b=56),
    modebar=dict(orientation="v"),  # beside the plot: above it, it covers the title
    font=dict(size=13),
    legend=dict(orientation="h", yanchor="top", y=-0.22, title=""),
    colorway=list(COLOURS),
)
FLOOR = -1.0  # of R² and skill on an axis: how much worse a diverged forecast is says nothing


def titled(figure: go.Figure, title: str) -> go.Figure:
    """The figure in the layout of the page, under a title."""
    return figure.update_layout(title=dict(text=title, x=0.02, font=dict(size=16)), **LAYOUT)


def diagonal(figure: go.Figure, low: float, high: float) -> None:
    """The line on which predicted equals measured."""
    ends = [low, high]
    line = dict(color="#bbb", width=1)
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line=line, name="as predicted", hoverinfo="skip"
    )
