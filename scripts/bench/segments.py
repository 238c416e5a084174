"""Forecasts that linearise anew, as people train: how right, how dear, and what they know of it.

    python scripts/bench/segments.py            60 cells: mlp with 1 and 3 layers, cnn, lenet, vit;
                                                class-incremental, rotated, task-incremental; SGD
                                                with momentum, Adam; PyTorch's initialisation, NTK
                                                parametrization
    python scripts/bench/segments.py --quick    two small cells, to see it run

Cross-entropy, 3 tasks x 200 images, batches of 20, 5 epochs (rotated: 10 outputs), digits and
Fashion-MNIST in turn. From the boundary before tasks 2 and 3 each is forecast by 1, 2, 4 and 8
segments (`forecast.segments`), then trained, and five times again in other batch orders: no
forecast that does not know the order can do better than one of these. Drift is of old train images,
as in `summary.json`.
Writes segments.{json,md} under results/bench.
"""

import itertools
import sys
import time
from typing import Any, NamedTuple

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from publish import command, parser, publish, stem, with_jax

from ntkcl import experiment, forecast, metrics
from ntkcl.cli.config import CONF, resolve
from ntkcl.experiment.scores import sample_losses
from ntkcl.forecast.linearised import AGREED
from ntkcl.training.problem import Anchor, Problem, carried_optimizer_state, consolidate, train
from ntkcl.types import Rows

SEGMENTS = (1, 2, 4, 8)
RERUNS = ("rerun", "rerun 2", "rerun 3", "rerun 4", "rerun 5")
NETWORKS = {
    "mlp 1": "network=mlp network.width=256",
    "mlp 3": "network=mlp network.width=256 network.depth=3",
    "cnn": "network=cnn network.width=16 network.stride=2",
    "lenet": "network=lenet network.padding=SAME network.activation=relu",
    "vit": "network=vit network.width=32",
}
STREAMS = {
    "class": "stream=split stream.scenario=class",
    "rotated": "stream=rotated stream.step=45 stream.train_per_class=20",
    "task": "stream=split stream.scenario=task",
}
HEADS = ("class", "rotated"), ("task",)  # one that the tasks share, one for each
PATCHES = {"digits": 2, "fashion_mnist": 7}
RULES = {"sgd": "optimizer=sgd optimizer.momentum=0.9", "adam": "optimizer=adam"}
SCALINGS = {
    "torch": "network.parametrization=standard network.init=torch",
    "ntk": "network.parametrization=ntk network.b_std=0.1",
}
RATES = {
    ("sgd", "torch"): 0.01,
    ("adam", "torch"): 1e-3,
    ("sgd", "ntk"): 0.3,
    ("adam", "ntk"): 0.01,
}
SOURCES = ("digits", "fashion_mnist")
SUMMED = ["segments", "median R2", "R2 >= .8", "R2 >= .9", "forgetting within .25"]
GRADES = ("good", "fair", "poor", "unknown")
SIGNS, NAN = ("r2", "segments_r2"), float("nan")
EACH = "loss=cross_entropy training.batch_size=20 training.steps=null training.epochs=5 "
EACH += "stream.tasks=3 stream.test_per_class=10 network.centred=false training.allow_unstable=true"
QUICK = "network.width=4 stream.train_per_class=10 training.epochs=2"


