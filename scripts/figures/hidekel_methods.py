"""Hidekel, Raviv 2026: seven methods on five tasks with a shared head, and where outputs drift.

Accuracy and forgetting of each method on test images, and the drift of old tasks' outputs inside
and outside the leading modes of their kernel just after them; beside both what the kernel of the
untrained network predicts. Each method's strength is chosen by its accuracy on a validation seed.
The paper trains on MNIST, we on a hundred images of Fashion-MNIST a task by full-batch descent;
its networks, steps and strengths are not known. Settings in conf/figure/hidekel_methods.yaml.
Writes results/tables/hidekel_methods.{json,md} and results/figures/hidekel_methods.{png,pdf}; exit
code 1 if a claim fails.

    python scripts/figures/hidekel_methods.py [size=small] [draw=true] [results_dir=PATH]
"""

import sys
import time

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import (
    COLOURS,
    claim,
    claims_list,
    counts,
    interval,
    on_images,
    publish,
    settings_of,
)
from scipy import stats

from ntkcl import kernels, losses, methods, metrics, optimizers, streams
from ntkcl.cli.config import CONF
from ntkcl.experiment import record, stages
from ntkcl.experiment.scores import score_matrices
from ntkcl.kernels import geometry
from ntkcl.resources import Meter
from ntkcl.training.settings import Training
from ntkcl.types import Rows
from ntkcl.validation import finite, flag, seed, whole

LOSS = losses.squared_error()
METHODS = {
    "none": "naive",
    "EWC": "ewc_diagonal",
    "SI": "si",
    "replay": "replay",
    "DER++": "der_plus_plus",
    "spectral": "spectral",
    "LwF": "lwf",
    "old outputs": "functional",  # not in the paper
}
PUBLISHED = {  # MNIST: average accuracy and forgetting in percent
    "none": (19.7, 99.6),
    "EWC": (19.8, 99.5),
    "SI": (22.2, 96.4),
    "replay": (56.7, 53.3),
    "DER++": (65.9, 42.0),
    "spectral": (77.9, 11.3),
    "LwF": (80.3, 23.9),
}
PUBLISHED_DRIFT = {  # inside and outside the top 10 modes
    "none": (305.1, 142.8),
    "EWC": (262.5, 92.9),
    "replay": (278.9, 144.5),
    "spectral": (2.0, 146.7),
    "LwF": (161.4, 124.4),
}
WEAK = ("EWC", "SI")  # published within 2.5 points of none
WITHIN = 5.0  # points of accuracy
NAMED = {"accuracy": "average accuracy", "forgetting": "forgetting", "share": "share inside"}
ORDERED = 0.9  # rank correlation with the published accuracies


def trained(settings: dict, stream, network, name: str, given: dict, number: int, anchors=()):
    """The record of one run of a method with the settings `given`, and the parameters before and
    after each task. LwF holds the outputs of old classes, which its heads have to name."""
    training = Training(
        steps=settings["steps"], learning_rate_fraction=settings["learning_rate_fraction"]
    )
    run = stages.prepare(
        stages.Setup(
            jax.random.key(number),
            so_far(stream) if name == "LwF" else stream,
            network,
            LOSS,
            optimizers.sgd(),
            training,
            method=made(name, given),
            anchors=anchors,
        )
    )
    thetas: list = []

    def events():
        meter = Meter()
        problem, anchor = yield from stages.begin(run, meter)
        thetas.append(anchor.theta)
        for t in range(len(stream)):
            fitted, cost = yield from stages.train_task(run, problem, t, anchor, None, meter)
            measured, anchor = stages.measure_task(run, problem, t, anchor, fitted, cost, meter)
            thetas.append(anchor.theta)
            yield measured
            if measured.diverged:
                return

    return record.gather(events(), stream), thetas


def scores(outputs: np.ndarray, stream) -> list[float]:
    """Average accuracy and forgetting in percent, on test images, among all classes."""
    R = score_matrices(outputs, stream, "test", LOSS)["R"]
    return [100 * float(score(R)) for score in (metrics.average_accuracy, metrics.forgetting_peak)]


