"""Mirzadeh et al. 2022; Wenger, Dangel, Kristiadi 2023: do wide networks forget less?

Forgetting and learning accuracy against the width, for tasks trained for so many steps and for
tasks trained down to one loss; rotated images with one head, split images with a head a task; the
NTK and the standard parametrization, each with one learning rate for all widths. Dashed: the
forecast from the kernel of wide networks, which needs no network. The narrowest networks are also
trained with outputs so large that their kernel stays as it is. Settings in
conf/figure/width_and_training.yaml. Writes results/tables/width_and_training.{json,md} and
results/figures/width_and_training.{png,pdf}; exit code 1 if a claim fails.

The papers train on all of MNIST and CIFAR-100 by minibatches, cross-entropy and networks that are
not centred; here 100 images of Fashion-MNIST a task at half their resolution, by full-batch
gradient descent on the squared error of f - f_0, which a kernel can forecast.

    python scripts/figures/width_and_training.py [size=small] [draw=true] [results_dir=PATH]
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
from matplotlib import colormaps
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

from ntkcl import dynamics, kernels, losses, metrics, networks, optimizers, streams
from ntkcl.cli.config import CONF
from ntkcl.experiment.scores import score_matrices
from ntkcl.training.loop import at_rest, segments
from ntkcl.types import Rows, Source, Stream
from ntkcl.validation import SettingError, finite, whole

HEADS = {"one": "one head, rotated", "each": "a head a task, split"}
PARAMETRIZATIONS = {"standard": "standard", "ntk": "NTK"}
MATCHED = "matched"  # the stopping rule that is no number of steps
W_STD = 2**0.5  # ReLU, one hidden layer, no bias
TASKS, DEGREES = 5, 22.5
EVERY = 10  # steps between two looks at the loss
NUMBERS = ("forgetting", "learned")
LAZY = 30.0  # output scale at which the kernel of the narrowest stays as it is
NEAR = 5.0  # points of accuracy between the forecast and the widest network


def stream_of(head: str, settings: dict, source: Source, seed: int) -> Stream:
    """Five rotations of all classes, or five pairs of classes; images at half their resolution."""
    n, tested = settings["samples"], settings["tested"]
    if head == "one":
        sizes = {"train_per_class": n // 10, "test_per_class": tested // 10}
        stream = streams.rotated(source, tasks=TASKS, step=DEGREES, seed=seed, **sizes)
    else:
        sizes = {"train_per_class": n // 2, "test_per_class": tested // 2}
        scenario = {"scenario": "task", "targets": "sign"}
        stream = streams.split(source, tasks=TASKS, seed=seed, **scenario, **sizes)
    return tuple(
        task._replace(train=halved(task.train), test=halved(task.test), head=single(task.head))
        for task in stream
    )


def halved(data):
    """The means of squares of 2 x 2 pixels, as vectors [n, d / 4]."""
    n, side = data.x.shape[:2]
    x = np.asarray(data.x).reshape(n, side // 2, 2, side // 2, 2).mean((2, 4))
    return data._replace(x=single(x.reshape(n, -1)), y=single(data.y))


def single(array):
    return jnp.asarray(array, jnp.float32)


def inputs_of(stream: Stream):
    """All N inputs, the train sets in turn and then the test sets."""
    return jnp.concatenate([task.train.x for task in stream] + [task.test.x for task in stream])


def wide_kernel(parts, parametrization: str, width: int, d: int) -> np.ndarray:
    """K [N, N] that a network's kernel of each output tends to: of the infinite kernel's parts,
    Sigma of the readout and Theta - Sigma of the hidden layer, the latter times d / w_std^2 and the
    former times width / w_std^2 in the standard parametrization (theory 1)."""
    if parametrization == "ntk":
        return parts.ntk
    return (width * parts.nngp + d * (parts.ntk - parts.nngp)) / W_STD**2


def forecast(kernel: np.ndarray, stream: Stream, rule) -> np.ndarray:
    """Outputs [T + 1, N, c] before and after each task of networks with the kernel K (x) I_c.

    `rule(t)` is the filter g of task t. Columns share the eigenvalues of K_tt, so each task is one
    solve of its size: f <- f + K(x, X_t) U g(lam, r) r with r = U^T (Y_t - f(X_t)).
    """
    f = np.zeros((len(kernel), stream[0].train.y.shape[1]))
    outputs = [f]
    for t, (task, own) in enumerate(zip(stream, Rows.of(stream).train, strict=True)):
        lam, modes = np.linalg.eigh(kernel[own, own])
        active = np.flatnonzero(task.head)
        r = modes.T @ (np.asarray(task.train.y, float) - f[own])[:, active]
        lam = np.repeat(np.maximum(lam, 0), len(active))
        filtered = np.asarray(rule(t)(jnp.asarray(lam), jnp.asarray(r.ravel()))).reshape(r.shape)
        f = f.copy()
        f[:, active] += kernel[:, own] @ (modes @ (filtered * r))
        outputs.append(f)
    return np.array(outputs)


def rule_of(stop, stream: Stream, rate: float, settings: dict, t: int):
    """Training on task t as a filter: so many steps, or down to the matched loss."""
    task, loss = stream[t], losses.squared_error()
    n, own = len(task.train.x), loss.rate(rate, len(task.train.x), task.head)
    if stop != MATCHED:
        return dynamics.gradient_descent(own, stop)
    half_square = settings["target"] * zero_loss(task) * n * float(np.sum(task.head))
    return dynamics.gradient_descent(own, settings["most_steps"], stop=half_square)


def zero_loss(task) -> float:
    """The loss of predicting zero."""
    y = np.asarray(task.train.y, float)[:, np.flatnonzero(task.head)]
    return float(0.5 * np.mean(y**2))


def trained(network, stream: Stream, stop, rate: float, settings: dict, seed: int) -> tuple:
    """Outputs [T + 1, N, c] before and after each task, and the steps that each has taken."""
    x, loss, key = inputs_of(stream), losses.squared_error(), jax.random.key(seed)
    theta, steps = network.init(key, x[0]), []
    apply, transform = networks.centred(network.apply, theta), descent(rate)
    outputs = [networks.forward(apply, theta, x)]
    for task in stream:
        level = settings["target"] * zero_loss(task) if stop == MATCHED else 0.0
        count = settings["most_steps"] if stop == MATCHED else stop
        run = {"loss": loss, "transform": transform, "steps": count, "every": EVERY}
        start = at_rest(theta, transform)
        for fit in segments(key, start, task.train, task.head, apply=apply, **run):
            if fit.losses[-1] <= level:
                break
        theta = fit.theta
        steps.append(fit.step)
        outputs.append(networks.forward(apply, theta, x))
    return np.array(outputs), steps


def descent(rate: float) -> optax.GradientTransformation:
    """Gradient descent whose rate is an argument, so that programs serve all rates."""
    return optax.GradientTransformation(Partial(_init, rate), Partial(_update, rate))


def _init(rate, theta):
    return optimizers.sgd().transform(rate).init(theta)


def _update(rate, gradient, state, theta):
    return optimizers.sgd().transform(rate).update(gradient, state, theta)


def scores(outputs: np.ndarray, stream: Stream) -> dict[str, float]:
    """Forgetting and learning accuracy in points, of test images; the loss that each task was
    trained down to, over that of predicting zero, mean over tasks."""
    loss = losses.squared_error()
    R = score_matrices(outputs, stream, "test", loss)["R"]
    own = np.diag(score_matrices(outputs, stream, "train", loss)["R_loss"])
    return {
        "forgetting": 100 * metrics.forgetting_peak(R),
        "learned": 100 * metrics.learning_accuracy(R),
        "loss": float(np.mean(own / [zero_loss(task) for task in stream])),
    }


def compute(settings: dict, source: Source) -> dict:
    """A row for each panel, width, stopping rule and seed: measured and predicted. By seed, one
    head: the narrowest with its kernel held."""
    start, rows, held = time.perf_counter(), [], []
    for head in HEADS:
        for seed in settings["seeds"]:
            stream = stream_of(head, settings, source, seed)
            x = np.asarray(inputs_of(stream), np.float64)
            infinite = kernels.infinite(depth=1, w_std=W_STD)
            parts = kernels.InfiniteWidth(*(np.asarray(one(x)) for one in infinite))
            for name in PARAMETRIZATIONS:
                rows += panel(parts, stream, name, head, seed, settings)
            if head == "one":
                held.append({"seed": seed, **with_kernel_held(parts, stream, seed, settings)})
            print(f"{head}, seed {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return {"claims": judge(settings, rows, held), "rows": rows, "held": held}


def with_kernel_held(parts, stream: Stream, seed: int, settings: dict) -> dict[str, float]:
    """Scores of the narrowest network, NTK parametrization, at the matched loss; its outputs are
    multiplied by LAZY and its learning rate divided by LAZY^2."""
    c = stream[0].train.y.shape[1]
    width = settings["widths"][0]
    network = networks.mlp(outputs=c, width=width, w_std=W_STD, output_scale=LAZY)
    rate = settings["learning_rate_fraction"] * limit(parts.ntk, stream) / LAZY**2
    outputs, _ = trained(network, stream, MATCHED, rate, settings, seed)
    return scores(outputs, stream)


def panel(parts, stream: Stream, name: str, head: str, seed: int, settings: dict) -> list[dict]:
    """The rows of one parametrization: one learning rate, a fraction of the stability limit of the
    widest."""
    d, rows = stream[0].train.x.shape[1], []
    wide = partial(wide_kernel, parts, name, d=d)
    rate = settings["learning_rate_fraction"] * limit(wide(width=settings["widths"][-1]), stream)
    for width in settings["widths"]:
        c = stream[0].train.y.shape[1]
        network = networks.mlp(outputs=c, width=width, w_std=W_STD, parametrization=name)
        for stop in (*settings["steps"], MATCHED):
            predicted = forecast(
                wide(width=width), stream, partial(rule_of, stop, stream, rate, settings)
            )
            outputs, steps = trained(network, stream, stop, rate, settings, seed)
            cell = {"head": head, "parametrization": name, "width": width, "stop": stop}
            found = {"seed": seed, "steps": float(np.mean(steps)), **scores(outputs, stream)}
            rows.append(cell | found | {"predicted": scores(predicted, stream)})
    return rows


def limit(kernel: np.ndarray, stream: Stream) -> float:
    """The largest learning rate at which gradient descent on every task is stable."""
    loss, sgd = losses.squared_error(), optimizers.sgd()
    return min(
        sgd.limit(float(np.linalg.eigvalsh(kernel[own, own])[-1]))
        / loss.rate(1.0, len(task.train.x), task.head)
        for task, own in zip(stream, Rows.of(stream).train, strict=True)
    )


def chosen(rows: list[dict], **wanted) -> list[dict]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def slopes(rows: list[dict], settings: dict, stops) -> np.ndarray:
    """By seed: points of forgetting for each doubling of the width, mean over stopping rules."""

    def one(seed, stop):
        line = chosen(rows, seed=seed, stop=stop)
        doublings = np.log2([row["width"] for row in line])
        return np.polyfit(doublings, [row["forgetting"] for row in line], 1)[0]

    return np.array([np.mean([one(seed, s) for s in stops]) for seed in settings["seeds"]])


def under_trained(rows: list[dict], settings: dict) -> list[int]:
    """The numbers of steps after which no width has come down to the matched loss."""
    return [
        stop
        for stop in settings["steps"]
        if all(
            np.mean([row["loss"] for row in chosen(rows, stop=stop, width=width)])
            > settings["target"]
            for width in settings["widths"]
        )
    ]


def judge(settings: dict, rows: list[dict], held: list[dict]) -> list[dict]:
    """Both papers' claims by the slope of forgetting over log2 width, and how near the forecast
    is."""
    claims = []
    for name, title in PARAMETRIZATIONS.items():
        own = {head: chosen(rows, head=head, parametrization=name) for head in HEADS}
        short = {head: under_trained(own[head], settings) for head in HEADS}
        fixed, early, matched = (
            [slopes(own[head], settings, stops(head)) for head in HEADS]
            for stops in (lambda _: settings["steps"], short.get, lambda _: [MATCHED])
        )
        speed = speed_text(own["one"], settings)
        steps = " and ".join("/".join(map(str, each)) for each in short.values())
        claims += [
            forget_less(f"{title} parametrization, a number of steps a task", fixed, speed),
            forget_less(
                f"{title} parametrization, under-trained ({steps} steps: no width has the matched "
                "loss)",
                early,
                speed,
            ),
            forget_no_less(title, matched, early, held_text(rows, held, settings), settings),
        ]
    return [*claims, *judge_forecast(settings, rows)]


def forget_less(where: str, by_head: list, speed: str) -> dict:
    """The claim that the slope is below 0 with each kind of head."""
    found = [interval(each) for each in by_head]
    reasons = speed, seeds_text(by_head[1])
    below = [mean + half < 0 for mean, half in found]
    return claim(
        f"{where}: wide networks forget less, points per doubling of the width, one head / a head "
        "a task",
        published="wide networks forget less",
        ours=text(found),
        holds=all(below),
        because="; ".join(reason for reason, one in zip(reasons, below, strict=True) if not one),
    )


def seeds_text(by_seed: np.ndarray) -> str:
    """How many seeds have the sign, where their interval does not."""
    return (
        f"a head a task: below 0 in {np.sum(by_seed < 0)} of {len(by_seed)} seeds "
        f"({joined(by_seed, '+.2f')}), too few for how much they differ"
    )


def forget_no_less(title: str, matched: list, early: list, held: str, settings: dict) -> dict:
    """The claim that at the matched loss the slope is not below 0, and above the under-trained."""
    late = [interval(each) for each in matched]
    above = [interval(one - other) for one, other in zip(matched, early, strict=True)]
    return claim(
        f"{title} parametrization, trained to {settings['target']:.0%} of the loss of predicting "
        "zero, wide networks forget no less: slope, and how far it is above the under-trained",
        published="the advantage disappears",
        ours=f"{text(late)}, {text(above)}",
        holds=all(mean + half >= 0 for mean, half in late)
        and all(mean - half > 0 for mean, half in above),
        because=held,
    )


def speed_text(rows: list[dict], settings: dict) -> str:
    """How much further wide networks are trained by the same steps, and the forecast's slope."""
    first, ends = settings["steps"][0], (settings["widths"][0], settings["widths"][-1])
    losses_there = [
        np.mean([row["loss"] for row in chosen(rows, stop=first, width=width)]) for width in ends
    ]
    predicted = [row | {"forgetting": row["predicted"]["forgetting"]} for row in rows]
    slope = interval(slopes(predicted, settings, settings["steps"]))
    return (
        f"one head: {first} steps bring widths {joined(ends)} down to "
        f"{joined(losses_there, '.2f')} of the loss of zero, and the forecast, which knows of the "
        f"width by such speed alone, has the slope {slope[0]:+.2f}"
    )


