"""Runs whose files are damaged: skipped by name, counted as missing, made again by command."""

import json
import pickle
import shutil

import numpy as np
import pytest
import yaml
from cases import mostly_slow

from ntkcl.cli import objective
from ntkcl.reporting import table
from ntkcl.runs import files, lock, stored
from ntkcl.runs.experiment_name import register_sweep
from ntkcl.runs.status import count, damaged, failures

TINY = (
    "network.width=8",
    "stream.tasks=2",
    "stream.train_per_class=2",
    "stream.test_per_class=2",
    "training.steps=5",
    "forecast.anchors=[init]",
    "tracking=disabled",
)
SWEEP = ("-m", *TINY, "seed=0,1,2", "experiment_name=mine")
MADE = {}  # the sweep's folder, once for this module


@pytest.fixture
def runs(ntkcl, tmp_path, tmp_path_factory):
    """The folders of three runs of a sweep, in the order of their seeds."""
    if not MADE:
        assert ntkcl(*SWEEP)[0] == 0
        MADE["runs"] = shutil.copytree("results", tmp_path_factory.mktemp("made") / "results")
    shutil.copytree(MADE["runs"], tmp_path / "results", dirs_exist_ok=True)
    return sorted((tmp_path / "results" / "runs" / "mine").glob("sgd-*"))


def objects(path):
    np.savez(path, **{name: np.array([{}]) for name in stored.ARRAYS})


NOTHING = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "a list": b"[]\n",
    "null": b"null\n",
    "a number": b"3\n",
    "no mapping": b"{}\n",
}
DEEP = b"[" * 100_000
SUMMARIES = {
    f"summary.json: {what}": ("summary.json", content)
    for what, content in (NOTHING | {"deep": DEEP, "cut": b'{"R": [['}).items()
}
SOUND = {"status": "completed", "metrics": {}, "forecast": {}}
WRONG = {"metrics": None, "forecast": {"init": []}, "status": 3, "schema": "x"}
SUMMARIES |= {
    f"summary.json: {key} {value}": ("summary.json", json.dumps(SOUND | {key: value}).encode())
    for key, value in WRONG.items()
}
SETTINGS = {f"config.yaml: {what}": ("config.yaml", content) for what, content in NOTHING.items()}
SETTINGS |= {
    "config.yaml: no settings": ("config.yaml", b"a: [\n"),
    "config.yaml: cut": ("config.yaml", b"experiment_name: mine\nforecast:\n"),
}
ARRAYS = {
    f"arrays.npz: {what}": ("arrays.npz", content)
    for what, content in (("empty", b""), ("pickle", pickle.dumps([1])), ("cut", None))
}
ARRAYS |= {
    "rows.parquet: empty": ("rows.parquet", b""),
    "rows.parquet: cut": ("rows.parquet", None),
}


def damage(folder, name, content):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)


@pytest.mark.parametrize("case", [*SUMMARIES, *SETTINGS])
def test_a_damaged_run_is_left_out_of_what_is_read_and_named(runs, case):
    name, content = (SUMMARIES | SETTINGS)[case]
    damage(runs[1], name, content)
    lines = []
    read, rows = table.read(runs, lines.append)
    assert read == [runs[0], runs[2]] and rows["run"].tolist() == [folder.name for folder in read]
    (line,) = lines
    assert f"{runs[1].name}/{name}: " in line and "sweep.retry=all" in line and "\n" not in line
    with pytest.raises(stored.Damaged, match=name):
        table.gather(runs)


