"""The sweep table: what the runs of a made-up sweep say, and the command that writes it."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from ntkcl.reporting import table
from ntkcl.runs import files

ACCURACIES = {
    ("naive", 8): (0.5, 0.6, 0.7),
    ("naive", 16): (0.6, 0.6, 0.6),
    ("ewc", 8): (0.7,),
    ("ewc", 16): (0.8, 0.9, np.nan),
}


def write(folder, method, width, seed, accuracy, schema=files.SCHEMA):
    """A run's folder as far as the table reads it."""
    folder.mkdir(parents=True)
    groups = {
        "stream": "rotated",
        "source": "digits",
        "network": "mlp",
        "loss": "squared_error",
        "optimizer": "sgd",
    }
    settings = {group: {"_target_": f"ntkcl.{group}s.{name}"} for group, name in groups.items()}
    settings |= {
        "method": {"_target_": f"ntkcl.methods.{method}"}
        | ({"penalty": 1.0} if method == "ewc" else {})
    }
    settings["network"] |= {"width": width}
    settings["stream"] |= {"seed": seed}
    settings |= {
        "experiment_name": "made_up",
        "seed": seed,
        "forecast": {"anchors": ["init"], "form": "auto"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    scores = {"average_accuracy": accuracy, "learning_accuracy": 0.5, "forgetting_chaudhry": 0.1}
    summary = {
        "schema": schema,
        "status": "completed",
        "metrics": scores,
        "R": [[1.0]],
        "seconds": {"total": 1.0},
    }
    summary |= {"forecast": {"init": {"drift_r2": 0.9, "verdict": "good", "R": [[1.0]]}}}
    (folder / "summary.json").write_text(json.dumps(files.plain(summary)))
    return folder


@pytest.fixture
def sweep(tmp_path):
    for (method, width), accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            write(
                tmp_path / "results" / "runs" / "made_up" / f"{method}-{width}-{seed}",
                method,
                width,
                seed,
                accuracy,
            )
    (tmp_path / "results" / "runs" / "made_up" / ".stage-of-a-run").mkdir()
    return tmp_path / "results"


def test_a_row_holds_settings_and_numbers_of_a_run(sweep):
    gathered = table.gather(table.folders(sweep))
    row = gathered.set_index("run").loc["ewc-16-1"]
    assert len(gathered) == 10 and (row["method"], row["network.width"], row["seed"]) == (
        "ewc",
        16,
        1,
    )
    assert (
        row["metrics.average_accuracy"] == 0.9
        and row["forecast.init.drift_r2"] == 0.9
        and row["method.penalty"] == 1.0
    )
    assert (
        "R" not in gathered
        and "forecast.init.R" not in gathered
        and row["forecast.anchors"] == '["init"]'
    )


def test_cells_are_told_by_the_settings_that_are_needed_to(sweep):
    gathered = table.gather(table.folders(sweep))
    assert table.varied(gathered) == [
        "method",
        "network.width",
    ]  # neither the seed, nor what follows it, nor the penalty of ewc
    assert table.axes(gathered) == (["network.width"], ["method"])
    drawn = gathered.assign(**{"method.seed": gathered["seed"].where(gathered["method"] == "ewc")})
    assert table.varied(drawn) == ["method", "network.width"]  # nor a seed that only one method has


def test_settings_that_were_left_out_at_their_old_value_have_it(sweep):
    for name, state in (("naive-8-0", "carry"), ("naive-8-1", None)):
        path = sweep / "runs" / "made_up" / name / "config.yaml"
        settings = yaml.safe_load(path.read_text()) | {
            "training": {"steps": 5} | ({"optimizer_state": state} if state else {})
        }
        settings["network"] |= {"gamma0": 3.0} if state else {}
        path.write_text(yaml.safe_dump(settings))
    gathered = table.gather(table.folders(sweep)).set_index("run")
    assert gathered.loc[["naive-8-0", "naive-8-1"], "training.optimizer_state"].tolist() == [
        "carry",
        "reset",
    ]
    assert gathered.loc[["naive-8-0", "naive-8-1"], "network.gamma0"].tolist() == [3.0, 1.0]


def test_a_number_that_no_run_has_is_a_dash_and_a_setting_that_some_lack_a_word(ntkcl, sweep):
    for path in sweep.glob("runs/made_up/*/summary.json"):
        told = json.loads(path.read_text())
        told["metrics"]["forgetting_chaudhry"] = None
        path.write_text(json.dumps(told))
    code, out, _ = ntkcl("table", "by=[method]", "values=[metrics.forgetting_chaudhry]")
    assert code == 0 and "| naive    | 6      | -  " in out, out
    gathered = table.gather(table.folders(sweep)).assign(**{"network.width": [np.nan, *range(9)]})
    assert (
        "network.width" in table.axes(gathered)[1]
        and "network.width" not in table.axes(gathered)[0]
    )


def test_runs_that_foretell_from_other_anchors_are_other_cells(sweep):
    path = sweep / "runs" / "made_up" / "naive-8-1" / "config.yaml"
    path.write_text(path.read_text().replace("- init", "- init\n  - boundary"))
    assert "forecast.anchors" in table.varied(table.gather(table.folders(sweep)))


def test_a_run_of_two_experiments_has_two_rows_and_counts_once_where_they_are_pooled(sweep):
    shutil.copytree(sweep / "runs" / "made_up", sweep / "runs" / "again")
    for path in sweep.glob("runs/again/*/config.yaml"):
        path.write_text(
            yaml.safe_dump(yaml.safe_load(path.read_text()) | {"experiment_name": "again"})
        )
    gathered, value = table.gather(table.folders(sweep)), ["metrics.average_accuracy"]
    assert table.varied(gathered)[-1] == "experiment_name"
    one = table.gather(table.folders(sweep, ["made_up"]))
    pd.testing.assert_frame_equal(
        table.summary(gathered, ["method"], value), table.summary(one, ["method"], value)
    )
    twins = gathered.assign(
        more=np.where(gathered["experiment_name"] == "again", 2.0, np.nan)
    )  # that one of the two has
    assert table.summary(twins, ["method"], ["more"])["more"]["n"].tolist() == [4, 6]
    for path in sweep.glob("runs/again/*/config.yaml"):
        path.write_text(path.read_text().replace("penalty: 1.0", "penalty: 1"))
    assert table.gather(table.folders(sweep))["same"].nunique() == 10
    apart = gathered.assign(method=gathered["method"] + gathered["experiment_name"])
    assert table.varied(apart) == [
        "method",
        "network.width",
    ]  # which tells the experiments apart already


def test_means_deviations_and_intervals_are_those_of_the_runs(sweep):
    gathered = table.gather(table.folders(sweep))
    cells = table.summary(gathered, ["method", "network.width"], ["metrics.average_accuracy"])
    for _, cell in cells.iterrows():
        values = np.array(ACCURACIES[cell[("method", "")], cell[("network.width", "")]])
        finite = values[np.isfinite(values)]
        told = cell["metrics.average_accuracy"]
        assert (
            cell[("runs", "")] == len(values)
            and told["n"] == len(finite)
            and told["mean"] == pytest.approx(finite.mean())
        )
        if len(finite) > 1:
            low, high = (
                stats.t.interval(0.95, len(finite) - 1, finite.mean(), stats.sem(finite))
                if finite.std()
                else (finite[0],) * 2
            )
            assert told["sd"] == pytest.approx(finite.std(ddof=1)) and 2 * told[
                "ci"
            ] == pytest.approx(high - low)
        else:
            assert np.isnan(told["sd"]) and np.isnan(told["ci"])


def test_the_command_prints_filters_pivots_and_writes(ntkcl, sweep, tmp_path):
    code, out, err = ntkcl("table", "values=[metrics.average_accuracy]")
    assert (code, err) == (
        0,
        "",
    ) and "| naive    | 8               | 3      | 0.60 ± 0.25                |" in out, out
    code, out, _ = ntkcl("table", "values=[metrics.average_accuracy]", "pivot=network.width")
    assert code == 0 and "| naive    | 0.60 ± 0.25 | 0.6000 ± 0.0000 |" in out, out
    code, out, _ = ntkcl(
        "table", "where=\"method == 'ewc' and `network.width` > 8\"", "format=latex"
    )
    assert code == 0 and r"0.85 $\pm$ 0.64" in out and "naive" not in out, out
    code, out, _ = ntkcl("table", "by=[method]", "format=csv")
    read = pd.read_csv(io.StringIO(out))
    assert code == 0 and read["metrics.average_accuracy.n"].tolist() == [3, 6]
    assert ntkcl("table", "format=parquet", "out=told/cells.parquet")[0] == 0
    assert len(pd.read_parquet(tmp_path / "told" / "cells.parquet")) == 4
    assert (
        "| naive    | 6      |" in ntkcl("table", "by=method", "values=metrics.average_accuracy")[1]
    )  # one name is a list of one


@pytest.mark.parametrize(
    ("settings", "told"),
    {
        (
            "experiment_name=other",
        ): "experiment_name=other: no complete runs in results/runs, which holds made_up",
        (
            "experiment_name=[made_up,other]",
        ): "experiment_name=other: no complete runs in results/runs, which holds made_up",
        (
            "results_dir=nowhere",
        ): "results_dir=nowhere: no complete runs in nowhere/runs, which holds nothing",
        (
            "values=[metrics.average]",
        ): "values=metrics.average: no such column; the nearest are metrics.average_accuracy",
        ("values=[method]",): "values=method: expected a number",
        ("by=[width]",): "by=width: no such column; the nearest are network.width",
        ("pivot=seed",): "pivot=seed: expected one of the settings in `by`: method, network.width",
        (
            'where="width > 3"',
        ): "where=width > 3: name 'width' is not defined; settings with dots stand in backticks, such as `netw",
        ('where="seed > 30"',): "where=seed > 30: holds for none of 10 runs",
        ("where=3",): "where=3: expected comparisons of columns",
        ("where='@pd.io.common.os.system(\"touch x\") == 0'",): "where=@pd.io.common.os.system(",
        ("by=3",): "by=3: expected a name or a list of names, as [method,network.width]",
        ("by=[3]",): "by=[3]: expected a name or a list of names",
        ("by={method: ewc}",): "by={'method': 'ewc'}: expected a name or a list of names",
        (
            "values=true",
        ): "values=True: expected a name or a list of names, as [metrics.average_accuracy]",
        ("experiment_name=3",): "experiment_name=3: expected a name or a list of names",
        ("out=3",): "out=3: expected a text",
        ("-m",): "-m: expected settings of runs; table, report and dashboard",
        ("by=method", "--multirun"): "-m: expected settings of runs",
        ("hydra.mode=MULTIRUN",): "-m: expected settings of runs",
        ("format=html",): "format=html: expected markdown, csv, latex or parquet",
        (
            "format=csv",
            "pivot=method",
        ): "pivot=method: format=csv keeps every statistic in a column of its own",
        ("format=parquet",): "out=null: format=parquet is for a file; expected its name",
        (
            "formt=csv",
        ): "Could not override 'formt'.; To append to your config use +formt=csv; did you mean format?",
    }.items(),
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_shown_is_one_line(ntkcl, sweep, settings, told):
    code, _, err = ntkcl("table", *settings)
    assert code == 2 and err.startswith(f"ntkcl: {told}") and err.count("\n") == 1, err


def test_an_older_schema_is_read_and_a_newer_or_unknown_one_is_refused(ntkcl, tmp_path):
    runs = tmp_path / "results" / "runs" / "made_up"
    old = write(runs / "old", "naive", 8, 0, 0.5)
    told = json.loads((old / "summary.json").read_text())
    del told["schema"]
    (old / "summary.json").write_text(json.dumps(told))
    read = files.read_summary(old)
    assert (
        read["environment"] is None
        and read["kernel"] == {"top_ratio": [None], "top_drift": None}
        and ntkcl("table")[0] == 0
    )
    assert not files.logged(old)
    (old / "wandb").mkdir()
    assert files.logged(old)  # it had no mark for that
    new = write(runs / "new", "naive", 8, 1, 0.5, schema=files.SCHEMA + 1)
    code, _, err = ntkcl("table")
    assert code == 2 and err.startswith(
        f"ntkcl: results/runs/made_up/{new.name}: its schema is {files.SCHEMA + 1}"
    )
    (new / "summary.json").write_text('{"R": []}')
    code, _, err = ntkcl("table")
    assert code == 0 and "before summaries had a schema" in err and "sweep.retry=all" in err
