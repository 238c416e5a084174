"""Jacot, Gabriel, Hongler 2018, Fig. 2: networks trained on four points of the circle.

Functions after training, of several widths and initialisations, between the 10th and the 90th
percentile of the Gaussian process to which infinitely wide networks are trained: with Sigma the
covariance and Theta the tangent kernel of the limit, A = Theta(x, X) Theta(X, X)^-1,

    f(x) ~ N(A y, Sigma(x, x) - 2 A Sigma(X, x) + A Sigma(X, X) A^T)

Settings in conf/figure/jacot_fig2.yaml. Writes results/tables/jacot_fig2.{json,md} and
results/figures/jacot_fig2.{png,pdf}; exit code 1 if a claim fails.

    python scripts/figures/jacot_fig2.py [size=small] [draw=true] [results_dir=PATH]
"""

import sys
import time

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import COLOURS, claim, claims_list, counts, interval, numbers, publish, settings_of
from scipy import stats

from ntkcl import losses, networks, optimizers
from ntkcl.cli.config import CONF
from ntkcl.kernels.infinite import infinite
from ntkcl.training.loop import train
from ntkcl.types import Dataset
from ntkcl.validation import finite, whole

PERCENTILES = (10, 50, 90)
INSIDE = 0.8  # of a Gaussian between the outer two


def circle(angles) -> np.ndarray:
    """The inputs (cos g, sin g)."""
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def grid(settings: dict) -> np.ndarray:
    """The angles at which functions are drawn."""
    return np.linspace(-np.pi, np.pi, settings["angles"])


def limit(settings: dict) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [angles] of the limit's Gaussian process after training."""
    x, points = (jnp.asarray(circle(a)) for a in (grid(settings), settings["points"]))
    kernels = infinite(depth=settings["depth"], b_std=settings["b_std"])
    a = np.linalg.solve(np.asarray(kernels.ntk(points)), np.asarray(kernels.ntk(points, x))).T
    across, own = np.asarray(kernels.nngp(x, points)), np.asarray(kernels.nngp(points))
    variance = np.diag(np.asarray(kernels.nngp(x))) - 2 * np.sum(a * across, 1)
    variance = variance + np.einsum("gi,ij,gj->g", a, own, a)
    return a @ np.asarray(settings["targets"]), np.sqrt(np.maximum(variance, 0))


def trained(settings: dict, width: int) -> dict:
    """Functions [initialisations, angles] after training, and how far they end from the targets."""
    network = networks.mlp(
        outputs=1, width=width, depth=settings["depth"], b_std=settings["b_std"], centred=False
    )
    x, points = (jnp.asarray(circle(a), jnp.float32) for a in (grid(settings), settings["points"]))
    task = Dataset(points, jnp.asarray(settings["targets"], jnp.float32)[:, None])
    transform = optimizers.sgd().transform(settings["learning_rate"])
    key, curves, missed = jax.random.fold_in(jax.random.key(settings["seed"]), width), [], []
    for k in jax.random.split(key, settings["initialisations"]):
        fitted = train(
            k,
            network.init(k, points[0]),
            task,
            jnp.ones(1, jnp.float32),
            apply=network.apply,
            loss=losses.squared_error(),
            transform=transform,
            steps=settings["steps"],
        )
        f = np.asarray(networks.forward(network.apply, fitted.theta, x))[:, 0]
        if not np.isfinite(f).all():
            raise ValueError(
                f"learning_rate={settings['learning_rate']}: training diverges at width {width}; "
                "expected a smaller one"
            )
        at = np.asarray(networks.forward(network.apply, fitted.theta, points))
        curves.append(f.astype(float).round(6).tolist())
        missed.append(float(np.max(np.abs(at - np.asarray(task.y)))))
    return {"curves": curves, "missed": round(max(missed), 6)}


def inside(curves: list, mean, sd) -> list[float]:
    """The share of angles at which each curve lies between the outer percentiles; where the band
    is narrower than a hundredth, at the points themselves, nothing is counted."""
    half = stats.norm.ppf((1 + INSIDE) / 2) * np.asarray(sd)
    wide = half > 0.005
    within = np.abs(np.array(curves) - np.asarray(mean)) <= half
    return within[:, wide].mean(1).tolist()


def compute(settings: dict) -> dict:
    """Everything the table and the figure are made from."""
    jax.config.update("jax_enable_x64", True)
    mean, sd = limit(settings)
    start, by_width = time.perf_counter(), {}
    for width in settings["widths"]:
        by_width[str(width)] = trained(settings, width)
        print(f"width {width}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    stored = {
        "limit": {"mean": mean.round(8).tolist(), "sd": sd.round(8).tolist()},
        "networks": by_width,
    }
    return {"claims": judge(stored), **stored}


