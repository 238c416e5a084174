"""Jacot, Gabriel, Hongler 2018, Fig. 3: digits along the kernel's principal components.

With K [n, n] the tangent kernel of the limit on n images, K / n has eigenvalues lambda_i and
eigenvectors f^(i), of mean square 1. A network is trained to f_0 + f^(2) / 2, f_0 its own outputs
at initialisation. In the limit of infinite width what is left of the way, f - f_0 - f^(2) / 2,
is g + h with g along f^(2), h orthogonal to it, and in time t = learning rate x steps

    |g(t)| = exp(-lambda_2 t) / 2,   |h(t)| = 0,   |v|^2 = sum_i v_i^2 / n

(a) each image at its entries of f^(2) and f^(3), (b) |h| and (c) |g| of networks of the paper's
widths, and one between, two of each as there or more. Kernel and limit are the analytic ones, in
the paper those of a network of width 10,000. The paper prints the three largest eigenvalues: those
of other draws of as many digits, for several depths, stand beside them.
Settings in conf/figure/jacot_fig3.yaml. Writes results/tables/jacot_fig3.{json,md} and
results/figures/jacot_fig3.{png,pdf}; exit code 1 if a claim fails.

    python scripts/figures/jacot_fig3.py [size=small] [draw=true] [source=npz source.path=FILE]
"""

import sys
import time

import hydra
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import (
    COLOURS,
    claim,
    claims_list,
    counts,
    joined,
    on_images,
    publish,
    settings_of,
)
from scipy import stats

from ntkcl import kernels, losses, networks, optimizers
from ntkcl.cli.config import CONF
from ntkcl.kernels.infinite import infinite
from ntkcl.training.loop import at_rest, segments
from ntkcl.types import Dataset, Network
from ntkcl.validation import finite, whole

PUBLISHED = (0.0457, 0.00108, 0.00078)  # lambda_1 to lambda_3
PER_WIDTH = ("widths", "trials", "learning_rates")
HALF = 0.5  # of f^(2), the way that is trained
SHADES = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, 10))  # of the digits


def drawn(settings: dict, source, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, pixels], scaled as the source says, and their classes."""
    key = jax.random.fold_in(jax.random.key(settings["seed"]), draw)
    chosen = jax.random.permutation(key, len(source.train.x))[: settings["images"]]
    x = (source.train.x[np.asarray(chosen)] - source.mean) / source.sd
    return x.reshape(len(x), -1), np.argmax(source.train.y[np.asarray(chosen)], 1)


def components(kernel) -> tuple[np.ndarray, np.ndarray]:
    """The three largest eigenvalues of a kernel [n, n] over n, and eigenvectors [n, 3] of mean
    square 1."""
    n = len(kernel)
    values, vectors = np.linalg.eigh(np.asarray(kernel, float) / n)
    return values[:-4:-1], vectors[:, :-4:-1] * n**0.5


def of_limit(settings: dict, x) -> np.ndarray:
    """The kernel [n, n] of infinite width."""
    limit = infinite(depth=settings["depth"], b_std=settings["b_std"])
    return np.asarray(limit.ntk(jnp.asarray(x, jnp.float64)))


def mlp(settings: dict, width: int, depth: int) -> Network:
    """The paper's network of scalar output, not centred."""
    return networks.mlp(outputs=1, width=width, depth=depth, b_std=settings["b_std"], centred=False)


def trained(settings: dict, width: int, count: int, rate: float, x, second) -> dict:
    """|h| and |g| [trials, looks], at the start and after each stretch of time."""
    network = mlp(settings, width, settings["depth"])
    x, away, along = jnp.asarray(x, jnp.float32), [], []
    key = jax.random.fold_in(jax.random.key(settings["seed"]), width)
    for k in jax.random.split(key, count):
        theta = network.init(k, x[0])
        outputs = [np.asarray(networks.forward(network.apply, theta, x))[:, 0]]
        goal = outputs[0] + HALF * second
        transform = optimizers.sgd().transform(rate)
        fits = segments(
            k,
            at_rest(theta, transform),
            Dataset(x, jnp.asarray(goal, jnp.float32)[:, None]),
            jnp.ones(1, jnp.float32),
            apply=network.apply,
            loss=losses.squared_error(),
            transform=transform,
            steps=round(settings["time"] / rate),
            every=round(settings["every"] / rate),
        )
        outputs += [np.asarray(networks.forward(network.apply, fit.theta, x))[:, 0] for fit in fits]
        left = np.array(outputs, float) - goal
        if not np.isfinite(left).all():
            raise ValueError(
                f"learning_rates, {rate}: training diverges at width {width}; try a smaller one"
            )
        g = left @ second / len(second)
        along.append(np.abs(g))
        away.append(np.sqrt(np.mean((left - np.outer(g, second)) ** 2, 1)))
    return {name: np.round(rows, 6).tolist() for name, rows in (("away", away), ("along", along))}


