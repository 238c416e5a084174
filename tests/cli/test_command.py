"""The command as a user types it: files, figures, W&B, multirun, and one clear line for what can be
mended."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from cases import mostly_slow

from ntkcl.runs import files

TINY = (
    "network.width=8",
    "stream.tasks=3",
    "stream.train_per_class=2",
    "stream.test_per_class=2",
    "training.steps=20",
)
PLAIN = (*TINY, "tracking=disabled", "figures=false")
WHATIF = ["job=whatif", "network.centred=false", "stream=split", "stream.scenario=class"]


def the_run(root, experiment="main"):
    (folder,) = (Path(root) / "results" / "runs" / experiment).iterdir()
    return folder


def leet(*arguments):
    wandb = Path(sys.executable).parent / "wandb"
    return subprocess.run(
        [wandb, "leet", "inspect", *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_a_run_writes_everything_and_wandb_reads_it_back(ntkcl, tmp_path):
    code, out, err = ntkcl(*TINY, "seed=3")
    assert (code, err) == (0, "")
    assert "stability limit" in out and "drift, predicted" in out and "completed" in out
    folder = the_run(tmp_path)
    assert {p.name for p in folder.iterdir()} == {
        "arrays.npz",
        "config.yaml",
        "figures",
        "rows.parquet",
        "summary.json",
        "wandb",
    }
    assert {p.name for p in (folder / "figures").iterdir()} == {
        "R.png",
        "drift.png",
        "forgetting.png",
    }

    summary, rows, arrays = files.load(folder)
    assert summary["status"] == "completed"
    assert np.shape(summary["R"]) == (3, 3) and np.shape(summary["b"]) == (3,)
    named = {
        "R",
        "drift_r2",
        "drift_cosine",
        "drift_slope",
        "forgetting_predicted",
        "forgetting_measured",
        "spearman_offdiagonal",
        "skill",
    }
    for anchor in ("init", "boundary"):
        assert (
            named <= set(summary["forecast"][anchor])
            and summary["forecast"][anchor]["drift_r2"] > 0
        )
    for scored in (summary, summary["forecast"]["init"]):
        R, losses = np.array(scored["R"]), np.array(scored["R_loss"])
        assert scored["metrics"]["forgetting_peak_all_tasks"] == pytest.approx(
            (R.max(0, where=np.tri(3) > 0, initial=0) - R[-1]).mean()
        )
        assert scored["metrics_loss"]["average_loss"] == pytest.approx(losses[-1].mean())
        assert scored["metrics_loss"]["forgetting_first"] == pytest.approx(
            (losses[-1] - losses.diagonal())[:2].mean()
        )
    assert {"forecast_init", "forecast_boundary", "train", "total"} <= set(summary["seconds"])
    assert summary["peak_mib"]["train"] > 50
    assert summary["learning_rate"] == pytest.approx(summary["learning_rate_limit"] / 2)

    assert len(rows) == 2 * 3 * 4 * 3  # part, what, trained, evaluated
    last = rows.query("part == 'test' and what == 'measured' and trained == 2").sort_values(
        "evaluated"
    )
    np.testing.assert_allclose(last["accuracy"], summary["R"][2])
    assert arrays["measured"].shape == (4, 3 * 2 * 20, 10)

    run = next((folder / "wandb").glob("offline-run-*"))
    reported = leet("--summary", "--json", str(run))
    assert "sgd-naive-rotated-w8-s3" in reported and "rotated" in reported
    plain = leet("--summary", str(run))
    shown = dict(line.split() for line in plain.splitlines() if len(line.split()) == 2)
    for anchor in ("init", "boundary"):
        assert float(shown[f"forecast/{anchor}/drift_r2"]) == pytest.approx(
            summary["forecast"][anchor]["drift_r2"]
        )
    assert float(shown["metrics/forgetting_chaudhry"]) == pytest.approx(
        summary["metrics"]["forgetting_chaudhry"]
    )
    whole = leet("--json", str(run))
    for key in (
        "R_measured",
        "R_forecast_init",
        "figures/drift",
        "acc/0",
        "forecast/init/acc/2",
        "run_group",
        "train/loss",
    ):
        assert key in whole, key
    records = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    history = [record for record in records if record["type"] == "history"]
    assert find(json.dumps(history), "train/loss")
    assert ".nrows" not in json.dumps(history)  # W&B would draw a panel of it
    (stored,) = (run / "files" / "media" / "table").glob("R_measured_*.table.json")
    assert [row[1:] for row in json.loads(stored.read_text())["data"]] == summary["R"]
    identity = folder.name.rsplit("-", 1)[1]
    assert run.name.rsplit("-", 1)[1].startswith(identity)


def test_the_same_configuration_gives_the_same_folder_and_the_same_numbers(ntkcl, tmp_path):
    assert ntkcl(*PLAIN)[0] == 0
    folder = the_run(tmp_path)
    assert not (folder / "wandb").exists()
    before, stamp = (folder / "arrays.npz").read_bytes(), (folder / "arrays.npz").stat().st_mtime_ns
    assert ntkcl(*PLAIN, "sweep.retry=all")[0] == 0
    assert (folder / "arrays.npz").stat().st_mtime_ns != stamp
    assert the_run(tmp_path) == folder and (folder / "arrays.npz").read_bytes() == before
    assert ntkcl(*PLAIN, "seed=1", "results_dir=elsewhere", "forecast.anchors=[]")[0] == 0
    assert (tmp_path / "elsewhere" / "runs" / "main").is_dir()
    assert the_run(tmp_path) == folder


@pytest.mark.slow
def test_a_run_compiles_half_as_many_programs_as_it_once_did(tmp_path):
    """Of the default size: 39, and 135 when every cut of an array was a program of its own."""
    short = ("stream.tasks=3", "training.steps=20", "tracking=disabled")
    logged = subprocess.run(
        [sys.executable, "-m", "ntkcl", *short, "compilation_cache=false"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"JAX_LOG_COMPILES": "1"},
    )
    assert logged.returncode == 0, logged.stderr
    assert 20 < logged.stderr.count("Finished XLA compilation") <= 50


@pytest.mark.slow
def test_multirun_makes_a_folder_a_run_and_groups_differ_in_all_but_the_seed(ntkcl, tmp_path):
    few = ("stream.tasks=2", "training.steps=2", "forecast.anchors=[]")
    code, _, err = ntkcl("-m", *TINY, *few, "network.width=8,16", "seed=0,1")
    assert (code, err) == (0, "")
    folders = sorted(
        p.name.rsplit("-", 1)[0] for p in (tmp_path / "results" / "runs" / "main").iterdir()
    )
    assert folders == [
        "sgd-naive-rotated-w16-s0",
        "sgd-naive-rotated-w16-s1",
        "sgd-naive-rotated-w8-s0",
        "sgd-naive-rotated-w8-s1",
    ]
    runs = (tmp_path / "results" / "runs" / "main").glob("*/wandb/offline-run-*")
    groups = [
        record["run_group"]
        for run in runs
        for record in find(leet("--json", str(run)), "run_group")
    ]
    assert len(set(groups)) == 2 and sorted(map(groups.count, set(groups))) == [2, 2]


def find(text, key):
    """Every object in a stream of JSON that has a key."""
    found, stack = (
        [],
        [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        or [json.loads(text)],
    )
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            found += [node] if key in node else []
            stack += list(node.values())
        elif isinstance(node, list):
            stack += node
    return found


def test_a_run_that_diverges_is_written_and_ends_well(ntkcl, tmp_path):
    code, out, _ = ntkcl(
        *TINY,
        "network.activation=erf",
        "training.learning_rate_fraction=1e6",
        "training.allow_unstable=true",
        "training.steps=200",
    )
    assert code == 0 and "diverged" in out
    summary, _, _ = files.load(the_run(tmp_path))
    assert summary["status"] == "diverged" and summary["metrics"]["average_accuracy"] is None
    assert summary["R"][0][0] is None and summary["b"][0] is not None


def test_a_forecast_alone_is_that_of_the_run_and_trains_nothing(ntkcl, tmp_path, monkeypatch):
    code, printed, _ = ntkcl(*PLAIN)
    assert code == 0
    (run,) = (tmp_path / "results" / "runs" / "main").iterdir()
    whole = files.load(run)[0]
    before = next(line for line in printed.splitlines() if line.startswith("init predicts"))
    number = f"{whole['forecast']['init']['metrics']['forgetting_chaudhry']:.4f}"
    assert number in before and printed.index(before) < printed.index("forecasting from boundary")

    def trained(*_, **__):
        raise AssertionError("something was trained")

    for name in ("segments", "train", "train_seeds"):
        monkeypatch.setattr(f"ntkcl.training.problem.{name}", trained)
    code, printed, err = ntkcl(*TINY, "job=forecast")
    assert (code, err) == (0, "") and "nothing was trained" in printed and "verdict" in printed
    (own,) = (tmp_path / "results" / "runs" / "main").glob("forecast-*")
    summary, rows, _ = files.load(own)
    assert summary["status"] == "forecast" and "train" not in summary["seconds"]
    for key in ("R", "metrics", "verdict", "trial_r2", "stable"):
        assert summary["forecast"]["init"][key] == whole["forecast"]["init"][key], key
    assert list(summary["forecast"]) == ["init"] and len(rows)
    assert {p.name for p in (own / "figures").iterdir()} == {"R.png"}
    assert summary["metrics"]["average_accuracy"] is None

    # The forecast is not the run, which can still be made, and a sweep finds each again.
    code, printed, _ = ntkcl(*TINY, "job=forecast")
    assert code == 0 and "complete before" in printed
    code, printed, _ = ntkcl("table", "where=\"job == 'forecast'\"")
    accuracy = f"{whole['forecast']['init']['metrics']['average_accuracy']:.4g}"
    assert code == 0 and accuracy in printed and "average accuracy (init)" in printed


def test_units_that_die_in_training_do_not_end_the_run(ntkcl, tmp_path):
    """One huge step kills every ReLU: the next boundary kernel is zero, and so is its forecast."""
    code, _, err = ntkcl(*PLAIN, "training.allow_unstable=true", "training.learning_rate=1e4")
    assert (code, err) == (0, "")
    assert files.load(the_run(tmp_path))[0]["status"] == "diverged"


def test_a_centred_network_starts_at_chance_exactly(ntkcl, tmp_path):
    assert ntkcl(*PLAIN)[0] == 0
    summary, _, arrays = files.load(the_run(tmp_path))
    assert not arrays["measured"][0].any() and summary["b"] == pytest.approx([0.1] * 3)


BAD = {
    "unknown source": (["source=cifra"], "source/cifra"),
    "unknown TFDS name": (["source=tfds", "source.name=minst"], "source.name=minst"),
    "not prepared, no download": (
        ["source=tfds", "source.download=false", "source.data_dir=empty"],
        "source.download=false",
    ),
    "missing folder": (["source=idx", "source.idx_dir=/nowhere"], "source.idx_dir=/nowhere"),
    "missing setting": (["source=idx"], "source.idx_dir"),
    "a seed twice": (["seeds=[1,1]"], "seeds=[1, 1]"),
    "seeds that are none": (["seeds=[1,-1]"], "seeds=-1"),
    "no way of seeds": (["seeds_by=pmap"], "seeds_by=pmap"),
    "seeds as one with checkpoints": (
        ["seeds=[0,1]", "checkpoints.every=5"],
        "checkpoints.every=5",
    ),
    "no samples": (["stream.train_per_class=0"], "stream.train_per_class=0"),
    "too many samples": (["stream.train_per_class=1000"], "stream.train_per_class=1000"),
    "too many classes": (["stream=split", "stream.tasks=6"], "classes, the source has 10"),
    "angles that do not fit": (["stream.angles=[0.0,10.0]"], "stream.angles=[0.0, 10.0]"),
    "patch that does not fit": (["stream=permuted", "stream.patch=9"], "stream.patch=9"),
    "width 0": (["network.width=0"], "network.width=0"),
    "over the limit": (["training.learning_rate=1e9"], "training.learning_rate=1e+09"),
    "steps of none": (["training.steps=0"], "training.steps=0"),
    "unknown anchor": (["forecast.anchors=[final]"], "forecast.anchors"),
    "unknown precision": (["precision=float16"], "precision=float16"),
    "unknown key": (["sed=3"], "did you mean seed?"),
    "unknown nested key": (["network.widht=3"], "did you mean network.width?"),
    "unknown argument": (["+network.wings=2"], "wings"),
    "unknown tracking mode": (["tracking.mode=sideways"], "tracking.mode=sideways"),
    "a negative seed": (["seed=-1"], "seed=-1"),
    "steps as a fraction": (["training.steps=20.0"], "training.steps=20.0"),
    "an anchor behind a training that a plan does not do": (
        ["job=orders", "forecast.anchors=[path]"],
        "forecast.anchors=['path']: job=orders",
    ),
    "only anchors behind a training that a forecast does not do": (
        ["job=forecast", "forecast.anchors=[boundary,path]"],
        "forecast.anchors=['boundary', 'path']: job=forecast trains nothing; expected init or",
    ),
    "references of a forecast": (
        ["job=forecast", "references=[joint]"],
        "references=['joint']: job=forecast",
    ),
    "a measured number of a forecast": (
        ["job=forecast", "sweep.objective=forecast.boundary.skill"],
        "sweep.objective=forecast.boundary.skill: no such number",
    ),
    "an unknown anchor of a plan": (
        ["job=orders", "forecast.anchors=[init,nosuch]"],
        "forecast.anchors=nosuch",
    ),
    "a form that a plan does not take": (
        ["job=lr", "forecast.form=closed"],
        "forecast.form=closed: job=lr",
    ),
    "a setting of a plan that comes twice": (["job=replay", "+plan.replay.seed=1"], "seed"),
    "a plan without one of its settings": (["job=lr", "~plan.lr.steps"], "steps"),
    "no settings of what if": (["job=whatif", "whatif=null"], "whatif=None"),
    "what if of a centred network": (["job=whatif", *PLAIN], "expected network.centred=false"),
    "no settings of a plan": (["job=orders", "plan.orders=null"], "plan.orders=None"),
    "no grid": (["job=methods", "plan.methods=null"], "plan.methods=None"),
    "a number for a method's settings": (["job=methods", "plan.methods.l2=3"], "plan.methods.l2=3"),
    "a method that there is not": (
        ["job=methods", "+plan.methods.nosuch={}"],
        "plan.methods=nosuch: expected agem",
    ),
    "a setting without values": (
        ["job=methods", "plan.methods.replay={per_task: []}"],
        "plan.methods.replay.per_task=[]",
    ),
    "no anchors": (["forecast.anchors=null"], "forecast.anchors=None"),
    "an anchor for a list": (["forecast.anchors=init"], "forecast.anchors=init"),
    "no name": (["experiment_name=null"], "experiment_name=None"),
    "no training": (["training=null"], "training=None"),
    "sd of zero": (["source.sd=0.0"], "source.sd=0.0"),
    "hardly any test set": (["source.test_fraction=0.999"], "source.test_fraction=0.999"),
    "unknown TFDS version": (["source=tfds", "source.name=mnist:9.9.9"], "source.name=mnist:9.9.9"),
    "unknown TFDS config": (["source=tfds", "source.name=mnist/nope"], "source.name=mnist/nope"),
    "dead network": (["network.width=1", "network.depth=9"], "kernel of task"),
    "unknown preset": (["experiment=rotated_fasion"], "rotated_fasion"),
    "an unknown reference": (
        ["references=[single,nosuch]"],
        "references=nosuch: expected single or joint",
    ),
    "a reference for a list": (["references=single"], "references=single: expected a list"),
    "references of a plan": (
        ["job=orders", "references=[joint]"],
        "references=['joint']: job=orders",
    ),
    "a buffer that does not fit": (
        ["method=er", "method.size=1000000000"],
        "method.size=1000000000: a buffer of so many rows",
    ),
    "a network that does not fit": (["network.width=1000000000000"], "out of memory"),
    "a schedule that is a module": (
        ["training.schedule={name: _schedule}"],
        "training.schedule.name=_schedule",
    ),
    "a batch of gradients larger than a task": (
        ["method=ewc_diagonal", "method.batch=300", "method.labels=sampled"],
        "method.batch=300: expected at most 20",
    ),
    "a part that is no method": (
        ["method=together", "method.parts.second=null"],
        "method.parts.second=None",
    ),
    "a path for a name": (["experiment_name=../x"], "experiment_name=../x"),
    "a word for a flag": (["training.allow_unstable=abc"], "training.allow_unstable=abc"),
    "an unknown addition": (["+foo=1"], "foo=1: no such setting"),
    "a group of nothing": (["network=null"], "takes the name of a file"),
    "no such target": (["network._target_=ntkcl.networks.nope"], "nope"),
    "a huge seed": (["seed=99999999999999999999"], "seed=99999999999999999999"),
    "a project that is a number": (["tracking.project=3"], "tracking.project=3"),
    "an optimizer that there is not": (
        ["optimizer=optax", "optimizer.name=adamx"],
        "optimizer.name=adamx: no optimizer of Optax",
    ),
    "a schedule that there is not": (
        ["training.schedule={name: cosine}"],
        "training.schedule.name=cosine: no schedule of Optax",
    ),
    "a schedule without a name": (
        ["training.schedule={decay_steps: 5}"],
        "training.schedule={'decay_steps': 5}: expected null",
    ),
    "a schedule that its settings do not fit": (
        ["training.schedule={name: linear_schedule}"],
        "training.schedule={'name'",
    ),
    "an unknown type of computing": (
        ["training.compute=float8"],
        "training.compute=float8: expected null or bfloat16",
    ),
    "more devices than there are": (
        ["training.devices=1000"],
        "training.devices=1000: expected at most",
    ),
    "a word for devices": (
        ["training.devices=some"],
        "training.devices=some: expected a whole number",
    ),
    "a setting that its optimizer has not": (
        ["optimizer=optax", "optimizer.settings={b3: 0.9}"],
        "optimizer.settings={'b3': 0.9}",
    ),
    "a cache that is no flag": (
        ["compilation_cache=maybe"],
        "compilation_cache=maybe: expected true",
    ),
    "a setting of another network": (
        ["+network.trainable=lora"],
        "network.trainable=lora: ntkcl.networks.mlp has no such setting",
    ),
    "columns of images": (
        ["job=whatif", "network.centred=false", "whatif.slices=[author]"],
        "whatif.slices=['author']: source=digits has no columns; expected source=table",
    ),
    "a column that is no list": (
        ["job=whatif", "network.centred=false", "whatif.slices=author"],
        "whatif.slices=author: expected a list",
    ),
    "methods of what if that are no methods": (
        ["job=whatif", "network.centred=false", "whatif.methods=[ewc]"],
        "whatif.methods=['ewc']: expected methods and settings, such as",
    ),
    "a method of what if that there is not": (
        ["job=whatif", "network.centred=false", "whatif.methods={nosuch: {}}"],
        "whatif.methods=nosuch: expected agem",
    ),
    "another class for a method of what if": (
        [*WHATIF, "whatif.methods={lwf: {_target_: ntkcl.methods.ewc}}"],
        "whatif.methods.lwf._target_: expected a setting of lwf",
    ),
    "a method of what if that watches every step": (
        [*WHATIF, "whatif.methods={naive: {}, si: {}}"],
        "whatif.method: it watches every step from the first task on",
    ),
    "a method of what if that Gram blocks cannot follow": (
        [*WHATIF, "whatif.methods={ewc: {}}", "whatif.keep=gram"],
        "whatif.keep=gram: methods weigh and project parameters",
    ),
    "unwritable folder": (["results_dir=/dev/null/results"], "results_dir"),
}


# All of them take one way through the command: the fast suite goes it with every third.
@pytest.mark.parametrize("case", mostly_slow(BAD, *list(BAD)[::3]))
def test_bad_input_is_one_line_that_names_the_setting_and_leaves_nothing(ntkcl, tmp_path, case):
    overrides, named = BAD[case]
    code, _, err = ntkcl(*TINY, *overrides)
    assert code == 2
    assert err.startswith("ntkcl: ") and err.count("\n") == 1 and named in err, err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.fixture
def logged_out(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_online_without_a_login_is_one_line_before_anything_is_computed(
    ntkcl, tmp_path, logged_out
):
    code, _, err = ntkcl(*TINY, "tracking=online", "forecast.anchors=[]")
    assert (
        code == 2
        and "tracking.mode=online: no API key" in err
        and "tracking=offline" in err
        and err.count("\n") == 1
    )
    assert not (tmp_path / "results").exists()


def test_online_without_a_login_is_offline_where_that_was_allowed(ntkcl, tmp_path, logged_out):
    code, _, err = ntkcl(*TINY, "tracking=online", "tracking.fallback=true", "forecast.anchors=[]")
    assert (code, err) == (0, "") and list((the_run(tmp_path) / "wandb").glob("offline-run-*"))


def test_what_was_not_logged_is_logged_when_the_command_is_given_again(ntkcl, tmp_path):
    few = (*TINY, "forecast.anchors=[]")
    assert ntkcl(*few, "tracking=disabled")[0] == 0
    folder = the_run(tmp_path)
    stamp = (folder / "arrays.npz").stat().st_mtime_ns
    code, out, _ = ntkcl(*few)
    assert (
        code == 0
        and "logged, which was missing" in out
        and (folder / "arrays.npz").stat().st_mtime_ns == stamp
    )
    (folder / "wandb" / "complete").unlink()  # as if the process had died in the midst
    assert "logged, which was missing" in ntkcl(*few)[1]
    assert (
        len(list((folder / "wandb").glob("offline-run-*"))) == 1 and "logged" not in ntkcl(*few)[1]
    )
    assert "-results" in leet(
        "--json", str(next((folder / "wandb").glob("offline-run-*")))
    )  # the artifact


def test_a_folder_that_holds_another_configuration_is_left_alone(ntkcl, tmp_path):
    assert ntkcl(*PLAIN)[0] == 0
    folder = the_run(tmp_path)
    stored = folder / "config.yaml"
    stored.write_text(stored.read_text().replace("seed: 0", "seed: 7"))
    before = sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    code, _, err = ntkcl(*PLAIN)
    assert code == 2 and "holds another configuration" in err and str(folder.name) in err
    assert sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before


def test_nan_in_the_data_is_found(ntkcl, monkeypatch):
    from ntkcl import sources

    honest = sources.digits

    def holed(**settings):
        source = honest(**settings)
        source.train.x[:] = np.nan
        return source

    monkeypatch.setattr(sources, "digits", holed)
    code, _, err = ntkcl(*TINY)
    assert code == 2 and "NaN" in err and err.count("\n") == 1


def test_what_cannot_be_is_told_before_a_sweep_begins(ntkcl, tmp_path):
    for sweep, reported in {
        "network.width=8,0": "network.width=0: expected a whole number of at least 1",
        "seed=0,one": "seed=one: expected a whole number from 0 to 4294967295",
        "training.steps=5,many": "training.steps=many: expected a whole number",
        "network.widht=8,16": "Could not override 'network.widht'",
        "sweep.retry=never,all": "sweep.retry=never: expected none, failed, diverged or all",
    }.items():
        code, _, err = ntkcl("-m", *PLAIN, sweep)
        assert code == 2 and err.startswith(f"ntkcl: {reported}") and err.count("\n") == 1, err
    assert not (tmp_path / "results" / "runs").exists()


def test_a_command_that_there_is_not_is_told(ntkcl):
    code, _, err = ntkcl("tabel", "experiment_name=width")
    assert code == 2 and err.startswith(
        "ntkcl: tabel: no such command; expected table, report, dashboard, help, or settings"
    )


@pytest.mark.slow
def test_the_flag_of_a_sweep_may_stand_anywhere(ntkcl, tmp_path):
    settings = (*PLAIN, "sweep.dry=true", "network.width=8,16")
    first = ntkcl("-m", *settings)
    assert first[0] == 0 and "2 of 2 jobs would be launched" in first[1]
    for k in (1, 3, len(settings)):
        assert ntkcl(*settings[:k], "-m", *settings[k:]) == first
    for command in (("table", "-m"), ("-m", "table"), ("report", "by=method", "--multirun")):
        code, _, err = ntkcl(*command)
        assert code == 2 and err.count("\n") == 1
        assert err.startswith("ntkcl: -m: expected settings of runs")
    assert not (tmp_path / "multirun").exists()


def test_in_a_sweep_the_other_jobs_go_on(ntkcl, tmp_path):
    rates = "training.learning_rate=1e9,1e-3"
    code, _, err = ntkcl("-m", *PLAIN, "forecast.anchors=[]", rates)
    assert code == 1 and "Traceback" not in err
    reported = [line for line in err.splitlines() if "exceeds the stability limit" in line]
    assert reported[0].startswith("ntkcl: training.learning_rate=1e+09") and reported[1].startswith(
        "  sgd-naive-rotated-w8-s0"
    )
    assert "1 failed" in err and err.rstrip().endswith("training.learning_rate=1000000000.0"), err
    assert (
        yaml.safe_load((the_run(tmp_path) / "config.yaml").read_text())["training"]["learning_rate"]
        == 1e-3
    )


def test_the_process_itself_ends_with_code_2_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ntkcl", "network.width=0"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("ntkcl: network.width=0: expected")
        and done.stderr.count("\n") == 1
    )
    assert not list(tmp_path.iterdir())


EACH = """
import sys
from hydra.core.global_hydra import GlobalHydra
from ntkcl.__main__ import main