def drift(settings: dict, rec, thetas: list, network, stream, what: str) -> dict:
    """Squared drift of old tasks' train outputs, mean over them: inside and outside the leading
    modes of a task's kernel, and its share in the first modes.

    Measured in the kernel just after the task; predicted in that of the untrained network.
    """
    last, k = len(stream) - 1, settings["modes"]
    kernel_fn = kernels.empirical(network)
    energies = []
    for j, (task, rows) in enumerate(zip(stream[:last], Rows.of(stream).train, strict=False)):
        theta = thetas[j + 1] if what == "measured" else thetas[0]
        gram = jnp.asarray(kernel_fn(theta, task.train.x), jnp.float64)
        moved = jnp.asarray(rec.drift(what, j, last, rows), jnp.float64)
        energies.append(np.asarray(geometry.drift_modes(gram, moved).energies * jnp.sum(moved**2)))
    mean = np.mean(energies, axis=0)
    shares = np.mean([np.cumsum(one) / np.sum(one) for one in energies], axis=0)
    return {
        "inside": float(mean[:k].sum()),
        "outside": float(mean[k:].sum()),
        "cumulative": shares[: settings["shown"]].round(4).tolist(),
    }


def chosen(settings: dict, source, network) -> dict[str, dict]:
    """Of each method's candidates the one of the highest accuracy on the validation seed, and
    accuracy and forgetting of all of them there. One that diverges has accuracy -1."""
    number, found = settings["validation_seed"], {}
    stream = stream_of(settings, source, number)
    for name, candidates in settings["candidates"].items():
        tried = candidates if settings["choose"] else candidates[:1]
        rows = []
        for one in tried:
            rec, _ = trained(settings, stream, network, name, one, number)
            diverged = rec.status != "completed"
            rows.append([-1.0, 0.0] if diverged else scores(rec.measured, stream))
        best = int(np.argmax([accuracy for accuracy, _ in rows]))
        found[name] = {"settings": tried[best], "tried": tried, "validation": rows}
        print(f"{name}: {tried[best]} of {np.round(rows, 1).tolist()}", file=sys.stderr)
    return found


def made(name: str, given: dict):
    return getattr(methods, METHODS[name])(**given)


def stream_of(settings: dict, source, number: int):
    """Tasks of two classes, an output a class and none masked, in float32."""
    sizes = {key: settings[key] for key in ("tasks", "train_per_class", "test_per_class")}
    stream = streams.split(source, scenario="class", **sizes, seed=number)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), stream)


def so_far(stream):
    """The same with the outputs of later classes masked."""
    known = np.cumsum([np.any(np.asarray(task.train.y) > 0, 0) for task in stream], 0)
    heads = [jnp.asarray(head, jnp.float32) for head in known]
    return tuple(task._replace(head=head) for task, head in zip(stream, heads, strict=True))


def compute_for(cfg: DictConfig):
    """`compute(settings, source)` with the network of the configuration."""

    def compute(settings: dict, source) -> dict:
        start = time.perf_counter()
        network = instantiate(cfg.network)(outputs=2 * settings["tasks"])
        found = chosen(settings, source, network)
        for name, one in found.items():
            one["runs"] = [
                measured(settings, source, network, name, one["settings"], number)
                for number in settings["seeds"]
            ]
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        stored = {"methods": found}
        return {"claims": judge(stored), **stored}

    return compute


def measured(settings: dict, source, network, name: str, given: dict, number: int) -> dict:
    """One run, and what was predicted of it before it was trained."""
    stream = stream_of(settings, source, number)
    rec, thetas = trained(settings, stream, network, name, given, number, anchors=("init",))
    row: dict = {"seed": number}
    for what in ("measured", "init"):
        acc, forgetting = scores(rec.outputs(what), stream)
        moved = drift(settings, rec, thetas, network, stream, what)
        row[what] = {"accuracy": acc, "forgetting": forgetting, **moved}
    return row


