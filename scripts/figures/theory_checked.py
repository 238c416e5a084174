"""The theory, checked: each formula that a forecast stands on, the code that is it, and a number.

First what is exact, each formula by its code and by an independent calculation; then the limits of
infinite width, neared by networks of growing width. Settings in conf/figure/theory_checked.yaml.
Writes results/tables/theory_checked.{json,md} and results/figures/theory_checked.{png,pdf}; exit
code 1 if a claim fails.

    python scripts/figures/theory_checked.py [size=small] [draw=true] [results_dir=PATH]
"""

import sys
import time
from typing import NamedTuple

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import COLOURS, claim, claims_list, counts, interval, publish, settings_of
from scipy import stats
from scipy.integrate import solve_ivp

from ntkcl import dynamics, experiment, kernels, losses, networks, optimizers
from ntkcl.cli.config import CONF
from ntkcl.experiment import record
from ntkcl.kernels.infinite import infinite
from ntkcl.training.settings import Training
from ntkcl.types import Dataset, Task
from ntkcl.validation import whole

B_STD = 0.1
ACTIVATIONS = {"relu": "ReLU", "erf": "erf"}


class Exact(NamedTuple):
    """One formula: its words, itself, the code that is it, how far the two are apart, and the
    largest difference that rounding explains, or the step where one is taken."""

    words: str
    formula: str
    code: str
    found: float
    bound: float


def exact(settings: dict) -> list[Exact]:
    """Every formula that holds exactly, in float64."""
    rng = np.random.default_rng(settings["seed"])
    return [
        *kernel_by_hand(),
        *ridge_both_ways(rng),
        *gradients_of_losses(rng),
        *flow(rng),
        *descent(rng),
        *one_small_step(rng),
        *tasks_in_turn(rng),
    ]


def kernel_by_hand() -> list[Exact]:
    """A network of two inputs and two hidden units, whose kernel was worked out on paper."""
    x = jnp.array([[1.0, 0.0], [1.0, 2.0]])
    module = networks.mlp(outputs=1, width=2, b_std=B_STD, centred=False)
    theta = {
        "hidden_0": {
            "kernel": jnp.array([[1.0, 1.0], [0.0, -1.0]]),
            "bias": jnp.array([0.0, 1.0]),
        },
        "readout": {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.array([0.5])},
    }
    by_hand = np.array([[1.8607106781, 0.515], [0.515, 1.515]])
    found = np.asarray(kernels.structured(module)(theta, x))[:, 0, :, 0]
    return [
        Exact(
            "(7), the empirical kernel has two inputs",
            "K(x, x') = J(x) J(x')^T",
            "kernels.structured",
            float(np.max(np.abs(found - by_hand))),
            1e-10,
        )
    ]


def ridge_both_ways(rng) -> list[Exact]:
    """The ridge filter in parameters and in coefficients."""
    jacobian, residual, ridge = rng.normal(size=(6, 20)), rng.normal(size=6), 0.3
    primal = jacobian @ np.linalg.solve(
        jacobian.T @ jacobian + ridge * np.eye(20), jacobian.T @ residual
    )
    step = dynamics.Step(np.arange(6), residual[:, None], np.ones((6, 1)), ridge=ridge)
    gram = (jacobian @ jacobian.T)[:, None, :, None]
    solve = dynamics.one_task(
        lambda inputs: gram[:, :, inputs], jnp.zeros((6, 1)), step, dynamics.converged()
    )
    return [
        Exact(
            "the ridge filter, primal and dual",
            "J (J^T J + λ)^-1 J^T r = K (K + λ)^-1 r",
            "dynamics.one_task, Step(ridge=λ)",
            float(np.max(np.abs(np.asarray(solve.change)[:, 0] - primal))),
            1e-12,
        )
    ]


def gradients_of_losses(rng) -> list[Exact]:
    """The gradient of each mean loss, and the rate that function space sees."""
    f, n = rng.normal(size=(5, 3)), 5
    y, head = np.eye(3)[rng.integers(3, size=5)], np.ones(3)
    rows = []
    for name, loss, residual, formula in (
        ("squared error", losses.squared_error(), f - y, "∂L/∂f = (f - y) / (n c)"),
        (
            "cross-entropy, minus the mean of y log softmax",
            losses.cross_entropy(),
            np.asarray(jax.nn.softmax(f)) - y,
            "∂L/∂f = (softmax(f) - y) / n",
        ),
    ):

        def mean(f, loss=loss):
            return jnp.mean(jax.vmap(loss.value, (0, 0, None))(f, y, head))

        off = np.asarray(jax.grad(mean)(jnp.asarray(f))) - loss.rate(1.0, n, head) * residual
        code = f"losses.{name.split(',')[0].replace(' ', '_').replace('-', '_')}"
        words, apart = f"(14), the gradient of {name}", float(np.max(np.abs(off)))
        rows.append(Exact(words, formula, code, apart, 1e-12))
    return rows