def held_text(rows: list[dict], held: list[dict], settings: dict) -> str:
    """What training to the end does not change: the kernel that a narrow network begins with."""
    width = settings["widths"][0]
    own = chosen(rows, head="one", parametrization="ntk", width=width, stop=MATCHED)
    free, fixed = (interval([row["forgetting"] for row in each]) for each in (own, held))
    predicted = np.mean([row["predicted"]["forgetting"] for row in own])
    return (
        "narrow networks forget more by the kernel they begin with, at the matched loss too: one "
        "head, NTK, "
        f"width {width} forgets {plus_minus(free)} points, with its kernel held {plus_minus(fixed)}"
        f", the kernel of wide networks {predicted:.1f}"
    )


def plus_minus(found: list[float]) -> str:
    return f"{found[0]:.1f} ± {found[1]:.1f}"


def text(found: list) -> str:
    return " / ".join(f"{mean:+.2f} ± {half:.2f}" for mean, half in found)


def judge_forecast(settings: dict, rows: list[dict]) -> list[dict]:
    """The forecast against the widest and the narrowest networks."""
    narrow, wide = (
        [
            gaps(chosen(rows, head=head, parametrization=name, width=width), settings)
            for head in HEADS
            for name in PARAMETRIZATIONS
        ]
        for width in (settings["widths"][0], settings["widths"][-1])
    )
    off = np.concatenate(wide)
    nearer = [(np.mean(np.abs(a)), np.mean(np.abs(b))) for a, b in zip(narrow, wide, strict=True)]
    return [
        claim(
            f"the forecast is within {NEAR:g} points of the widest networks' forgetting, every "
            "panel and stopping rule: off by",
            ours=f"{off.min():+.1f} to {off.max():+.1f}",
            holds=bool(np.all(np.abs(off) < NEAR)),
        ),
        claim(
            "the forecast is nearer to the widest networks than to the narrowest, every panel: "
            "points off, widest (narrowest)",
            ours=" / ".join(f"{b:.1f} ({a:.1f})" for a, b in nearer),
            holds=all(b < a for a, b in nearer),
        ),
    ]


