"""Lee et al. 2019, Fig. 1: how far training moves weights and kernels, against width.

Relative changes, in Frobenius norms, by full-batch gradient descent: of the weights by layer, of
the tangent kernel Theta, and of the kernel K of the last hidden layer's features,

    |W(T) - W(0)| / |W(0)|,     Theta = J J^T,     K(x, x') = w_std^2 / n phi(x) . phi(x')

Beside the weights stands the forecast of the untrained network: its linearisation ends at
theta(0) + J^T alpha, so with Theta_l the part of Theta from the weights of layer l

    |W_l(T) - W_l(0)|^2 = alpha^T Theta_l alpha,     alpha = (1 - (1 - h Theta)^T) Theta^-1 (y - f)

Differs from the published figure: Fashion-MNIST in place of MNIST, with one output of targets +-1,
1024 steps in place of 2^17 (from memory), widths up to 1024; sigma_w is that of the paper's Fig. 2.
Settings in conf/figure/lee_fig1.yaml. Writes results/tables/lee_fig1.{json,md} and
results/figures/lee_fig1.{png,pdf}; exit code 1 if a claim fails.

    python scripts/figures/lee_fig1.py [size=small] [draw=true] [results_dir=PATH]
"""

import sys
import time

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from lee_linearisation import chunk
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import COLOURS, claim, claims_list, counts, interval, on_images, publish, settings_of

from ntkcl import dynamics, kernels, losses, networks, optimizers
from ntkcl.cli.config import CONF
from ntkcl.training.loop import Fit, train
from ntkcl.types import Dataset, Network, Source
from ntkcl.validation import finite, whole

WEIGHTS = {"input": -0.5, "hidden": -1.0, "output": -0.5}  # the paper's slopes, log-log
KERNELS = {"theta": r"tangent kernel $\hat\Theta$", "features": r"kernel of features $\hat K$"}
SLACK = 0.1  # of a slope
FORECAST_OFF = 0.1  # of the widest networks, relative
# Of a run outside of this script, `measure` of seeds 5 to 12 too.
MORE_SEEDS = (
    "of 13 seeds 10.0% ± 2.2% at width 256 and 8.7% ± 1.8% at 512, -1.3% ± 2.7% within seeds"
)


def odd_or_even(source: Source, samples: int, number: int) -> Dataset:
    """Images drawn by seed `number`, standardised; targets [n, 1] are 1 for even classes, else
    -1."""
    x, y = chunk(source, samples, number)
    return Dataset(x, 1 - 2 * (jnp.argmax(y, 1)[:, None] % 2).astype(x.dtype))


def by_part(squares: dict) -> np.ndarray:
    """[3], norms of the input layer, of all hidden ones together, and of the output layer, from the
    squares of each layer's norm."""
    first, *hidden, last = (float(squares[layer]) for layer in sorted(squares))
    return np.sqrt([first, sum(hidden), last])


def norms(theta) -> np.ndarray:
    return by_part({layer: jnp.sum(leaves["kernel"] ** 2) for layer, leaves in theta.items()})


def predicted(by_layer: dict, f, data: Dataset, rule) -> np.ndarray:
    """[3], how far the linearised network's weights go by part, from each layer's kernel
    [n, 1, n, 1] and the outputs f [n, 1] of the untrained network."""
    gram = np.asarray(sum(by_layer.values()), np.float64)
    step = dynamics.Step(np.arange(len(f)), jnp.asarray(data.y, jnp.float64), np.ones(f.shape))
    solve = dynamics.one_task(lambda i: gram[:, :, i], jnp.asarray(f, jnp.float64), step, rule)
    alpha = np.asarray(solve.alpha)[:, 0]
    return by_part(
        {
            layer: alpha @ np.asarray(k, np.float64)[:, 0, :, 0] @ alpha
            for layer, k in by_layer.items()
        }
    )


def moved(before, after) -> float:
    return round(float(jnp.linalg.norm(after - before) / jnp.linalg.norm(before)), 8)


def descended(network: Network, theta, data: Dataset, transform, steps: int) -> Fit:
    """Full-batch descent on 1/(2n) sum_i (f(x_i) - y_i)^2; ValueError where it diverges."""
    fitted = train(
        jax.random.key(0),  # draws nothing: there are no batches
        theta,
        data,
        jnp.ones(1, jnp.float32),
        apply=network.apply,
        loss=losses.squared_error(),
        transform=transform,
        steps=steps,
    )
    if not np.isfinite(fitted.losses).all():
        raise ValueError("learning_rate: training diverges; expected a smaller one")
    return fitted


