"""The report in a real browser; the same panels as a dashboard of Weights & Biases."""

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from ntkcl.reporting import panels, wandb_workspace
from ntkcl.reporting.cells import statistics
from ntkcl.reporting.html import panel as panel_plots
from ntkcl.reporting.html import plots, samples, verdict

SMALL = ("network.width=8", "stream.tasks=3", "training.steps=20", "tracking=disabled")
TINY = (*SMALL, "stream.train_per_class=2", "stream.test_per_class=2")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
    "--virtual-time-budget=10000",
    "--enable-logging=stderr",
    "--dump-dom",
)
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def browser(tmp_path):
    """`browser(file)`: the page once it is drawn, and the lines of the browser's console."""
    if CHROMIUM is None:
        pytest.skip("the Debian package chromium is not installed (.ci/run installs it)")

    def open_page(file):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        call = [CHROMIUM, *FLAGS, profile, file.absolute().as_uri()]
        done = subprocess.run(call, capture_output=True, text=True, timeout=120)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page


@pytest.mark.slow
def test_a_sweeps_report_is_drawn_by_a_browser_without_a_network(ntkcl, tmp_path, browser):
    assert ntkcl("-m", *TINY, "network.width=8,16", "seed=0,1", "experiment_name=mine")[0] == 0
    code, out, err = ntkcl("report", "experiment_name=mine")
    assert (code, err) == (0, "") and "4 runs -> results/reports/mine.html" in out
    file = tmp_path / "results" / "reports" / "mine.html"
    text = file.read_text()
    elsewhere = re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:)", text)
    assert elsewhere is None
    drawn, console = browser(file)
    assert console == []
    # beside the figures of the page, the matrices of the cell that is selected
    expected = len(re.findall(r'class="plotly-graph-div"', text)) + 1
    assert len(re.findall(r'class="main-svg"', drawn)) >= expected >= 11
    for title in (
        "Cells",
        "Predicted against measured",
        "Forgetting",
        "Kernel drift",
        "Accuracy matrices",
        "Forgotten most",
        "Runs",
    ):
        assert f"<h2>{title}</h2>" in drawn, title
    assert drawn.count('<figure><img src="data:image/png;base64,') == 24 and "taken for" in drawn


@pytest.mark.slow
def test_a_runs_report_shows_its_verdict_and_environment(ntkcl, tmp_path, browser):
    assert ntkcl(*TINY)[0] == 0
    (folder,) = (tmp_path / "results" / "runs" / "main").iterdir()
    code, out, _ = ntkcl("report", f"run={folder}", "out=one.html")
    assert code == 0 and "1 runs -> one.html" in out
    drawn, console = browser(tmp_path / "one.html")
    assert console == [] and "verdict" in drawn and "network.width" in drawn and "jax" in drawn
    summary = json.loads((folder / "summary.json").read_text())
    assert f">{summary['forecast']['init']['verdict']}<" in drawn
    assert f">{summary['metrics']['average_accuracy']:.4g}<" in drawn


@pytest.mark.slow
def test_reports_of_what_has_no_forecast_one_task_no_images_or_diverged(ntkcl, tmp_path):
    cases = {
        "bare": (*TINY, "forecast.anchors=[]", "stream.tasks=1"),
        "vectors": (*SMALL, "stream=teacher_student"),
        "diverged": (
            *TINY,
            "training.learning_rate_fraction=1e6",
            "training.allow_unstable=true",
            "network.activation=erf",
        ),
    }
    for name, run in cases.items():
        assert ntkcl(*run, f"experiment_name={name}")[0] == 0, name
        code, _, err = ntkcl("report", f"experiment_name={name}")
        assert (code, err) == (0, ""), (name, err)
        text = (tmp_path / "results" / "reports" / f"{name}.html").read_text()
        assert "Forgotten most" not in text


