"""Bennani et al. 2020, Farajtabar et al. 2020: SGD, OGD and OGD+ over many tasks.

Permuted and rotated images, a network with one hidden layer, minibatches and cross-entropy: average
accuracy over the tasks seen, accuracy on the first, and at the end accuracy and backward transfer.
Beside them what the network linearised before any training predicts of SGD and OGD; OGD+ is the
same as OGD there. Then two hidden layers as in Farajtabar et al., and a linear model, of which OGD
with every gradient forgets nothing. The published numbers are of a later group's implementation on
15 tasks of MNIST, ours of Fashion-MNIST at 14 x 14 pixels. A task has fewer images, the learning
rate is as much larger as there are fewer steps, and the memory is smaller as the network is, so
that its share of the parameters is about that of the papers.
Settings in conf/figure/bennani_ogd.yaml. Writes results/tables/bennani_ogd.{json,md} and
results/figures/bennani_ogd.{png,pdf}; exit code 1 if a claim fails.

    python scripts/figures/bennani_ogd.py [size=small] [draw=true] [results_dir=PATH]
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

from ntkcl import experiment, losses, methods, optimizers, streams
from ntkcl.cli.config import CONF
from ntkcl.experiment import record
from ntkcl.experiment.scores import score_matrices
from ntkcl.training.settings import Training
from ntkcl.types import Dataset, Network, Rows, Source
from ntkcl.validation import SettingError, finite, whole

STREAMS = ("permuted", "rotated")
METHODS = {"sgd": "SGD", "ogd": "OGD", "ogd_plus": "OGD+"}
PREDICTED = ("sgd", "ogd")
# Average accuracy and backward transfer on MNIST, of an ICLR 2026 paper on the NTK and forgetting.
PUBLISHED = {
    "permuted": {"sgd": (70.29, -25.33), "ogd": (82.17, -12.38), "ogd_plus": (86.22, -8.11)},
    "rotated": {"sgd": (68.79, -28.09), "ogd": (77.52, -18.43), "ogd_plus": (86.15, -9.02)},
}
NOTHING = 1e-12  # a change of outputs below this is rounding


def pooled(source: Source, side: int) -> Source:
    """Every square of side x side pixels as one, their mean."""

    def smaller(part: Dataset) -> Dataset:
        x = np.asarray(part.x)
        n, h, w = x.shape[:3]
        cut = x.reshape(n, h // side, side, w // side, side, -1).mean((2, 4), dtype=x.dtype)
        return Dataset(cut, part.y)

    return source._replace(train=smaller(source.train), test=smaller(source.test))


def stream_of(name: str, given: dict, step: float, source, seed: int):
    """The tasks, all of the same images, shuffled or turned."""
    sizes = {
        "tasks": given["tasks"],
        "train_per_class": given["samples"] // 10,
        "test_per_class": given["tested"] // 10,
        "seed": seed,
    }
    if name == "rotated":
        return streams.rotated(source, step=float(step), **sizes)
    return streams.permuted(source, **sizes)


def method_of(name: str, memory: int):
    """Of an image the gradient of its class's output is kept. The places among a task's images are
    the same for every seed, whose images differ: so programs are compiled once."""
    return {
        "sgd": methods.naive,
        "ogd": lambda: methods.ogd(memory, "true"),
        "ogd_plus": lambda: methods.ogd_plus(memory, "true"),
    }[name]()


def accuracies(given: dict, network, stream, name: str, seed: int, predict: bool) -> dict:
    """By "measured", and "predicted" where asked for, what `parts` keeps of the accuracies."""
    loss = losses.cross_entropy()
    training = Training(
        steps=None,
        epochs=given["epochs"],
        batch_size=given["batch_size"],
        learning_rate=given["learning_rate"],
        allow_unstable=True,
    )
    events = experiment.run(
        jax.random.key(seed),
        stream,
        network,
        loss,
        optimizers.sgd(),
        training,
        method=method_of(name, given["memory"]),
        anchors=["init"] if predict else [],
        form="linearised",
    )
    run = record.gather(events, stream)
    sides = {"measured": "measured"} | ({"predicted": "init"} if predict else {})
    return {
        side: parts(score_matrices(run.outputs(what), stream, "test", loss)["R"])
        for side, what in sides.items()
    }


def parts(R: np.ndarray) -> dict[str, list[float]]:
    """Of accuracies R [T, T], R[i, j] on task j after task i, in percent, all [T]: the mean over
    the tasks seen, that on the first, those at the end, those just after each was learned."""
    seen = [row[: i + 1].mean() for i, row in enumerate(R)]
    kept = {"seen": seen, "first": R[:, 0], "final": R[-1], "learned": np.diag(R)}
    return {key: np.round(100 * np.asarray(values), 3).tolist() for key, values in kept.items()}


def of_linear_model(given: dict, source, seed: int) -> dict[str, float]:
    """The largest change of an old task's train outputs from when it was learned to the end, of
    f(x) = W x in float64, by SGD and by OGD that keeps every gradient."""
    sizes = {"tasks": given["tasks"], "train_per_class": given["samples"] // 10}
    stream = streams.permuted(source, test_per_class=1, seed=seed, **sizes)
    stream = jax.tree.map(lambda leaf: np.asarray(leaf, float), stream)
    network = Network(
        init=lambda key, x: jax.random.normal(key, (10, x.size), float) / x.size**0.5,
        apply=lambda theta, x: theta @ x.ravel(),
    )
    rows, found = Rows.of(stream).train, {}
    for name, method in (("sgd", methods.naive()), ("ogd", methods.ogd(None, "all"))):
        events = experiment.run(
            jax.random.key(seed),
            stream,
            network,
            losses.squared_error(),
            optimizers.sgd(),
            Training(steps=given["steps"]),
            method=method,
            anchors=[],
        )
        f = record.gather(events, stream).measured
        found[name] = max(
            float(np.abs(f[-1, own] - f[s + 1, own]).max()) for s, own in enumerate(rows[:-1])
        )
    return found


def compute_for(cfg: DictConfig):
    """`compute(settings, source)` with the networks of the configuration."""

    def compute(settings: dict, source) -> dict:
        start, source = time.perf_counter(), pooled(source, settings["pooled"])
        one, two = (
            instantiate(cfg.network, depth=depth)(outputs=10)
            for depth in (1, settings["two_layers"]["depth"])
        )
        stored: dict = {"streams": {name: {} for name in STREAMS}, "two layers": {}}

        def done(what):
            print(f"{what}: {time.perf_counter() - start:.0f} s", file=sys.stderr)

        for method in METHODS:
            for name in STREAMS:
                stored["streams"][name][method] = [
                    accuracies(
                        settings["many"],
                        one,
                        stream_of(name, settings["many"], settings["step"], source, seed),
                        method,
                        seed,
                        predict=method in PREDICTED,
                    )
                    for seed in settings["seeds"]
                ]
                done(f"{METHODS[method]}, {name}")
        given = settings["two_layers"]
        for method in ("sgd", "ogd"):
            stored["two layers"][method] = [
                accuracies(
                    given,
                    two,
                    stream_of("permuted", given, 0.0, source, seed),
                    method,
                    seed,
                    predict=False,
                )
                for seed in settings["seeds"]
            ]
            done(f"{METHODS[method]}, two layers")
        stored["linear"] = [
            of_linear_model(settings["linear"], source, seed) for seed in settings["seeds"]
        ]
        done("linear model")
        return {"claims": judge(stored), **stored}

    return compute


def scores(runs: list[dict], side: str = "measured") -> tuple[np.ndarray, np.ndarray]:
    """Average accuracy and backward transfer, in percent, by seed."""
    final, learned = (np.array([run[side][key] for run in runs]) for key in ("final", "learned"))
    return final.mean(1), (final - learned)[:, :-1].mean(1)


def judge(stored: dict) -> list[dict]:
    """The papers' orders, by differences paired over seeds: they hold where the 95 % interval is
    above zero."""
    claims = []
    for stream, runs in stored["streams"].items():
        claims += [better(stream, runs, "sgd", "ogd"), better(stream, runs, "ogd", "ogd_plus")]
        claims.append(transfers(stream, runs))
    for stream, runs in stored["streams"].items():
        gain = np.subtract(*(scores(runs[one], "predicted")[0] for one in ("ogd", "sgd")))
        claims.append(
            claim(
                f"{stream}: that OGD ends above SGD is predicted from the untrained network: "
                "difference of the predicted average accuracy",
                ours=plus_minus(gain),
                holds=above_zero(gain),
            )
        )
    largest = {one: max(run[one] for run in stored["linear"]) for one in ("sgd", "ogd")}
    return [
        *claims,
        *with_two_layers(stored),
        claim(
            "a linear model forgets nothing of what it was trained on by OGD with every gradient: "
            f"largest change of an old output below {NOTHING:g}, and by SGD",
            published="0",
            ours=f"{largest['ogd']:.1e}, {largest['sgd']:.1e}",
            holds=largest["ogd"] < NOTHING < largest["sgd"],
        ),
    ]


def with_two_layers(stored: dict) -> list[dict]:
    """OGD above SGD, and most of all on the first task."""
    gain = gains(stored["two layers"], "sgd", "ogd")
    by_task = " / ".join(map(plus_minus, gain.T))
    one = stored["streams"]["permuted"]
    stale = plus_minus(gains(one, "sgd", "ogd")[:, 0])
    anew = plus_minus(gains(one, "ogd", "ogd_plus")[:, 0])
    return [
        claim(
            "two hidden layers, permuted: OGD ends above SGD: difference of the average accuracy",
            published="above",
            ours=plus_minus(gain.mean(1)),
            holds=above_zero(gain.mean(1)),
        ),
        claim(
            "two hidden layers, permuted: the first task gains more than the average: how much "
            "more",
            ours=plus_minus(gain[:, 0] - gain.mean(1)),
            holds=above_zero(gain[:, 0] - gain.mean(1)),
            because=f"by task OGD gains {by_task}: the gradients kept of the first task are those "
            "of a network that later tasks have left behind. With one hidden layer the first of "
            f"all tasks gains {stale} by OGD, and {anew} more by OGD+, which takes them anew",
        ),
    ]


def gains(by_method: dict, less: str, more: str) -> np.ndarray:
    """By seed and task, how much higher one method ends than another, in percent."""
    final = (np.array([run["measured"]["final"] for run in by_method[one]]) for one in (more, less))
    return np.subtract(*final)


def better(stream: str, runs: dict, less: str, more: str) -> dict:
    """Whether one method ends above another."""
    gain = scores(runs[more])[0] - scores(runs[less])[0]
    published = PUBLISHED[stream][more][0] - PUBLISHED[stream][less][0]
    return claim(
        f"{stream}: {METHODS[more]} ends above {METHODS[less]}: difference of the average accuracy",
        published=f"{published:.2f}",
        ours=plus_minus(gain),
        holds=above_zero(gain),
    )


def transfers(stream: str, runs: dict) -> dict:
    """Whether backward transfer rises from each method to the next."""
    each = {method: scores(runs[method])[1] for method in METHODS}
    rises = (each["ogd"] - each["sgd"], each["ogd_plus"] - each["ogd"])
    return claim(
        f"{stream}: backward transfer rises from SGD to OGD to OGD+",
        published=" / ".join(f"{PUBLISHED[stream][method][1]:.2f}" for method in METHODS),
        ours=" / ".join(map(plus_minus, each.values())),
        holds=all(map(above_zero, rises)),
    )


def markdown(stored: dict) -> str:
    """A row a stream and method; the claims."""
    lines = [
        "| images | method | average accuracy, %: published, MNIST | ours | predicted "
        "| backward transfer, %: published, MNIST | ours | predicted | accuracy as learned, % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for stream, by_method in stored["streams"].items():
        for method, runs in by_method.items():
            ours = scores(runs)
            predicted = scores(runs, "predicted") if method in PREDICTED else None
            cells = [
                cell
                for k in range(2)
                for cell in (
                    f"{PUBLISHED[stream][method][k]:.2f}",
                    plus_minus(ours[k]),
                    "" if predicted is None else plus_minus(predicted[k]),
                )
            ]
            lines.append(row(stream, method, runs, cells))
    for method, runs in stored["two layers"].items():
        ours = scores(runs)
        cells = ["", plus_minus(ours[0]), "", "", plus_minus(ours[1]), ""]
        lines.append(row("permuted, two hidden layers", method, runs, cells))
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def row(images: str, method: str, runs: list[dict], cells: list[str]) -> str:
    learned = plus_minus([np.mean(run["measured"]["learned"]) for run in runs])
    return f"| {images} | {METHODS[method]} | " + " | ".join([*cells, learned]) + " |"


def draw(stored: dict) -> Figure:
    """By stream the mean over tasks seen and the first task's accuracy, against their number; every
    task at the end with two hidden layers; published numbers beside ours."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    for column, stream in enumerate(STREAMS):
        for axis, key in zip(axes[:, column], ("seen", "first"), strict=True):
            draw_curves(axis, stored["streams"][stream], key)
            axis.set_title(f"{stream} images")
    axes[0, 0].set_ylabel("average accuracy, tasks seen, %")
    axes[1, 0].set_ylabel("accuracy on the first task, %")
    for line in axes:
        line[1].sharey(line[0])
    draw_published(axes[0, 2], stored)
    draw_two_layers(axes[1, 2], stored["two layers"])
    axes[0, 0].legend(fontsize=8)
    return figure


