"""Empirical NTK dynamics under task shifts (arXiv 2507.16039, 2025): the kernel at task switches.

The tangent kernel, averaged over outputs, of images of the first task while a network learns two
new classes a task: spectral norm, distance 1 - CKA to its start, velocity, alignment with the
targets. First row as published: standard parametrization, Adam, batches, cross-entropy. Second row,
a control of ours: NTK parametrization, full-batch gradient descent, squared error. A third stream
has the same images throughout, and the frequencies of their two classes change. Right: the velocity
just after a switch, against width. Differs from the published figure: one hidden layer on 200
images a task of Fashion-MNIST, in place of larger networks on CIFAR-10 and more, so curves compare
by shape. Settings in conf/figure/reactivation.yaml. Writes
results/tables/reactivation.{json,md} and results/figures/reactivation.{png,pdf}; exit code 1 if a
claim fails.

    python scripts/figures/reactivation.py [size=small] [draw=true] [results_dir=PATH]
"""

import sys
import time
from functools import partial

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import (
    COLOURS,
    claim,
    claims_list,
    counts,
    interval,
    joined,
    on_images,
    publish,
    settings_of,
)
from scipy.sparse.linalg import eigsh

from ntkcl import kernels, losses, networks, optimizers, streams
from ntkcl.cli.config import CONF
from ntkcl.compilation import once
from ntkcl.kernels import geometry
from ntkcl.training.loop import at_rest, segments
from ntkcl.types import Dataset, Network, Source, Stream, Task
from ntkcl.validation import SettingError, finite, unit, whole

CLASSES = 2  # new ones a task
SPIKE = 2.0  # velocity just after a switch over that before it: what counts as a spike
STILL = 1e-14  # least velocity: below it is the rounding of kernels in float32
RUNS = {
    "published": "standard, Adam, cross-entropy",
    "control": "NTK, gradient descent, squared error",
    "frequencies": "as published, class frequencies change",
}
PANELS = {
    "norm": "spectral norm",
    "distance": "$1 - $CKA to the start",
    "velocity": "velocity, a step",
    "alignment": "alignment with $yy^T$",
}


def new_classes(settings: dict, source: Source, seed: int) -> Stream:
    """Two classes a task, one output a class and none masked, in float32."""
    sizes = dict(train_per_class=settings["train"] // CLASSES, test_per_class=1, seed=seed)
    stream = streams.split(source, tasks=settings["tasks"], scenario="class", **sizes)
    return jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), stream)


