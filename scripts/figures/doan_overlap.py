"""Doan et al. 2021: how far tasks' gradients overlap, and what SGD, OGD and PCA-OGD forget.

Rotated and permuted images. From the kernel of the untrained network come the cosines of the
principal angles between the gradients of the first task and the updates that a later one can make
under each method, how few components hold the gradients, and the forecast of how the accuracy on
the first task falls; training measures that fall. Both methods keep equally many directions of a
task: OGD gradients of single images, PCA-OGD the largest principal directions of more images. The
paper trains 15 tasks of 10,000 MNIST images by minibatches and cross-entropy; here tasks are fewer
and small, the images Fashion-MNIST, the loss is squared error and batches are full, so that the
forecast is a closed form. Settings in conf/figure/doan_overlap.yaml. Writes
results/tables/doan_overlap.{json,md} and results/figures/doan_overlap.{png,pdf}; exit code 1 if a
claim fails.

    python scripts/figures/doan_overlap.py [size=small] [draw=true] [results_dir=PATH]
"""

import sys
import time

import hydra
import jax
import numpy as np
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import (
    COLOURS,
    above_zero,
    claim,
    claims_list,
    counts,
    interval,
    on_images,
    plus_minus,
    publish,
    settings_of,
)

from ntkcl import experiment, kernels, losses, methods, metrics, optimizers, streams
from ntkcl.cli.config import CONF
from ntkcl.experiment import record
from ntkcl.experiment.scores import score_matrices
from ntkcl.kernels.geometry import overlap_cosines
from ntkcl.methods.memory import draw_memory
from ntkcl.training.settings import Training
from ntkcl.validation import SettingError, finite, whole

STREAMS = ("rotated", "permuted")
METHODS = {"sgd": "SGD", "ogd": "OGD", "pca_ogd": "PCA-OGD"}
SHARE = 0.9  # of the gradients' squared length, for which components are counted


def stream_of(name: str, settings: dict, source, seed: int):
    """The tasks, all of the same images, turned or shuffled."""
    sizes = {
        "tasks": settings["tasks"],
        "train_per_class": settings["samples"] // 10,
        "test_per_class": settings["tested"] // 10,
        "seed": seed,
    }
    if name == "rotated":
        return streams.rotated(source, step=float(settings["step"]), **sizes)
    return streams.permuted(source, **sizes)


def method_of(name: str, settings: dict):
    """Of an image the methods keep the gradient of its class's output. The places among a task's
    images are the same for every seed, whose images differ: so programs are compiled once."""
    memory, images = settings["memory"], settings["pca_samples"]
    return {
        "sgd": methods.naive,
        "ogd": lambda: methods.ogd(memory, "true"),
        "pca_ogd": lambda: methods.pca_ogd(memory, images, "true"),
    }[name]()


def first_task(settings: dict, network, stream, name: str, seed: int) -> dict:
    """Test accuracy on the first task after each task [T], measured and predicted."""
    loss, method = losses.squared_error(), method_of(name, settings)
    training = Training(
        steps=settings["steps"], learning_rate_fraction=settings["learning_rate_fraction"]
    )
    events = experiment.run(
        jax.random.key(seed),
        stream,
        network,
        loss,
        optimizers.sgd(),
        training,
        method=method,
        anchors=["init"],
    )
    run = record.gather(events, stream)
    return {
        side: score_matrices(run.outputs(what), stream, "test", loss)["R"][:, 0].tolist()
        for side, what in (("measured", "measured"), ("predicted", "init"))
    }


def gradients_gram(network, theta, stream) -> np.ndarray:
    """<grad f_y(x), grad f_y'(x')> [N, N] over all images of all tasks, y and y' their classes."""
    kernel_fn = kernels.structured(network)
    x = [np.asarray(task.train.x) for task in stream]
    y = [np.argmax(task.train.y, 1) for task in stream]

    def block(s, t):
        K = np.asarray(kernel_fn(theta, x[s], x[t]), np.float64)
        rows, columns = np.ogrid[: len(x[s]), : len(x[t])]
        return K[rows, y[s][:, None], columns, y[t]]

    K = np.block([[block(s, t) for t in range(len(x))] for s in range(len(x))])
    return (K + K.T) / 2