def flow(rng) -> list[Exact]:
    """The closed form of gradient flow beside its differential equation."""
    gram = _gram(rng, 5)
    f0, y, rate, time = rng.normal(size=5), rng.normal(size=5), 0.2, 7.0
    equation = solve_ivp(
        lambda _, f: -rate * gram @ (f - y), (0, time), f0, rtol=1e-12, atol=1e-12
    ).y[:, -1]
    found = _trained(gram, f0, y, dynamics.gradient_flow(rate, time))
    return [
        Exact(
            "(11), (13), (15), (16), gradient flow on squared error",
            "f(t) = e^(-ηKt) f_0 + (1 - e^(-ηKt)) Y",
            "dynamics.gradient_flow",
            float(np.max(np.abs(found - equation))),
            1e-9,
        )
    ]


def descent(rng) -> list[Exact]:
    """The closed form of descent, with and without momentum, beside its steps."""
    gram = _gram(rng, 5)
    f0, y, rate, steps, b = rng.normal(size=5), rng.normal(size=5), 0.05, 40, 0.9
    rows = []
    for name, formula, rule, momentum in (
        ("gradient_descent", "(1 - (1 - hλ)^S) / λ", dynamics.gradient_descent(rate, steps), 0.0),
        (
            "heavy_ball",
            "v <- b v + h (1 - λ a), a <- a + v",
            dynamics.heavy_ball(rate, steps, b),
            b,
        ),
    ):
        f, velocity = f0.copy(), np.zeros(5)
        for _ in range(steps):
            velocity = momentum * velocity - rate * gram @ (f - y)
            f = f + velocity
        off = _trained(gram, f0, y, rule) - f
        words = f"{steps} steps of {name.replace('_', ' ')} as a filter of eigenvalues"
        rows.append(Exact(words, formula, f"dynamics.{name}", float(np.max(np.abs(off))), 1e-11))
    return rows


def one_small_step(rng) -> list[Exact]:
    """The change of outputs, and of the loss, by one step so small that its second order is about
    1e-6 of the first."""
    network = networks.mlp(outputs=2, width=32, activation="erf", b_std=B_STD, centred=False)
    x, y = jnp.asarray(rng.normal(size=(6, 4))), jnp.asarray(rng.normal(size=(6, 2)))
    theta, h = network.init(jax.random.key(0), x[0]), 1e-6

    def outputs(theta):
        return networks.forward(network.apply, theta, x)

    def loss(theta):
        return jnp.sum((outputs(theta) - y) ** 2) / 24

    gradient = jax.grad(loss)(theta)
    moved = jax.tree.map(lambda p, g: p - h * g, theta, gradient)
    signal = (np.asarray(outputs(theta)) - np.asarray(y)) / 12
    k = np.asarray(kernels.structured(network)(theta, x))
    change = -np.einsum("iajb,jb->ia", k, signal)
    quadratic = float(np.einsum("ia,ia->", signal, change))
    found = np.asarray(outputs(moved) - outputs(theta)) / h
    slope = float(loss(moved) - loss(theta)) / h
    return [
        Exact(
            "(12), the outputs move with the kernel, to first order",
            "df/dt = -η K ∂L/∂f",
            "kernels.structured",
            float(np.max(np.abs(found - change)) / np.max(np.abs(change))),
            1e-4,
        ),
        Exact(
            "(8), the loss falls by a quadratic form of the kernel",
            "dL/dt = -η (∂L/∂f) K (∂L/∂f)",
            "kernels.structured",
            abs(slope / quadratic - 1),
            1e-4,
        ),
    ]


