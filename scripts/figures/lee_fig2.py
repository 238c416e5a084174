"""Lee et al. 2019, Fig. 2: an ensemble in training, beside the Gaussian process that it follows.

Networks that differ in their initialisation learn one data set by full-batch gradient descent.
With Theta and Sigma the tangent kernel and the covariance of infinite width, h the rate and g_t
the filter of t steps, the outputs of infinitely wide networks after t steps are draws of

    f_t(x) = f_0(x) + A_t (y - f_0(X)),    f_0 ~ GP(0, Sigma),    A_t = Theta(x, X) g_t(Theta(X, X))
    g_t(lam) = (1 - (1 - h lam)^t) / lam

a Gaussian process of mean A_t y; with Sigma in the place of Theta only the last layer is trained.
Inputs are on the line through two training images. How far an ensemble may be off by chance is
drawn from the process itself, as many networks at a time.

Differs from the published figure: Fashion-MNIST of targets +-1, and 100 networks of width up to 256
and 512 steps in place of width 8192 and 65,536 steps (from memory). Images enter by their
coordinates in the span of the training set, which changes no inner product and so neither the draw
of networks nor their training. Settings in conf/figure/lee_fig2.yaml. Writes
results/tables/lee_fig2.{json,md} and results/figures/lee_fig2.{png,pdf}; exit code 1 if a claim
fails.

    python scripts/figures/lee_fig2.py [size=small] [draw=true] [results_dir=PATH]
"""

import sys
import time
from typing import NamedTuple

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from lee_fig1 import descended, odd_or_even
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import COLOURS, claim, claims_list, counts, on_images, publish, settings_of
from scipy import stats

from ntkcl import dynamics, kernels, losses, networks, optimizers
from ntkcl.cli.config import CONF
from ntkcl.types import Dataset, Source
from ntkcl.validation import finite, whole

ENDS = (-0.5, 1.5)  # of the line a x_1 + (1 - a) x_2
CHANCE = 0.05  # of draws of the process itself fare worse than what is allowed of networks


class Problem(NamedTuple):
    """Training data and inputs on the line; kernels [p + n, p + n] of infinite width, the line's p
    inputs before the n of training."""

    data: Dataset
    line: jax.Array
    tangent: np.ndarray
    covariance: np.ndarray
    rate: float


def positions(settings: dict) -> np.ndarray:
    return np.linspace(*ENDS, settings["points"])


