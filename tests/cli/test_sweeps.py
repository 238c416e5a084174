"""Sweeps: who makes a run, which runs are lacking, what a name means, and every launcher with two
workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from cases import ROOT
from hydra.core.global_hydra import GlobalHydra

from ntkcl.cli import objective, sweep
from ntkcl.cli.progress import duration
from ntkcl.runs import identity, lock, machine
from ntkcl.runs.lock import Owner
from ntkcl.runs.status import Count, count, failures

TINY = (
    "network.width=8",
    "stream.tasks=2",
    "stream.train_per_class=2",
    "stream.test_per_class=2",
    "training.steps=5",
    "forecast.anchors=[]",
    "tracking=disabled",
)
AFAR = Owner("another machine", "", 1, 0.0)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results" / "runs" / "main" / "a-run"


def locked(folder, owner, age=0.0):
    """A lock as `owner` leaves it, its last heartbeat `age` seconds ago."""
    path = lock.beside(folder).with_name(folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(owner._asdict()))
    os.utime(path, (time.time() - age,) * 2)
    return path


def whole(folder):
    """A complete run's folder, as far as a quick look at it goes."""
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"status": "completed"}')
    (folder / "config.yaml").write_text("seed: 0\n")
    np.savez(folder / "arrays.npz", measured=np.zeros(1))
    pd.DataFrame({"seed": [0]}).to_parquet(folder / "rows.parquet")


def test_a_claim_holds_off_others_and_leaves_nothing(folder, tmp_path):
    with lock.claimed(folder) as holder:
        assert holder is None and lock.state(folder) == "running"
        with lock.claimed(folder) as second:
            assert second == lock.me()
        assert lock.state(folder) == "running"
    assert lock.state(folder) == "missing" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("owner", "age", "taken"),
    [
        pytest.param(AFAR, 0.0, False, id="another machine's, beating"),
        pytest.param(AFAR, lock.DEAD + 10, True, id="another machine's, silent"),
        pytest.param(lock.me()._replace(pid=2**22 + 1), 0.0, True, id="a process that is no more"),
        pytest.param(lock.me()._replace(born=1.0), lock.DEAD + 10, True, id="a number given again"),
        pytest.param(
            lock.me(), lock.DEAD + 10, False, id="a living process that is too busy to beat"
        ),
        pytest.param(
            lock.me()._replace(space="a container's", pid=2**22 + 1),
            0.0,
            False,
            id="a container's, beating",
        ),
        pytest.param(
            lock.me()._replace(space="a container's", pid=2**22 + 1),
            lock.DEAD + 10,
            True,
            id="a container's, silent",
        ),
    ],
)
def test_a_dead_owners_lock_is_taken_over_and_a_living_ones_is_not(folder, owner, age, taken):
    path = locked(folder, owner, age)
    with lock.claimed(folder) as holder:
        assert holder == (None if taken else owner)
        assert lock.owner(lock.beside(folder)) == (lock.me() if taken else owner)
    assert path.exists() == (not taken)


def test_a_lock_of_the_future_holds_for_no_longer_than_any_other(folder, monkeypatch):
    path = locked(folder, AFAR, age=-3600.0)
    with lock.claimed(folder) as holder:
        assert holder == AFAR  # it may live: its file system's clock was set back
    assert abs(path.stat().st_mtime - time.time()) < 10
    locked(folder, AFAR, age=-lock.BEAT / 2)  # rounding, or clocks that run apart
    before = path.stat().st_mtime
    assert lock.state(folder) == "running" and path.stat().st_mtime == before
    locked(folder, AFAR, age=-3600.0)
    assert lock.state(folder) == "running"
    monkeypatch.setattr(lock, "DEAD", -1.0)  # the time in which its owner could have beaten again
    with lock.claimed(folder) as holder:
        assert holder is None


def test_a_lock_half_written_is_nobodys(folder):
    locked(folder, AFAR).write_text('{"host": "any')
    with lock.claimed(folder) as holder:
        assert holder is None