def tasks_in_turn(rng) -> list[Exact]:
    """Three tasks of a linear model: forward substitution beside training."""
    jacobian, y = rng.normal(size=(9, 30)), rng.normal(size=9)
    theta, rate, steps = np.zeros(30), 0.01, 60
    for t in range(3):
        own = slice(3 * t, 3 * t + 3)
        for _ in range(steps):
            theta -= rate * jacobian[own].T @ (jacobian[own] @ theta - y[own])
    gram = (jacobian @ jacobian.T)[:, None, :, None]
    places = np.arange(9).reshape(3, 3)
    parts = [
        lambda _, own=own: dynamics.Step(own, y[own][:, None], np.ones((3, 1))) for own in places
    ]
    rules = [dynamics.gradient_descent(rate, steps)] * 3
    solves = dynamics.sequence(lambda i: gram[:, :, i], jnp.zeros((9, 1)), parts, rules)
    found = sum(np.asarray(solve.change)[:, 0] for solve in solves)
    return [
        Exact(
            "tasks in turn are one block lower-triangular solve",
            "(I + G L) alpha = G r_0, L the blocks below the diagonal",
            "dynamics.sequence",
            float(np.max(np.abs(found - jacobian @ theta))),
            1e-11,
        )
    ]


def _gram(rng, n: int) -> np.ndarray:
    rows = rng.normal(size=(n, 2 * n))
    return rows @ rows.T / n


def _trained(gram, f0, y, rule) -> np.ndarray:
    step = dynamics.Step(np.arange(len(y)), y[:, None], np.ones((len(y), 1)))
    block = gram[:, None, :, None]
    solve = dynamics.one_task(lambda i: block[:, :, i], jnp.asarray(f0[:, None]), step, rule)
    return f0 + np.asarray(solve.change)[:, 0]


def at_width(settings: dict, activation: str, width: int, draw: int) -> dict[str, float]:
    """One network: how far its kernel is from the limit, how far training moves it, and how far
    training is from that of the linearised network; relative to what there is."""
    key = jax.random.fold_in(jax.random.key(settings["seed"]), draw)
    n, d = settings["inputs"], settings["dimensions"]
    rng = np.random.default_rng([settings["seed"], 1])
    x = rng.normal(size=(2 * n, d))
    x *= d**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    x, y = jnp.asarray(x), jnp.asarray(np.sin(x[:, :1]) * np.sign(x[:, 1:2]))
    task = Task(Dataset(x[:n], y[:n]), Dataset(x[n:], y[n:]), np.ones(1))
    shape = {"depth": settings["depth"], "activation": activation, "w_std": 1.5, "b_std": B_STD}
    network = networks.mlp(outputs=1, width=width, centred=True, **shape)
    kernel_fn, limit = kernels.structured(network), infinite(**shape)
    theta = network.init(jax.random.fold_in(key, 0), task.train.x[0])
    training = Training(steps=settings["steps"])
    run = record.gather(
        experiment.run(
            key, (task,), network, losses.squared_error(), optimizers.sgd(), training,
            anchors=["init"],
        ),
        (task,),
    )  # fmt: skip
    before = np.asarray(kernel_fn(theta, task.train.x))[:, 0, :, 0]
    tangent = np.asarray(limit.ntk(task.train.x))
    # On inputs that are not trained on: on the others both end at the targets.
    measured, predicted = (run.outputs(what)[1, n:] for what in ("measured", "init"))
    own = networks.forward(network.apply, theta, task.train.x)
    return {
        "kernel": _apart(before, tangent),
        "variance": float(np.mean(np.square(own)) / np.mean(np.diag(limit.nngp(task.train.x)))),
        "linearised": _apart(predicted, measured),
        "smallest eigenvalue": float(run.numerics["init"]["smallest_eigenvalue"][0]),
        "slope": float(run.loss_slopes[0] / -(run.slopes[0] ** 2)),
    }


def _apart(a, b) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def limits(settings: dict) -> dict[str, dict[str, dict[str, list]]]:
    """By activation and width the mean of each number and half of its 95 % interval."""
    found: dict[str, dict[str, dict[str, list]]] = {}
    for activation in ACTIVATIONS:
        found[activation] = {}
        for width in settings["widths"]:
            start = time.perf_counter()
            draws = [at_width(settings, activation, width, k) for k in range(settings["draws"])]
            row = {key: interval([one[key] for one in draws]) for key in draws[0]}
            least = min(one["smallest eigenvalue"] for one in draws)
            found[activation][str(width)] = row | {"least eigenvalue": least}
            seconds = time.perf_counter() - start
            print(f"{activation}, width {width}: {seconds:.0f} s", file=sys.stderr)
    return found


def slope_of(by_width: dict, key: str) -> list[float]:
    """Of log error against log width, and half of its 95 % interval."""
    widths = np.log([float(width) for width in by_width])
    errors = np.log([row[key][0] for row in by_width.values()])
    fit = stats.linregress(widths, errors)
    free = len(widths) - 2
    half = stats.t.ppf(0.975, free) * fit.stderr if free > 0 else float("nan")
    return [float(fit.slope), float(half)]