def values(stored: dict, name: str, key: str, what: str = "measured") -> np.ndarray:
    """A number by seed; `share`: the part of the drift inside the leading modes."""
    runs = [run[what] for run in stored["methods"][name]["runs"]]
    if key != "share":
        return np.array([run[key] for run in runs])
    return np.array([run["inside"] / (run["inside"] + run["outside"]) for run in runs])


def shown(stored: dict, name: str, key: str, form: str = ".1f", scale: float = 1.0) -> str:
    """The mean over seeds ± half of its 95 % interval."""
    return " ± ".join(f"{scale * value:{form}}" for value in interval(values(stored, name, key)))


def above(stored: dict, key: str, high: str, low: str) -> bool:
    """Whether the 95 % interval of the difference, paired by seed, lies above 0."""
    mean, half = interval(values(stored, high, key) - values(stored, low, key))
    return mean > half


def judge(stored: dict) -> list[dict]:
    """The claims; those of two methods by the interval of the difference, paired by seed."""
    others = [name for name in PUBLISHED if name != "spectral"]
    return [
        claim(
            "spectral leaves the smallest share of the drift inside the top modes: share, "
            + ", ".join(PUBLISHED_DRIFT),
            published=" / ".join(f"{a / (a + b):.3f}" for a, b in PUBLISHED_DRIFT.values()),
            ours=" / ".join(shown(stored, name, "share", ".3f") for name in PUBLISHED_DRIFT),
            holds=all(above(stored, "share", name, "spectral") for name in others),
        ),
        claim(
            f"spectral forgets least: forgetting, {', '.join(PUBLISHED)}",
            published=" / ".join(f"{forgetting}" for _, forgetting in PUBLISHED.values()),
            ours=" / ".join(shown(stored, name, "forgetting") for name in PUBLISHED),
            holds=all(above(stored, "forgetting", name, "spectral") for name in others),
            because="strengths are chosen by accuracy, and each method trades it for forgetting; "
            "accuracy/forgetting on the validation seed: "
            + "; ".join(trade(stored, name) for name in ("spectral", "LwF", "EWC")),
        ),
        claim(
            "and loses some accuracy to LwF: accuracy of LwF and spectral",
            published="80.3 / 77.9",
            ours=" / ".join(shown(stored, name, "accuracy") for name in ("LwF", "spectral")),
            holds=above(stored, "accuracy", "LwF", "spectral"),
            because="no weight tried brings LwF above spectral's best; accuracy/forgetting on the "
            f"validation seed: {trade(stored, 'LwF')}; {trade(stored, 'spectral')}. {TRIALS}",
        ),
        claim(
            f"EWC and SI are within {WITHIN:g} points of accuracy of none: none, EWC, SI",
            published=" / ".join(str(PUBLISHED[name][0]) for name in ("none", *WEAK)),
            ours=" / ".join(shown(stored, name, "accuracy") for name in ("none", *WEAK)),
            holds=all(abs(gap(stored, name)) < WITHIN for name in WEAK),
            because="a penalty chosen by accuracy does protect, a small one does not; "
            f"accuracy/forgetting on the validation seed: {trade(stored, 'EWC')}; in a trial 0.1 "
            "had 23.2/92.8, 0.01 19.6/97.0",
        ),
        ranked(stored),
        *forecast_claims(stored),
    ]


# The trials of results/README.md, "Why LwF is below spectral", each with one change.
TRIALS = (
    "Of digits, as in the paper, spectral has 76.0/18.6 and LwF 72.7/7.6 (MNIST's test set, three "
    "seeds). LwF stays below with ten times the steps (69.7, spectral 75.4), a loss of the new "
    "classes alone (72.4) and, on the validation seed, 400 images a task (73.6, 79.0), three "
    "hidden layers (62.0, 76.6), pixels in [0, 1] (67.8, 75.2), standard parametrization and Adam "
    "(50.2, 79.2), cross-entropy and softened distillation (62.4, 74.6). What it lacks is old "
    "inputs: held at these and not at the new ones, the same outputs have 78.7/16.3, 2.7 ± 1.0 "
    "above spectral, and all ten outputs 83.6/7.2"
)


