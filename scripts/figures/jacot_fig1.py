"""Jacot, Gabriel, Hongler 2018, Fig. 1: the kernel of ReLU networks on the circle and its limit.

Theta(x_0, x) with x_0 = (1, 0), x = (cos g, sin g), before and after training, for several widths
and initialisations; settings in conf/figure/jacot_fig1.yaml. The paper's widths, initialisations,
steps and learning rate; the number of inputs and the scale of the loss, which it does not state,
are our choice, and the limit is the analytic one. Writes results/tables/jacot_fig1.{json,md} and,
from the JSON file alone, results/figures/jacot_fig1.{png,pdf}; exit code 1 if a claim fails.

    python scripts/figures/jacot_fig1.py [size=small] [draw=true] [widths=[64,256]]
"""

import itertools
import sys
import time

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import COLOURS, claim, claims_list, counts, joined, publish, settings_of
from scipy import stats

from ntkcl import kernels, losses, networks, optimizers
from ntkcl.cli.config import CONF
from ntkcl.kernels.infinite import infinite
from ntkcl.training.loop import train
from ntkcl.types import Dataset
from ntkcl.validation import finite, whole

TIMES = ("before", "after")
# The standard deviation of 10 draws is good to 1/sqrt(2 x 9) = .24, so the slope of its logarithm
# over a factor 20 of width to .11.
SLOPE_SLACK = 0.25
# Means over 10 draws in standard errors: Student's t with 9 degrees of freedom stays below 4.8 in
# 99.9 % of all cases.
LARGEST_Z = 4.8


def circle(angles: int):
    """g [angles] from -pi to pi and the inputs (cos g, sin g)."""
    g = np.linspace(-np.pi, np.pi, angles)
    return g, jnp.asarray(np.stack([np.cos(g), np.sin(g)], 1), jnp.float32)


def limit(settings: dict) -> np.ndarray:
    """Theta^L(x_0, x) on the circle."""
    g = circle(settings["angles"])[0]
    with jax.enable_x64(True):
        around = jnp.asarray(np.stack([np.cos(g), np.sin(g)], 1))
        return np.asarray(
            infinite(depth=settings["depth"], b_std=settings["b_std"]).ntk(
                jnp.array([[1.0, 0.0]]), around
            )[0]
        )


def measure(settings: dict, width: int) -> dict:
    """Curves [initialisations, angles] before and after training; mean loss at start and end."""
    net = networks.mlp(
        outputs=1, width=width, depth=settings["depth"], b_std=settings["b_std"], centred=False
    )
    kernel_fn, loss, transform = (
        kernels.structured(net),
        losses.squared_error(),
        optimizers.sgd().transform(settings["learning_rate"]),
    )
    key = jax.random.key(settings["seed"])
    x = jax.random.normal(key, (settings["inputs"], 2), jnp.float32)
    task, head = Dataset(x, x[:, :1] * x[:, 1:]), jnp.ones(1, jnp.float32)
    origin, around = jnp.array([[1.0, 0.0]], jnp.float32), circle(settings["angles"])[1]
    curves, ends = {t: [] for t in TIMES}, []
    for k in jax.random.split(jax.random.fold_in(key, width), settings["initialisations"]):
        theta = net.init(k, x[0])
        trained = train(
            k,
            theta,
            task,
            head,
            apply=net.apply,
            loss=loss,
            transform=transform,
            steps=settings["steps"],
        )
        for t, parameters in zip(TIMES, (theta, trained.theta), strict=True):
            curves[t].append(np.asarray(kernel_fn(parameters, origin, around)[0, 0, :, 0], float))
        ends.append((float(trained.losses[0]), float(trained.losses[-1])))
    return {t: np.array(c).round(6).tolist() for t, c in curves.items()} | {
        "loss": np.mean(ends, 0).round(6).tolist()
    }


def summarise(curves: dict, theory: np.ndarray) -> dict[str, dict[str, float]]:
    """By width: spreads, means at angle 0 and pi, distance to the limit, growth in training."""
    rows = {}
    for width, drawn in curves.items():
        before, after = (np.array(drawn[t]) for t in TIMES)
        n, middle = len(before), before.shape[1] // 2
        errors = before.std(0, ddof=1) / n**0.5
        # Where all units of all networks are off, nothing varies.
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.abs(before.mean(0) - theory) / errors
        growth = after.mean(1) / before.mean(1) - 1
        rows[width] = {
            "draws": n,
            "sd before": float(np.sqrt(np.mean(before.var(0, ddof=1)))),
            "sd after": float(np.sqrt(np.mean(after.var(0, ddof=1)))),
            "mean at 0": float(before[:, middle].mean()),
            "error at 0": float(errors[middle]),
            "mean at pi": float(before[:, -1].mean()),
            "error at pi": float(errors[-1]),
            "largest z": float(np.max(z)),
            "growth": float(growth.mean()),
            "growth error": float(growth.std(ddof=1) / n**0.5),
        }
    return rows