def gaps(rows: list[dict], settings: dict) -> np.ndarray:
    """Predicted minus measured forgetting, mean over seeds, by stopping rule."""
    return np.array(
        [
            np.mean(
                [row["predicted"]["forgetting"] - row["forgetting"] for row in chosen(rows, stop=s)]
            )
            for s in (*settings["steps"], MATCHED)
        ]
    )


def markdown(stored: dict) -> str:
    """A row a panel, stopping rule and width."""
    settings = stored["settings"]
    lines = [
        "Points of accuracy on test images, mean ± half of the 95 % interval over seeds; in "
        "brackets the forecast.",
        "",
        "| panel | trained for | width | forgetting | learning accuracy | loss, of that of zero "
        "| steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for panel_name, stop, own in lines_of(stored):
        for width in settings["widths"]:
            cell = chosen(own, width=width)
            entries = [
                "{:.1f} ± {:.1f} ({:.1f})".format(
                    *interval([row[key] for row in cell]),
                    np.mean([row["predicted"][key] for row in cell]),
                )
                for key in NUMBERS
            ]
            loss, steps = (np.mean([row[key] for row in cell]) for key in ("loss", "steps"))
            entries += [f"{loss:.3f}", f"{steps:.0f}"]
            until = "matched loss" if stop == MATCHED else f"{stop} steps"
            lines.append(f"| {panel_name} | {until} | {width} | " + " | ".join(entries) + " |")
    lines += ["", f"With the kernel held: {held_text(stored['rows'], stored['held'], settings)}."]
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def lines_of(stored: dict):
    """Each line of the figure: its panel's name, its stopping rule, its rows."""
    for head, title in HEADS.items():
        for name, parametrization in PARAMETRIZATIONS.items():
            own = chosen(stored["rows"], head=head, parametrization=name)
            for stop in (*stored["settings"]["steps"], MATCHED):
                yield f"{title}, {parametrization}", stop, chosen(own, stop=stop)


def draw(stored: dict) -> Figure:
    """Forgetting above, learning accuracy below; a column a panel, a line a stopping rule."""
    settings = stored["settings"]
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True)
    for row in axes:
        row[1].sharey(row[0])
        row[3].sharey(row[2])
    columns = list(dict.fromkeys(title for title, _, _ in lines_of(stored)))
    shades = colormaps["viridis"](np.linspace(0.9, 0.15, len(settings["steps"])))
    colours = dict(zip(settings["steps"], shades, strict=True)) | {MATCHED: COLOURS[1]}
    for title, stop, own in lines_of(stored):
        for axis, key in zip(axes[:, columns.index(title)], NUMBERS, strict=True):
            against_width(axis, key, own, stop, colours[stop])
    for title, axis in zip(columns, axes[0], strict=True):
        axis.set_title(title, fontsize=10)
    for axis, key in zip(axes[:, columns.index("one head, rotated, NTK")], NUMBERS, strict=True):
        values = [row[key] for row in stored["held"]]
        at = [settings["widths"][0]] * len(values)
        axis.plot(at, values, "s", color="black", mfc="none", label="one loss, kernel held")
    for axis in axes[1]:
        axis.set(xscale="log", xlabel="width")
        axis.set_xticks(settings["widths"], settings["widths"])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("forgetting (points)")
    axes[1, 0].set_ylabel("learning accuracy (%)")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=8, fontsize=9)
    return figure