def cells(quick: bool) -> list[dict]:
    """Coordinates and overrides of each cell; neighbours differ in their data."""
    made = []
    shared, own = (itertools.product(NETWORKS, streams, RULES, SCALINGS) for streams in HEADS)
    for place, (network, stream, rule, scaling) in enumerate(itertools.chain(shared, own)):
        source = SOURCES[(place + place // 2 + place // 4 + place // 8) % 2]
        words = [NETWORKS[network], STREAMS[stream], RULES[rule], SCALINGS[scaling], EACH]
        words += [f"source={source} training.learning_rate={RATES[rule, scaling]}"]
        words += [f"network.patch={PATCHES[source]}"] * (network == "vit")
        words += [QUICK] * quick
        names = dict(network=network, stream=stream, rule=rule, scaling=scaling, source=source)
        made.append(names | {"overrides": " ".join(words).split()})
    return made[:: len(made) // 2 + 1] if quick else made


def seconds(call, *given) -> tuple[float, Any]:
    """Of the processor, which a busy machine does not change, in a call; and what it returns."""
    begin = time.process_time()
    made = jax.block_until_ready(call(*given))
    return time.process_time() - begin, made


class Ahead(NamedTuple):
    """What is known of one task: changes [N, c] by the number of segments, of the training, and of
    those in other orders; seconds by the same names; the rate over the stability limit."""

    changes: dict
    seconds: dict
    limit_share: float


def measured(overrides: list[str]) -> dict:
    """The numbers of one cell."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        named = resolve(hydra.compose("config", overrides=overrides)).requests[0].build()
    of_start = ("key", "stream", "network", "loss", "optimizer", "training", "method", "effort")
    start = experiment.initialise(kernel=named["kernel"], **{key: named[key] for key in of_start})
    problem = start.problem.at(named["training"].learning_rate)
    f = start.outputs(start.theta)
    anchor, history, tasks = Anchor(start.theta, (), (jnp.asarray(f),)), [f], []
    for t in range(len(problem.stream)):
        known, fitted = ahead(start, problem, anchor, t)
        history.append(start.outputs(fitted.theta))
        memory = consolidate(problem, t, problem.network, fitted)
        state = carried_optimizer_state(problem, fitted)
        anchor = Anchor(fitted.theta, memory, tuple(map(jnp.asarray, history)), state)
        tasks.append(known)
    return numbers(problem, np.stack(history), tasks)


def ahead(start, problem: Problem, anchor: Anchor, t: int):
    """One task as it is forecast, and as it is trained."""
    changes, times = {}, {}
    for m in SEGMENTS if t else ():
        form = forecast.linearised(start.kernel_fn, forecast.Effort(segments=m))
        if t == len(problem.stream) - 1:  # whose seconds are kept: all is compiled
            form(problem, anchor, 1)
        times[m], outcomes = seconds(lambda form=form: [form(problem, anchor, 1)[0].change])
        changes[m] = outcomes[0]
    given = t, problem.trained, anchor.theta, anchor.memory, anchor.optimizer_state
    times["train"], fitted = seconds(train, problem, *given)
    f = start.outputs(anchor.theta)
    changes["train"] = start.outputs(fitted.theta) - f
    for k, name in enumerate(RERUNS):
        other = problem._replace(key=jax.random.fold_in(problem.key, 1000 + k))
        changes[name] = start.outputs(train(other, *given).theta) - f
    return Ahead(changes, times, share(start, problem, anchor, t)), fitted


def share(start, problem: Problem, anchor: Anchor, t: int) -> float | None:
    """The learning rate over the stability limit of the task's own kernel, for full batches."""
    if t == 0 or problem.optimizer.rule is None:
        return None
    own = problem.reordered([t])._replace(batch_size=None)
    return problem.learning_rate / forecast.limits(own, anchor.theta, start.kernel_fn)[0]


def numbers(problem: Problem, history: np.ndarray, tasks: list[Ahead]) -> dict:
    """Of drifts from just after each old task to the end, each a sum over the tasks between."""
    rows, last = Rows.of(problem.stream).train, len(tasks) - 1
    old = range(last)

    def drifts(name):
        return [sum(t.changes[name][rows[s]] for t in tasks[s + 1 :]) for s in old]

    def forgetting(name):
        rise = []
        for s, drift in zip(old, drifts(name), strict=True):
            y, head = (np.asarray(a) for a in (problem.stream[s].train.y, problem.stream[s].head))
            f = history[s + 1][rows[s]]
            before, after = (sample_losses(one, y, head, problem.loss) for one in (f, f + drift))
            rise.append(float(np.mean(after - before)))
        return float(np.mean(rise)) if np.isfinite(rise).all() else None

    def r2(measured, predicted):
        flat = [
            np.concatenate([one.ravel() for one in drifts(name)]) for name in (measured, predicted)
        ]
        return metrics.r2(*flat) if np.isfinite(flat).all() else None

    def all_r2(measured, predicted):
        each = [np.ravel([t.changes[name] for t in tasks[1:]]) for name in (measured, predicted)]
        return metrics.r2(*each) if np.isfinite(each).all() else None

    y, f = np.asarray(problem.stream[last].train.y), history[-1][rows[last]]
    shares = [task.limit_share for task in tasks if task.limit_share is not None]
    names = [*SEGMENTS, RERUNS[0]]
    return {
        "learned": float((f.argmax(1) == y.argmax(1)).mean()),
        "limit_share": max(shares, default=None),
        "r2": {str(m): r2("train", m) for m in names},
        # As in `summary.json`: of the fewer segments with the more.
        "segments_r2": {str(m): r2(max(m, 2), max(m, 2) // 2) for m in SEGMENTS},
        "all_r2": {str(m): all_r2(m, m // 2) for m in SEGMENTS[1:]},
        "forgetting": {str(m): forgetting(m) for m in ["train", *SEGMENTS, *RERUNS]},
        "seconds": {str(name): value for name, value in tasks[-1].seconds.items()},
    }


def chosen(row: dict) -> str:
    """The segments that "auto" would take, of those up to 8."""
    return next((m for m, r2 in row["all_r2"].items() if r2 and r2 >= AGREED), str(SEGMENTS[-1]))


def graded(rows: list[dict]) -> list[dict]:
    """Of each cell and number of segments: the verdict from before training, and what came."""
    made = []
    for row, name in itertools.product(rows, (*map(str, SEGMENTS), "auto")):
        m = chosen(row) if name == "auto" else name
        r2, sign = (float("-inf") if row[key][m] is None else row[key][m] for key in SIGNS)
        grade, _ = metrics.verdict(NAN, NAN, [True], [NAN], [NAN], segments_r2=sign)
        off = missed(*(row["forgetting"][key] for key in (m, "train", *RERUNS)))
        made.append({"segments": name, "verdict": grade, "r2": r2, "forgetting": off})
    return made


def summed(rows: list[dict], made: list[dict]) -> list[list[str]]:
    """For each number of segments, and for the re-run, how all cells did."""
    lines = []
    for name in (*map(str, SEGMENTS), "auto", "re-run"):
        same = [one for one in made if one["segments"] == name]
        r2 = [one["r2"] for one in same] or [row["r2"]["rerun"] for row in rows]
        near = [str(sum(one["forgetting"] <= 0.25 for one in same))] if same else ["-"]
        counts = [str(sum(one >= least for one in r2)) for least in (0.8, 0.9)]
        lines.append([name, number(float(np.median(r2))), *counts, *near])
    return lines


def missed(predicted: float | None, measured: float, *again: float) -> float:
    """Error of the predicted forgetting as a share of the measured; 0 if it is at most that of the
    re-run which is farthest, infinite for a forecast that diverged."""
    if predicted is None:
        return float("inf")
    error = abs(predicted - measured)
    spread = max(abs(one - measured) for one in again)
    return 0.0 if error <= spread else error / abs(measured)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def share_of(seconds: dict, m: str) -> str:
    return number(seconds[m] / seconds["train"] if seconds and seconds[m] else None)


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)]


def markdown(stored: dict) -> str:
    rows, made = stored["rows"], graded(stored["rows"])
    each = []
    for row in rows:
        names = [row[key] for key in ("network", "stream", "rule", "scaling", "source")]
        r2 = [number(row["r2"][str(m)]) for m in (*SEGMENTS, "rerun")]
        rises = [number(row["forgetting"][key]) for key in ("train", "1", "4", "8", "rerun")]
        times = [share_of(row["seconds"], m) for m in ("1", "4", "8")]
        each.append([*names, number(row["limit_share"]), *r2, ", ".join(rises), ", ".join(times)])
    heads = ["network", "stream", "rule", "scaling", "data", "rate / limit"]
    heads += [*(f"R2, {m}" for m in SEGMENTS), "re-run"]
    heads += ["forgetting: measured, by 1, 4, 8, re-run", "seconds over training: 1, 4, 8"]
    verdicts = []
    for m, grade in itertools.product((*map(str, SEGMENTS), "auto"), GRADES):
        same = [one for one in made if (one["segments"], one["verdict"]) == (m, grade)]
        if same:
            r2 = [one["r2"] for one in same]
            off = sum(one["forgetting"] > 0.3 for one in same)
            numbers = [len(same), min(r2), float(np.median(r2)), sum(one < 0.8 for one in r2), off]
            verdicts.append([m, grade, *(f"{one:.3g}" for one in numbers)])
    columns = ["segments", "verdict", "cells", "lowest R2", "median R2", "R2 < .8"]
    return "\n".join(
        [
            "# Forecasts that linearise anew",
            "",
            f"`{stored['command']}`; {stored['machine']['cores']} cores, "
            f"{stored['machine']['processor']}, JAX {stored['machine']['jax']}.",
            "",
            *table(heads, each),
            "",
            "From boundaries, of the drift of old train images. "
            "Processor seconds, without compilation.",
            "",
            *table(SUMMED, summed(rows, made)),
            "",
            *table([*columns, "forgetting off by more than .3"], verdicts),
            "",
            "Forgetting counts as off where it is farther from the measured than those of all five "
            "re-runs.",
            "",
        ]
    )


def main() -> None:
    options = parser(__doc__, quick=True)
    given = options.parse_args()
    rows = []
    for cell in cells(given.quick):
        names = {key: value for key, value in cell.items() if key != "overrides"}
        rows.append(names | measured(cell["overrides"]))
        jax.clear_caches()  # the programs of all cells are more than a process may map
        print(*names.values(), rows[-1]["r2"], file=sys.stderr, flush=True)
    stored = {"command": command("segments", options, given), "machine": with_jax(), "rows": rows}
    publish(given.folder, stem("segments", given), stored, markdown)


if __name__ == "__main__":
    main()
