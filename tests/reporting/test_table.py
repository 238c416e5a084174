"""The sweep table: what the runs of a made-up sweep say, and the command that writes it."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from ntkcl.reporting import cells, columns, table
from ntkcl.runs import files

ACCURACIES = {
    ("naive", 8): (0.5, 0.6, 0.7),
    ("naive", 16): (0.6, 0.6, 0.6),
    ("ewc", 8): (0.7,),
    ("ewc", 16): (0.8, 0.9, np.nan),
}
GROUPS = {
    "stream": "rotated",
    "source": "digits",
    "network": "mlp",
    "loss": "squared_error",
    "optimizer": "sgd",
}


def write(folder, method, width, seed, accuracy, schema=files.SCHEMA):
    """A run's folder as far as the table reads it."""
    folder.mkdir(parents=True)
    settings = {group: {"_target_": f"ntkcl.{group}s.{name}"} for group, name in GROUPS.items()}
    settings["method"] = {"_target_": f"ntkcl.methods.{method}"}
    if method == "ewc":
        settings["method"]["penalty"] = 1.0
    settings["network"]["width"] = width
    settings["stream"]["seed"] = seed
    settings |= {
        "experiment_name": "made_up",
        "seed": seed,
        "forecast": {"anchors": ["init"], "form": "auto"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    summary = {
        "schema": schema,
        "status": "completed",
        "metrics": {
            "average_accuracy": accuracy,
            "learning_accuracy": 0.5,
            "forgetting_chaudhry": 0.1,
        },
        "R": [[1.0]],
        "seconds": {"total": 1.0},
        "forecast": {"init": {"drift_r2": 0.9, "verdict": "good", "R": [[1.0]]}},
    }
    (folder / "summary.json").write_text(json.dumps(files.plain(summary)))
    return folder


@pytest.fixture
def sweep(tmp_path):
    """The results of ten runs, two methods and two widths."""
    runs = tmp_path / "results" / "runs" / "made_up"
    for (method, width), accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            write(runs / f"{method}-{width}-{seed}", method, width, seed, accuracy)
    (runs / ".stage-of-a-run").mkdir()
    return tmp_path / "results"


def read(sweep):
    return table.gather(table.folders(sweep))


def edit(path, **settings):
    """Change top-level settings of a `config.yaml`."""
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))


def test_a_row_holds_settings_and_numbers_of_a_run(sweep):
    gathered = read(sweep)
    row = gathered.set_index("run").loc["ewc-16-1"]
    assert len(gathered) == 10
    assert (row["method"], row["network.width"], row["seed"]) == ("ewc", 16, 1)
    assert row["metrics.average_accuracy"] == 0.9 and row["forecast.init.drift_r2"] == 0.9
    assert row["method.penalty"] == 1.0 and row["forecast.anchors"] == '["init"]'
    assert "R" not in gathered and "forecast.init.R" not in gathered


def test_settings_of_the_forecast_are_settings_and_its_numbers_are_not():
    settings = ("forecast.form", "forecast.tolerance", "method", "network.width", "references")
    assert all(map(columns.is_setting, settings))
    numbers = ("forecast.init.skill", "metrics.bwt_gem", "learning_rate", "status", "run", "same")
    assert not any(map(columns.is_setting, numbers))


def test_cells_differ_in_the_settings_that_distinguish_them_and_no_others(sweep):
    gathered = read(sweep)
    # neither the seed, nor what follows it, nor the penalty of ewc
    assert columns.varied(gathered) == ["method", "network.width"]
    assert columns.axes(gathered) == (["network.width"], ["method"])
    of_ewc = gathered["seed"].where(gathered["method"] == "ewc")
    drawn = gathered.assign(**{"method.seed": of_ewc})  # a seed that only one method has
    assert columns.varied(drawn) == ["method", "network.width"]


def test_settings_that_were_left_out_at_their_old_value_have_it(sweep):
    runs = ["naive-8-0", "naive-8-1"]
    for name, state in zip(runs, ("carry", None), strict=True):
        path = sweep / "runs" / "made_up" / name / "config.yaml"
        network = yaml.safe_load(path.read_text())["network"]
        training = {"steps": 5}
        if state:
            training["optimizer_state"], network["gamma0"] = state, 3.0
        edit(path, training=training, network=network)
    gathered = read(sweep).set_index("run")
    assert gathered.loc[runs, "training.optimizer_state"].tolist() == ["carry", "reset"]
    assert gathered.loc[runs, "network.gamma0"].tolist() == [3.0, 1.0]