def frequencies(settings: dict, task: Task) -> Stream:
    """The same images of two classes in every task, some more often than once or left out, so that
    a share is of the first class: no class and no image is new."""
    n, tasks = settings["train"], []
    for share in settings["shares"]:
        first = np.arange(round(share * n)) % (n // CLASSES)
        second = n // CLASSES + np.arange(n - len(first)) % (n // CLASSES)
        index = np.concatenate([first, second])
        tasks.append(task._replace(train=Dataset(*(a[index] for a in task.train))))
    return tuple(tasks)


def network_of(settings: dict, width: int, control: bool, outputs: int) -> Network:
    parametrization = "ntk" if control else "standard"
    given = dict(depth=settings["depth"], w_std=2**0.5, centred=False)
    return networks.mlp(outputs=outputs, width=width, parametrization=parametrization, **given)


def gradient_descent(settings: dict, network: Network, theta, stream: Stream):
    """At a fraction of the smallest stability limit of all tasks, that of the untrained kernel."""

    def largest(task):
        gram = np.asarray(kernels.structured(network)(theta, task.train.x), np.float64)
        side = gram.shape[0] * gram.shape[1]
        return eigsh(gram.reshape(side, side), 1, return_eigenvectors=False)[0] / side

    limit = 2 / max(map(largest, stream))
    rate = settings["learning_rate_fraction"] * float(limit)
    return optax.GradientTransformation(nothing, Partial(descend, rate))


def nothing(theta) -> tuple:
    """The state of a rule without memory."""
    return ()


def descend(rate, gradient, state, theta):
    """Gradient descent whose rate is an argument: one compilation for the rates of all seeds."""
    return jax.tree.map(lambda g: -rate * g, gradient), state


adam = once(lambda rate: optimizers.adam().transform(rate))  # one object, one compilation


def watched(settings: dict, stream: Stream, probe: Dataset, width: int, control: bool, seed: int):
    """The metrics of the kernel of the probe's images, before training and every few steps.

    The optimizer's state is carried over from task to task.
    """
    network = network_of(settings, width, control, stream[0].train.y.shape[1])
    key = jax.random.key(seed)
    theta = network.init(jax.random.fold_in(key, 0), probe.x[0])
    loss, transform = losses.cross_entropy(), adam(settings["adam"])
    if control:
        transform = gradient_descent(settings, network, theta, stream)
        loss = losses.squared_error()
    kernel_fn, state = kernels.structured(network), at_rest(theta, transform)
    seen = [kernels.traced(kernel_fn(theta, probe.x))]
    for t, task in enumerate(stream):
        for fit in segments(
            jax.random.fold_in(key, t + 1),
            state,
            task.train,
            task.head,
            apply=network.apply,
            loss=loss,
            transform=transform,
            steps=settings["steps"],
            batch_size=None if control else settings["batch_size"],
            every=settings["every"],
        ):
            seen.append(kernels.traced(kernel_fn(fit.theta, probe.x)))
        state = fit.state
    return metrics_of(jnp.asarray(seen, jnp.float64), probe.y, settings["every"])


def metrics_of(K, y, every: int) -> dict[str, list[float]]:
    """Of kernels K [times, n, n], `every` steps apart, and targets y [n, c]: a number a time, of
    the velocity a number an interval."""
    step = partial(geometry.velocity, dt=float(every))
    found = {
        "norm": jax.vmap(lambda k: geometry.spectrum(k)[0])(K),
        "distance": jax.vmap(geometry.kernel_distance, (0, None))(K, K[0]),
        "velocity": jnp.maximum(jax.vmap(step)(K[1:], K[:-1]), STILL),
        "alignment": jax.vmap(geometry.target_alignment, (0, None))(K, jnp.asarray(y, K.dtype)),
    }
    return {name: [float(f"{value:.5g}") for value in values] for name, values in found.items()}


def compute(settings: dict, source: Source) -> dict:
    """By run and width the metrics of every seed, and the claims."""
    start, found = time.perf_counter(), {name: {} for name in RUNS}
    for width in settings["widths"]:
        for name, own in found.items():
            own[str(width)] = [_run(settings, source, name, width, s) for s in settings["seeds"]]
            print(f"{name}, width {width}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return {"claims": judge(settings, found), "runs": found}


def _run(settings, source, name, width, seed) -> dict:
    classes = new_classes(settings, source, seed)
    stream = frequencies(settings, classes[0]) if name == "frequencies" else classes
    train, each = classes[0].train, settings["train"] // settings["probes"]
    probe = Dataset(train.x[::each][: settings["probes"]], train.y[::each][: settings["probes"]])
    return watched(settings, stream, probe, width, name == "control", seed)


def by_task(settings: dict, runs: list[dict], name: str) -> np.ndarray:
    """A metric [seeds, tasks, times within the task], of which all but the velocity's begin with
    the time of the switch."""
    points = settings["steps"] // settings["every"]
    values = np.array([one[name] for one in runs])
    if name == "velocity":
        return values.reshape(len(values), -1, points)
    return np.stack([values[:, first:][:, : points + 1] for first in switches(settings, points)], 1)


def switches(settings: dict, points: int) -> range:
    """Where each task begins."""
    return range(0, settings["tasks"] * points, points)


def heights(settings: dict, runs: list[dict]) -> np.ndarray:
    """log of the velocity just after each switch over its mean in the second half of the task
    before, [seeds, switches]."""
    velocity = by_task(settings, runs, "velocity")
    before = velocity[:, :-1, velocity.shape[2] // 2 :].mean(2)
    return np.log(velocity[:, 1:, 0] / before)


def mean_height(settings: dict, runs: list[dict]) -> np.ndarray:
    """`heights`, mean over switches, [seeds]."""
    return heights(settings, runs).mean(1)


def first_height(settings: dict, runs: list[dict]) -> np.ndarray:
    """`heights` at the first switch, [seeds]."""
    return heights(settings, runs)[:, 0]


def peaks(settings: dict, runs: list[dict]) -> np.ndarray:
    """log of the velocity just after a switch, mean over switches, [seeds]."""
    return np.log(by_task(settings, runs, "velocity")[:, 1:, 0]).mean(1)


def down_of(settings: dict, runs: list[dict]) -> np.ndarray:
    """log of the spectral norm's mean over the first quarter of a task over the norm at the switch,
    mean over switches, [seeds]."""
    norm, early = _norms(settings, runs)
    return np.log(early / norm[:, :, 0]).mean(1)


def up_of(settings: dict, runs: list[dict]) -> np.ndarray:
    """log of the norm at a task's end over its mean over the first quarter, [seeds]."""
    norm, early = _norms(settings, runs)
    return np.log(norm[:, :, -1] / early).mean(1)


def lowest_of(settings: dict, runs: list[dict]) -> np.ndarray:
    """log of the lowest norm of a task over that at the switch, mean over switches, [seeds]."""
    norm, _ = _norms(settings, runs)
    return np.log(norm[:, :, 1:].min(2) / norm[:, :, 0]).mean(1)


def _norms(settings, runs):
    norm = by_task(settings, runs, "norm")[:, 1:]
    return norm, norm[:, :, 1 : 1 + max(norm.shape[2] // 4, 1)].mean(2)


def slope(settings: dict, by_width: dict[str, list]) -> list[float]:
    """Of the velocity just after a switch against width, both in logarithms: mean over seeds and
    half of its 95 % interval."""
    peak = np.array([peaks(settings, runs) for runs in by_width.values()])
    return interval(np.polyfit(np.log([float(width) for width in by_width]), peak, 1)[0])


def ends(values: np.ndarray) -> np.ndarray:
    """exp of the mean of logarithms over the first axis and of its 95 % interval's ends."""
    mean, half = np.array([interval(list(own)) for own in values.T.reshape(-1, len(values))]).T
    return np.exp([mean, mean - half, mean + half])


def judge(settings: dict, found: dict) -> list[dict]:
    """The claims of the paper, of the run as published; the control is reported, not judged."""
    published, changes = found["published"], found["frequencies"]
    spikes = {width: ends(heights(settings, own)) for width, own in published.items()}

    def by_width(measure, runs=published):
        return {width: ends(measure(settings, own)[:, None]) for width, own in runs.items()}

    together, changed = (by_width(mean_height, runs) for runs in (published, changes))
    down, up, still = by_width(down_of), by_width(up_of), by_width(down_of, changes)
    ahead = {
        width: ends((peaks(settings, own) - peaks(settings, changes[width]))[:, None])
        for width, own in published.items()
    }
    return [
        claim(
            f"velocity spikes at every switch and width, by more than {SPIKE:g} times: mean by "
            "width, the lowest end of an interval",
            published="at every switch and width",
            ours=f"{shown(together)}, {min(own[1].min() for own in spikes.values()):.1f}",
            holds=all(own[1].min() > SPIKE for own in spikes.values()),
        ),
        claim(
            "the norm drops after a switch: first quarter of a task over the norm at the switch, "
            "by width",
            published="drops",
            ours=shown(down, ".3f"),
            holds=all(own[2].max() < 1 for own in down.values()),
            because=(
                "the drop is shorter than a quarter of a task, and the norm then passes what it "
                f"was: at its lowest it is {shown(by_width(lowest_of), '.3f')} of that at the "
                "switch"
            ),
        ),
        claim(
            "and recovers: end of the task over its first quarter, by width",
            published="recovers (check mark)",
            ours=shown(up, ".3f"),
            holds=all(own[1].min() > 1 for own in up.values()),
        ),
        claim(
            "new classes move the kernel faster than a change of class frequencies: velocity after "
            "a switch, ratio by width",
            published="new classes trigger it",
            ours=shown(ahead),
            holds=all(own[1].min() > 1 for own in ahead.values()),
        ),
        claim(
            f"a change of class frequencies alone is no spike, below {SPIKE:g} times: by width",
            published="does not trigger it",
            ours=shown(changed),
            holds=all(own[2].max() < SPIKE for own in changed.values()),
            because=(
                f"at the first change it is {shown(by_width(first_height, changes))} times that "
                "before; at the later ones, which are larger, the kernel stands still before; new "
                "classes move it several times faster, and with frequencies the norm does not "
                f"move: first quarter over switch {shown(still, '.3f')}"
            ),
        ),
    ]


def shown(by_width: dict[str, np.ndarray], form: str = ".1f") -> str:
    """Mean and interval by width."""
    return joined(
        [
            f"{mean:{form}} ({low:{form}} to {high:{form}})"
            for mean, low, high in (own[:, 0] for own in by_width.values())
        ]
    )


def markdown(stored: dict) -> str:
    """A row a run and width; slopes; the claims."""
    settings = stored["settings"]
    lines = [
        "| run | width | velocity after a switch, a step | over that before "
        "| norm, first quarter over switch | norm, lowest over switch "
        "| norm, end over first quarter | 1 - CKA at the end |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, by_width in stored["runs"].items():
        for width, runs in by_width.items():
            measures = (peaks, mean_height, down_of, lowest_of, up_of)
            values = [ends(measure(settings, runs)[:, None])[:, 0] for measure in measures]
            cells = ["{:.3g} ({:.3g} to {:.3g})".format(*own) for own in values]
            last = interval([one["distance"][-1] for one in runs])
            cells.append("{:.3f} ± {:.3f}".format(*last))
            lines.append(f"| {RUNS[name]} | {width} | " + " | ".join(cells) + " |")
    lines += ["", "The velocity just after a switch goes as a power of width:", ""]
    for name, by_width in stored["runs"].items():
        lines.append("- {}: {:.2f} ± {:.2f}".format(RUNS[name], *slope(settings, by_width)))
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """A row a run: the four metrics against steps, and the velocity after a switch."""
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    axes = figure.subplots(2, len(PANELS) + 1)
    rows = {"published": "as published", "control": "control: NTK, GD, MSE"}
    for row, (name, label) in zip(axes, rows.items(), strict=True):
        for axis, metric in zip(row, PANELS, strict=False):
            against_steps(axis, stored, name, metric)
        row[0].set_ylabel(label, fontsize=11)
        names = ("published", "frequencies") if name == "published" else (name,)
        against_width(row[-1], stored, names)
    for axis, title in zip(axes[0], (*PANELS.values(), "velocity after a switch"), strict=True):
        axis.set_title(title, fontsize=11)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    labels = [f"width {label}" for label in labels]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def against_steps(axis, stored: dict, name: str, metric: str) -> None:
    """Mean over seeds, a line a width; dotted lines at switches."""
    settings = stored["settings"]
    for colour, (width, runs) in zip(COLOURS, stored["runs"][name].items(), strict=False):
        values = np.array([one[metric] for one in runs])
        mean = np.exp(np.log(values).mean(0)) if metric in ("norm", "velocity") else values.mean(0)
        steps = (np.arange(len(mean)) + (metric == "velocity")) * settings["every"]
        axis.plot(steps, mean, color=colour, lw=1.2, label=width)
    for t in range(1, settings["tasks"]):
        axis.axvline(t * settings["steps"], color="0.6", ls=":", lw=0.8, zorder=0)
    if metric in ("norm", "velocity"):
        axis.set_yscale("log")
    axis.set_xlabel("training steps")


def against_width(axis, stored: dict, names: tuple[str, ...]) -> None:
    """Velocity just after a switch with 95 % intervals, and its power of width."""
    settings = stored["settings"]
    for name, colour in zip(names, ("0.1", COLOURS[3]), strict=False):
        by_width = stored["runs"][name]
        found = [ends(peaks(settings, runs)[:, None])[:, 0] for runs in by_width.values()]
        mean, low, high = np.array(found).T
        what = "frequencies change" if name == "frequencies" else "new classes"
        label = "{}:\n$n^{{{:.2f} ± {:.2f}}}$".format(what, *slope(settings, by_width))
        widths = [int(width) for width in by_width]
        drawn = dict(color=colour, marker="o", ms=4, label=label)
        axis.errorbar(widths, mean, (mean - low, high - mean), **drawn)
    axis.set(xscale="log", yscale="log", xlabel="width n")
    axis.set_xticks(widths, map(str, widths), minor=False)
    axis.tick_params(axis="x", which="minor", bottom=False)
    if len(names) > 1:  # room for two labels below the lines
        axis.set_ylim(bottom=axis.get_ylim()[0] * 1e-4)
    axis.legend(fontsize=8, loc="lower left")


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    for name, least in {"tasks": 2, "train": 2, "probes": 2, "steps": 2, "every": 1}.items():
        whole(name, settings[name], least)
    for name in ("depth", "batch_size"):
        whole(name, settings[name])
    for name in ("adam", "learning_rate_fraction"):
        finite(name, settings[name], above=0.0)
    counts("seeds", settings["seeds"], 2, 0)
    counts("widths", settings["widths"], 2)
    if settings["steps"] % settings["every"] or settings["steps"] == settings["every"]:
        raise SettingError(
            f"every={settings['every']}: expected a divisor of steps={settings['steps']}, below it"
        )
    for name in ("probes", "batch_size"):
        if settings[name] > settings["train"]:
            raise SettingError(
                f"{name}={settings[name]}: expected at most train={settings['train']}"
            )
    if len(settings["shares"]) != settings["tasks"]:
        raise SettingError(
            f"shares={settings['shares']}: expected {settings['tasks']} numbers, one a task"
        )
    for share in settings["shares"]:
        unit("shares", share)
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/reactivation")
def main(cfg: DictConfig) -> None:
    publish(cfg, "reactivation", check, on_images(cfg, compute), markdown, draw)


if __name__ == "__main__":
    main()