@pytest.mark.parametrize(
    "content, gone", [(AFAR, True), ('{"host": "any', True), (lock.me(), False)]
)
def test_a_lock_left_beside_a_complete_run_is_cleared_unless_its_owner_lives(folder, content, gone):
    whole(folder)
    path = locked(folder, AFAR if isinstance(content, str) else content, lock.DEAD + 10)
    if isinstance(content, str):
        path.write_text(content)
    lock.clear_dead(folder)
    assert path.exists() != gone and folder.exists()


def test_the_heart_beats_while_the_block_runs(folder, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    path = lock.beside(folder).with_name("a-run.lock")
    with lock.claimed(folder):
        os.utime(path, (1.0, 1.0))
        time.sleep(0.5)
        assert time.time() - path.stat().st_mtime < 10


@pytest.mark.slow
def test_of_processes_that_race_for_one_run_one_at_a_time_has_it(folder):
    """Each holder writes a file exclusively and takes it away: two at once would collide."""
    script = f"""
import os, sys, time
from pathlib import Path
from ntkcl.runs import lock
folder, mark, won = Path({str(folder)!r}), Path({str(folder.parents[4] / "mark")!r}), 0
while won < 100:
    with lock.claimed(folder) as holder:
        if holder is None:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL)); won += 1
            mark.unlink()
print("won")
"""
    racers = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = [racer.communicate()[0] for racer in racers]
    assert printed == ["won\n"] * 3 and not any(racer.returncode for racer in racers)


def claiming(folder):
    """A process that has claimed the run and holds it."""
    script = f"""
import time
from pathlib import Path
from ntkcl.runs import lock
with lock.claimed(Path({str(folder)!r})):
    print(1, flush=True)
    time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b"1\n"
    return owner


def test_a_killed_owners_run_is_anothers_at_once(folder):
    owner = claiming(folder)
    with lock.claimed(folder) as holder:
        assert holder is not None and holder.pid == owner.pid
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    with lock.claimed(folder) as holder:
        assert holder is None


def test_a_zombie_is_dead(folder):
    owner = claiming(folder)
    owner.send_signal(signal.SIGKILL)
    while psutil.Process(owner.pid).status() != psutil.STATUS_ZOMBIE:  # nobody has waited for it
        time.sleep(0.05)
    with lock.claimed(folder) as holder:
        assert holder is None
    owner.wait()
    owner.stdout.close()


def test_a_place_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "results").symlink_to(tmp_path / "gone")
    with (
        pytest.raises(ValueError, match=r"results_dir: .* cannot be written"),
        lock.claimed(tmp_path / "results" / "runs" / "main" / "a"),
    ):
        pass


def test_what_fails_after_a_run_is_complete_leaves_no_failure(folder):
    with pytest.raises(OSError), lock.claimed(folder):
        whole(folder)
        raise OSError("no network")
    assert lock.state(folder) == "complete" and lock.failure(folder) is None


def test_an_error_is_kept_until_the_run_succeeds_and_an_interruption_is_not(folder):
    with pytest.raises(KeyboardInterrupt), lock.claimed(folder):
        raise KeyboardInterrupt
    assert lock.state(folder) == "missing"
    with pytest.raises(ZeroDivisionError), lock.claimed(folder):
        1 / 0  # noqa: B018
    assert lock.state(folder) == "failed"
    reported = lock.failure(folder)
    assert (
        reported["error"] == "ZeroDivisionError: division by zero"
        and "Traceback" in reported["traceback"]
    )
    with lock.claimed(folder):
        pass
    assert lock.state(folder) == "missing" and lock.failure(folder) is None


def test_what_is_made_again_is_for_retry_to_say():
    made = {
        retry: [state for state in lock.STATES if lock.wanted(state, retry)] for retry in lock.RETRY
    }
    assert made["none"] == ["missing"]
    assert made["failed"] == ["failed", "missing"]
    assert made["diverged"] == ["diverged", "failed", "missing"]
    assert made["all"] == list(lock.STATES)


def files(root, name="main"):
    return {
        path.name: path.stat().st_mtime_ns for path in (root / "results" / "runs" / name).glob("*")
    }


def test_the_same_command_again_makes_what_is_lacking_and_nothing_else(ntkcl, tmp_path):
    sweep = ("-m", *TINY, "seed=0,1", "network.width=8,9")
    code, out, _ = ntkcl(*sweep)
    assert code == 0 and out.count("completed in") == 4 and "4 of 4 done, 0 failed, 0 left" in out
    before = files(tmp_path)
    left = locked(tmp_path / "results" / "runs" / "main" / min(before), AFAR, lock.DEAD + 10)
    code, out, _ = ntkcl(*sweep)
    assert (
        code == 0
        and "completed in" not in out
        and "4 runs: 4 done" in out
        and files(tmp_path) == before
    )
    assert not left.exists()  # of a process that was killed once its run was complete
    gone = sorted(before)[1]
    (tmp_path / "results" / "runs" / "main" / gone).rename(tmp_path / "gone")
    code, out, _ = ntkcl(*sweep)
    after = files(tmp_path)
    assert (
        code == 0
        and out.count("completed in") == 1
        and {name for name in before if after[name] != before[name]} == {gone}
    )
    assert (tmp_path / "gone" / "arrays.npz").read_bytes() == (
        tmp_path / "results" / "runs" / "main" / gone / "arrays.npz"
    ).read_bytes()
    code, out, _ = ntkcl(*sweep, "sweep.retry=all")
    assert code == 0 and out.count("completed in") == 4


@pytest.mark.slow
def test_a_sweeps_runs_that_were_not_logged_are_logged_when_it_is_given_again(ntkcl, tmp_path):
    assert ntkcl("-m", *TINY, "seed=0,1")[0] == 0
    before = files(tmp_path)
    logged = [one for one in TINY if not one.startswith("tracking")]
    code, out, _ = ntkcl("-m", *logged, "seed=0,1", "tracking=offline")
    assert code == 0 and out.count("logged, which was missing") == 2 and "completed in" not in out
    assert len(list(tmp_path.glob("results/runs/main/*/wandb/offline-run-*"))) == 2 == len(before)
    assert "logged" not in ntkcl("-m", *logged, "seed=0,1", "tracking=offline")[1]


def test_a_single_run_that_is_complete_is_left_and_made_again_when_asked(ntkcl, tmp_path):
    assert ntkcl(*TINY)[0] == 0
    before = files(tmp_path)
    left = locked(tmp_path / "results" / "runs" / "main" / min(before), AFAR, lock.DEAD + 10)
    code, out, _ = ntkcl(*TINY)
    assert (
        code == 0
        and not left.exists()
        and "complete before, sweep.retry=all makes it again" in out
        and files(tmp_path) == before
    )
    assert ntkcl(*TINY, "sweep.retry=all")[0] == 0 and files(tmp_path) != before


def test_seeds_that_are_there_are_left_out_of_those_trained_as_one(ntkcl, tmp_path):
    assert ntkcl(*TINY, "seed=1")[0] == 0
    before = files(tmp_path)
    code, out, _ = ntkcl(*TINY, "seeds=[0,1,2]")
    after = files(tmp_path)
    assert (
        code == 0
        and "seeds 0, 2 side by side" in out
        and len(after) == 3
        and all(after[name] == before[name] for name in before)
    )


def test_a_run_that_another_process_makes_is_left_to_it(ntkcl, tmp_path, monkeypatch):
    cfg = composed(*TINY, f"results_dir={tmp_path / 'results'}")
    run = identity.resolve(cfg).folder
    locked(run, AFAR)
    code, _, err = ntkcl(*TINY)
    assert (
        code == 2
        and "process 1 on another machine is making this run" in err
        and err.count("\n") == 1
    )
    code, out, _ = ntkcl("-m", *TINY, "seed=0,1")
    assert (
        code == 0
        and "process 1 on another machine is making it" in out
        and len(files(tmp_path)) == 1
    )
    locked(run, AFAR, age=lock.DEAD + 10)
    code, out, _ = ntkcl("-m", *TINY, "seed=0,1")
    assert code == 0 and len(files(tmp_path)) == 2


@pytest.mark.slow
def test_failures_are_tried_again_unless_told_otherwise(ntkcl, tmp_path, monkeypatch):
    sweep = ("-m", *TINY, "training.learning_rate=1e9,1e-3")
    assert ntkcl(*sweep)[0] == 1
    code, out, err = ntkcl(*sweep, "sweep.retry=none")
    assert (
        code == 1
        and "completed in" not in out
        and "1 failed" in err
        and "exceeds the stability limit" in err
    )
    code, out, _ = ntkcl(*sweep, "training.allow_unstable=true")
    assert code == 0  # another run: it is allowed to be unstable


def test_a_seed_that_fails_is_told_whatever_became_of_the_others(ntkcl, tmp_path):
    code, _, err = ntkcl(
        "-m", *TINY, "training.learning_rate=1e9,1e-3", "seeds=[0,1]", "seeds_by=loop"
    )
    assert code == 1 and "1 failed" in err and "s0" in err
    assert [one["name"].split("-")[4] for one in failures(tmp_path / "results", ["main"])] == ["s0"]


def test_a_dry_run_says_what_would_be_launched_and_launches_nothing(ntkcl, tmp_path):
    assert ntkcl(*TINY, "seed=1")[0] == 0
    before = files(tmp_path)
    code, out, _ = ntkcl("-m", *TINY, "seed=0,1", "sweep.dry=true")
    lines = out.splitlines()
    assert code == 0 and files(tmp_path) == before
    assert (
        lines[0].startswith("missing  launch  ntkcl ")
        and "seed=0" in lines[0]
        and lines[1].startswith("complete leave   ntkcl ")
    )
    assert lines[-1] == "1 of 2 jobs would be launched" and "sweep.dry" not in out


OPTIMISE = (
    "-m",
    *TINY,
    "hydra/sweeper=optimise",
    "hydra.sweeper.n_trials=3",
    "training.steps=int(interval(5,20))",
)


@pytest.mark.filterwarnings("ignore")  # of Optuna, as it is imported
def test_a_dry_run_of_an_optimiser_tells_the_trials_that_depend_on_nothing(ntkcl, tmp_path):
    before = files(tmp_path)
    code, out, err = ntkcl(*OPTIMISE, "sweep.objective=metrics.average_accuracy", "sweep.dry=true")
    assert code == 0 and files(tmp_path) == before, err
    assert "1 of 1 jobs would be launched" in out and out.endswith(
        "these alone: what follows depends on what they find\n"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("objective", "reported"),
    {
        "null": (
            "expected what hydra/sweeper=optimise is to optimise, a number of summary.json such "
            "as metrics.average_accuracy"
        ),
        "metrics.acuracy": (
            "no such number in summary.json; the nearest is metrics.average_accuracy"
        ),
        "metrics.forgetting_rate": (
            "no such number in summary.json; the nearest is metrics.forgetting_relative"
        ),
        "kernel.top_drift": (
            "no such number in summary.json; the nearest is kernel.loss_slope_ratio"
        ),
        "forecast.path.drift_r2": (
            "no such number in summary.json; the nearest is forecast.init.drift_r2"
        ),
        "forecast.init.": "no such number in summary.json; the nearest is forecast.init.skill",
    }.items(),
)
def test_an_objective_that_no_run_will_have_is_told_before_anything_is_made(
    ntkcl, tmp_path, objective, reported
):
    code, _, err = ntkcl(*OPTIMISE, "forecast.anchors=[init]", f"sweep.objective={objective}")
    assert code == 2 and err.splitlines()[-1] == f"ntkcl: sweep.objective={objective}: {reported}"
    assert not (tmp_path / "results" / "runs").exists()


@pytest.mark.slow
def test_a_name_stands_for_one_sweep(ntkcl, tmp_path):
    named = ("-m", *TINY, "experiment_name=mine")
    assert ntkcl(*named, "seed=0,1")[0] == 0
    assert ntkcl(*named, "seed=2,3")[0] == 0  # more of what it varies
    assert (
        ntkcl(*named, "seed=0,1", "training.steps=6", "sweep.dry=true")[0] == 2
    )  # the same is said of it before it is launched
    code, _, err = ntkcl(*named, "seed=0,1", "training.steps=6")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith(
        "ntkcl: experiment_name=mine: stands for a sweep with training.steps=5, and this one has "
        "6; give it another"
    )
    assert ntkcl(*named, "seed=0,1", "training.steps=6", "sweep.extend=true")[0] == 0
    assert ntkcl(*named, "seed=0", "training.steps=7")[0] == 0  # by now it varies them


@pytest.mark.slow
def test_a_sweep_that_made_nothing_leaves_its_name_free(ntkcl, tmp_path):
    named = ("-m", *TINY, "experiment_name=mine", "seed=0,1")
    assert ntkcl(*named, "training.learning_rate=1e9")[0] == 1
    assert ntkcl(*named, "training.learning_rate=1e-3")[0] == 0


def composed(*overrides):
    import hydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


JOBS = [
    ["seed=3", "network.width=5"],
    ["seed=4", "network.width=5"],
    ["method=ewc", "method.penalty=2", "seed=1"],
    ["method=ewc", "seed=1", "~method.penalty"],
    ["experiment=trust", "network.width=9", "training.steps=7", "seeds=[1,2]"],
    ["+method.more=1", "training.schedule={name: cosine_decay_schedule, decay_steps: 5}"],
    ["precision=float64", "training={steps: 3, batch_size: 5}"],
]


def test_jobs_are_composed_as_hydra_composes_them():
    import hydra
    from hydra.core.global_hydra import GlobalHydra as state

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        master = hydra.compose("config", return_hydra_config=True)
        loader = state.instance().config_loader()
        ours = list(sweep.configurations(loader, master, JOBS))
        for overrides, cfg in zip(JOBS, ours, strict=True):
            assert cfg == hydra.compose("config", overrides=overrides), overrides


def test_progress_is_told_from_names_alone(folder):
    others = [folder.with_name(f"run-{k}") for k in range(4)]
    others[0].mkdir(parents=True)
    with lock.claimed(others[1]):
        with pytest.raises(ValueError), lock.claimed(others[2]):
            raise ValueError("no")
        assert count(others) == Count(done=1, running=1, failed=1, left=1)


@pytest.mark.parametrize(
    ("seconds", "reported"), [(5.0, "5 s"), (99.0, "99 s"), (600.0, "10 min"), (9000.0, "2.5 h")]
)
def test_durations_are_short(seconds, reported):
    assert duration(seconds) == reported


def test_an_objective_is_the_mean_over_seeds(tmp_path):
    name = "metrics.average_accuracy"
    for k, value in enumerate((0.25, 0.75)):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "summary.json").write_text(
            json.dumps({"metrics": {"average_accuracy": value}})
        )
    assert objective.value(name, [tmp_path / "0", tmp_path / "1"]) == 0.5
    assert objective.value(name, [tmp_path / "0", tmp_path / "2"]) is None
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "summary.json").write_text('{"metrics": {"average_accuracy": null}}')
    assert objective.value(name, [tmp_path / "2"]) is None  # it diverged: a trial that is none
    name = "metrics.average"
    with pytest.raises(ValueError, match=r"sweep.objective=metrics.average: no such number"):
        objective.value(name, [tmp_path / "0"])


def test_processes_share_the_cores_and_the_gpus(tmp_path):
    script = (
        "import json, os, sys; from ntkcl.runs import machine\nk = machine.take_share(2)\n"
        "print(json.dumps([k, machine.cores(), os.environ['CUDA_VISIBLE_DEVICES']]), flush=True); "
        "sys.stdin.read()"
    )
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "3,5", "TMPDIR": str(tmp_path)}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def begun():
        process = subprocess.Popen([sys.executable, "-c", script], **pipes)
        return process, json.loads(process.stdout.readline())

    (first, one), (second, two), (third, three) = begun(), begun(), begun()
    assert [one[0], two[0], three[0]] == [0, 1, None]
    assert [one[2], two[2], three[2]] == ["3", "5", "3,5"]
    if len(machine.cores()) > 1:
        assert not set(one[1]) & set(two[1]) and sorted(one[1] + two[1]) == three[1]
    first.kill()
    first.wait()
    fourth, four = begun()
    assert four[0] == 0  # the dead let go
    for process in (first, second, third, fourth):
        process.kill()
        process.communicate()


def test_as_many_workers_as_gpus_or_else_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert machine.workers() == 3 and machine.workers(5) == 5
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.workers() == len(machine.cores())


def launched(root, launcher, *more):
    """A sweep of two runs in a process of its own, as a user starts it."""
    call = [
        sys.executable,
        "-m",
        "ntkcl",
        "-m",
        *TINY,
        "seed=0,1",
        f"hydra/launcher={launcher}",
        *more,
    ]
    return subprocess.run(call, capture_output=True, text=True, cwd=root, timeout=300)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("basic")
    assert launched(root, "basic").returncode == 0
    return {path.name: path for path in (root / "results" / "runs" / "main").iterdir()}


def same_runs(root, undisturbed):
    made = {path.name: path for path in (root / "results" / "runs" / "main").iterdir()}
    assert made.keys() == undisturbed.keys()
    for name, path in made.items():
        one, other = (np.load(p / "arrays.npz") for p in (path, undisturbed[name]))
        for key in one:
            np.testing.assert_allclose(one[key], other[key], atol=1e-5, err_msg=f"{name} {key}")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_launchers_with_two_workers_make_the_same_runs(tmp_path, undisturbed, launcher):
    done = launched(tmp_path, launcher, "sweep.workers=2")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 done, 0 failed, 0 left" in done.stdout and "schema" not in done.stderr
    same_runs(tmp_path, undisturbed)
    again = launched(tmp_path, launcher, "sweep.workers=2")
    assert (
        again.returncode == 0
        and "2 runs: 2 done" in again.stdout
        and "completed in" not in again.stdout
    )


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm cluster of one node on this machine, for one test."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None or os.geteuid():
        pytest.skip(
            "Debian's slurm-wlm and munge are not installed, or this is not root (.ci/run installs "
            "them)"
        )
    script = ROOT / "scripts" / "slurm_loopback.sh"
    ports = {"SLURMCTLD_PORT": "16817", "SLURMD_PORT": "16818"}
    started = subprocess.run(
        [script, "start", tmp_path / "slurm"],
        capture_output=True,
        text=True,
        env=os.environ | ports,
    )
    assert started.returncode == 0, started.stderr
    monkeypatch.setenv("SLURM_CONF", started.stdout.strip().rpartition("=")[2])
    yield
    subprocess.run([script, "stop", tmp_path / "slurm"], check=True)


@pytest.mark.slow
def test_slurm_makes_the_same_runs(slurm, tmp_path, undisturbed):
    two = ("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")
    done = launched(tmp_path, "submitit_slurm", *two)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 done, 0 failed, 0 left" in done.stdout
    same_runs(tmp_path, undisturbed)
    again = launched(tmp_path, "submitit_slurm", *two)
    assert (
        again.returncode == 0
        and "2 runs: 2 done" in again.stdout
        and not again.stdout.count("running, 0 failed, 2 left")
    )


@pytest.mark.slow
def test_an_optimiser_takes_complete_trials_as_they_are(tmp_path):
    call = [
        sys.executable,
        "-m",
        "ntkcl",
        "-m",
        *TINY,
        "hydra/sweeper=optimise",
        "hydra.sweeper.n_trials=3",
    ]
    call += [
        "experiment_name=study",
        "sweep.objective=metrics.average_accuracy",
        "network.width=choice(8,9)",
        "training.steps=int(interval(5,20))",
    ]
    first = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    best = (tmp_path / "results" / "sweeps" / "study" / "optimization_results.yaml").read_text()
    accuracies = [
        json.loads(p.read_text())["metrics"]["average_accuracy"]
        for p in tmp_path.glob("results/runs/study/*/summary.json")
    ]
    assert yaml.safe_load(best)["best_value"] == max(accuracies)
    before = files(tmp_path, "study")
    again = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0 and files(tmp_path, "study") == before != {}
    assert (
        tmp_path / "results" / "sweeps" / "study" / "optimization_results.yaml"
    ).read_text() == best


def test_a_launcher_that_is_not_installed_names_its_extra(ntkcl, monkeypatch):
    from hydra.core.plugins import Plugins

    class Missing:
        def instantiate_launcher(self, **_):
            raise RuntimeError("Unknown plugin class : 'x'")

    real = Plugins.instance()
    monkeypatch.setattr(
        sweep.Plugins,
        "instance",
        lambda: Missing() if sys._getframe(1).f_code.co_name == "_wrapped" else real,
    )
    code, _, err = ntkcl("-m", *TINY, "hydra/launcher=joblib", "seed=0,1")
    assert code == 2 and err == (
        "ntkcl: hydra/launcher=joblib: not installed; it comes with an extra: pip install -e "
        "'.[launchers]' in a checkout of ntkcl\n"
    )