@pytest.mark.parametrize("case", ["summary.json: cut", "config.yaml: cut"])
def test_table_and_report_leave_a_damaged_run_out_and_name_it(ntkcl, runs, case):
    name, content = (SUMMARIES | SETTINGS)[case]
    damage(runs[1], name, content)
    code, out, err = ntkcl("table", "by=[method]", "values=[metrics.average_accuracy]")
    assert code == 0 and "| naive    | 2      |" in out, (out, err)
    relative = f"results/runs/mine/{runs[1].name}/{name}"
    assert (
        err.startswith(f"ntkcl: left out {relative}: ")
        and err.count("\n") == 1
        and "sweep.retry=all" in err
    )
    code, out, err = ntkcl("report", "where='seed < 2'")
    assert (
        code == 0
        and out.startswith("1 runs ->")
        and err.startswith(f"ntkcl: left out {relative}: ")
        and err.count("\n") == 1
    ), err
    code, _, err = ntkcl("report", f"run=results/runs/mine/{runs[1].name}")
    assert code == 2 and err.startswith(f"ntkcl: {relative}: ") and err.count("\n") == 1


def test_a_run_without_its_summary_is_named_and_where_none_is_left_that_is_one_more_line(
    ntkcl, runs
):
    for folder in runs:
        (folder / "summary.json").unlink()
    code, _, err = ntkcl("table")
    *missing, last = err.splitlines()
    assert code == 2 and len(missing) == 3
    assert all("summary.json: is missing" in line for line in missing)
    remedy = "make them anew, or set another results_dir"
    assert last == f"ntkcl: results_dir: none of 3 runs can be read; {remedy}"


@pytest.mark.parametrize(
    "case", mostly_slow([*ARRAYS, "gone"], "arrays.npz: cut", "rows.parquet: cut", "gone")
)
def test_a_report_shows_the_samples_of_a_run_whose_arrays_can_be_read(ntkcl, runs, tmp_path, case):
    lost = [files.read_summary(folder)["metrics"]["forgetting_chaudhry"] for folder in runs]
    worst, *others = (runs[k] for k in np.argsort(-np.array(lost), kind="stable"))
    name, content = ARRAYS.get(case, ("arrays.npz", b""))
    damage(worst, name, content)
    if case == "gone":
        (worst / "arrays.npz").unlink()
    code, out, err = ntkcl("report", "experiment_name=mine")
    assert code == 0 and out.startswith("3 runs") and err.count("\n") == 1
    assert err.startswith(
        f"ntkcl: left out of the samples forgotten most: results/runs/mine/{worst.name}/{name}: "
    )
    assert (
        f"most, in {others[0].name}" in (tmp_path / "results" / "reports" / "mine.html").read_text()
    )
    code, _, err = ntkcl("report", f"run={worst}")
    assert code == 2 and f"{worst.name}/{name}: " in err and err.count("\n") == 1
    assert ntkcl("table")[::2] == (0, "")  # which reads no arrays


def test_arrays_are_never_unpickled(runs):
    objects(runs[0] / "arrays.npz")
    with pytest.raises(stored.Damaged, match=r"arrays.npz: cannot be read \(Object arrays"):
        files.load(runs[0])
    np.savez(runs[0] / "arrays.npz", losses=np.zeros(2))
    with pytest.raises(stored.Damaged, match=r"arrays.npz: lacks measured"):
        files.load(runs[0])


def quick():
    """The cases that a quick look finds: settings that do not begin or end, arrays without end."""
    sound = {
        "config.yaml: no settings",
        "config.yaml: cut",
        *(case for case in SUMMARIES if case[14:].split()[0] in ("metrics", "forecast")),
    }
    sound |= {"summary.json: status 3", "summary.json: schema x"}
    return {case: one for case, one in (SUMMARIES | SETTINGS | ARRAYS).items() if case not in sound}


@pytest.mark.parametrize("case", quick())
def test_a_damaged_run_counts_as_missing(runs, case):
    assert lock.outcome(runs[0]) == "complete" and damaged(runs) == {}
    damage(runs[0], *quick()[case])
    assert lock.outcome(runs[0]) == "missing"
    spoilt = damaged(runs)
    assert (
        list(spoilt) == [runs[0]]
        and count(runs, spoilt) == (2, 0, 0, 1)
        and count(runs) == (3, 0, 0, 0)
    )
    shutil.copytree(MADE["runs"] / "runs" / "mine" / runs[0].name, runs[0].with_name("new"))
    shutil.rmtree(runs[0])
    assert count(runs, spoilt) == (2, 0, 0, 1)
    runs[0].with_name("new").rename(runs[0])
    assert count(runs, spoilt) == (3, 0, 0, 0)