def draw_curves(axis, by_method: dict, key: str) -> None:
    """Means over seeds with 95 % intervals; dashed: predicted."""
    for colour, (method, runs) in zip(COLOURS, by_method.items(), strict=False):
        values = np.array([run["measured"][key] for run in runs])
        tasks = 1 + np.arange(values.shape[1])
        halves = [interval(one)[1] for one in values.T]
        axis.errorbar(
            tasks, values.mean(0), halves, color=colour, ms=3, fmt="o-", label=METHODS[method]
        )
        if method in PREDICTED:
            predicted = np.mean([run["predicted"][key] for run in runs], 0)
            axis.plot(tasks, predicted, color=colour, ls="--")
    axis.plot([], [], color="0.4", ls="--", label="predicted, untrained network")
    axis.set(xlabel="tasks trained")
    axis.xaxis.get_major_locator().set_params(integer=True)


def draw_published(axis, stored: dict) -> None:
    """Backward transfer against average accuracy: open symbols MNIST, published; full ones ours."""
    for marker, stream in zip("os", STREAMS, strict=True):
        for colour, method in zip(COLOURS, METHODS, strict=False):
            ours = [interval(values) for values in scores(stored["streams"][stream][method])]
            (x, dx), (y, dy) = ours
            style = {"color": colour, "marker": marker, "ls": ""}
            label = f"{METHODS[method]}, {stream}"
            axis.errorbar(x, y, dy, dx, **style, ms=6, label=label)
            axis.plot(*PUBLISHED[stream][method], **style, mfc="none", ms=6)
    axis.plot([], [], "o", color="0.4", mfc="none", label="published, MNIST")
    axis.set(
        title="at the end",
        xlabel="average accuracy, %",
        ylabel="backward transfer, %",
        xlim=(None, 95),
        ylim=(-38, None),
    )
    axis.legend(fontsize=7, loc="lower right")