def judge(rows: list[dict], found: dict) -> list[dict]:
    """Formulas hold; limits are neared at the rate that theory says."""
    kernel, linearised = (
        {name: slope_of(by_width, key) for name, by_width in found.items()}
        for key in ("kernel", "linearised")
    )
    least = min(row["least eigenvalue"] for by_width in found.values() for row in by_width.values())
    return [
        claim(
            f"{len(rows)} formulas hold; the largest difference, as a share of its bound",
            ours=f"{max(row['found'] / row['bound'] for row in rows):.2g}",
            holds=all(row["found"] <= row["bound"] for row in rows),
        ),
        claim(
            "the kernel nears its limit of infinite width as width^-1/2: slope within .1 of it",
            ours=slopes_said(kernel),
            holds=all(abs(slope + 0.5) < 0.1 for slope, _ in kernel.values()),
        ),
        claim(
            "training nears that of the linearised network no slower than width^-1/2: slope",
            published="at most -1/2 (Lee et al. 2019)",
            ours=slopes_said(linearised),
            holds=all(slope - half <= -0.5 and half < 1 for slope, half in linearised.values()),
        ),
        claim(
            "the loss falls strictly: of every network the smallest eigenvalue is above zero, at "
            "least",
            ours=f"{least:.3g}",
            holds=least > 0,
        ),
    ]


def slopes_said(fits: dict[str, list[float]]) -> str:
    """The slope of each activation, and half of its 95 % interval."""
    return ", ".join(
        f"{ACTIVATIONS[name]} {slope:.2f} ± {half:.2f}" for name, (slope, half) in fits.items()
    )


def compute(settings: dict) -> dict:
    """The formulas, the limits, the claims."""
    jax.config.update("jax_enable_x64", True)
    rows = [row._asdict() for row in exact(settings)]
    found = limits(settings)
    return {"claims": judge(rows, found), "exact": rows, "limits": found}


def markdown(stored: dict) -> str:
    """A row a formula; a row an activation and width; the claims."""
    lines = ["| statement | formula | code | largest difference | bound |", "|---|---|---|---|---|"]
    for row in stored["exact"]:
        cells = row["words"], f"`{row['formula']}`", f"`{row['code']}`"
        lines.append(f"| {' | '.join(cells)} | {row['found']:.1e} | {row['bound']:.0e} |")
    lines += [
        "",
        "| activation | width | kernel off its limit | output variance over its limit "
        "| linearised off true training, test inputs | smallest eigenvalue "
        "| first step's slope over the quadratic form |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_width in stored["limits"].items():
        for width, row in by_width.items():
            keys = ("kernel", "variance", "linearised", "smallest eigenvalue", "slope")
            numbers = " | ".join(f"{row[key][0]:.4f} ± {row[key][1]:.4f}" for key in keys)
            lines.append(f"| {ACTIVATIONS[name]} | {width} | {numbers} |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """The two limits against width, with the slope of theory."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    panels = [
        ("kernel", r"$|K - \Theta^L|_F \,/\, |\Theta^L|_F$"),
        ("linearised", r"$|f_{\rm lin} - f| \,/\, |f|$, test outputs"),
    ]
    for axis, (key, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for colour, (name, by_width) in zip(COLOURS, stored["limits"].items(), strict=False):
            widths = np.array([float(width) for width in by_width])
            means, halves = np.array([row[key] for row in by_width.values()]).T
            slope = slope_of(by_width, key)[0]
            words = f"{ACTIVATIONS[name]}, slope {slope:.2f}"
            axis.errorbar(widths, means, halves, fmt="o-", ms=4, color=colour, label=words)
        law = means[0] * (widths / widths[0]) ** -0.5
        axis.plot(widths, law, ls="--", color="0.5", label="width^-1/2")
        axis.set(xscale="log", yscale="log", xlabel="width", ylabel=label)
        axis.legend(fontsize=8)
    return figure


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    counts("widths", settings["widths"], 2)
    least = {"draws": 2, "depth": 1, "inputs": 2, "dimensions": 2, "steps": 2, "seed": 0}
    for name, bound in least.items():
        whole(name, settings[name], bound)
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/theory_checked")
def main(cfg: DictConfig) -> None:
    publish(cfg, "theory_checked", check, compute, markdown, draw)


if __name__ == "__main__":
    main()