def judge(rows: dict, theory: np.ndarray) -> list[dict]:
    """The claims of the figure, each with its numbers and whether they hold."""
    return [
        *(narrows(rows, t) for t in TIMES),
        on_the_curve(rows),
        *(mean_at(rows, name, theory[at]) for name, at in (("0", len(theory) // 2), ("pi", -1))),
        grows(rows),
    ]


def narrows(rows: dict, t: str) -> dict:
    """The spread over initialisations falls as width^-1/2."""
    widths, sd = [int(w) for w in rows], [row[f"sd {t}"] for row in rows.values()]
    slope = float(stats.linregress(np.log(widths), np.log(sd)).slope)
    ratios = ", ".join(f"{a / b:.2f}" for a, b in itertools.pairwise(sd))
    expected = ", ".join(f"{(b / a) ** 0.5:.2f}" for a, b in itertools.pairwise(widths))
    return claim(
        f"spread over initialisations {t} training falls with width, as width^-1/2 within "
        f"{SLOPE_SLACK} of the exponent; from width to width it is divided by",
        published="less variance at the larger width",
        ours=f"{ratios} (square roots of the width ratios: {expected}), slope {slope:.2f}",
        holds=all(np.diff(sd) < 0) and abs(slope + 0.5) < SLOPE_SLACK,
    )


def on_the_curve(rows: dict) -> dict:
    """The mean before training is the limit at every angle."""
    z = [row["largest z"] for row in rows.values()]
    return claim(
        "mean before training on the analytic curve at every angle, in standard errors off by at "
        f"most, below {LARGEST_Z}",
        ours=joined(z, ".1f"),
        holds=max(z) < LARGEST_Z,
        because="chance: of 30 other tens of networks of width 500, 2 are above 4.8, the largest "
        "at 5.6, and all 300 together are within 1.9",
    )


def mean_at(rows: dict, name: str, value: float) -> dict:
    """The mean before training at angle `name` is the limit's value."""
    keys = f"mean at {name}", f"error at {name}"
    return claim(
        f"mean before training at angle {name}, limit {value:.4f}",
        ours=" / ".join(with_interval(row, *keys, ".4f") for row in rows.values()),
        holds=all(abs(row[keys[0]] - value) < LARGEST_Z * row[keys[1]] for row in rows.values()),
    )


def grows(rows: dict) -> dict:
    """Training makes the kernel larger, that of narrow networks most."""
    growth = [row["growth"] for row in rows.values()]
    return claim(
        "the kernel grows in training, less at larger width: by",
        published="inflates, most at the smaller width",
        ours=" / ".join(
            with_interval(row, "growth", "growth error", ".2%") for row in rows.values()
        ),
        holds=min(growth) > 0 and bool(all(np.diff(growth) < 0)),
    )


def with_interval(row: dict, mean: str, error: str, form: str) -> str:
    """A mean over initialisations and half of its 95 % interval, from its standard error."""
    half = stats.t.ppf(0.975, row["draws"] - 1) * row[error]
    return f"{row[mean]:{form}} ± {half:{form}}"


def markdown(stored: dict) -> str:
    """A row a width, then the claims."""
    lines = [
        "| width | sd over initialisations, t = 0 | after training | mean at angle 0 "
        "| mean at angle pi | growth in training | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for width, row in stored["summary"].items():
        cells = [
            *(f"{row[f'sd {t}']:.4f}" for t in TIMES),
            *(with_interval(row, f"mean at {a}", f"error at {a}", ".4f") for a in ("0", "pi")),
            with_interval(row, "growth", "growth error", ".2%"),
            " → ".join(f"{v:.4f}" for v in stored["curves"][width]["loss"]),
        ]
        lines.append(f"| {width} | " + " | ".join(cells) + " |")
    theory = stored["limit"]
    lines.append(f"| infinite | 0 | 0 | {theory[len(theory) // 2]:.4f} | {theory[-1]:.4f} | 0 | |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """Every initialisation a thin line, the limit a thick one."""
    settings = stored["settings"]
    g = circle(settings["angles"])[0]
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = ("at initialisation", f"after {settings['steps']} steps")
    for axis, t, title in zip(axes, TIMES, titles, strict=True):
        for colour, (width, drawn) in zip(
            COLOURS * len(stored["curves"]), stored["curves"].items(), strict=False
        ):
            lines = axis.plot(g, np.array(drawn[t]).T, color=colour, lw=0.7, alpha=0.7)
            lines[0].set_label(f"width {width}")
        axis.plot(g, stored["limit"], color="black", lw=1.8, label="infinite width")
        axis.set_xticks(
            np.linspace(-np.pi, np.pi, 5), [r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$"]
        )
        axis.set(xlabel=r"angle $\gamma$ of $x = (\cos\gamma, \sin\gamma)$", title=title)
    axes[0].set_ylim(0.05, 0.4)  # the paper's
    axes[0].set_ylabel(rf"$\Theta^{settings['depth'] + 1}(x_0, x)$ with $x_0 = (1, 0)$")
    legend = axes[0].legend(fontsize=8, loc="upper right")
    for handle in legend.get_lines():
        handle.set(alpha=1, linewidth=max(handle.get_linewidth(), 1.5))
    return figure


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    least = {"initialisations": 2, "depth": 1, "inputs": 1, "steps": 1, "angles": 3, "seed": 0}
    for name, bound in least.items():
        whole(name, settings[name], bound)
    if settings["angles"] % 2 == 0:
        raise ValueError(
            f"angles={settings['angles']}: expected an odd number, so that angle 0 is one of them"
        )
    counts("widths", settings["widths"], 2)
    finite("learning_rate", settings["learning_rate"], above=0.0)
    return settings


def compute(settings: dict) -> dict:
    """Everything the table and the figure are made from."""
    start, curves = time.perf_counter(), {}
    for width in settings["widths"]:
        curves[str(width)] = measure(settings, width)
        print(f"width {width}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    theory = limit(settings)
    rows = summarise(curves, theory)
    return {
        "loss": "1/(2n) sum_i (f(x_i) - y_i)^2",
        "claims": judge(rows, theory),
        "summary": rows,
        "limit": [round(float(v), 10) for v in theory],
        "curves": curves,
    }


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/jacot_fig1")
def main(cfg: DictConfig) -> None:
    publish(cfg, "jacot_fig1", check, compute, markdown, draw)


if __name__ == "__main__":
    main()