def test_a_number_that_no_run_has_is_a_dash_and_a_setting_that_some_lack_a_word(ntkcl, sweep):
    for path in sweep.glob("runs/made_up/*/summary.json"):
        summary = json.loads(path.read_text())
        summary["metrics"]["forgetting_chaudhry"] = None
        path.write_text(json.dumps(summary))
    code, out, _ = ntkcl("table", "by=[method]", "values=[metrics.forgetting_chaudhry]")
    assert code == 0 and "| naive    | 6      | -  " in out, out
    gathered = read(sweep).assign(**{"network.width": [np.nan, *range(9)]})
    numbers, words = columns.axes(gathered)
    assert "network.width" in words and "network.width" not in numbers


def test_runs_that_forecast_from_other_anchors_are_other_cells(sweep):
    path = sweep / "runs" / "made_up" / "naive-8-1" / "config.yaml"
    path.write_text(path.read_text().replace("- init", "- init\n  - boundary"))
    assert "forecast.anchors" in columns.varied(read(sweep))


@pytest.fixture
def twice(sweep):
    """The same runs in two experiments."""
    shutil.copytree(sweep / "runs" / "made_up", sweep / "runs" / "again")
    for path in sweep.glob("runs/again/*/config.yaml"):
        edit(path, experiment_name="again")
    return sweep


def test_a_run_of_two_experiments_has_two_rows_and_counts_once_where_they_are_pooled(twice):
    gathered, value = read(twice), ["metrics.average_accuracy"]
    assert columns.varied(gathered)[-1] == "experiment_name"
    one = table.gather(table.folders(twice, ["made_up"]))
    pd.testing.assert_frame_equal(
        cells.summary(gathered, ["method"], value), cells.summary(one, ["method"], value)
    )
    # a number that one of the two has
    more = np.where(gathered["experiment_name"] == "again", 2.0, np.nan)
    means = cells.summary(gathered.assign(more=more), ["method"], ["more"])
    assert means["more"]["n"].tolist() == [4, 6]
    # where the method already distinguishes the experiments, their names are not needed
    apart = gathered.assign(method=gathered["method"] + gathered["experiment_name"])
    assert columns.varied(apart) == ["method", "network.width"]


def test_whole_numbers_are_the_same_setting_with_and_without_a_point(twice):
    for path in twice.glob("runs/again/*/config.yaml"):
        path.write_text(path.read_text().replace("penalty: 1.0", "penalty: 1"))
    assert read(twice)["same"].nunique() == 10


def test_means_deviations_and_intervals_are_those_of_the_runs(sweep):
    name = "metrics.average_accuracy"
    for _, cell in cells.summary(read(sweep), ["method", "network.width"], [name]).iterrows():
        values = np.array(ACCURACIES[cell[("method", "")], cell[("network.width", "")]])
        finite, found = values[np.isfinite(values)], cell[name]
        assert cell[("runs", "")] == len(values) and found["n"] == len(finite)
        assert found["mean"] == pytest.approx(finite.mean())
        if len(finite) == 1:
            assert np.isnan(found["sd"]) and np.isnan(found["ci"])
            continue
        assert found["sd"] == pytest.approx(finite.std(ddof=1))
        low = high = finite[0]
        if finite.std():
            error = stats.sem(finite)
            low, high = stats.t.interval(0.95, len(finite) - 1, finite.mean(), error)
        assert 2 * found["ci"] == pytest.approx(high - low)


def test_the_command_prints_labels_filters_pivots_and_writes(ntkcl, sweep, tmp_path):
    accuracy = "values=[metrics.average_accuracy]"
    code, out, err = ntkcl("table", accuracy)
    assert (code, err) == (0, "") and "| runs   | average accuracy   |" in out, out
    assert "| naive    | 8               | 3      | 0.60 ± 0.25        |" in out, out
    code, out, _ = ntkcl("table", accuracy, "pivot=network.width")
    assert code == 0 and "| naive    | 0.60 ± 0.25 | 0.6000 ± 0.0000 |" in out, out
    code, out, _ = ntkcl("table", "by=[method]", accuracy, "pivot=method")
    assert code == 0 and "| average accuracy |" in out, out
    where = "where=\"method == 'ewc' and `network.width` > 8\""
    code, out, _ = ntkcl("table", where, "format=latex")
    assert code == 0 and r"0.85 $\pm$ 0.64" in out and "naive" not in out, out
    assert "drift, predicted and measured (R$^2$, init)" in out
    code, out, _ = ntkcl("table", "by=[method]", "format=csv")
    written = pd.read_csv(io.StringIO(out))
    assert code == 0 and written["metrics.average_accuracy.n"].tolist() == [3, 6]
    assert ntkcl("table", "format=parquet", "out=new/cells.parquet")[0] == 0
    assert len(pd.read_parquet(tmp_path / "new" / "cells.parquet")) == 4
    # one name is a list of one
    out = ntkcl("table", "by=method", "values=metrics.average_accuracy")[1]
    assert "| naive    | 6      |" in out


