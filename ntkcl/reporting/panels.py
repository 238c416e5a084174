"""What a dashboard shows, defined once: for the HTML report and for Weights & Biases.

A dotted name is a setting (`network.width`) or a number of `summary.json`
(`metrics.average_accuracy`), as in the sweep table. Titles and axis labels come from
`ntkcl.runs.schema`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ntkcl.runs import schema

KINDS = ("line", "scatter", "bar")
ANCHORS = ("infinite", "init", "boundary")  # those that forecast; `path` knows the training


class Panel(NamedTuple):
    """One plot: the numbers `y` over `x`, a colour for each value of `by`.

    Lines and bars are means with their intervals over seeds, and over whatever else varies beside
    `x` and `by`. For two runs the report draws dots in place of the interval.
    """

    kind: str
    title: str
    x: str
    y: tuple[str, ...]
    by: str | None = None
    label: str = ""


class Section(NamedTuple):
    """Plots that answer one question."""

    title: str
    question: str
    panels: tuple[Panel, ...]


class Axes(NamedTuple):
    """What the plots of a sweep share: how they draw, over which setting, coloured by which."""

    kind: str
    x: str
    colour: str | None

    def over(self, *y: str, title: str = "", label: str = "") -> Panel:
        """Numbers over the sweep's axis, under the label of the first of them."""
        title, label = title or schema.capital(schema.label(y[0])), label or schema.axis(y[0])
        return Panel(self.kind, title, self.x, y, self.colour, label)


def sections(
    numeric: Sequence[str], named: Sequence[str], anchors: Sequence[str] = ANCHORS
) -> tuple[Section, ...]:
    """The dashboard of a sweep.

    Arguments:
      numeric: the settings that vary and are numbers, such as network.width.
      named: the settings that vary and are words, such as method. The first number, or else the
        first word, is the axis; the next setting is the colours.
      anchors: those of the sweep's forecasts.
    """
    x = numeric[0] if numeric else named[0] if named else "seed"
    colour = next((name for name in (*named, *numeric) if name != x), None)
    axes = Axes("line" if numeric else "bar", x, colour)
    forecasting = [anchor for anchor in ANCHORS if anchor in anchors]
    chosen = [_forgetting(axes)]
    if forecasting:
        chosen.insert(0, _agreement(axes, forecasting))
    if "method" in named and x != "method":
        chosen.append(_methods(x))
    if forecasting:
        chosen.append(_kernel(axes))
    return (*chosen, _cost(axes))


def _agreement(axes: Axes, anchors: Sequence[str]) -> Section:
    accuracy = "metrics.average_accuracy"
    both = axes.over(
        accuracy,
        *(f"forecast.{anchor}.{accuracy}" for anchor in anchors),
        title="Average accuracy, measured and predicted",
    )
    return Section(
        "Predicted against measured",
        "Does the forecast made before training predict what training then does?",
        (
            *(_scatter(axes, anchor) for anchor in anchors),
            axes.over(*(f"forecast.{anchor}.drift_r2" for anchor in anchors), label="R²"),
            axes.over(*(f"forecast.{anchor}.skill" for anchor in anchors), label="skill"),
            both,
        ),
    )


def _scatter(axes: Axes, anchor: str) -> Panel:
    """Measured forgetting over predicted forgetting, a dot a run."""
    predicted, measured = (
        f"forecast.{anchor}.mean_forgetting_{side}" for side in ("predicted", "measured")
    )
    title = f"Forgetting predicted from {anchor}, and measured"
    return Panel("scatter", title, predicted, (measured,), axes.colour or axes.x, "measured")


def _forgetting(axes: Axes) -> Section:
    numbers = ("forgetting_chaudhry", "average_accuracy", "learning_accuracy")
    return Section(
        "Forgetting",
        "How much of the old tasks is lost, and how well are new ones learned?",
        tuple(axes.over(f"metrics.{name}") for name in numbers),
    )


def _methods(colour: str) -> Section:
    def bars(title: str, *y: str, label: str) -> Panel:
        return Panel("bar", title, "method", y, colour, label)

    accuracies = ("metrics.average_accuracy", "metrics.learning_accuracy")
    forgetting = "metrics.forgetting_chaudhry"
    return Section(
        "Methods",
        "Which method forgets least, and which learns best?",
        (
            bars("Accuracies by method", *accuracies, label="accuracy"),
            bars("Forgetting by method", forgetting, label=schema.axis(forgetting)),
        ),
    )


def _kernel(axes: Axes) -> Section:
    return Section(
        "Kernel drift",
        "How far does the kernel move in training? The forecast from init takes it as constant.",
        (axes.over("kernel.top_drift", label="mean |ratio to init - 1|"),),
    )


def _cost(axes: Axes) -> Section:
    total = axes.over("seconds.total", title="Time of a run")
    return Section("Cost", "How long does a run take?", (total,))