def compute(settings: dict, source) -> dict:
    """Everything the table and the figure are made from."""
    start, by_width = time.perf_counter(), {}
    x, classes = drawn(settings, source, 0)
    values, vectors = components(of_limit(settings, x))
    for width, *how in zip(*(settings[name] for name in PER_WIDTH), strict=True):
        by_width[str(width)] = trained(settings, width, *how, x, vectors[:, 1])
        print(f"width {width}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    stored = {
        "eigenvalues": values.round(7).tolist(),
        "of other draws": {str(depth): others(settings, source, depth) for depth in (3, 4)},
        "times": times(settings).tolist(),
        "networks": by_width,
        "classes": classes.tolist(),
        "components": vectors[:, 1:].round(4).T.tolist(),
    }
    return {"claims": judge(stored), **stored}


def times(settings: dict) -> np.ndarray:
    """t = learning rate x steps at each look."""
    return np.arange(0, settings["time"] + settings["every"], settings["every"])


def others(settings: dict, source, depth: int) -> list:
    """The three largest eigenvalues [draws, 3] of networks of the largest width at initialisation,
    each on another draw of as many images, as the paper's are."""
    network, values = mlp(settings, settings["widths"][-1], depth), []
    for draw in range(1, settings["draws"] + 1):
        x = jnp.asarray(drawn(settings, source, draw)[0], jnp.float32)
        theta = network.init(jax.random.key(draw), x[0])
        block = kernels.structured(network)(theta, x)[:, 0, :, 0]
        values.append(components(block)[0].round(7).tolist())
    return values


def limit(stored: dict) -> np.ndarray:
    """|g| at each look in the limit of infinite width."""
    return HALF * np.exp(-stored["eigenvalues"][1] * np.array(stored["times"]))


def summarise(stored: dict) -> dict[str, dict[str, float]]:
    """By width, means over trials: the largest |h|, the largest distance of |g| from the limit, and
    |g| over the limit's when that has fallen to 1/e."""
    expected, rows = limit(stored), {}
    late = int(np.argmin(np.abs(expected - HALF / np.e)))
    for width, one in stored["networks"].items():
        away, along = np.array(one["away"]), np.array(one["along"])
        rows[width] = {
            "away": float(away.max(1).mean()),
            "off": float(np.abs(along - expected).max(1).mean()),
            "left": float((along[:, late] / expected[late]).mean()),
        }
    return rows


def judge(stored: dict) -> list[dict]:
    """What the paper says of its three panels, and of which depth its eigenvalues are."""
    first, second, third = stored["eigenvalues"]
    rows = summarise(stored).values()
    away, off, left = ([row[key] for row in rows] for key in ("away", "off", "left"))
    return [
        claim(
            "the gap after the first eigenvalue is more than ten times that after the second: gaps",
            published="0.0446, 0.0003",
            ours=f"{first - second:.4f}, {second - third:.4f}",
            holds=first - second > 10 * (second - third),
        ),
        of_four_layers(stored["of other draws"]),
        claim(
            "the wider the network, the less it deviates from the straight line: largest |h|",
            published="less",
            ours=joined(away, ".3f"),
            holds=all(np.diff(away) < 0),
        ),
        claim(
            "the way along f^(2) tends to the limit with width: largest distance",
            published="tends",
            ours=joined(off, ".3f"),
            holds=all(np.diff(off) < 0),
        ),
        claim(
            "narrow networks are faster: |g| over the limit's when that has fallen to 1/e",
            published="faster",
            ours=joined(left, ".2f"),
            holds=left[0] < 1 and all(np.diff(left) > 0),
        ),
    ]