def against_width(axis, key: str, rows: list[dict], stop, colour) -> None:
    """The mean over seeds, a dot a seed, the forecast dashed."""
    widths = sorted({row["width"] for row in rows})
    cells = [chosen(rows, width=width) for width in widths]
    mean = [np.mean([row[key] for row in cell]) for cell in cells]
    predicted = [np.mean([row["predicted"][key] for row in cell]) for cell in cells]
    matched = stop == MATCHED
    label = "one loss" if matched else f"{stop} steps"
    axis.plot(widths, mean, color=colour, lw=2.2 if matched else 1.3, label=label)
    axis.plot([row["width"] for row in rows], [row[key] for row in rows], ".", ms=4, color=colour)
    name = "forecast" if matched else None
    axis.plot(widths, predicted, "--", lw=1, color=colour, label=name)


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    counts("seeds", settings["seeds"], 2, 0)
    counts("widths", settings["widths"], 2)
    counts("steps", settings["steps"])
    whole("most_steps", settings["most_steps"])
    finite("learning_rate_fraction", settings["learning_rate_fraction"], above=0.0)
    if not 0 < finite("target", settings["target"]) < 1:
        raise SettingError(f"target={settings['target']}: expected a share between 0 and 1")
    for name in ("samples", "tested"):
        if whole(name, settings[name]) % 10:
            raise SettingError(f"{name}={settings[name]}: expected a multiple of the 10 classes")
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/width_and_training")
def main(cfg: DictConfig) -> None:
    compute_on_images = on_images(cfg, compute)
    publish(cfg, "width_and_training", check, compute_on_images, markdown, draw)


if __name__ == "__main__":
    main()