@pytest.mark.slow
def test_failed_runs_are_on_the_page(ntkcl, tmp_path):
    rates = ("training.learning_rate=1e9,1e-3", "forecast.anchors=[]")
    assert ntkcl("-m", *TINY, *rates, "experiment_name=mine")[0] == 1
    assert ntkcl("report", "experiment_name=mine")[0] == 0
    text = (tmp_path / "results" / "reports" / "mine.html").read_text()
    assert "1 failed" in text and "exceeds the stability limit" in text


def test_a_report_of_no_run_is_one_line(ntkcl, tmp_path):
    code, _, err = ntkcl("report", "run=nowhere")
    expected = "expected the folder of a complete run, which holds summary.json"
    assert code == 2 and err == f"ntkcl: run=nowhere: {expected}\n"


def test_budgets_add_up_to_what_is_not_predicted():
    r2 = {"init": 0.7, "boundary": 0.8, "path": 0.95}
    summaries = [{"forecast": {anchor: {"drift_r2": value} for anchor, value in r2.items()}}]
    parts = list(verdict.budget(summaries).values())
    assert parts == pytest.approx([0.1, 0.15, 0.05]) and sum(parts) == pytest.approx(0.3)
    del summaries[0]["forecast"]["path"]
    assert list(verdict.budget(summaries).values()) == pytest.approx([0.1, 0.2])


def test_of_one_output_the_answer_is_its_sign():
    one, several = np.array([False, True]), np.array([True, True])
    assert samples.answer(np.array([3.0, -0.2]), one) == "-1"
    assert samples.answer(np.array([3.0, 4.0]), several) == "1"


@pytest.mark.parametrize(
    ("numeric", "named", "axis", "colour"),
    [
        (["network.width"], ["method"], "network.width", "method"),
        (["network.width", "network.gamma0"], [], "network.width", "network.gamma0"),
        ([], ["method", "loss"], "method", "loss"),
        ([], [], "seed", None),
    ],
)
def test_the_first_number_that_varies_is_the_axis_and_the_first_word_the_colour(
    numeric, named, axis, colour
):
    sections = panels.sections(numeric, named)
    drawn = [panel for one in sections for panel in one.panels]
    over = [panel for panel in drawn if panel.title == "Average accuracy"]
    assert [(panel.x, panel.by) for panel in over] == [(axis, colour)]
    assert {panel.kind for panel in drawn} <= set(panels.KINDS)
    titles = [one.title for one in sections]
    assert ("Methods" in titles) == ("method" in named and axis != "method")


@pytest.mark.slow
def test_the_dashboard_is_built_and_valid_without_a_network(ntkcl, tmp_path):
    chosen = panels.sections(["network.width"], ["method"])
    workspace = wandb_workspace.workspace(chosen, "mine", "ntkcl", "somebody", "width")
    # private, and the one way to see it without saving
    text = workspace._to_model().model_dump_json()
    for name in (
        "metrics/forgetting_chaudhry",
        "forecast/init/drift_r2",
        "network.value.width",
        "chosen.value.method",
        "kernel/top_drift",
        "R_measured",
        "acc/0",
    ):
        assert name in text, name
    names = [one.name for one in workspace.sections]
    assert names[:2] == ["Predicted against measured", "Forgetting"]
    kinds = [type(block).__name__ for block in wandb_workspace.blocks_of(chosen)]
    assert kinds.count("PanelGrid") == len(chosen) + 1
    sweep = (*TINY, "network.width=8,16", "experiment_name=mine", "forecast.anchors=[init]")
    assert ntkcl("-m", *sweep)[0] == 0
    code, out, _ = ntkcl("dashboard", "experiment_name=mine")
    assert code == 0 and "built, and not saved" in out
    assert "Drift, predicted and measured (R²)" in out
    assert "boundary" not in out.split("Within")[0]
    code, _, err = ntkcl("dashboard", "experiment_name=[mine,yours]")
    assert code == 2 and "a dashboard is of one experiment" in err
    code, _, err = ntkcl("dashboard", "experiment_name=mine", "save=true")
    assert code == 2 and err.startswith("ntkcl: entity=null: expected whose project")


