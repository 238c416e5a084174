"""Li, Hiratani 2025: in which order to learn tasks, by their similarities and by the kernel.

All orders of the tasks of a stream are predicted from one kernel of the untrained network, and all
are trained. Beside them: Theorem 3.1 with similarities estimated from the same kernel, the paper's
rules of thumb, and others. The theorem itself is checked against the block solve of linear tasks.
Settings in conf/figure/li_hiratani_orders.yaml. Writes
results/tables/li_hiratani_orders.{json,md} and results/figures/li_hiratani_orders.{png,pdf}; exit
code 1 if a claim fails.

    python scripts/figures/li_hiratani_orders.py [size=small] [draw=true] [results_dir=PATH]
"""

import itertools
import sys
import time
from typing import NamedTuple

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import (
    COLOURS,
    claim,
    claims_list,
    counts,
    interval,
    on_images,
    publish,
    settings_of,
)

from ntkcl import dynamics, experiment, kernels, losses, methods, metrics, optimizers, planning
from ntkcl.cli.config import CONF
from ntkcl.forecast import Effort
from ntkcl.kernels.geometry import cross_energy
from ntkcl.planning.grids import stable
from ntkcl.training.settings import Training
from ntkcl.validation import finite, one_of, whole

PREDICTORS = {
    "forecast": "forecast",
    "theorem": "Theorem 3.1, similarities estimated",
    "periphery": "periphery to core",
    "max_path": "max-path",
    "greedy": "greedy, least like the one before",
    "reverse": "the best predicted, reversed",
    "random": "random, mean over all orders",
}
RANKED = ("forecast", "theorem", "periphery", "max_path")  # those that give every order a number


class Similarity(NamedTuple):
    """Of tasks, from the kernel of the untrained network: of their inputs and of their targets
    [T, T], and how far a forecast of training on one alone lowers the loss of the other."""

    inputs: np.ndarray
    targets: np.ndarray
    transfer: np.ndarray


def theorem(inputs: np.ndarray, targets: np.ndarray) -> float:
    """Theorem 3.1, the error after all tasks in this order: |C_out^1/2 (I - (I + U)^-1 C_in)|_F^2,
    U the strictly upper part of C_in."""
    kept = np.eye(len(inputs)) - np.linalg.solve(np.eye(len(inputs)) + np.triu(inputs, 1), inputs)
    return float(np.trace(kept.T @ targets @ kept))


def by_block_solve(inputs: np.ndarray, targets: np.ndarray) -> float:
    """The same by `ntkcl.dynamics`: tasks of one sample each, with kernel C_in, trained to the end
    in turn; tr(M C_out M^T), M the residuals left of each task's target alone."""
    count = len(inputs)
    block = inputs[:, None, :, None]
    steps = [
        lambda _, t=t: dynamics.Step(np.array([t]), jnp.zeros((1, 1)), np.ones((1, 1)))
        for t in range(count)
    ]

    def left(start):
        kernel, rules = lambda places: block[:, :, places], [dynamics.converged()] * count
        solves = dynamics.sequence(kernel, jnp.asarray(start[:, None]), steps, rules)
        return start + sum(np.asarray(solve.change)[:, 0] for solve in solves)

    residuals = np.stack([left(one) for one in np.eye(count)], 1)
    return float(np.trace(residuals @ targets @ residuals.T))


def check_theorem(tasks: int, draws: int, seed: int) -> float:
    """The largest difference of the two, over similarities drawn at random."""
    rng, off = np.random.default_rng(seed), []
    for _ in range(draws):
        inputs, targets = (_correlation(rng.normal(size=(tasks, 2 * tasks))) for _ in range(2))
        off.append(abs(theorem(inputs, targets) - by_block_solve(inputs, targets)))
    return max(off)


def _correlation(rows: np.ndarray) -> np.ndarray:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def measure(cfg: DictConfig, source, seed: int) -> dict:
    """One seed: every order's predicted and measured loss, and the orders' costs by each rule."""
    stream = instantiate(cfg.stream, seed=seed)(source)
    network = instantiate(cfg.network)(outputs=stream[0].train.y.shape[1])
    training = Training(steps=cfg.steps, learning_rate_fraction=cfg.learning_rate_fraction)
    initialised = experiment.initialise(
        jax.random.key(seed),
        stream,
        network,
        losses.squared_error(),
        optimizers.sgd(),
        training,
        methods.naive(),
        Effort(),
        kernels.empirical,
    )
    shared = planning.shared_kernel(initialised)
    problem = stable(initialised, shared, training)
    predicted = list(planning.every_order(problem, shared))
    name = f"average_loss_{cfg.part}"
    rows = []
    for candidate, outputs in predicted:
        trained = planning.measured_outputs(candidate, shared)
        both = [planning.scores(one, candidate, shared)[name] for one in (outputs, trained)]
        rows.append((list(candidate.order), *both))
    return {
        "orders": [order for order, _, _ in rows],
        "predicted": [round(value, 8) for _, value, _ in rows],
        "measured": [round(value, 8) for _, _, value in rows],
        **{
            key: value.round(6).tolist()
            for key, value in similarity(problem, shared, predicted)._asdict().items()
        },
    }