def draw_two_layers(axis, by_method: dict) -> None:
    """Accuracy on each task at the end, and as it was learned."""
    for colour, (method, runs) in zip(COLOURS, by_method.items(), strict=False):
        final, learned = (
            np.array([run["measured"][key] for run in runs]) for key in ("final", "learned")
        )
        tasks = 1 + np.arange(final.shape[1])
        halves = [interval(one)[1] for one in final.T]
        label = METHODS[method]
        axis.errorbar(
            tasks, final.mean(0), halves, color=colour, ms=4, fmt="o-", label=f"{label}, at the end"
        )
        axis.plot(tasks, learned.mean(0), ":", color=colour, label=f"{label}, as learned")
    axis.set(
        title="two hidden layers, permuted",
        xlabel="task",
        ylabel="accuracy, %",
        xticks=tasks,
    )
    axis.legend(fontsize=7)


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    counts("seeds", settings["seeds"], 2, 0)
    finite("step", settings["step"])
    whole("pooled", settings["pooled"])
    trained = {"tasks": 2, "samples": 10, "tested": 10, "epochs": 1, "batch_size": 1, "memory": 1}
    for part, least in {
        "many": trained,
        "two_layers": trained | {"depth": 1},
        "linear": {"tasks": 2, "samples": 10, "steps": 1},
    }.items():
        given = settings[part]
        for name, smallest in least.items():
            whole(f"{part}.{name}", given[name], smallest)
        if part != "linear":
            finite(f"{part}.learning_rate", given["learning_rate"], above=0.0)
        if given["samples"] % 10 or given.get("memory", 0) > given["samples"]:
            raise SettingError(
                f"{part}.samples={given['samples']}: expected a multiple of 10, and at least "
                f"{part}.memory"
            )
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/bennani_ogd")
def main(cfg: DictConfig) -> None:
    publish(cfg, "bennani_ogd", check, on_images(cfg, compute_for(cfg)), markdown, draw)


if __name__ == "__main__":
    main()
