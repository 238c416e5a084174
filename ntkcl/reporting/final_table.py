"""The tables that the terminal shows at the end: of a run, and of a plan's candidates.

Their labels come from `ntkcl.runs.schema`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ntkcl import metrics
from ntkcl.reporting import answers
from ntkcl.runs import schema

# Rows of the table at the end, by key.
FIRST = "forgetting_chaudhry"  # and skill over the best baseline, and the verdict
METRICS = ("average_accuracy", "learning_accuracy", "bwt_gem", "fwt_gem")
AGREEMENT = (
    "drift_r2",
    "drift_cosine",
    "drift_slope",
    "skill",
    "change_r2",
    "spearman_offdiagonal",
    "spearman_samples",
    "flip_f1",
    "trial_r2",
    "halved_r2",
    "coarse_r2",
    "segments_r2",
)
CAPTION = (
    "drift and loss of train inputs, accuracies of test inputs;\n"
    "boundary and path predict one task ahead"
)
# How near predicted forgetting is to measured, in accuracy: two of a hundred test inputs.
NEAR = 0.02
# Words for a skill of at least so much. 0.9 is a tenth of the baseline's squared error; below -0.1
# the error is larger by more than a tenth.
WORDS_OF_SKILL = ((0.9, "far better"), (0.1, "better"), (-0.1, "no better"), (-np.inf, "worse"))
SHOWN = 10  # places of recommended samples
TOP = 8  # candidates shown from the top of a ranking, and half as many from its end
SCORES = ("average_loss", "forgetting", "average_accuracy")  # of a candidate, beside its own score


def show(summary: Mapping, terminal: Console) -> None:
    """The table at the end of a run: measured numbers beside predicted ones, an anchor a column.

    The rows that one reads first come first, with a word each, which `path` has not: it is no
    forecast. Below the table, why a verdict is not better, and remarks.
    """
    anchors = summary["forecast"]
    table = _table(CAPTION if anchors else "accuracies of test inputs")
    table.add_column("")
    for column in ("measured", *anchors):
        table.add_column(column, justify="right")
    _first_rows(table, summary)
    table.add_section()
    _metric_rows(table, summary)
    if anchors:
        table.add_section()
        _agreement_rows(table, anchors)
        table.add_section()
        _baseline_rows(table, anchors)
    table.add_section()
    seconds = summary["seconds"]
    forecasts = [f"{seconds[f'forecast_{anchor}']:.1f}" for anchor in anchors]
    table.add_row("training and forecast (s)", f"{seconds.get('train', 0):.1f}", *forecasts)
    terminal.print(table)
    _print_reasons(anchors, terminal)


def show_forecast(summary: Mapping, terminal: Console) -> None:
    """The table of a forecast that nothing was trained after, an anchor a column."""
    anchors = summary["forecast"]
    table = _table("predicted accuracies of test inputs; nothing was trained")
    table.add_column("")
    for anchor in anchors:
        table.add_column(anchor, justify="right")
    for name in (FIRST, *METRICS):
        numbers = [_number(forecast["metrics"][name]) for forecast in anchors.values()]
        table.add_row(schema.label(f"metrics.{name}"), *numbers)
    key = "mean_forgetting_predicted"
    rises = [_number(forecast[key]) for forecast in anchors.values()]
    table.add_row(_label(key).removesuffix(", predicted"), *rises)
    table.add_row("verdict", *(forecast["verdict"] for forecast in anchors.values()))
    seconds = [f"{summary['seconds'][f'forecast_{anchor}']:.1f}" for anchor in anchors]
    table.add_row("forecast (s)", *seconds)
    terminal.print(table)
    _print_reasons(anchors, terminal)


def print_forecasts(summary: Mapping, terminal: Console) -> None:
    """Before anything is trained: a line for each anchor, what it predicts and how far to trust
    it."""
    for anchor, forecast in summary["forecast"].items():
        numbers = [
            f"{schema.label(f'metrics.{name}')} {_number(forecast['metrics'][name])}"
            for name in (FIRST, METRICS[0])
        ]
        line = f"{anchor} predicts {', '.join(numbers)}; verdict {forecast['verdict']}"
        terminal.print(line, markup=False, highlight=False)


def _print_reasons(anchors: Mapping[str, Mapping], terminal: Console) -> None:
    for anchor, forecast in anchors.items():
        if forecast["reasons"]:
            line = "; ".join([f"{anchor}: {forecast['verdict']}", *forecast["reasons"]])
            terminal.print(line, markup=False, highlight=False)


def _table(caption: str) -> Table:
    return Table(caption=caption, caption_justify="left")


def _first_rows(table: Table, summary: Mapping) -> None:
    """Forgetting, skill and verdict."""
    anchors, measured = summary["forecast"], summary["metrics"][FIRST]
    numbers = [
        _forgetting(forecast["metrics"][FIRST], measured, words=anchor != "path")
        for anchor, forecast in anchors.items()
    ]
    table.add_row(schema.label(f"metrics.{FIRST}"), _number(measured), *numbers)
    if anchors:
        label = _label("baselines.<baseline>.skill").replace("a baseline", "the best baseline")
        skills = [
            _skill(forecast["baselines"], words=anchor != "path")
            for anchor, forecast in anchors.items()
        ]
        table.add_row(label, "", *skills)
        table.add_row(_label("verdict"), "", *(each["verdict"] for each in anchors.values()))


def _forgetting(predicted: float | None, measured: float | None, words: bool) -> str:
    """The predicted number, and whether it is near the measured one where both are known."""
    number = _number(predicted)
    if not words or predicted is None or measured is None or np.isnan(predicted - measured):
        return number
    difference = predicted - measured
    if abs(difference) <= NEAR + 1e-9:  # accuracies are fractions, which rounding may part
        return f"{number}\nclose"
    return f"{number}\n{'too high' if difference > 0 else 'too low'}"


def _skill(baselines: Mapping[str, Mapping], words: bool) -> str:
    """The skill over the baseline that is hardest to beat, in a number and in words."""
    found = _hardest(baselines, "skill")
    if found is None:
        return "-"
    name, value = found
    word = next(word for least, word in WORDS_OF_SKILL if value >= least)
    compared = f"{word} than\n" if words else ""
    return f"{_number(value)}\n{compared}{_words(name)}"


def _metric_rows(table: Table, summary: Mapping) -> None:
    referenced = [name for name in metrics.REFERENCED if name in summary["metrics"]]
    for name in (*METRICS, *referenced):
        sides = [summary, *summary["forecast"].values()]
        numbers = [_number(side["metrics"][name]) for side in sides]
        table.add_row(schema.label(f"metrics.{name}"), *numbers)


def _agreement_rows(table: Table, anchors: Mapping[str, Mapping]) -> None:
    forecasts = anchors.values()
    first: Mapping = next(iter(forecasts), {})
    # the label says "predicted", as the column does
    label = _label("mean_forgetting_predicted").removesuffix(", predicted")
    predicted = [_number(forecast["mean_forgetting_predicted"]) for forecast in forecasts]
    table.add_row(label, _number(first.get("mean_forgetting_measured")), *predicted)
    for name in AGREEMENT:
        table.add_row(_label(name), "", *(_number(forecast[name]) for forecast in forecasts))


def _baseline_rows(table: Table, anchors: Mapping[str, Mapping]) -> None:
    forecasts = anchors.values()
    ranks = [_number(forecast["spearman_pairs"]) for forecast in forecasts]
    table.add_row(_label("spearman_pairs"), "", *ranks)
    hardest = [_hardest(forecast["baselines"], "spearman_pairs") for forecast in forecasts]
    ranks = ["-" if one is None else f"{_number(one[1])}\n{_words(one[0])}" for one in hardest]
    table.add_row("the same of the best baseline", "", *ranks)


def _label(name: str) -> str:
    return schema.label(f"forecast.init.{name}")  # every anchor has the same labels


def _hardest(baselines: Mapping[str, Mapping], key: str) -> tuple[str, float] | None:
    """The name and the number of the baseline that is hardest to beat; None without a number.

    That is the one over which the forecast has least skill, or whose rank correlation is strongest.
    """
    numbers = {name: own.get(key, np.nan) for name, own in baselines.items()}
    finite = {name: value for name, value in numbers.items() if np.isfinite(value)}
    if not finite:
        return None
    strength = {n: -value if key == "skill" else abs(value) for n, value in finite.items()}
    name = max(strength, key=lambda name: strength[name])
    return name, finite[name]


def _words(name: str) -> str:
    """A key as words, between which a narrow column may break."""
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


def show_plan(rows: Sequence[Mapping], summary: Mapping, terminal: Console) -> None:
    """The candidates of a plan, and how right it was about those that were trained."""
    show = show_answers if summary["job"] == "whatif" else show_ranking
    show(rows, summary, terminal)


def show_answers(rows: Sequence[Mapping], summary: Mapping, terminal: Console) -> None:
    """Every candidate of job=whatif, in the order in which they were asked for, of several methods
    a table each; and what is recommended."""
    methods = dict.fromkeys(row["method"] for row in rows)
    for method in methods:
        if len(methods) > 1:
            terminal.print(f"\n  {method}", markup=False, highlight=False)
        own = [row for row in rows if row["method"] == method]
        _print_texts(answers.texts(own, answers.BRIEF), terminal)
    for line in answers.remarks(rows, summary):
        terminal.print(line, markup=False, highlight=False)
    if recommended := answers.recommended(summary):
        _print_texts(recommended, terminal)
        for line in answers.places(summary, most=SHOWN):
            terminal.print(line, markup=False, highlight=False)


def _print_texts(texts: Sequence[Mapping[str, str]], terminal: Console) -> None:
    """A row each; headings are broken between words, values never."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for heading in texts[0]:
        whole = [*heading.split(), *(row[heading] for row in texts)]
        side: Literal["left", "right"] = "left" if heading == "recommended" else "right"
        table.add_column(heading, justify=side, width=max(map(len, whole)))
    for row in texts:
        table.add_row(*row.values())
    terminal.print(table)


