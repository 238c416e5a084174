"""Graldi et al. 2025: forgetting and accuracy against gamma_0, from lazy to rich training.

One hidden layer whose output is divided by gamma_0 sqrt(width/64), its readout zero at the start;
split images with a head a task, at several widths. Beside them the lazy forecast and its R2 on the
outputs at the end. Two tasks of permuted images, of which some pixels stay in place, show whether
the best gamma_0 depends on the similarity. Settings in conf/figure/graldi_gamma0.yaml. Writes
results/tables/graldi_gamma0.{json,md} and results/figures/graldi_gamma0.{png,pdf}; exit code 1 if a
claim fails.

The paper's Fig. 1 trains ResNets on Split-CIFAR10 by minibatches; here a perceptron, 30 images of
Fashion-MNIST a task, full-batch gradient descent and the squared error, as in the paper's
experiments at infinite width. Our gamma_0 is 1 where a network of width 64 is one in the NTK
parametrization, so its values are not the paper's.

    python scripts/figures/graldi_gamma0.py [size=small] [draw=true] [results_dir=PATH]
"""

import sys
import time
from functools import cache

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import (
    COLOURS,
    claim,
    claims_list,
    counts,
    increasing,
    interval,
    joined,
    numbers,
    on_images,
    publish,
    settings_of,
)
from width_and_training import W_STD, chosen, descent, forecast, inputs_of, limit, single

from ntkcl import dynamics, kernels, losses, metrics, networks, streams
from ntkcl.cli.config import CONF
from ntkcl.experiment.scores import score_matrices
from ntkcl.training.loop import train
from ntkcl.types import Rows, Source, Stream
from ntkcl.validation import SettingError, finite, whole

NUMBERS = {"CFr": "relative forgetting", "AA": "average accuracy", "LA": "learning accuracy"}
SMALL = 0.01  # CFr of lazy networks