def trade(stored: dict, name: str) -> str:
    """Accuracy/forgetting of a method at each of its strengths, on the validation seed."""
    one = stored["methods"][name]
    pairs = [
        f"{'/'.join(map(str, given.values()))}: {accuracy:.1f}/{forgetting:.1f}"
        for given, (accuracy, forgetting) in zip(one["tried"], one["validation"], strict=True)
    ]
    return f"{name} {', '.join(pairs)}"


def gap(stored: dict, name: str) -> float:
    """Points of accuracy above none, mean over seeds."""
    return float(np.mean(values(stored, name, "accuracy") - values(stored, "none", "accuracy")))


def ranked(stored: dict) -> dict:
    """The order of accuracies; none, EWC and SI count as one rank, as published."""
    published = [PUBLISHED["none" if name in WEAK else name][0] for name in PUBLISHED]
    means = {name: values(stored, name, "accuracy").mean() for name in PUBLISHED}
    rank = spearman(published, list(means.values()))
    return claim(
        f"accuracies are in the published order, none, EWC and SI tied: rank correlation at least "
        f"{ORDERED}",
        published="none ~ EWC ~ SI < replay < DER++ < spectral < LwF",
        ours=f"{rank:.2f}, {' < '.join(sorted(means, key=means.__getitem__))}",
        holds=rank >= ORDERED,
        because="replay and DER++ keep 10 images a task: in trials on the validation seed replay "
        "of 2 had accuracy 41.4, below spectral and LwF as published; of 10 among 200 it had 66.8",
    )


def spearman(a: list, b: list) -> float:
    return float(stats.spearmanr(a, b).statistic)


def forecast_claims(stored: dict) -> list[dict]:
    """How the forecast from the untrained network orders the methods."""
    claims = []
    for key in ("accuracy", "forgetting", "share"):
        by_seed = zip(
            *(
                zip(*(values(stored, name, key, what) for name in METHODS), strict=True)
                for what in ("init", "measured")
            ),
            strict=True,
        )
        mean, half = interval([spearman(*pair) for pair in by_seed])
        claims.append(
            claim(
                f"the kernel of the untrained network predicts the methods' order by {NAMED[key]}: "
                f"rank correlation above {ORDERED} within a seed",
                ours=f"{mean:.2f} ± {half:.2f}",
                holds=mean > ORDERED,
            )
        )
    return claims