def test_a_sweep_makes_its_damaged_runs_again_and_no_others(ntkcl, runs):
    before = {folder: (folder / "arrays.npz").read_bytes() for folder in runs}
    damage(runs[0], "arrays.npz", None)
    damage(runs[2], "config.yaml", b"\xff")
    untouched = runs[1].stat().st_ino
    code, out, err = ntkcl(*SWEEP)
    assert (code, err) == (0, "") and out.count("completed in") == 2, (out, err)
    assert (
        "3 runs: 1 done, 0 failed before, 0 running, 2 left" in out
        and "3 of 3 done, 0 failed, 0 left" in out
    )
    assert runs[1].stat().st_ino == untouched and sorted(runs[0].parent.glob("[!.]*")) == runs
    assert {folder: (folder / "arrays.npz").read_bytes() for folder in runs} == before


def test_the_command_that_is_named_makes_a_run_again_whose_configuration_was_cut_short(ntkcl, runs):
    whole = (runs[0] / "config.yaml").read_text()
    (runs[0] / "config.yaml").write_text("".join(whole.splitlines(keepends=True)[:5]))
    assert ntkcl(*TINY, "seed=0", "experiment_name=mine", "sweep.retry=all")[0] == 0
    assert (runs[0] / "config.yaml").read_text() == whole
    other = yaml.safe_dump(yaml.safe_load(whole) | {"seed": 7})
    (runs[0] / "config.yaml").write_text(other)  # readable, and another's: never overwritten
    code, _, err = ntkcl(*TINY, "seed=0", "experiment_name=mine", "sweep.retry=all")
    assert (
        code == 2
        and "holds another configuration" in err
        and (runs[0] / "config.yaml").read_text() == other
    )


@pytest.mark.parametrize("content", [*NOTHING.values(), b'{"error": 3}', b'{"err'])
def test_a_failure_that_cannot_be_read_is_named(runs, tmp_path, content):
    note = failed(runs[0], tmp_path, content)
    assert lock.outcome(runs[0]) == "failed" and lock.failure(runs[1]) is None
    assert lock.failure(runs[0]) == {
        "error": f"{note} cannot be read; the run's command makes it again"
    }
    (failure,) = failures(tmp_path / "results", ["mine"])
    assert failure["name"] == runs[0].name


def test_a_report_names_a_failure_that_cannot_be_read(ntkcl, runs, tmp_path):
    note = failed(runs[0], tmp_path, b'{"err')
    assert ntkcl("report", "experiment_name=mine")[0] == 0
    page = (tmp_path / "results" / "reports" / "mine.html").read_text()
    assert f"{note.name} cannot be read" in page


def failed(folder, root, content):
    """The note of a failure in place of a run."""
    shutil.rmtree(folder)
    note = root / "results" / "sweeps" / "mine" / f"{folder.name}.failed.json"
    note.write_bytes(content)
    return note


@pytest.mark.parametrize("content", [*NOTHING.values(), b'{"seed": 3}'])
def test_a_meaning_and_an_objective_that_cannot_be_read_are_none(runs, tmp_path, content):

    path = tmp_path / "results" / "sweeps" / "mine" / "sweep.json"
    path.write_bytes(content)
    register_sweep(tmp_path / "results", "mine", {"seed": [0, 1]}, extend=False)
    assert json.loads(path.read_text()) == {"seed": [0, 1]}
    (runs[0] / "summary.json").write_bytes(content if content != b'{"seed": 3}' else b"")
    assert objective.value("metrics.average_accuracy", runs) is None
    assert not files.logged(runs[0])