def measure(settings: dict, source: Source, width: int, number: int, transform) -> dict:
    """One network: relative changes by training, measured and predicted, and the last loss."""
    steps, data = settings["steps"], odd_or_even(source, settings["samples"], number)
    shape = {"depth": settings["depth"], "w_std": settings["w_variance"] ** 0.5}
    network = networks.mlp(outputs=1, width=width, centred=False, **shape)
    theta, kernels_fn = network.init(jax.random.key(number), data.x[0]), kernels.layers(network)
    f, before = networks.forward(network.apply, theta, data.x), kernels_fn(theta, data.x)
    rate = losses.squared_error().rate(settings["learning_rate"], len(data.x), np.ones(1))
    forecast = predicted(before, f, data, dynamics.gradient_descent(rate, steps))
    fitted = descended(network, theta, data, transform, steps)
    after = kernels_fn(fitted.theta, data.x)
    weights = norms(jax.tree.map(jnp.subtract, fitted.theta, theta))
    return {
        **relative(weights, theta),
        "theta": moved(sum(before.values()), sum(after.values())),
        "features": moved(before["readout"], after["readout"]),
        "forecast": relative(forecast, theta),
        "loss": float(fitted.losses[-1]),
    }


def relative(weights: np.ndarray, theta) -> dict[str, float]:
    """How far weights went, by part, over their norms in theta."""
    return dict(zip(WEIGHTS, (weights / norms(theta)).round(8).tolist(), strict=True))