def markdown(stored: dict) -> str:
    """A row a method: chosen strength, published, measured and predicted numbers."""
    lines = [
        "Accuracy and forgetting in percent, on test images; drift: mean over old tasks of the "
        "squared change of their train outputs. Means over seeds ± half of a 95 % interval; "
        "predicted: from the kernel of the untrained network.",
        "",
        "| method | settings | accuracy: published | measured | predicted "
        "| forgetting: published | measured | predicted "
        "| drift inside : outside the top modes: published | measured | share inside | predicted |",
        "|---" * 12 + "|",
    ]
    for name, one in stored["methods"].items():
        given = ", ".join(f"{key} {value:g}" for key, value in one["settings"].items())
        cells = [name, given or "-"]
        for k, key in enumerate(("accuracy", "forgetting")):
            cells += [str(PUBLISHED[name][k]) if name in PUBLISHED else "-"]
            cells += [shown(stored, name, key), f"{values(stored, name, key, 'init').mean():.1f}"]
        inside, outside = (values(stored, name, key).mean() for key in ("inside", "outside"))
        drifted = PUBLISHED_DRIFT.get(name)
        cells += ["{} : {}".format(*drifted) if drifted else "-", f"{inside:.3g} : {outside:.3g}"]
        cells += [shown(stored, name, "share", ".3f")]
        cells += [f"{values(stored, name, 'share', 'init').mean():.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """Accuracy and forgetting above; drift inside and outside, and by mode, below."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    (accuracies, forgetting), (parts, modes) = figure.subplots(2, 2)
    _bars(accuracies, stored, "accuracy", 0)
    _bars(forgetting, stored, "forgetting", 1)
    handles = accuracies.get_legend_handles_labels()
    accuracies.legend(*handles, fontsize=8, loc="upper left")
    _drifts(parts, stored)
    _modes(modes, stored)
    return figure


def _bars(axis, stored, key, column) -> None:
    names = list(stored["methods"])
    at = np.arange(len(names))
    mean, half = np.array([interval(values(stored, name, key)) for name in names]).T
    predicted = [values(stored, name, key, "init").mean() for name in names]
    axis.bar(at, mean, 0.62, yerr=half, capsize=3, color=COLOURS[0], alpha=0.75, label="measured")
    axis.plot(at, predicted, "x", color="black", ms=7, mew=1.8, label="predicted")
    known = [k for k, name in enumerate(names) if name in PUBLISHED]
    published = [PUBLISHED[names[k]][column] for k in known]
    axis.plot(known, published, "D", color=COLOURS[1], ms=6, label="published, MNIST")
    axis.set(ylabel=f"{NAMED[key]} (%)", ylim=(0, 105))
    axis.set_xticks(at, names, rotation=30)


def _drifts(axis, stored) -> None:
    names, k = list(stored["methods"]), stored["settings"]["modes"]
    at = np.arange(len(names))
    scale = sum(values(stored, "none", key).mean() for key in ("inside", "outside"))
    for shift, key, colour, side in ((-0.2, "inside", COLOURS[2], 0), (0.2, "outside", "0.6", 1)):
        means = [values(stored, name, key).mean() / scale for name in names]
        axis.bar(at + shift, means, 0.38, color=colour, label=f"{key} the top {k} modes")
        known = [i for i, name in enumerate(names) if name in PUBLISHED_DRIFT]
        whole = sum(PUBLISHED_DRIFT["none"])
        published = [PUBLISHED_DRIFT[names[i]][side] / whole for i in known]
        label = "published, MNIST" if side else None
        axis.plot(np.array(known) + shift, published, "D", color=COLOURS[1], ms=5, label=label)
    axis.set(ylabel="squared drift / that of none", ylim=(0, 0.98))
    axis.set_xticks(at, names, rotation=30)
    axis.legend(fontsize=8, loc="upper right")


def _modes(axis, stored) -> None:
    styles = ("-", "--")
    for k, name in enumerate(stored["methods"]):
        curves = [run["measured"]["cumulative"] for run in stored["methods"][name]["runs"]]
        mean = np.mean(curves, axis=0)
        style = {"color": COLOURS[k % 4], "ls": styles[k // 4], "lw": 1.6}
        axis.plot(np.arange(1, len(mean) + 1), mean, label=name, **style)
    axis.axvline(stored["settings"]["modes"], color="0.6", lw=1, ls=":")
    axis.set(
        xscale="log",
        ylim=(0, 1.02),
        xlabel="leading modes of the old task's kernel",
        ylabel="share of the squared drift",
    )
    axis.legend(fontsize=7, loc="upper left")


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg, without=("source", "network"))
    for name in ("train_per_class", "test_per_class", "steps", "modes", "shown"):
        whole(name, settings[name])
    whole("tasks", settings["tasks"], 2)
    finite("learning_rate_fraction", settings["learning_rate_fraction"], above=0.0)
    flag("choose", settings["choose"])
    counts("seeds", settings["seeds"], 2, 0)
    if seed("validation_seed", settings["validation_seed"]) in settings["seeds"]:
        raise ValueError(
            f"validation_seed={settings['validation_seed']}: expected one that is not in "
            f"seeds={settings['seeds']}, on which nothing is chosen"
        )
    candidates = settings["candidates"]
    if set(candidates) != set(METHODS) or not all(candidates.values()):
        raise ValueError(
            f"candidates={candidates}: expected at least one for each of {', '.join(METHODS)}"
        )
    for name, several in candidates.items():
        for one in several:
            made(name, one)
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/hidekel_methods")
def main(cfg: DictConfig) -> None:
    compute = on_images(cfg, compute_for(cfg))
    publish(cfg, "hidekel_methods", check, compute, markdown, draw)


if __name__ == "__main__":
    main()