def coordinates(x: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs x [n, d] and others in their span, in k coordinates: all x.x'/d stay as x.x'/k."""
    basis = np.linalg.qr(x.T)[0]
    scale = (basis.shape[1] / basis.shape[0]) ** 0.5
    return x @ basis * scale, others @ basis * scale


def problem(settings: dict, source: Source) -> Problem:
    images, y = odd_or_even(source, settings["samples"], settings["seed"])
    x = np.asarray(images, np.float64)
    one, two = (x[int(np.argmax(np.asarray(y)[:, 0] == sign))] for sign in (1, -1))
    a = positions(settings)[:, None]
    x, line = coordinates(x, a * one + (1 - a) * two)
    limit = kernels.infinite(**shape(settings))
    both = jnp.asarray(np.concatenate([line, x]))
    rate = losses.squared_error().rate(settings["learning_rate"], len(x), np.ones(1))
    return Problem(
        Dataset(jnp.asarray(x, jnp.float32), y),
        jnp.asarray(line, jnp.float32),
        np.asarray(limit.ntk(both)),
        np.asarray(limit.nngp(both)),
        rate,
    )


def shape(settings: dict) -> dict:
    w_std = settings["w_variance"] ** 0.5
    return {"depth": settings["depth"], "activation": settings["activation"], "w_std": w_std}


def learned(given: Problem, kernel: np.ndarray, steps: int) -> np.ndarray:
    """A_t [p + n, n] of the process that training with this kernel makes."""
    n = len(given.data.x)
    lam, modes = np.linalg.eigh(kernel[-n:, -n:])
    lam = np.maximum(lam, 0)
    rule = dynamics.gradient_descent(given.rate, steps) if steps else np.zeros_like
    return kernel[:, -n:] @ (modes * np.asarray(rule(lam))) @ modes.T


def process(given: Problem, kernel: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [p + n] after so many steps."""
    a = learned(given, kernel, steps)
    carried = np.eye(len(a))
    carried[:, -a.shape[1] :] -= a
    variance = np.sum((carried @ given.covariance) * carried, 1)
    return a @ np.asarray(given.data.y, np.float64)[:, 0], np.sqrt(np.maximum(variance, 0))


def on_the_line(given: Problem, kernel: np.ndarray, times: list[int]) -> dict[str, np.ndarray]:
    """Mean and standard deviation [times, p]."""
    p = len(given.line)
    means, sds = zip(*(process(given, kernel, steps) for steps in times), strict=True)
    return {"mean": np.array(means)[:, :p], "sd": np.array(sds)[:, :p]}


def expected_loss(given: Problem, steps: int) -> float:
    """E 1/(2n) sum_i (f_t(x_i) - y_i)^2 over the process."""
    n = len(given.data.x)
    mean, sd = (values[-n:] for values in process(given, given.tangent, steps))
    return float(np.mean((mean - np.asarray(given.data.y)[:, 0]) ** 2 + sd**2) / 2)


def ensemble(settings: dict, given: Problem, width: int, transform) -> dict:
    """Networks of one width in training: mean and standard deviation [times, p] of their outputs,
    and their mean loss before every step."""
    network = networks.mlp(outputs=1, width=width, centred=False, **shape(settings))
    key = jax.random.fold_in(jax.random.key(settings["seed"]), width)
    f, curves = [], []
    for k in jax.random.split(key, settings["networks"]):
        theta = network.init(k, given.line[0])
        own, curve = [networks.forward(network.apply, theta, given.line)[:, 0]], []
        for steps in np.diff(settings["times"]).tolist():
            fitted = descended(network, theta, given.data, transform, steps)
            theta = fitted.theta
            own.append(networks.forward(network.apply, theta, given.line)[:, 0])
            curve.append(fitted.losses)
        f.append(np.array(own, np.float64))
        curves.append(np.concatenate(curve))
    return {
        "mean": np.mean(f, 0),
        "sd": np.std(f, 0, ddof=1),
        "loss": np.mean(curves, 0, dtype=np.float64),
    }


def scores(found: dict, limit: dict, count: int) -> dict[str, float]:
    """How `count` functions compare with a process: the shares of times and points at which their
    mean, and their standard deviation, lie in the 95 % interval of such samples; and the distance
    of both, root mean square, in standard deviations of the process."""
    mean, sd = (np.asarray(limit[key]) for key in ("mean", "sd"))
    off = (np.asarray(found["mean"]) - mean) / sd
    ratio = np.asarray(found["sd"]) / sd
    low, high = stats.chi2.ppf((0.025, 0.975), count - 1) / (count - 1)
    return {
        "mean": float(np.mean(abs(off) <= stats.norm.ppf(0.975) / count**0.5)),
        "sd": float(np.mean((low <= ratio**2) & (ratio**2 <= high))),
        "distance": float(np.sqrt(np.mean(off**2 + (ratio - 1) ** 2))),
    }


def by_chance(settings: dict, given: Problem, limit: dict) -> dict[str, float]:
    """The `scores` that one in twenty samples of the process itself, of as many functions, is worse
    than."""
    lam, modes = np.linalg.eigh(given.covariance)
    root = modes * np.sqrt(np.maximum(lam, 0))
    p, n = len(given.line), len(given.data.x)
    y, rng = np.asarray(given.data.y)[:, 0], np.random.default_rng(settings["seed"])
    maps = [learned(given, given.tangent, steps)[:p] for steps in settings["times"]]
    count, drawn = settings["networks"], []
    for _ in range(settings["repeats"]):
        before = rng.normal(size=(count, p + n)) @ root.T
        f = np.array([before[:, :p] + (y - before[:, p:]) @ a.T for a in maps])
        drawn.append(scores({"mean": f.mean(1), "sd": f.std(1, ddof=1)}, limit, count))
    worst = {"mean": CHANCE, "sd": CHANCE, "distance": 1 - CHANCE}
    return {key: float(np.quantile([one[key] for one in drawn], q)) for key, q in worst.items()}


def compute(settings: dict, source: Source) -> dict:
    """Everything the table and the figure are made from."""
    start, given, times = time.perf_counter(), problem(settings, source), settings["times"]
    limit, last = (on_the_line(given, k, times) for k in (given.tangent, given.covariance))
    transform = optimizers.sgd().transform(settings["learning_rate"])
    steps = np.unique(np.geomspace(1, times[-1], 30).round().astype(int)) - 1
    found = {}
    for width in settings["widths"]:
        one = ensemble(settings, given, width, transform)
        found[str(width)] = rounded(one | {"loss": one["loss"][steps]})
        print(f"width {width}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    stored = {
        "limit": rounded(limit),
        "last layer": rounded(last),
        "chance": by_chance(settings, given, limit),
        "steps": steps.tolist(),
        "expected loss": [round(expected_loss(given, int(s)), 8) for s in steps],
        "ensembles": found,
    }
    return {"claims": judge(settings, stored), **stored}


def rounded(arrays: dict) -> dict:
    return {key: np.round(values, 6).tolist() for key, values in arrays.items()}


def gap(stored: dict, width: str) -> float:
    """The largest |loss / expected loss - 1| of the stored steps."""
    ratio = np.array(stored["ensembles"][width]["loss"]) / stored["expected loss"]
    return float(np.max(abs(ratio - 1)))


def judge(settings: dict, stored: dict) -> list[dict]:
    """Whether ensembles follow the process, within what chance explains, and nearer if wider."""
    count, chance = settings["networks"], stored["chance"]
    found = {w: scores(one, stored["limit"], count) for w, one in stored["ensembles"].items()}
    widest = list(found)[-1]
    last = scores(stored["ensembles"][widest], stored["last layer"], count)["distance"]
    distances = [one["distance"] for one in found.values()]
    gaps = [gap(stored, width) for width in found]
    follows = [
        claim(
            f"the {words} of {count} networks of width {widest} follows the process's: share of "
            "times and inputs within the 95 % interval of such samples, no less than all but one "
            "in twenty samples of the process itself have",
            published="follows",
            ours=f"{found[widest][key]:.2f}, {chance[key]:.2f} of the process",
            holds=found[widest][key] >= chance[key],
        )
        for key, words in (("mean", "mean"), ("sd", "standard deviation"))
    ]
    return [
        *follows,
        claim(
            "ensembles are nearer to the process if wider: distance in its standard deviations, by "
            "width, and of all but one in twenty samples of the process itself",
            ours=" / ".join(f"{d:.2f}" for d in distances) + f", {chance['distance']:.2f}",
            holds=all(np.diff(distances) < 0),
        ),
        claim(
            f"training of all layers is another process than of the last alone: distance of width "
            f"{widest} to either",
            published="apart",
            ours=f"{distances[-1]:.2f}, {last:.2f}",
            holds=last > chance["distance"] and distances[-1] < last,
        ),
        claim(
            "the mean loss nears its expectation over the process with width: off at most by",
            ours=" / ".join(f"{value:.0%}" for value in gaps),
            holds=all(np.diff(gaps) < 0),
        ),
    ]


def markdown(stored: dict) -> str:
    """A row a width and time, then the claims."""
    times, count = stored["settings"]["times"], stored["settings"]["networks"]
    lines = [
        "| width | step | mean within | standard deviation within | distance "
        "| distance to training of the last layer alone |",
        "|---|---|---|---|---|---|",
    ]
    for width, one in stored["ensembles"].items():
        for t, step in enumerate(times):
            own, limit, last = (
                {key: values[key][t] for key in ("mean", "sd")}
                for values in (one, stored["limit"], stored["last layer"])
            )
            row, other = scores(own, limit, count), scores(own, last, count)["distance"]
            cells = f"{row['mean']:.2f} | {row['sd']:.2f} | {row['distance']:.2f} | {other:.2f}"
            lines.append(f"| {width} | {step} | {cells} |")
    chance = "{mean:.2f} | {sd:.2f} | {distance:.2f}".format(**stored["chance"])
    lines.append(f"| samples of the process, one in twenty is worse | all | {chance} | |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """The widest ensemble at four times, the loss, the distance by width."""
    figure = Figure(figsize=(10.5, 6), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for t, axis in enumerate(axes[:4]):
        at_time(axis, stored, t)
    axes[0].legend(fontsize=7.5, loc="lower right")
    loss_curves(axes[4], stored)
    by_width(axes[5], stored)
    return figure


def at_time(axis, stored: dict, t: int) -> None:
    """Mean and two standard deviations: of the process a band, of the ensemble black lines, of the
    process of the last layer alone dashed ones."""
    a, (width, own) = positions(stored["settings"]), list(stored["ensembles"].items())[-1]
    limit, last = stored["limit"], stored["last layer"]
    mean, sd = np.array(limit["mean"][t]), np.array(limit["sd"][t])
    axis.fill_between(a, mean - 2 * sd, mean + 2 * sd, color=COLOURS[0], alpha=0.3, lw=0)
    axis.plot(a, mean, color=COLOURS[0], lw=2, label="infinite width (NTK)")
    count = stored["settings"]["networks"]
    for one, colour, style, label in (
        (last, COLOURS[1], "--", "last layer alone (NNGP)"),
        (own, "black", "-", f"{count} networks, width {width}"),
    ):
        mean, sd = np.array(one["mean"][t]), np.array(one["sd"][t])
        axis.plot(a, mean, color=colour, ls=style, lw=1.2, label=label)
        edge = ":" if style == "-" else style
        axis.plot(a, np.array([mean - 2 * sd, mean + 2 * sd]).T, color=colour, ls=edge, lw=1)
    axis.plot([0, 1], [-1, 1], "ko", ms=4)
    axis.set(
        title=f"step {stored['settings']['times'][t]}",
        xlabel=r"$\alpha$, input $\alpha x_1 + (1 - \alpha) x_2$",
        ylabel="output, mean and 2 sd",
        ylim=(-3, 3),
    )


def loss_curves(axis, stored: dict) -> None:
    steps = np.array(stored["steps"]) + 1
    axis.plot(steps, stored["expected loss"], color="black", lw=1.5, label="infinite width")
    for colour, (width, one) in zip(COLOURS, stored["ensembles"].items(), strict=False):
        axis.plot(steps, one["loss"], "o--", ms=3, lw=0.8, color=colour, label=f"width {width}")
    axis.set(xscale="log", yscale="log", xlabel="step + 1", ylabel="training loss, mean")
    axis.set_ylim(bottom=min(stored["expected loss"]) / 1.5)
    axis.set_title("loss")
    axis.yaxis.set_minor_formatter("")
    axis.legend(fontsize=7.5)


def by_width(axis, stored: dict) -> None:
    count, found = stored["settings"]["networks"], stored["ensembles"]
    widths = [int(width) for width in found]
    distances = [scores(one, stored["limit"], count)["distance"] for one in found.values()]
    axis.plot(widths, distances, "o-", color=COLOURS[0], label="ensembles")
    label = f"95 % of {count} draws of the process"
    axis.axhline(stored["chance"]["distance"], color="0.4", ls="--", label=label)
    axis.set(xscale="log", yscale="log", xlabel="width", ylabel="distance / sd of the process")
    axis.set_title("mean and sd off the process")
    axis.set_xticks(widths, map(str, widths))
    axis.xaxis.minorticks_off()
    axis.yaxis.set_minor_formatter("{x:.2g}")
    axis.legend(fontsize=7.5)


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg, without=["source"])
    least = {"samples": 2, "depth": 1, "networks": 2, "points": 3, "repeats": 20, "seed": 0}
    for name, bound in least.items():
        whole(name, settings[name], bound)
    counts("widths", settings["widths"], 2)
    counts("times", settings["times"], 4, 0)
    if len(settings["times"]) > 4 or settings["times"][0]:
        raise ValueError(f"times={settings['times']}: expected four, the first of them 0")
    for name in ("w_variance", "learning_rate"):
        finite(name, settings[name], above=0.0)
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/lee_fig2")
def main(cfg: DictConfig) -> None:
    publish(cfg, "lee_fig2", check, on_images(cfg, compute), markdown, draw)


if __name__ == "__main__":
    main()
