"""What verdicts are worth on a survey that they were not chosen on, and what they cost.

    python scripts/bench/verdicts.py            some 120 forecasts of 42 cells
    python scripts/bench/verdicts.py --chosen   43 other cells and seeds, on which cuts are chosen
    python scripts/bench/verdicts.py --quick    two small cells, to see it run

Cells as in `segments.py`, other seeds, and with the network vit, task-incremental streams, squared
error and plain gradient descent: every eleventh of all combinations with batches of 20, and five
with full batches, for the forms that need them. Each cell is forecast at the
boundaries before tasks 2 and 3 by several forms, then trained, and trained again in another batch
order. A forecast is bad where its drift R2 is below .8, or its mean forgetting is off by more than
30 % and farther from the measured than the second training's. Seconds are of the processor at the
last boundary, without compilation: of the check over those of the forecast without it.
Writes verdicts.{json,md}, or verdicts_chosen, under results/bench.
"""

import itertools
import json
import sys
import time
from contextlib import ExitStack
from typing import Any
from unittest import mock

import hydra
import jax
import numpy as np
from publish import command, parser, publish, stem, with_jax, write
from segments import NETWORKS, SCALINGS, STREAMS, missed, number, table

from ntkcl import forecast, metrics
from ntkcl.cli.config import CONF, resolve
from ntkcl.experiment import stages
from ntkcl.experiment.compare import compare
from ntkcl.experiment.record import gather
from ntkcl.forecast import spot_check
from ntkcl.resources import Cost, Meter
from ntkcl.training import problem as training_problem

MODULES = ("linearised", "integrated")  # which the package's functions hide
# (first of every eleventh of all combinations with batches, seed)
JUDGED, CHOSEN = [(8, 13), (3, 14)], [(0, 11), (5, 12)]
GRADES = ("good", "fair", "poor", "unknown")
NETWORKS = NETWORKS | {"vit": "network=vit network.width=16 network.heads=2 network.depth=1"}
STREAMS = STREAMS | {"task": "stream=split stream.scenario=task"}
RULES = {
    "momentum": "optimizer=sgd optimizer.momentum=0.9",
    "adam": "optimizer=adam",
    "sgd": "optimizer=sgd",
}
LOSSES = ("cross_entropy", "squared_error")
RATES = {
    ("momentum", "torch"): 0.01,
    ("adam", "torch"): 1e-3,
    ("sgd", "torch"): 0.1,
    ("momentum", "ntk"): 0.3,
    ("adam", "ntk"): 0.01,
    ("sgd", "ntk"): 3.0,
}
EACH = "stream.tasks=3 stream.test_per_class=5 network.centred=false training.allow_unstable=true "
BATCHES = "training.batch_size=20 training.steps=null training.epochs=5"
FULL = "training.batch_size=null training.epochs=null training.steps=150"
FULL += " training.learning_rate=null training.learning_rate_fraction=0.5 loss=squared_error"
FULL += " optimizer=sgd"
QUICK = "network.width=4 stream.train_per_class=10 training.epochs=9"
RERUN, AT, NONE, NAN = "re-run", {"anchor": "boundary"}, Cost(0.0, 0.0), float("nan")
NUMERICS = ("stable", "negative_mass", "condition", "limit_share", "kernels")
AXES = ("network", "stream", "loss", "rule", "scaling", "source", "method")
linearised, integrated = (sys.modules[f"ntkcl.forecast.{name}"] for name in MODULES)
FULL_AXES = [
    ("mlp 1", "class", "naive"),
    ("mlp 3", "rotated", "naive"),
    ("mlp 1", "task", "ogd"),
    ("mlp 3", "class", "ogd"),
    ("mlp 1", "rotated", "ogd"),
]
EVERY = 11  # of all combinations with batches
FORMS = {
    "linearised, 1": dict(form="linearised", segments=1),
    "linearised, 4": dict(form="linearised", segments=4),
    "linearised, auto": dict(form="linearised", segments="auto"),
    "simulated": dict(form="simulated"),
    "integrated": dict(form="integrated"),
    "closed": dict(form="closed"),
}
SIGNS = ("trial_r2", "halved_r2", "segments_r2", "lower_order_r2", "own_r2")
SIGNS += ("forgetting_miss", "balance")