def similarity(problem, shared, predicted) -> Similarity:
    """What the kernel of the untrained network says of each pair of tasks."""
    tasks, f0 = problem.tasks, np.asarray(shared.here.history[0])
    residuals = [np.asarray(task.targets) - f0[task.inputs] for task in tasks]
    count = len(tasks)
    blocks = [
        [jnp.asarray(shared.tangent.kernel.block(a.inputs, b.inputs), float) for b in tasks]
        for a in tasks
    ]
    inputs, pulls = np.eye(count), np.eye(count)
    for i in range(count):
        for j in range(count):
            inputs[i, j] = float(cross_energy(blocks[i][i], blocks[i][j], blocks[j][j])) ** 0.5
            pulls[i, j] = np.einsum("ia,iajb,jb->", residuals[i], blocks[i][j], residuals[j])
    sizes = np.sqrt(np.diag(pulls))
    alike = pulls / sizes[:, None] / sizes[None]
    targets = np.clip(alike / inputs, -1, 1)
    alone = {candidate.order[0]: outputs[1] for candidate, outputs in predicted}
    transfer = np.array([[_gain(alone[i], f0, task) for task in tasks] for i in range(count)])
    return Similarity(inputs, targets, transfer)


def _gain(after, before, task) -> float:
    """1 - loss after / loss before, on a task's train inputs."""
    losses_of = [np.mean((f[task.inputs] - np.asarray(task.targets)) ** 2) for f in (after, before)]
    return float(1 - losses_of[0] / losses_of[1])


def costs(run: dict) -> dict[str, np.ndarray]:
    """By predictor a number for each order, the smaller the better."""
    inputs, targets = (np.array(run[key]) for key in ("inputs", "targets"))
    alike = likeness(run)
    core = alike.mean(1)  # how like a task is to all others
    orders = run["orders"]
    return {
        "forecast": np.array(run["predicted"]),
        "theorem": np.array([theorem(inputs[np.ix_(o, o)], targets[np.ix_(o, o)]) for o in orders]),
        "periphery": np.array([-sum(k * core[t] for k, t in enumerate(o)) for o in orders]),
        "max_path": np.array([sum(alike[a, b] for a, b in itertools.pairwise(o)) for o in orders]),
    }


def likeness(run: dict) -> np.ndarray:
    """How like each two tasks are, by the transfer either way, 0 of a task with itself."""
    transfer = np.array(run["transfer"])
    alike = (transfer + transfer.T) / 2
    np.fill_diagonal(alike, 0)
    return alike


def regrets(run: dict) -> dict[str, float]:
    """Measured loss of the order that each predictor takes over the best, as a share of the range
    of all orders."""
    measured, orders = np.array(run["measured"]), [tuple(order) for order in run["orders"]]
    spread = np.ptp(measured)

    def share(value):
        return float((value - measured.min()) / spread)

    # Of orders that a rule does not tell apart, such as one and its reverse, the mean.
    found = {
        name: share(measured[cost <= cost.min() + 1e-9 * np.ptp(cost)].mean())
        for name, cost in costs(run).items()
    }
    best = orders[int(np.argmin(run["predicted"]))]
    for name, order in (("greedy", greedy(run)), ("reverse", best[::-1])):
        found[name] = share(measured[orders.index(order)])
    return found | {"random": share(measured.mean())}


def greedy(run: dict) -> tuple[int, ...]:
    """Each time the task that is least like the one before, the first one being least like any."""
    alike = likeness(run)
    order = [int(np.argmin(alike.mean(1)))]
    while len(order) < len(alike):
        left = [t for t in range(len(alike)) if t not in order]
        order.append(min(left, key=lambda t: alike[order[-1], t]))
    return tuple(order)