def split_stream(settings: dict, source: Source, seed: int) -> Stream:
    """Five pairs of classes, a head each."""
    sizes = {key: settings[name] // 2 for key, name in SIZES.items()}
    scenario = {"scenario": "task", "targets": "sign"}
    return in_single(streams.split(source, seed=seed, shuffle_classes=True, **scenario, **sizes))


SIZES = {"train_per_class": "samples", "test_per_class": "tested"}


def permuted_stream(patch: int, settings: dict, source: Source, seed: int) -> Stream:
    """Two tasks of all classes, a head each; in the second a square of the pixels is shuffled."""
    sizes = {key: settings[name] // 10 for key, name in SIZES.items()}
    stream = streams.permuted(source, tasks=2, patch=patch, seed=seed, same_images=False, **sizes)
    return in_single(tuple(with_head(task, t) for t, task in enumerate(stream)))


def with_head(task, t: int):
    """The task with outputs of its own, the t-th of two heads."""

    def placed(y):
        return np.concatenate([(t == k) * np.asarray(y) for k in range(2)], axis=-1)

    parts = (part._replace(y=placed(part.y)) for part in (task.train, task.test))
    return type(task)(*parts, placed(task.head))


def in_single(stream: Stream) -> Stream:
    return jax.tree.map(single, stream)


@cache
def divided(apply):
    """f / gamma_0 with gamma_0 an argument, so that one program serves all of them."""
    return lambda gamma0, theta, x: apply(theta, x) / gamma0


def lazy_start(network, seed: int, x):
    """Parameters with a readout of zeros, so that f_0 = 0 at every gamma_0."""
    theta = network.init(jax.random.key(seed), x)
    return {**theta, "readout": jax.tree.map(jnp.zeros_like, theta["readout"])}


def compared(stream: Stream, width: int, settings: dict, seed: int) -> list[dict]:
    """A row a gamma_0: scores of trained networks, of the lazy forecast, and its R2.

    The kernel of f / gamma_0 is K / gamma_0^2, and the learning rate grows as gamma_0^2: the
    forecast, which keeps the kernel as it is at the start, is one for all gamma_0.
    """
    c = stream[0].train.y.shape[1]
    network = networks.mlp(
        outputs=c, width=width, w_std=W_STD, parametrization="mup", centred=False
    )
    x = inputs_of(stream)
    theta = lazy_start(network, seed, x[0])
    kernel = kernel_of(network, theta, stream)
    rate = settings["learning_rate_fraction"] * limit(kernel, stream)

    def rule(t):
        own = losses.squared_error().rate(rate, len(stream[t].train.x), stream[t].head)
        return dynamics.gradient_descent(own, settings["steps"])

    predicted, rows = forecast(kernel, stream, rule), []
    for gamma0 in settings["gamma0"]:
        apply = Partial(divided(network.apply), gamma0)
        outputs = trained(apply, theta, stream, rate * gamma0**2, settings["steps"])
        if not np.isfinite(outputs).all():
            raise SettingError(
                f"learning_rate_fraction={settings['learning_rate_fraction']}: training diverges "
                f"at gamma_0 {gamma0:g}, width {width}; use less"
            )
        found = {"gamma0": gamma0, **scores(outputs, stream), "r2": r2(outputs, predicted, stream)}
        rows.append(found | {"predicted": scores(predicted, stream)})
    return rows


def kernel_of(network, theta, stream: Stream) -> np.ndarray:
    """K [N, M] of one output between all inputs and all train inputs: with a readout of zeros
    outputs do not interact, and have the same kernel."""
    x, last = inputs_of(stream), Rows.of(stream).train[-1].stop
    return np.asarray(kernels.structured(network)(theta, x, x[:last])[:, 0, :, 0], float)


def trained(apply, theta, stream: Stream, rate: float, steps: int) -> np.ndarray:
    """Outputs [T + 1, N, c] before and after each task."""
    x, key, loss = inputs_of(stream), jax.random.key(0), losses.squared_error()
    outputs, run = [networks.forward(apply, theta, x)], {"loss": loss, "steps": steps}
    for task in stream:
        theta = train(
            key, theta, task.train, task.head, apply=apply, transform=descent(rate), **run
        ).theta
        outputs.append(networks.forward(apply, theta, x))
    return np.array(outputs)


def scores(outputs: np.ndarray, stream: Stream) -> dict[str, float]:
    """CFr, AA and LA of test images."""
    R = score_matrices(outputs, stream, "test", losses.squared_error())["R"]
    functions = metrics.forgetting_relative, metrics.average_accuracy, metrics.learning_accuracy
    return {name: function(R) for name, function in zip(NUMBERS, functions, strict=True)}


def r2(outputs: np.ndarray, predicted: np.ndarray, stream: Stream) -> float:
    """Of the outputs at the end, of each task's test images at its own head."""
    sides = (
        np.concatenate(
            [
                f[-1][rows][:, np.flatnonzero(task.head)].ravel()
                for task, rows in zip(stream, Rows.of(stream).test, strict=True)
            ]
        )
        for f in (outputs, predicted)
    )
    return metrics.r2(*sides)


def compute(settings: dict, source: Source) -> dict:
    """Rows of the widths, on split images, and of the similarities, on permuted ones."""
    start, widths, similar = time.perf_counter(), [], []
    side = source.train.x.shape[1]
    for seed in settings["seeds"]:
        stream = split_stream(settings, source, seed)
        for width in settings["widths"]:
            cell = {"width": width, "seed": seed}
            widths += [cell | row for row in compared(stream, width, settings, seed)]
        for patch in settings["patches"]:
            stream = permuted_stream(patch, settings, source, seed)
            cell = {"similarity": round(1 - (patch / side) ** 2, 3), "seed": seed}
            rows = compared(stream, settings["similar_width"], settings, seed)
            similar += [cell | row for row in rows]
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return {"claims": judge(settings, widths, similar), "widths": widths, "similar": similar}


def curves(rows: list[dict], key: str, settings: dict) -> np.ndarray:
    """[seeds, gamma_0], mean over whatever else there is."""
    return np.array(
        [
            [
                np.mean([row[key] for row in chosen(rows, seed=s, gamma0=g)])
                for g in settings["gamma0"]
            ]
            for s in settings["seeds"]
        ]
    )


def judge(settings: dict, widths: list[dict], similar: list[dict]) -> list[dict]:
    """The paper's claims, and where the lazy forecast holds."""
    gamma0 = settings["gamma0"]
    by_width = np.array(
        [curves(chosen(widths, width=w), "CFr", settings).mean(0) for w in settings["widths"]]
    )
    spread, rise = np.ptp(by_width, axis=0).max(), np.ptp(by_width.mean(0))
    cfr, aa = curves(widths, "CFr", settings), curves(widths, "AA", settings)
    up, lazy = interval(cfr[:, -1] - cfr[:, 0]), interval(cfr[:, 0])
    best = int(np.argmax(aa.mean(0)))
    over = [interval(aa[:, best] - aa[:, end]) for end in (0, -1)]
    fit = [
        np.mean([row["r2"] for row in chosen(widths, gamma0=g)]) for g in (gamma0[0], gamma0[-1])
    ]
    return [
        claim(
            f"curves of CFr at widths {joined(settings['widths'])} collapse on gamma_0: the "
            "largest spread over widths is less than half the rise over gamma_0; spread, rise",
            published="they collapse",
            ours=f"{spread:.3f}, {rise:.3f}",
            holds=spread < rise / 2,
        ),
        claim(
            f"CFr is below {SMALL} where gamma_0 is smallest, and rises past a transition: there, "
            "and the largest gamma_0 minus the smallest",
            published="small, then rises",
            ours=f"{plus_minus(lazy)}, {plus_minus(up)}",
            holds=sum(lazy) < SMALL and up[0] - up[1] > 0,
            because=by_seed("the rise", cfr[:, -1] - cfr[:, 0]),
        ),
        claim(
            "average accuracy is best at a gamma_0 in between: the best gamma_0, AA there above "
            "the smallest / the largest",
            published="in between, about 0.1",
            ours=f"{gamma0[best]:g}, {' / '.join(map(plus_minus, over))}",
            holds=all(mean - half > 0 for mean, half in over),
            because=f"{by_seed('above the smallest', aa[:, best] - aa[:, 0])}; learning gains as "
            f"little, {gained(widths, gamma0, best)}",
        ),
        similarity_claim(settings, similar),
        claim(
            "the lazy forecast of the outputs at the end has R² above .99 at the smallest gamma_0 "
            "and below .5 at the largest",
            ours=f"{fit[0]:.4f}, {fit[1]:.2f}",
            holds=fit[0] > 0.99 and fit[1] < 0.5,
            because=learned_text(widths, gamma0[-1]),
        ),
    ]


def gained(rows: list[dict], gamma0: list[float], best: int) -> str:
    """Learning accuracy at the smallest and at the best gamma_0."""
    ends = (np.mean([row["LA"] for row in chosen(rows, gamma0=gamma0[k])]) for k in (0, best))
    return " to ".join(f"{value:.3f}" for value in ends)


def similarity_claim(settings: dict, similar: list[dict]) -> dict:
    """Whether the best gamma_0 rises with the similarity: the slope of its logarithm, by seed."""
    similarities = sorted({row["similarity"] for row in similar})
    best = np.array([best_gamma0(chosen(similar, similarity=s), settings) for s in similarities])
    slopes = np.polyfit(similarities, np.log10(best), 1)[0]
    slope = interval(slopes)
    means = [10 ** np.mean(np.log10(each)) for each in best]
    return claim(
        f"the best gamma_0 rises with the similarity ({joined(similarities)}): best gamma_0, "
        "decades for each unit of similarity",
        published="from 0.1 to 1",
        ours=f"{joined(means, '.2g')}, {plus_minus(slope)}",
        holds=slope[0] - slope[1] > 0,
        because=by_seed("the slope", slopes),
    )


def by_seed(what: str, values: np.ndarray) -> str:
    """How many seeds have the sign, where their interval does not."""
    return (
        f"{what} is above 0 in {np.sum(values > 0)} of {len(values)} seeds, each with images of "
        f"its own: {joined(values, '+.3f')}"
    )


def learned_text(rows: list[dict], gamma0: float) -> str:
    """What rich networks and the lazy forecast have in common."""
    own = chosen(rows, gamma0=gamma0)
    measured, predicted = (
        np.mean([row["LA"] for row in side]) for side in (own, [row["predicted"] for row in own])
    )
    return (
        "rich networks leave the forecast on the tasks' own images less than that: learning "
        f"accuracy at {gamma0:g} is {measured:.3f}, forecast {predicted:.3f}"
    )


def best_gamma0(rows: list[dict], settings: dict) -> list[float]:
    """By seed, where AA is largest."""
    aa = curves(rows, "AA", settings)
    return [settings["gamma0"][int(k)] for k in np.argmax(aa, axis=1)]


def plus_minus(found: list[float]) -> str:
    return f"{found[0]:+.3f} ± {found[1]:.3f}"


def markdown(stored: dict) -> str:
    """A row a width, or a similarity, and gamma_0."""
    settings = stored["settings"]
    lines = [
        "Mean ± half of the 95 % interval over seeds; in brackets the lazy forecast.",
        "",
        "| tasks | gamma_0 | CFr | AA | LA | R² of the lazy forecast |",
        "|---|---|---|---|---|---|",
    ]
    for title, rows in lines_of(stored):
        for gamma0 in settings["gamma0"]:
            own = chosen(rows, gamma0=gamma0)
            entries = [
                "{:.3f} ± {:.3f} ({:.3f})".format(
                    *interval([row[key] for row in own]),
                    np.mean([row["predicted"][key] for row in own]),
                )
                for key in NUMBERS
            ]
            entries.append("{:.3f} ± {:.3f}".format(*interval([row["r2"] for row in own])))
            lines.append(f"| {title} | {gamma0:g} | " + " | ".join(entries) + " |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def lines_of(stored: dict):
    """Each line of the figure: its name, its rows."""
    for width in stored["settings"]["widths"]:
        yield f"width {width}", chosen(stored["widths"], width=width)
    for similarity in dict.fromkeys(row["similarity"] for row in stored["similar"]):
        yield f"similarity {similarity:g}", chosen(stored["similar"], similarity=similarity)


def draw(stored: dict) -> Figure:
    """CFr, AA, LA and the forecast's R2 by width; CFr and AA by similarity."""
    figure, settings = Figure(figsize=(11, 6), layout="constrained"), stored["settings"]
    axes = figure.subplots(2, 3)
    lines = list(lines_of(stored))
    widths, similar = lines[: len(settings["widths"])], lines[len(settings["widths"]) :]
    panels = [
        ("CFr", widths, "split, a head a task"),
        ("AA", widths, "split, a head a task"),
        ("LA", widths, "split, a head a task"),
        ("r2", widths, "split, a head a task"),
        ("CFr", similar, "permuted, similarity of two tasks"),
        ("AA", similar, "permuted, similarity of two tasks"),
    ]
    for axis, (key, shown, title) in zip(axes.flat, panels, strict=True):
        against_gamma0(axis, key, shown, settings)
        axis.set(title=title, ylabel=NUMBERS.get(key, "R² of the lazy forecast"))
    axes[1, 0].set_ylim(0, 1.05)
    axes[0, 0].plot([], [], ls="--", lw=1, color="0.4", label="predicted, lazy")
    for axis in (axes[0, 0], axes[1, 1]):
        axis.legend(fontsize=8)
    return figure


def against_gamma0(axis, key: str, shown: list, settings: dict) -> None:
    """A line a width or similarity, with 95 % intervals; dashed: the lazy forecast."""
    for colour, (label, rows) in zip(COLOURS, shown, strict=False):
        by_gamma0 = [chosen(rows, gamma0=g) for g in settings["gamma0"]]
        mean, half = np.array([interval([row[key] for row in own]) for own in by_gamma0]).T
        style = {"color": colour, "marker": "o", "ms": 3.5, "capsize": 2, "label": label}
        axis.errorbar(settings["gamma0"], mean, half, **style)
        if key in NUMBERS:
            predicted = np.mean([row["predicted"][key] for row in rows])
            axis.axhline(predicted, ls="--", lw=1, color=colour)
    axis.set(xscale="log", xlabel=r"$\gamma_0$")


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    counts("seeds", settings["seeds"], 2, 0)
    counts("widths", settings["widths"], 2)
    increasing("gamma0", numbers("gamma0", settings["gamma0"], 3), 3)
    finite("gamma0", settings["gamma0"][0], above=0.0)
    for patch in numbers("patches", settings["patches"], 2):
        whole("patches", patch, 2)
    for name in ("similar_width", "steps"):
        whole(name, settings[name])
    finite("learning_rate_fraction", settings["learning_rate_fraction"], above=0.0)
    for name in ("samples", "tested"):
        if whole(name, settings[name]) % 10:
            raise SettingError(f"{name}={settings[name]}: expected a multiple of the 10 classes")
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/graldi_gamma0")
def main(cfg: DictConfig) -> None:
    publish(cfg, "graldi_gamma0", check, on_images(cfg, compute), markdown, draw)


if __name__ == "__main__":
    main()