for setting in sys.argv[1:]:
    sys.argv = ["ntkcl", *setting.split()]
    GlobalHydra.instance().clear()
    try:
        main()
        print(0)
    except SystemExit as stop:
        print(stop.code)
"""


def test_where_no_type_checker_stands_before_our_own_checks_they_tell_kinds_apart(tmp_path):
    """In a process of its own, which has no checker."""
    settings = [
        "network.width=wide",
        "training.steps=many",
        "stream.tasks=3.0",
        "method.parts=3 method=together",
    ]
    done = subprocess.run(
        [sys.executable, "-c", EACH, *settings], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and done.stdout.split() == ["2"] * len(settings)
    reported = done.stderr.splitlines()
    assert len(reported) == len(settings)
    assert all(
        line.startswith(f"ntkcl: {setting.split()[0]}: expected")
        for line, setting in zip(reported, settings, strict=True)
    )
    assert not list(tmp_path.iterdir())


CNN = (
    "network=cnn",
    "network.width=4",
    "stream=rotated",
    "stream.tasks=2",
    "stream.train_per_class=2",
    "stream.test_per_class=1",
    "training.steps=5",
    "forecast.anchors=[infinite]",
)


def test_our_own_warnings_are_one_line_and_those_of_others_say_where_they_come_from():
    shown = warnings.formatwarning("of ours", UserWarning, files.__file__, 7)
    assert shown == "ntkcl: of ours\n"
    for place, kind in ((np.__file__, UserWarning), (files.__file__, DeprecationWarning)):
        assert warnings.formatwarning("b", kind, place, 7).startswith(f"{place}:7: ")


@pytest.mark.slow
def test_the_command_forecasts_a_cnn_from_its_kernel_of_infinite_width(ntkcl, tmp_path):
    code, out, err = ntkcl(*CNN)
    assert (code, err) == (0, "")
    assert "infinite" in out and "completed" in out
    summary, _, _ = files.load(the_run(tmp_path))
    assert summary["status"] == "completed"
    assert set(summary["forecast"]) == {"infinite"}
    assert np.isfinite(summary["forecast"]["infinite"]["drift_r2"])


@pytest.mark.parametrize(
    "setting", ["network.stride_every=2", "network.parametrization=standard", "network=lenet"]
)
def test_an_infinite_forecast_without_a_known_kernel_is_refused_in_one_line(ntkcl, setting):
    small = ["network.padding=SAME"] if setting == "network=lenet" else []
    code, out, err = ntkcl(*CNN, setting, *small)
    assert code == 2 and "Traceback" not in out + err
    (line,) = err.strip().splitlines()
    assert "infinite is for networks whose kernel of infinite width is known" in line