def compute_for(cfg: DictConfig):
    """`compute(settings, source)` with the groups of the configuration."""

    def compute(settings: dict, source) -> dict:
        start, runs = time.perf_counter(), {}
        for seed in settings["seeds"]:
            runs[str(seed)] = measure(cfg, source, seed)
            print(f"seed {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        off = check_theorem(settings["stream"]["tasks"], 100, settings["seed"])
        summary = summarise(runs)
        return {
            "claims": judge(summary, off, runs),
            "theorem against block solve": off,
            "summary": summary,
            "runs": runs,
        }

    return compute


def summarise(runs: dict) -> dict[str, dict]:
    """By predictor the rank correlation with the measured loss and the regret of each seed, and
    both with half of their 95 % interval."""
    by_seed = list(runs.values())
    rows = {}
    for name in PREDICTORS:
        regret = [regrets(run)[name] for run in by_seed]
        row = {"regret": interval(regret), "regrets": np.round(regret, 6).tolist()}
        if name in RANKED:
            ranks = [metrics.spearman(np.array(r["measured"]), costs(r)[name]) for r in by_seed]
            row |= {"spearman": interval(ranks), "spearmans": np.round(ranks, 6).tolist()}
        rows[name] = row
    return rows


def judge(summary: dict, off: float, runs: dict) -> list[dict]:
    """The theorem is the block solve; the forecast ranks better than any rule, in every seed."""
    tasks = len(next(iter(runs.values()))["transfer"])
    own = summary["forecast"]["spearmans"]
    others = np.max([summary[name]["spearmans"] for name in RANKED[1:]], axis=0)
    chance = np.array(summary["random"]["regrets"])
    rules = {name: np.array(summary[name]["regrets"]) for name in ("periphery", "max_path")}
    return [
        claim(
            f"Theorem 3.1 is the block solve of {tasks} linear tasks, the farthest off by",
            ours=f"{off:.1e}",
            holds=off < 1e-12,
        ),
        claim(
            "the forecast ranks the orders better than any rule, in every seed: Spearman",
            ours=f"{min(own):.3f} at least, the best rule {max(others):.3f} at most",
            holds=bool(np.all(np.array(own) > others)),
        ),
        claim(
            "periphery to core and max-path take better orders than chance, in every seed: regret",
            published="better than random",
            ours=", ".join(f"{PREDICTORS[name]} {max(found):.2f}" for name, found in rules.items())
            + f" at most, chance {min(chance):.2f} at least",
            holds=all(bool(np.all(found < chance)) for found in rules.values()),
            because=unlike(runs),
        ),
    ]


def unlike(runs: dict) -> str:
    """How like the tasks are: what a forecast of one alone does to the loss of another."""
    gains = np.concatenate(
        [
            np.array(run["transfer"])[~np.eye(len(run["transfer"]), dtype=bool)]
            for run in runs.values()
        ]
    )
    return (
        "these tasks have little in common to go by: training on one changes the loss of another "
        f"by {-gains.max():+.0%} to {-gains.min():+.0%}, and raises it in {np.mean(gains < 0):.0%} "
        "of the pairs"
    )


def markdown(stored: dict) -> str:
    """A row a predictor."""
    lines = [
        "| order by | Spearman with the measured final loss | regret, share of the range |",
        "|---|---|---|",
    ]
    for name, row in stored["summary"].items():
        rank = "{:.3f} ± {:.3f}".format(*row["spearman"]) if "spearman" in row else ""
        regret = "{:.3f} ± {:.3f}".format(*row["regret"])
        lines.append(f"| {PREDICTORS[name]} | {rank} | {regret} |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """Predicted against measured, of every order and seed; the regrets."""
    figure = Figure(figsize=(9.6, 4), layout="constrained")
    scatter, bars = figure.subplots(1, 2)
    for k, (seed, run) in enumerate(stored["runs"].items()):
        colour = (*COLOURS, "0.4")[k % 5]
        scatter.plot(
            run["predicted"],
            run["measured"],
            "o",
            ms=3,
            alpha=0.6,
            color=colour,
            label=f"seed {seed}",
        )
    scatter.axline((run["measured"][0],) * 2, slope=1, color="0.6", lw=1, zorder=0)
    scatter.set(xlabel="final loss, predicted", ylabel="final loss, measured")
    scatter.legend(fontsize=8)
    names = list(PREDICTORS)[::-1]
    means, halves = np.array([stored["summary"][name]["regret"] for name in names]).T
    colours = [COLOURS[0] if name == "forecast" else "0.6" for name in names]
    bars.barh(range(len(names)), means, xerr=halves, color=colours, height=0.6)
    bars.set_yticks(range(len(names)), [PREDICTORS[name] for name in names])
    bars.set_xlim(left=0)
    bars.set_xlabel("regret of the order taken, share of the range")
    return figure


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    one_of("part", settings["part"], ("train", "test"))
    whole("steps", settings["steps"])
    finite("learning_rate_fraction", settings["learning_rate_fraction"], above=0.0)
    if whole("stream.tasks", settings["stream"]["tasks"], 3) > 6:
        raise ValueError(
            f"stream.tasks={settings['stream']['tasks']}: expected at most 6; all orders of more "
            "are too many to train"
        )
    counts("seeds", settings["seeds"], 2, 0)
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/li_hiratani_orders")
def main(cfg: DictConfig) -> None:
    compute = on_images(cfg, compute_for(cfg))
    publish(cfg, "li_hiratani_orders", check, compute, markdown, draw)


if __name__ == "__main__":
    main()