NO_RUNS = "no complete runs in results/runs, which holds made_up"
NO_SWEEP = "-m: expected settings of runs"
NAMES = "expected a name or a list of names"
REFUSED = {
    ("experiment_name=other",): f"experiment_name=other: {NO_RUNS}",
    ("experiment_name=[made_up,other]",): f"experiment_name=other: {NO_RUNS}",
    ("results_dir=nowhere",): (
        "results_dir=nowhere: no complete runs in nowhere/runs, which holds nothing"
    ),
    ("values=[metrics.average]",): (
        "values=metrics.average: no such column; the nearest are metrics.average_accuracy"
    ),
    ("values=[method]",): "values=method: expected a number",
    ("by=[width]",): "by=width: no such column; the nearest are network.width",
    ("pivot=seed",): "pivot=seed: expected one of the settings in `by`: method, network.width",
    ('where="width > 3"',): (
        "where=width > 3: name 'width' is not defined; settings with dots stand in backticks, "
        "such as `netw"
    ),
    ('where="seed > 30"',): "where=seed > 30: holds for none of 10 runs",
    ("where=3",): "where=3: expected comparisons of columns",
    ("where='@pd.io.common.os.system(\"touch x\") == 0'",): "where=@pd.io.common.os.system(",
    ("by=3",): f"by=3: {NAMES}, as [method,network.width]",
    ("by=[3]",): f"by=[3]: {NAMES}",
    ("by={method: ewc}",): f"by={{'method': 'ewc'}}: {NAMES}",
    ("values=true",): f"values=True: {NAMES}, as [metrics.average_accuracy]",
    ("experiment_name=3",): f"experiment_name=3: {NAMES}",
    ("out=3",): "out=3: expected a text",
    ("-m",): f"{NO_SWEEP}; table, report and dashboard",
    ("by=method", "--multirun"): NO_SWEEP,
    ("hydra.mode=MULTIRUN",): NO_SWEEP,
    ("format=html",): "format=html: expected markdown, csv, latex or parquet",
    ("format=csv", "pivot=method"): (
        "pivot=method: format=csv keeps every statistic in a column of its own"
    ),
    ("format=parquet",): "out=null: format=parquet is for a file; expected its name",
    ("formt=csv",): (
        "Could not override 'formt'.; To append to your config use +formt=csv; did you mean format?"
    ),
}


@pytest.mark.parametrize("settings", REFUSED, ids=" ".join)
def test_what_cannot_be_shown_is_one_line(ntkcl, sweep, settings):
    code, _, err = ntkcl("table", *settings)
    assert code == 2 and err.startswith(f"ntkcl: {REFUSED[settings]}"), err
    assert err.count("\n") == 1


def test_an_older_schema_is_read_and_a_newer_or_unknown_one_is_refused(ntkcl, tmp_path):
    runs = tmp_path / "results" / "runs" / "made_up"
    old = write(runs / "old", "naive", 8, 0, 0.5)
    summary = json.loads((old / "summary.json").read_text())
    del summary["schema"]
    (old / "summary.json").write_text(json.dumps(summary))
    upgraded = files.read_summary(old)
    assert upgraded["environment"] is None
    assert upgraded["kernel"] == {"top_ratio": [None], "top_drift": None}
    assert ntkcl("table")[0] == 0
    assert not files.logged(old)
    (old / "wandb").mkdir()
    assert files.logged(old)  # the old schema had no mark for that
    new = write(runs / "new", "naive", 8, 1, 0.5, schema=files.SCHEMA + 1)
    code, _, err = ntkcl("table")
    refused = f"ntkcl: results/runs/made_up/{new.name}: its schema is {files.SCHEMA + 1}"
    assert code == 2 and err.startswith(refused)
    (new / "summary.json").write_text('{"R": []}')
    code, _, err = ntkcl("table")
    assert code == 0 and "before summaries had a schema" in err and "sweep.retry=all" in err