def kept_directions(name: str, K: np.ndarray, t: int, settings: dict) -> np.ndarray:
    """What a method keeps of task t: combinations [k, N] of the gradients."""
    n, memory = settings["samples"], settings["memory"]
    if name == "sgd":
        return np.zeros((0, len(K)))
    images = memory if name == "ogd" else settings["pca_samples"]
    rows = np.eye(len(K))[t * n + draw_memory(0, t, n, images)]
    if name == "ogd":
        return rows
    return np.linalg.eigh(rows @ K @ rows.T)[1][:, -memory:].T @ rows


def without(K: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """K less its part in the span of kept directions, K - K B^T (B K B^T)^+ B K."""
    if not len(kept):
        return K
    across = K @ kept.T
    return K - across @ np.linalg.pinv(kept @ across, rcond=1e-10, hermitian=True) @ across.T


def cosines(name: str, K: np.ndarray, settings: dict) -> np.ndarray:
    """Between the gradients of the first task and the updates of each later one [T-1, n].

    The updates are the gradients of a task, projected off what is kept of those before.
    """
    n, found = settings["samples"], []
    kept = [kept_directions(name, K, t, settings) for t in range(settings["tasks"])]
    first = slice(0, n)
    for t in range(1, settings["tasks"]):
        left, own = without(K, np.concatenate(kept[:t])), slice(t * n, (t + 1) * n)
        found.append(overlap_cosines(K[first, first], left[first, own], left[own, own], cut=1e-6))
    return np.array(found)


def explained(K: np.ndarray) -> np.ndarray:
    """Share of the gradients' squared length that the largest components hold, by their number."""
    lam = np.maximum(np.linalg.eigvalsh(K)[::-1], 0)
    return np.cumsum(lam) / lam.sum()


def compute_for(cfg: DictConfig):
    """`compute(settings, source)` with the network of the configuration."""

    def compute(settings: dict, source) -> dict:
        start, stored, network = time.perf_counter(), {}, instantiate(cfg.network)(outputs=10)
        for name in STREAMS:
            stored[name] = []
            for seed in settings["seeds"]:
                stream = stream_of(name, settings, source, seed)
                stored[name].append(of_seed(settings, network, stream, seed))
                print(f"{name} {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        return {"claims": judge({"streams": stored}), "streams": stored}

    return compute


def of_seed(settings: dict, network, stream, seed: int) -> dict:
    """Everything of one stream: by method cosines [n], means over later tasks, and accuracies."""
    key = jax.random.fold_in(jax.random.key(seed), 0)  # of the untrained network that is trained
    theta = network.init(key, np.asarray(stream[0].train.x)[0])
    K = gradients_gram(network, theta, stream)
    by_method = {}
    for name in METHODS:
        mean = cosines(name, K, settings).mean(0)
        accuracies = first_task(settings, network, stream, name, seed)
        by_method[name] = {"cosines": mean.round(5).tolist(), **accuracies}
    n = settings["samples"]
    parts = {"all tasks": explained(K), "first task": explained(K[:n, :n])}
    return {
        "methods": by_method,
        "explained": {part: values[:n].round(5).tolist() for part, values in parts.items()},
        "components": int(np.searchsorted(parts["all tasks"], SHARE) + 1),
    }


def overlap(stored: dict, stream: str, method: str) -> np.ndarray:
    """Mean squared cosine by seed: the share of a later task's updates, averaged over their
    directions, that lies among the first task's gradients."""
    each = stored["streams"][stream]
    return np.array([np.mean(np.square(one["methods"][method]["cosines"])) for one in each])


def curve(stored: dict, stream: str, method: str, side: str) -> np.ndarray:
    """Accuracy on the first task in percent, by seed and number of tasks [seeds, T]."""
    each = stored["streams"][stream]
    return 100 * np.array([one["methods"][method][side] for one in each])


def forgetting(stored: dict, stream: str, method: str, side: str = "measured") -> np.ndarray:
    """Accuracy on the first task that is lost by the end, in percent, by seed."""
    accuracy = curve(stored, stream, method, side)
    return accuracy[:, 0] - accuracy[:, -1]


def falls(stored: dict, side: str) -> np.ndarray:
    """What is lost of the first task after each later one: means over seeds, of every stream and
    method, in one vector."""
    means = [curve(stored, *which, side).mean(0) for which in pairs()]
    return np.concatenate([mean[0] - mean[1:] for mean in means])


def pairs() -> list[tuple[str, str]]:
    return [(stream, method) for stream in STREAMS for method in METHODS]


def judge(stored: dict) -> list[dict]:
    """The paper's claims, and the forecast's. Differences are paired by seed, and have the sign
    that is claimed where their 95 % interval does."""
    between = overlap(stored, "rotated", "sgd") - overlap(stored, "permuted", "sgd")
    better = {
        stream: forgetting(stored, stream, "ogd") - forgetting(stored, stream, "pca_ogd")
        for stream in STREAMS
    }
    components = {
        stream: [one["components"] for one in stored["streams"][stream]] for stream in STREAMS
    }
    by_seed = "too few seeds for an interval: by seed " + "; ".join(
        f"{stream} " + " / ".join(f"{one:.1f}" for one in better[stream]) for stream in STREAMS
    )
    measured, predicted = falls(stored, "measured"), falls(stored, "predicted")
    r2, rank = metrics.r2(measured, predicted), metrics.spearman(measured, predicted)
    return [
        claim(
            "gradients of different tasks overlap more in rotated than in permuted images: "
            "difference of the mean squared cosine",
            published="larger",
            ours=plus_minus(between, ".3f"),
            holds=above_zero(between),
        ),
        *(shrinks(stored, method) for method in ("ogd", "pca_ogd")),
        claim(
            "of the first rotated task PCA-OGD forgets less than OGD with as many directions: "
            "difference of the accuracy lost",
            published="less",
            ours=plus_minus(better["rotated"], ".1f"),
            holds=above_zero(better["rotated"]),
            because=by_seed,
        ),
        claim(
            "PCA-OGD gains more over OGD on rotated than on permuted images: accuracy, rotated "
            "and permuted",
            published="most on rotated",
            ours=" / ".join(plus_minus(better[stream], ".1f") for stream in STREAMS),
            holds=above_zero(better["rotated"] - better["permuted"]),
            because=by_seed,
        ),
        claim(
            f"fewer components hold {SHARE:.0%} of the gradients of all tasks where images are "
            "rotated than where they are permuted: rotated and permuted",
            published="fewer",
            ours=" / ".join(plus_minus(components[stream], ".0f") for stream in STREAMS),
            holds=above_zero(np.subtract(components["permuted"], components["rotated"])),
        ),
        claim(
            "the forecast from the untrained network's kernel gives the accuracy lost on the first "
            "task after each later one, R² above .8 over streams and methods: R², rank correlation",
            ours=f"{r2:.3f}, {rank:.3f}",
            holds=r2 > 0.8,
        ),
    ]


def shrinks(stored: dict, method: str) -> dict:
    less = {
        stream: overlap(stored, stream, "sgd") - overlap(stored, stream, method)
        for stream in STREAMS
    }
    return claim(
        f"{METHODS[method]} shrinks the overlap: mean squared cosine less that of SGD, rotated and "
        "permuted",
        published="smaller",
        ours=" / ".join(plus_minus(-less[stream], ".3f") for stream in STREAMS),
        holds=all(map(above_zero, less.values())),
    )


def markdown(stored: dict) -> str:
    """A row a stream and method; the claims."""
    lines = [
        "| images | method | mean squared cosine with the first task | largest cosine "
        "| accuracy lost on the first task, %: measured | predicted |",
        "|---|---|---|---|---|---|",
    ]
    for stream, method in pairs():
        largest = [one["methods"][method]["cosines"][0] for one in stored["streams"][stream]]
        cells = [
            plus_minus(overlap(stored, stream, method), ".3f"),
            plus_minus(largest, ".3f"),
            plus_minus(forgetting(stored, stream, method), ".1f"),
            plus_minus(forgetting(stored, stream, method, "predicted"), ".1f"),
        ]
        lines.append(f"| {stream} | {METHODS[method]} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """By stream the cosines and the accuracy on the first task; the explained variance; the
    forecast against the measurement."""
    figure = Figure(figsize=(10.5, 6.2), layout="constrained")
    axes = figure.subplots(2, 3)
    for column, stream in enumerate(STREAMS):
        draw_cosines(axes[0, column], stored, stream)
        draw_accuracies(axes[1, column], stored, stream)
    axes[1, 1].sharey(axes[1, 0])
    draw_explained(axes[0, 2], stored)
    draw_forecast(axes[1, 2], stored)
    return figure


def draw_cosines(axis, stored: dict, stream: str) -> None:
    for colour, (method, label) in zip(COLOURS, METHODS.items(), strict=False):
        each = [one["methods"][method]["cosines"] for one in stored["streams"][stream]]
        axis.plot(1 + np.arange(len(each[0])), np.mean(each, 0), color=colour, label=label)
    axis.set(
        title=f"{stream} images",
        xlabel="principal angle, by size",
        ylabel="cosine, first and later tasks",
        ylim=(0, 1.02),
    )
    axis.legend(fontsize=8)


def draw_accuracies(axis, stored: dict, stream: str) -> None:
    for colour, (method, label) in zip(COLOURS, METHODS.items(), strict=False):
        accuracy = curve(stored, stream, method, "measured")
        tasks = 1 + np.arange(accuracy.shape[1])
        halves = [interval(values)[1] for values in accuracy.T]
        axis.errorbar(tasks, accuracy.mean(0), halves, color=colour, label=label, ms=4, fmt="o-")
        predicted = curve(stored, stream, method, "predicted").mean(0)
        axis.plot(tasks, predicted, color=colour, ls="--")
    axis.plot([], [], color="0.4", ls="--", label="predicted, untrained network")
    axis.set(
        title=f"{stream} images",
        xlabel="tasks trained",
        ylabel="accuracy on the first task, %",
        xticks=tasks,
    )
    axis.legend(fontsize=8)


def draw_explained(axis, stored: dict) -> None:
    for colour, stream in zip(COLOURS, STREAMS, strict=False):
        for style, part in (("-", "all tasks"), (":", "first task")):
            values = np.mean([one["explained"][part] for one in stored["streams"][stream]], 0)
            label = f"{stream}, {part}" if part == "all tasks" else "first task alone"
            if part == "all tasks" or stream == STREAMS[0]:
                colour = colour if part == "all tasks" else "0.4"
                axis.plot(1 + np.arange(len(values)), values, style, color=colour, label=label)
    axis.set(
        title="components of the gradients",
        xlabel="components",
        ylabel="explained share",
        xscale="log",
        ylim=(0, 1.02),
    )
    axis.legend(fontsize=8)


def draw_forecast(axis, stored: dict) -> None:
    for colour, (method, label) in zip(COLOURS, METHODS.items(), strict=False):
        for marker, stream in zip("os", STREAMS, strict=True):
            measured, predicted = (
                curve(stored, stream, method, side) for side in ("measured", "predicted")
            )
            lost = [(one[:, :1] - one[:, 1:]).ravel() for one in (predicted, measured)]
            axis.plot(*lost, marker, color=colour, ms=4, alpha=0.8, label=f"{label}, {stream}")
    axis.axline((0, 0), slope=1, color="0.6", lw=1, zorder=0)
    axis.set(
        title="forecast, every seed and task",
        xlabel="lost on the first task, predicted, %",
        ylabel="measured, %",
    )
    axis.legend(fontsize=7)


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    for name, least in {"tasks": 2, "samples": 10, "tested": 10, "steps": 1, "memory": 1}.items():
        whole(name, settings[name], least)
    counts("seeds", settings["seeds"], 2, 0)
    finite("step", settings["step"])
    finite("learning_rate_fraction", settings["learning_rate_fraction"], above=0.0)
    memory, images, samples = (settings[key] for key in ("memory", "pca_samples", "samples"))
    if not memory <= whole("pca_samples", images) <= samples // 10 * 10 == samples:
        raise SettingError(
            f"memory={memory}, pca_samples={images}, samples={samples}: expected them in this "
            "order, none larger than the next, and samples a multiple of 10"
        )
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/doan_overlap")
def main(cfg: DictConfig) -> None:
    publish(cfg, "doan_overlap", check, on_images(cfg, compute_for(cfg)), markdown, draw)


if __name__ == "__main__":
    main()