def of_four_layers(others: dict) -> dict:
    """Whether another draw of digits and network could have the published eigenvalues: each is
    within the 95 % prediction interval (Student's t) of the draws of that depth."""
    said, inside = [], {}
    for depth, values in others.items():
        mean, sd, n = np.mean(values, 0), np.std(values, 0, ddof=1), len(values)
        half = stats.t.ppf(0.975, n - 1) * sd * (1 + 1 / n) ** 0.5
        inside[depth] = bool((np.abs(np.array(PUBLISHED) - mean) <= half).all())
        each = ", ".join(f"{a:.5f} ± {b:.5f}" for a, b in zip(mean, half, strict=True))
        said.append(f"{depth} layers {each}")
    return claim(
        "the three eigenvalues are those of four hidden layers, and not of three: 95 % of draws of "
        "digits and networks have",
        published=", ".join(f"{value}" for value in PUBLISHED),
        ours="; ".join(said),
        holds=inside["4"] and not inside["3"],
    )


def markdown(stored: dict) -> str:
    """A row a width, then the claims."""
    lines = [
        "| width | trials | largest deviation from the line | largest distance from the limit "
        "| left of the way, over the limit's at 1/e |",
        "|---|---|---|---|---|",
    ]
    for width, row in summarise(stored).items():
        cells = f"{row['away']:.4f} | {row['off']:.4f} | {row['left']:.3f}"
        lines.append(f"| {width} | {len(stored['networks'][width]['away'])} | {cells} |")
    lines.append("| infinite | | 0 | 0 | 1 |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """The images, and every trial a line."""
    figure = Figure(figsize=(9.6, 3.3), layout="constrained")
    images, away, along = figure.subplots(1, 3)
    second, third = stored["components"]
    for a, b, digit in zip(second, third, stored["classes"], strict=True):
        images.annotate(str(digit), (a, b), color=SHADES[digit], fontsize=7, ha="center")
    reach = 1.1 * np.max(np.abs(stored["components"]))
    images.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="$f^{(2)}(x)$")
    images.set(ylabel="$f^{(3)}(x)$", title="the images, by digit")
    for colour, (width, one) in zip(COLOURS, stored["networks"].items(), strict=False):
        for axis, rows in ((away, one["away"]), (along, one["along"])):
            lines = axis.plot(stored["times"], np.array(rows).T, color=colour, lw=1)
            lines[0].set_label(f"width {width}")
    away.axhline(0, color="black", lw=1.4, ls="--")
    along.plot(stored["times"], limit(stored), "k--", lw=1.4, label="infinite width")
    away.set(title="deviation from the line", ylabel=r"$\|h_t\|$", ylim=(-0.005, 0.14))
    along.set(title="left of the way along $f^{(2)}$", ylabel=r"$\|g_t\|$", ylim=(0, 0.52))
    for axis in (away, along):
        axis.set(xlabel=r"time, learning rate $\times$ steps", xlim=(0, stored["times"][-1]))
    along.legend(fontsize=8)
    return figure


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg, without=("source",))
    least = {"images": 4, "depth": 1, "draws": 2, "time": 1, "every": 1, "seed": 0}
    for name, bound in least.items():
        whole(name, settings[name], bound)
    counts("widths", settings["widths"], 2)
    for name in PER_WIDTH[1:]:
        value = settings[name]
        if not isinstance(value, list) or len(value) != len(settings["widths"]):
            raise ValueError(f"{name}={value}: expected a number for each of the widths")
    for count in settings["trials"]:
        whole("trials", count, 1)
    time, every = settings["time"], settings["every"]
    if time % every:
        raise ValueError(f"every={every}: expected a divisor of time={time}")
    for rate in settings["learning_rates"]:
        finite("learning_rates", rate, above=0.0)
        if every % rate:
            raise ValueError(f"learning_rates, {rate}: expected a divisor of every={every}")
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/jacot_fig3")
def main(cfg: DictConfig) -> None:
    publish(cfg, "jacot_fig3", check, on_images(cfg, compute), markdown, draw)


if __name__ == "__main__":
    main()
