"""What a dashboard shows, said once: for the report as a page and for the workspace of Weights & Biases.

A name with dots is a setting (`network.width`) or a number of `summary.json` (`metrics.average_accuracy`), as in the sweep table.
"""

from collections.abc import Sequence
from typing import NamedTuple

KINDS = ("line", "scatter", "bar")
ANCHORS = ("infinite", "init", "boundary")  # that foretell; a path is told in hindsight


class Panel(NamedTuple):
    """One plot: `y` over `x`, a colour for each value of `by`; lines and bars are means with their intervals over seeds, and over
    whatever else varies beside `x` and `by`; for the interval of two runs the report draws dots."""

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


def sections(
    numeric: Sequence[str], named: Sequence[str], anchors: Sequence[str] = ANCHORS
) -> tuple[Section, ...]:
    """The dashboard of a sweep.

    Arguments:
      numeric, named: the settings that vary, those with numbers such as network.width, those with words such as method; the first of
        each are the axis and the colours.
      anchors: from which the sweep forecasts.
    """
    axis = numeric[0] if numeric else named[0] if named else "seed"
    colour = next((name for name in (*named, *numeric) if name != axis), None)
    kind = "line" if numeric else "bar"
    told = [anchor for anchor in ANCHORS if anchor in anchors]

    def over(title, *y, label=""):
        return Panel(kind, title, axis, y, colour, label)

    def both(title, measured, ending, label):
        return Panel(
            kind,
            title,
            axis,
            (measured, *(f"forecast.{anchor}.{ending}" for anchor in told)),
            colour,
            label,
        )

    chosen = [
        Section(
            "Predicted against measured",
            "Does the forecast made before training say what training then does?",
            (
                *(
                    Panel(
                        "scatter",
                        f"Forgetting, foretold from {anchor}, and measured",
                        f"forecast.{anchor}.mean_forgetting_predicted",
                        (f"forecast.{anchor}.mean_forgetting_measured",),
                        colour or axis,
                        "rise of the train loss",
                    )
                    for anchor in told
                ),
                Panel(
                    kind,
                    "Drift foretold",
                    axis,
                    tuple(f"forecast.{a}.drift_r2" for a in told),
                    colour,
                    "R² of the drift",
                ),
                Panel(
                    kind,
                    "Skill of the forecast",
                    axis,
                    tuple(f"forecast.{a}.skill" for a in told),
                    colour,
                    "1 is perfect",
                ),
                both(
                    "Average accuracy, both sides",
                    "metrics.average_accuracy",
                    "metrics.average_accuracy",
                    "average accuracy",
                ),
            ),
        ),
        Section(
            "Forgetting",
            "How much of the old tasks is lost, and how well are new ones learned?",
            (
                over(
                    "Forgetting",
                    "metrics.forgetting_chaudhry",
                    label="forgetting (Chaudhry et al.)",
                ),
                over("Average accuracy", "metrics.average_accuracy", label="average accuracy"),
                over("Learning accuracy", "metrics.learning_accuracy", label="learning accuracy"),
            ),
        ),
        Section(
            "Kernel drift",
            "How far does the kernel move while the stream is learned? The forecast from init takes it to stand still.",
            (over("Top eigenvalue", "kernel.top_drift", label="mean |ratio to init - 1|"),),
        ),
        Section(
            "Cost", "What did it take?", (over("Time of a run", "seconds.total", label="seconds"),)
        ),
    ]
    if not told:
        chosen = [
            section
            for section in chosen
            if section.title not in ("Predicted against measured", "Kernel drift")
        ]
    if "method" in named and axis != "method":
        comparison = Panel(
            "bar",
            "Methods",
            "method",
            ("metrics.average_accuracy", "metrics.learning_accuracy"),
            axis,
            "accuracy",
        )
        lost = Panel(
            "bar",
            "Forgetting of methods",
            "method",
            ("metrics.forgetting_chaudhry",),
            axis,
            "forgetting",
        )
        chosen.insert(
            2 if told else 1, Section("Methods", "Which method keeps most?", (comparison, lost))
        )
    return tuple(chosen)