def show_ranking(rows: Sequence[Mapping], summary: Mapping, terminal: Console) -> None:
    """The best and the last candidates and every trained one, then how right the ranking was."""
    score, part = summary["score"], summary["part"]
    columns = [f"{quantity}_{part}" for quantity in dict.fromkeys((score, *SCORES))]
    settings = _settings(rows)
    table = _table(f"{len(rows)} candidates by predicted {score} on {part} inputs")
    for heading in ("", *settings, *columns, f"measured {score}"):
        table.add_column(heading.replace("_", " "), justify="right")
    for place, row in enumerate(rows):
        measured = row.get(f"measured_{score}_{part}")
        ends = place < TOP or place >= len(rows) - TOP // 2
        if ends or f"measured_{score}_{part}" in row:
            values = [_setting(row.get(name)) for name in settings]
            predicted = [_number(row[f"predicted_{column}"]) for column in columns]
            table.add_row(str(place + 1), *values, *predicted, _measured(measured))
    terminal.print(table)
    if summary["verified"]:
        terminal.print(
            f"{summary['verified']} trained, {summary['diverged']} diverged: "
            f"Spearman {_number(summary['spearman'])}, "
            f"regret of the best predicted {_number(summary['regret'])}, "
            f"{_number(summary['regret_share'])} of the range"
        )


def _settings(rows: Sequence[Mapping]) -> list[str]:
    """What tells candidates apart, in the order in which it appears."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if not name.startswith(("predicted_", "measured_"))]


def _setting(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _measured(value: float | None) -> str:
    diverged = value is not None and value != value
    return "diverged" if diverged else _number(value)