def compute(settings: dict, source: Source) -> dict:
    """Everything the table and the figure are made from."""
    start, found = time.perf_counter(), {}
    transform = optimizers.sgd().transform(settings["learning_rate"])
    for width in settings["widths"]:
        found[str(width)] = {
            str(number): measure(settings, source, width, number, transform)
            for number in settings["seeds"]
        }
        print(f"width {width}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return {"claims": judge(found), "changes": found}


def series(found: dict, key: str, forecast: bool = False) -> np.ndarray:
    """[widths, seeds] of one relative change, measured or predicted."""
    return np.array(
        [
            [(row["forecast"] if forecast else row)[key] for row in rows.values()]
            for rows in found.values()
        ]
    )


def slope(found: dict, key: str) -> list[float]:
    """Of the log of a change against the log of the width: mean over seeds and half of its 95 %
    interval."""
    widths = np.log([float(width) for width in found])
    return interval(np.polyfit(widths, np.log(series(found, key)), 1)[0])


def off(found: dict) -> np.ndarray:
    """[widths, seeds], the largest |predicted / measured - 1| of the three parts of the weights."""
    gaps = [abs(series(found, key, True) / series(found, key) - 1) for key in WEIGHTS]
    return np.max(gaps, 0)


def said(slopes: dict) -> str:
    return ", ".join(f"{name} {mean:.2f} ± {half:.2f}" for name, (mean, half) in slopes.items())


def judge(found: dict) -> list[dict]:
    """The paper's slopes, and the forecast of the weights."""
    slopes = {key: slope(found, key) for key in (*WEIGHTS, "theta", "features")}
    outer = {key: slopes[key] for key in ("input", "output")}
    kernel_slopes = {"Θ": slopes["theta"], "K": slopes["features"]}
    gaps = [interval(row) for row in off(found)]

    def near(key):
        mean, half = slopes[key]
        return abs(mean - WEIGHTS[key]) < SLACK and half < SLACK

    return [
        claim(
            "input and output weights change as width^-1/2: slope within .1, interval below .1",
            published="-1/2",
            ours=said(outer),
            holds=all(map(near, outer)),
        ),
        claim(
            "hidden weights change as 1/width: slope within .1, interval below .1",
            published="-1",
            ours=said({"hidden": slopes["hidden"]}),
            holds=near("hidden"),
        ),
        claim(
            "kernels change by a power of the width from -1/2 to -1: intervals within -1.1 to -.4",
            published="between -1/2 and -1",
            ours=said(kernel_slopes),
            holds=all(
                mean - half >= -1 - SLACK and mean + half <= -0.5 + SLACK
                for mean, half in kernel_slopes.values()
            ),
        ),
        claim(
            "the untrained network predicts how far its weights go, closer if wider and within "
            "10 % at the largest width: off by",
            ours=" / ".join(f"{mean:.1%} ± {half:.1%}" for mean, half in gaps),
            holds=gaps[-1][0] + gaps[-1][1] < FORECAST_OFF
            and all(np.diff([mean for mean, _ in gaps]) < 0),
            because=not_closer(found),
        ),
    ]


def not_closer(found: dict) -> str:
    """What the gaps that do not shrink say, within seeds, and which part is left at the end."""
    gaps, widths = off(found), list(found)
    row = int(np.argmax(np.diff(gaps.mean(1))))
    change, half = interval(gaps[row + 1] - gaps[row])
    fall, error = interval(np.polyfit(np.log([float(w) for w in widths]), np.log(gaps), 1)[0])
    left = [interval(series(found, key, True)[-1] / series(found, key)[-1] - 1) for key in WEIGHTS]
    parts = ", ".join(
        f"{key} {mean:+.1%} ± {half:.1%}" for key, (mean, half) in zip(WEIGHTS, left, strict=True)
    )
    return (
        f"from width {widths[row]} to {widths[row + 1]} it changes by {change:+.1%} ± {half:.1%} "
        f"within seeds, which {gaps.shape[1]} seeds cannot tell from a fall ({MORE_SEEDS}); over "
        f"all widths it falls with slope {fall:.2f} ± {error:.2f}, and what is left at the largest "
        f"is of the output weights: {parts}"
    )


def markdown(stored: dict) -> str:
    """A row a width, means over seeds and half of their 95 % intervals; then the claims."""
    found, keys = stored["changes"], (*WEIGHTS, "theta", "features")
    lines = [
        "| width | input weights | hidden weights | output weights | Θ | K "
        "| predicted: input | hidden | output | last loss |",
        "|---" * 10 + "|",
    ]
    columns = [series(found, key) for key in keys]
    columns += [series(found, key, True) for key in WEIGHTS]
    for row, width in enumerate(found):
        cells = ["{:.4f} ± {:.4f}".format(*interval(column[row])) for column in columns]
        worst = f"{series(found, 'loss')[row].max():.1g} at most"
        lines.append(f"| {width} | " + " | ".join([*cells, worst]) + " |")
    cells = ["{:.2f} ± {:.2f}".format(*slope(found, key)) for key in keys]
    lines.append("| slope | " + " | ".join([*cells, "", "", "", ""]) + " |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """Changes of weights, with their forecast, and of kernels, against width."""
    found = stored["changes"]
    widths = np.array([float(width) for width in found])
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = [(left, key, f"{key} weights") for key in WEIGHTS]
    lines += [(right, key, label) for key, label in KERNELS.items()]
    for colour, (axis, key, label) in zip((*COLOURS[:3], *COLOURS[:2]), lines, strict=True):
        means, halves = np.array([interval(row) for row in series(found, key)]).T
        label = f"{label}, slope {slope(found, key)[0]:.2f}"
        axis.errorbar(widths, means, halves, fmt="o-", ms=4, color=colour, label=label)
        if axis is left:
            forecast = series(found, key, True).mean(1)
            axis.plot(widths, forecast, "x", ms=7, color=colour)
    left.plot([], [], "x", ms=7, color="0.4", label="predicted before training")
    for axis, what in ((left, "weights"), (right, "kernels")):
        top = series(found, "output" if axis is left else "theta").mean(1)[0] * 1.6
        for power, style, name in ((-0.5, "--", "width$^{-1/2}$"), (-1, ":", "width$^{-1}$")):
            law = top * (widths / widths[0]) ** power
            axis.plot(widths, law, ls=style, color="0.5", lw=1, label=name)
        axis.set(xscale="log", yscale="log", xlabel="width", title=what)
        axis.set_xticks(widths, [f"{width:.0f}" for width in widths])
        axis.xaxis.minorticks_off()
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    left.set_ylabel("relative change by training (Frobenius norms)")
    return figure


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg, without=["source"])
    for name, least in {"samples": 2, "depth": 2, "steps": 1}.items():
        whole(name, settings[name], least)
    counts("widths", settings["widths"], 2)
    counts("seeds", settings["seeds"], 2, 0)
    for name in ("w_variance", "learning_rate"):
        finite(name, settings[name], above=0.0)
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/lee_fig1")
def main(cfg: DictConfig) -> None:
    publish(cfg, "lee_fig1", check, on_images(cfg, compute), markdown, draw)


if __name__ == "__main__":
    main()