def cells(quick: bool, chosen: bool = False) -> list[dict]:
    """Coordinates, forms and overrides of each cell; `chosen`: of other combinations and seeds."""
    if quick:
        made = with_some_batches(JUDGED[0][0])
        small = made[0], made[-1]
        return [cell | {"overrides": cell["overrides"] + QUICK.split()} for cell in small]
    return [
        cell | {"overrides": [*cell["overrides"], f"seed={seed}"]}
        for first, seed in (CHOSEN if chosen else JUDGED)
        for cell in [full_batches(*axis) for axis in FULL_AXES] + by_turns(with_some_batches(first))
    ]


def with_some_batches(first: int) -> list[dict]:
    """Every eleventh of all combinations with batches."""
    axes = list(itertools.product(NETWORKS, STREAMS, LOSSES, RULES, SCALINGS))[first::EVERY]
    return [with_batches(place, *axis) for place, axis in enumerate(axes)]


def by_turns(made: list[dict]) -> list[dict]:
    """One cell of each network after the other, so that a run that is cut short has some of all."""
    networks = [cell["names"]["network"] for cell in made]
    turns = [networks[:place].count(name) for place, name in enumerate(networks)]
    return [made[place] for place in np.argsort(turns, kind="stable")]


def with_batches(place, network, stream, loss, rule, scaling) -> dict:
    small = network in ("cnn", "lenet") and place % 4  # their larger images take minutes
    source = ("digits", "fashion_mnist")[0 if small else (place + place // 2) % 2]
    rate = RATES[rule, scaling] * (3 if loss == "squared_error" and rule != "adam" else 1)
    words = [NETWORKS[network], STREAMS[stream], RULES[rule], SCALINGS[scaling], EACH, BATCHES]
    words += [f"loss={loss} source={source} training.learning_rate={rate}"]
    words += ["network.patch=7"] * (network == "vit" and source == "fashion_mnist")
    forms = ["linearised, 1", "linearised, 4", "linearised, auto"]
    forms += ["simulated"] * (rule != "adam" and network.startswith("mlp"))
    names = dict(network=network, stream=stream, loss=loss, rule=rule, scaling=scaling)
    return named(names | dict(source=source, method="naive"), forms, words)


def full_batches(network, stream, method) -> dict:
    few = {"class": 50, "task": 50, "rotated": 8}[stream]
    words = [NETWORKS[network], STREAMS[stream], SCALINGS["ntk"], EACH, FULL]
    words += [f"method={method} source=digits stream.train_per_class={few}"]
    words += ["method.per_task=20"] * (method == "ogd")
    names = dict(network=network, stream=stream, loss="squared_error", rule="sgd, full batches")
    forms = ["closed", "integrated"] if method == "naive" else ["closed"]
    return named(names | dict(scaling="ntk", source="digits", method=method), forms, words)


def named(names: dict, forms: list[str], words: list[str]) -> dict:
    return {"names": names, "forms": forms, "overrides": " ".join(words).split()}


def measured(cell: dict) -> list[dict]:
    """A row for each form."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        given = resolve(hydra.compose("config", overrides=cell["overrides"])).requests[0].build()
    known = {key: given[key] for key in stages.Setup._fields if key in given}
    setup, meter = stages.Setup(**known | {"anchors": ("boundary",)}), Meter()
    made = {}
    for name in cell["forms"]:
        own = dict(FORMS[name])
        effort = forecast.Effort(segments=own.pop("segments", 1))
        made[name] = stages.prepare(setup._replace(effort=effort, **own))
    first = next(iter(made.values()))
    shared, (problem, anchor) = ended(stages.begin(first, meter))
    said: dict[str, list] = {name: [unsaid(anchor, meter)] for name in [*made, RERUN]}
    costs: dict[str, dict[str, float]] = {}
    for t in range(len(problem.stream)):
        for name, each in made.items() if t else ():
            said[name] += stages.forecast_task(each, problem, anchor, meter)
            if t + 1 == len(problem.stream):
                costs[name] = seconds(each, problem, anchor)
        fitted, other = (trained(each, t, anchor) for each in (problem, in_another_order(problem)))
        if t:
            f = first.initialised.outputs
            change = f(other.theta) - f(anchor.theta)
            said[RERUN].append(stages.path_diagnostic(t, change, 0, meter)._replace(**AT))
        measurement, anchor = stages.measure_task(first, problem, t, anchor, fitted, NONE, meter)
        shared.append(measurement)
        if measurement.diverged:
            return []
    compared, numerics = {}, {}
    for name, events in said.items():
        record = gather([*shared, *events], problem.stream)
        numerics[name] = {key: clipped(record.numerics["boundary"][key]) for key in NUMERICS}
        compared[name] = compare(record, "boundary", problem.stream, "train", problem.loss)
    names = cell["names"] | {"learned": float(compared[RERUN]["R"][-1, -1])}
    rerun = compared.pop(RERUN)
    return [
        names | row(name, one, rerun) | {"numerics": numerics[name]} | costs[name]
        for name, one in compared.items()
    ]


def ended(generator) -> tuple[list, Any]:
    """What a generator yields and returns."""
    events, returned = [], []

    def all_of():
        returned.append((yield from generator))

    events.extend(all_of())
    return events, returned[0]


def unsaid(anchor, meter):
    """Of the first task, which no drift is of."""
    return stages.path_diagnostic(0, np.full(anchor.history[-1].shape, NAN), 0, meter)._replace(
        **AT
    )


def in_another_order(problem):
    return problem._replace(key=jax.random.fold_in(problem.key, 1000))


def trained(problem, t, anchor):
    given = anchor.theta, anchor.memory, anchor.optimizer_state
    return training_problem.train(problem, t, problem.trained, *given)


def row(name: str, one: dict, rerun: dict) -> dict:
    """The verdict, its signs, and what came; null for what is not finite."""
    baselines = one["baselines"]
    kept = {
        "form": name,
        "verdict": one["verdict"],
        "reasons": one["reasons"],
        **{sign: clipped([one[sign]])[0] for sign in SIGNS},
        "r2": one["drift_r2"],
        "rerun_r2": rerun["drift_r2"],
        "predicted": one["mean_forgetting_predicted"],
        "measured": one["mean_forgetting_measured"],
        "rerun": rerun["mean_forgetting_predicted"],
        "mean_drift_r2": baselines["constant_shift"]["r2"],
        "input_cosine_r2": baselines["input_cosine"]["r2"],
        "no_change_r2": baselines["zero_drift"]["r2"],
    }
    return {key: finite(value) for key, value in kept.items()}


def clipped(values) -> list[float | None]:
    """Within what JSON can hold."""
    bounded = np.clip(np.asarray(values, float), -1e6, 1e6)
    return [None if np.isnan(value) else float(value) for value in bounded]


def regraded(one: dict) -> tuple[str, tuple[str, ...]]:
    """The verdict on stored signs."""
    known = {sign: NAN if one[sign] is None else one[sign] for sign in SIGNS}
    numerics = {
        key: [NAN if value is None else value for value in values]
        for key, values in one["numerics"].items()
    }
    kernels, stable = numerics.pop("kernels"), [v != 0 for v in numerics.pop("stable")]
    said = [reason for reason in one["reasons"] if "is nearer to it" in reason]
    is_in_segments = one["form"].startswith("linearised") and one["lower_order_r2"] is not None
    segments = [0 if np.isnan(m) else int(m) for m in kernels] if is_in_segments else []
    given = dict(stable=stable, segments=segments, better="".join(said))
    return metrics.verdict(**known, **numerics, **given)


def finite(value):
    return None if isinstance(value, float) and not np.isfinite(value) else value


def seconds(each, problem, anchor) -> dict[str, float]:
    """Of the processor: the forecast without its check, and the check over it. All programs are
    compiled by then."""
    spent = [0.0]

    def watched(call):
        def timed(*given):
            jax.block_until_ready(given)  # what the forecast has begun is its own
            begin = time.process_time()
            made = jax.block_until_ready(call(*given))
            spent[0] += time.process_time() - begin
            return made

        return timed

    begin = time.process_time()
    with ExitStack() as stack:
        for module, name in CHECKS:
            check = watched(getattr(module, name))
            stack.enter_context(mock.patch.object(module, name, check))
        outcomes = each.forecast(problem, anchor, 1)
        for moved in (forecast.trial, forecast.halved):
            watched(moved)(problem, anchor, outcomes, each.initialised.outputs)
    plain = time.process_time() - begin - spent[0]
    return {"seconds": plain, "check_share": spent[0] / plain}


# Of a forecast itself.
CHECKS = [(spot_check, "_along"), (linearised, "limit_share"), (integrated, "_checked")]


def off(one: dict) -> float:
    """As `segments.missed`; infinite for a forecast that diverged."""
    return missed(one["predicted"], one["measured"], one["rerun"])


def is_bad(one: dict) -> bool:
    return one["r2"] is None or one["r2"] < 0.8 or off(one) > 0.3


def summed(rows: list[dict]) -> dict[str, float]:
    """The bars: shares of verdicts, and the median and largest cost."""
    bad = [one for one in rows if is_bad(one)]
    trusted = [one for one in rows if one["verdict"] in ("good", "fair")]
    right = [one for one in rows if not is_bad(one)]
    costs = [one["check_share"] for one in rows]
    return {
        "forecasts": len(rows),
        "unknown": sum(one["verdict"] == "unknown" for one in rows),
        "bad": len(bad),
        "bad that are poor": sum(one["verdict"] == "poor" for one in bad),
        "good or fair": len(trusted),
        "good or fair that are bad": sum(map(is_bad, trusted)),
        "right": len(right),
        "right that are poor": sum(one["verdict"] == "poor" for one in right),
        "median cost of a check": float(np.median(costs)),
        "checks above a tenth": sum(cost > 0.1 for cost in costs),
    }


def short(value: float | None) -> str:
    return number(value) if value is None or abs(value) < 1000 else f"{value:.0e}"


def markdown(stored: dict) -> str:
    rows = stored["rows"]
    lines = []
    for form in FORMS:
        for grade in GRADES:
            same = [one for one in rows if (one["form"], one["verdict"]) == (form, grade)]
            if same:
                r2 = [-np.inf if one["r2"] is None else one["r2"] for one in same]
                bad = [str(sum(map(is_bad, same))), str(sum(off(one) > 0.3 for one in same))]
                r2s = [short(float(value)) for value in (min(r2), np.median(r2))]
                cost = short(float(np.median([one["check_share"] for one in same])))
                lines.append([form, grade, str(len(same)), *r2s, *bad, cost])
    heads = ["form", "verdict", "forecasts", "lowest R2", "median R2", "bad"]
    heads += ["forgetting off by more than .3", "check over forecast, seconds"]
    each = [
        [
            *(str(one[key]) for key in (*AXES, "form", "verdict")),
            *(short(one[key]) for key in ("r2", "rerun_r2", "predicted", "measured", "rerun")),
            *(short(one[key]) for key in (*SIGNS, "check_share")),
        ]
        for one in rows
    ]
    columns = [*AXES, "form", "verdict", "R2", "of a re-run", "forgetting predicted", "measured"]
    columns += ["of a re-run", *(sign.replace("_", " ") for sign in SIGNS), "cost"]
    return "\n".join(
        [
            "# Verdicts on a survey",
            "",
            f"`{stored['command']}`; {stored['machine']['cores']} cores, "
            f"{stored['machine']['processor']}, JAX {stored['machine']['jax']}.",
            "",
            *table(["what", "number"], [[key, f"{v:.3g}"] for key, v in summed(rows).items()]),
            "",
            *table(heads, lines),
            "",
            "Bad: drift R2 below .8, or mean forgetting off by more than .3 of the measured and "
            "farther from it than a re-run's.",
            "",
            *table(columns, each),
            "",
        ]
    )


def main() -> None:
    options = parser(__doc__, quick=True)
    text = "cells on which cuts are chosen, into a file of their own"
    options.add_argument("--chosen", action="store_true", help=text)
    text = "verdicts anew from the stored signs"
    options.add_argument("--regrade", action="store_true", help=text)
    given = options.parse_args()
    jax.config.update("jax_enable_x64", True)  # as the command does: networks keep their precision
    name = stem("verdicts_chosen" if given.chosen else "verdicts", given)
    if given.regrade:
        stored = json.loads((given.folder / f"{name}.json").read_text())
        for one in stored["rows"]:
            one["verdict"], one["reasons"] = regraded(one)
        return publish(given.folder, name, stored, markdown)
    rows = []
    stored = {"command": command("verdicts", options, given), "machine": with_jax(), "rows": rows}
    for cell in cells(given.quick, given.chosen):
        made = measured(cell)
        rows += made
        write(given.folder, name, stored, markdown)
        line = [(one["form"], one["verdict"], short(one["r2"]), short(off(one))) for one in made]
        print(*cell["names"].values(), *line or ["diverged"], file=sys.stderr, flush=True)
    publish(given.folder, name, stored, markdown)


if __name__ == "__main__":
    main()