def test_a_dashboard_without_its_extra_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[dashboards\]'"):
        wandb_workspace.workspace(panels.sections([], []), "mine", "ntkcl", "somebody")


def spread(seeds):
    """A sweep table of two methods and widths; the second width has one run more."""
    runs = [(m, w, s) for m in ("ewc", "naive") for w in (8, 16) for s in range(seeds + (w == 16))]
    each = {"run": "{}-{}-{}", "same": "{}-{}-{}"}
    table = pd.DataFrame([{key: text.format(*run) for key, text in each.items()} for run in runs])
    table[["method", "network.width", "seed"]] = runs
    table["seconds.total"] = np.random.default_rng(seeds).uniform(0.1, 9.0, len(runs))
    return table


@pytest.mark.parametrize("kind", ["line", "bar"])
def test_two_seeds_are_dots_and_three_an_interval(kind):
    panel = panels.Panel(kind, "Time", "network.width", ("seconds.total",), "method", "seconds")
    table = spread(2)
    drawn = panel_plots.figure(panel, table)
    means = [trace for trace in drawn.data if trace.error_y.array is not None]
    dots = [trace for trace in drawn.data if "mode" in trace and trace.mode == "markers"]
    assert [trace.name for trace in means] == [trace.name for trace in dots] == ["ewc", "naive"]
    for mean, dot, method in zip(means, dots, ("ewc", "naive"), strict=True):
        own = table[table["method"] == method]
        two, three = (own.loc[own["network.width"] == width, "seconds.total"] for width in (8, 16))
        assert list(dot.y) == two.tolist() and {str(x) for x in dot.x} == {"8"}
        assert not dot.showlegend
        ci = statistics(three.to_numpy())["ci"]
        assert np.isnan(mean.error_y.array[0]) and mean.error_y.array[1] == pytest.approx(ci)
        assert dot.legendgroup == mean.legendgroup
        assert kind == "line" or dot.offsetgroup == mean.offsetgroup
    of_three, of_one = (panel_plots.figure(panel, spread(seeds)).data for seeds in (3, 1))
    assert all(trace.error_y.visible and len(trace.x) == 2 for trace in of_three)
    assert not any(trace.error_y.visible for trace in of_one)


def test_an_axis_of_seconds_does_not_go_below_zero():
    table = spread(3).assign(**{"metrics.bwt_gem": -0.5})
    for kind in ("line", "bar"):
        for name, mode in {"seconds.total": "nonnegative", "metrics.bwt_gem": None}.items():
            panel = panels.Panel(kind, "", "network.width", (name,), "method")
            assert panel_plots.figure(panel, table).layout.yaxis.rangemode == mode


def test_a_legend_names_anchors_of_one_quantity_and_quantities_where_they_differ():
    numbers = ("metrics.average_accuracy", "forecast.init.metrics.average_accuracy")
    runs = spread(3)[lambda table: table["method"] == "ewc"].assign(**dict.fromkeys(numbers, 0.5))
    panel = panels.Panel("line", "", "network.width", numbers)
    assert [trace.name for trace in panel_plots.figure(panel, runs).data] == ["measured", "init"]
    both = panel._replace(y=("seconds.total", numbers[1]))
    names = [trace.name for trace in panel_plots.figure(both, runs).data]
    assert names == ["time (total, s)", "average accuracy (init)"]


def test_matrices_and_histories_have_what_they_were_given():
    R = np.array([[0.9, 0.1], [0.5, 0.8]])
    drawn = plots.matrices({"measured": R, "predicted": R - 0.1})
    assert [np.array(trace.z).tolist() for trace in drawn.data] == [R.tolist(), (R - 0.1).tolist()]
    drawn = plots.history(R, [0.1, 0.2], {"init": R})
    assert [list(trace.y) for trace in drawn.data] == [[0.1, 0.9, 0.5], [0.2, 0.1, 0.8]] * 2