def judge(stored: dict) -> list[dict]:
    """The widest networks are draws of the limit, and pass through the points."""
    widest, networks_of = list(stored["networks"].items())[-1]
    share, half = interval(inside(networks_of["curves"], **stored["limit"]))
    spread = spreads(stored)
    return [
        claim(
            f"of the curves of width {widest} a share of {INSIDE} is between the 10th and 90th "
            "percentile, within an interval below .15",
            ours=f"{share:.2f} ± {half:.2f}",
            holds=abs(share - INSIDE) <= half < 0.15,
        ),
        claim(
            "every network passes through the four points, off by less than .01, by width",
            ours=" / ".join(f"{one['missed']:.0e}" for one in stored["networks"].values()),
            holds=all(one["missed"] < 0.01 for one in stored["networks"].values()),
        ),
        claim(
            "standard deviation over initialisations over that of the limit, by width; of the "
            "widest within .5 to 1.5",
            ours=" / ".join(f"{value:.2f}" for value in spread.values()),
            holds=0.5 < list(spread.values())[-1] < 1.5,
        ),
    ]


def spreads(stored: dict) -> dict[str, float]:
    """By width the standard deviation over initialisations, root mean square over angles, over that
    of the limit."""
    own = float(np.sqrt(np.mean(np.square(stored["limit"]["sd"]))))
    return {
        width: float(np.sqrt(np.mean(np.var(one["curves"], axis=0, ddof=1)))) / own
        for width, one in stored["networks"].items()
    }


def markdown(stored: dict) -> str:
    """A row a width, then the claims."""
    lines = [
        "| width | between the 10th and 90th percentile | sd over initialisations / limit "
        "| off the points at most |",
        "|---|---|---|---|",
    ]
    spread = spreads(stored)
    for width, one in stored["networks"].items():
        share, half = interval(inside(one["curves"], **stored["limit"]))
        numbers = f"{share:.2f} ± {half:.2f} | {spread[width]:.2f} | {one['missed']:.4f}"
        lines.append(f"| {width} | {numbers} |")
    lines.append("| infinite | 0.80 | 1 | 0 |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """Every initialisation a thin line, the limit's percentiles thick ones, the points dots."""
    settings = stored["settings"]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis, angles = figure.subplots(), grid(settings)
    for colour, (width, one) in zip(COLOURS, stored["networks"].items(), strict=False):
        lines = axis.plot(angles, np.array(one["curves"]).T, color=colour, lw=0.7, alpha=0.7)
        lines[0].set_label(f"width {width}")
    mean, sd = (np.array(stored["limit"][key]) for key in ("mean", "sd"))
    for percentile in PERCENTILES:
        curve = mean + stats.norm.ppf(percentile / 100) * sd
        style = "-" if percentile == 50 else "--"
        label = "infinite width, 10th, 50th, 90th percentile" if percentile == 50 else None
        axis.plot(angles, curve, color="black", ls=style, lw=1.4, label=label)
    axis.plot(settings["points"], settings["targets"], "o", color="black", ms=5, zorder=5)
    ticks = [r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$"]
    axis.set_xticks(np.linspace(-np.pi, np.pi, 5), ticks)
    axis.set(
        xlabel=r"angle $\gamma$ of $x = (\cos\gamma, \sin\gamma)$",
        ylabel=r"$f(x)$ after training",
        ylim=(-0.45, 0.55),
    )
    for handle in axis.legend(fontsize=8, loc="upper right").get_lines():
        handle.set(alpha=1, linewidth=max(handle.get_linewidth(), 1.4))
    return figure


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    least = {"initialisations": 2, "depth": 1, "steps": 1, "angles": 3, "seed": 0}
    for name, bound in least.items():
        whole(name, settings[name], bound)
    numbers("points", settings["points"])
    angles = np.mod(settings["points"], 2 * np.pi)
    if len(np.unique(angles.round(6))) < len(angles):
        raise ValueError(f"points={settings['points']}: expected different angles")
    counts("widths", settings["widths"])
    if len(settings["points"]) != len(settings["targets"]) or not settings["points"]:
        raise ValueError(
            f"points={settings['points']}, targets={settings['targets']}: expected as many, and "
            "at least one"
        )
    finite("learning_rate", settings["learning_rate"], above=0.0)
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/jacot_fig2")
def main(cfg: DictConfig) -> None:
    publish(cfg, "jacot_fig2", check, compute, markdown, draw)


if __name__ == "__main__":
    main()
