"""Which new samples make a network forget, in which eigenmodes and layers.

Two tasks. At their boundary, one kernel block and one solve predict the drift of the first task and
attribute it, and the rise of its loss, to single new samples. The check trains again without the
samples named most harmful, most harmless, or drawn at random: leaving out the harmful ones should
keep the network from forgetting. Writes results/tables/explain.{json,md} and, from the JSON file
alone, results/figures/explain.png; exit code 1 if a claim fails.

    python scripts/figures/explain.py [draw=true] [stream=rotated] [seeds=[0]] [results_dir=PATH]
"""

import sys
import time
from functools import partial
from typing import NamedTuple

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import claims_list, publish, settings_of, source_of

from ntkcl import dynamics, kernels, losses, metrics, networks, optimizers
from ntkcl.cli.config import CONF
from ntkcl.dynamics import attribution
from ntkcl.reporting.explanation import explanation
from ntkcl.training import loop
from ntkcl.validation import finite, whole

LOSS, SGD = losses.squared_error(), optimizers.sgd()
CHOICES = ("harmful", "random", "harmless")
KEYS = ("forgetting", "predicted", "accuracy")  # of an outcome in the stored table


class Boundary(NamedTuple):
    """Where the second task begins.

    The network (`apply` centred if its settings say so), theta after the first task, both tasks,
    the learning rate, the steps, and the outputs [n, c] on old and new train inputs, float64.
    """

    network: object
    theta: object
    old: object
    new: object
    learning_rate: float
    steps: int
    f_old: np.ndarray
    f_new: np.ndarray


def learn_first_task(cfg: DictConfig, seed: int) -> Boundary:
    """The first task learned."""
    stream = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32),
        instantiate(cfg.stream, seed=seed)(instantiate(source_of(cfg))),
    )
    old, new = stream
    network = instantiate(cfg.network)(outputs=old.train.y.shape[1])
    theta = network.init(jax.random.key(seed), old.train.x[0])
    if network.centred:
        network = network._replace(apply=networks.centred(network.apply, theta))

    def limit(task):
        weights = np.broadcast_to(np.asarray(task.head), task.train.y.shape)
        top = dynamics.largest_eigenvalue(
            np.asarray(kernels.structured(network)(theta, task.train.x)), weights
        )
        return SGD.limit(top) / LOSS.rate(1.0, len(task.train.x), task.head)

    rate = cfg.learning_rate_fraction * min(map(limit, stream))
    fitted = train(network, theta, old, SGD.transform(rate), cfg.steps)
    f_old, f_new = (outputs(network, fitted, task.train.x) for task in stream)
    return Boundary(network, fitted, old, new, float(rate), cfg.steps, f_old, f_new)


def train(network, theta, task, transform, steps):
    return loop.train(
        jax.random.key(0),
        theta,
        task.train,
        task.head,
        apply=network.apply,
        loss=LOSS,
        transform=transform,
        steps=steps,
    ).theta


def outputs(network, theta, x) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(network.apply, (None, 0)))(theta, x), np.float64)


def mean_loss(f, task) -> float:
    """On the train inputs."""
    return float(
        np.mean(
            jax.vmap(LOSS.value, (0, 0, None))(
                jnp.asarray(f), jnp.asarray(task.train.y, jnp.float64), task.head
            )
        )
    )


class Prediction(NamedTuple):
    """The second task by the closed form.

    K(both, new) of the train inputs, old ones first; coefficients of the new samples; drift of the
    old outputs.
    """

    block: jnp.ndarray
    alpha: jnp.ndarray
    drift: np.ndarray


def predict(boundary: Boundary, block, kept=None) -> Prediction:
    """The second task from all new samples, or from those `kept`, with the same pull on each."""
    n_old, n_new = len(boundary.f_old), len(boundary.f_new)
    kept = np.arange(n_new) if kept is None else kept
    y, weights = (
        np.asarray(boundary.new.train.y, np.float64),
        np.broadcast_to(np.asarray(boundary.new.head), boundary.f_new.shape),
    )
    step = dynamics.Step(n_old + kept, jnp.asarray(y[kept]), weights[kept])
    rule = SGD.rule(LOSS.rate(boundary.learning_rate, n_new, boundary.new.head), boundary.steps)
    f = jnp.asarray(np.concatenate([boundary.f_old, boundary.f_new]))
    solve = dynamics.one_task(lambda inputs: block[:, :, inputs - n_old], f, step, rule)
    return Prediction(block, solve.alpha, np.asarray(solve.change[:n_old]))


class Outcome(NamedTuple):
    """Training on some of the new samples: how the old task fares, and the new one.

    Forgetting, the rise of the old task's mean train loss, measured and predicted; accuracy on the
    new task's test inputs.
    """

    forgetting: float
    predicted: float
    accuracy: float


def judge(boundary: Boundary, block, kept) -> tuple[Outcome, np.ndarray]:
    """The outcome of training on the new samples `kept`, and the measured drift.

    The learning rate shrinks with their number, so that each of them pulls as before.
    """
    n = len(boundary.f_new)
    new = boundary.new._replace(train=jax.tree.map(lambda a: a[kept], boundary.new.train))
    theta = train(
        boundary.network,
        boundary.theta,
        new,
        SGD.transform(boundary.learning_rate * len(kept) / n),
        boundary.steps,
    )
    after = outputs(boundary.network, theta, boundary.old.train.x)
    before = mean_loss(boundary.f_old, boundary.old)
    predicted = (
        mean_loss(boundary.f_old + predict(boundary, block, kept).drift, boundary.old) - before
    )
    right = metrics.correct(
        outputs(boundary.network, theta, new.test.x), np.asarray(new.test.y), np.asarray(new.head)
    ).mean()
    return Outcome(
        mean_loss(after, boundary.old) - before, predicted, float(right)
    ), after - boundary.f_old


def measure(cfg: DictConfig, seed: int) -> dict:
    """One seed: the attribution, what the check found, and the samples shown."""
    boundary = learn_first_task(cfg, seed)
    x_old, x_new = boundary.old.train.x, boundary.new.train.x
    kernel = kernels.structured(boundary.network)
    block = kernel(boundary.theta, jnp.concatenate([x_old, x_new]), x_new)
    predicted = predict(boundary, block)
    n, active = len(x_old), np.flatnonzero(boundary.old.head)

    moved = attribution.by_sample(block[:n], predicted.alpha)
    residual = jnp.asarray(boundary.old.train.y, jnp.float64) - boundary.f_old
    harm = np.asarray(attribution.loss_change(moved, residual, boundary.old.head).sum(0)) / (
        n * len(active)
    )
    layers = attribution.by_layer(
        kernels.layers(boundary.network)(boundary.theta, x_old, x_new), predicted.alpha
    )

    order = np.argsort(-harm)  # most harmful first
    everyone, k = np.arange(len(harm)), cfg.removed
    whole_run, drift = judge(boundary, block, everyone)
    chosen = {"harmful": [order[:k]], "harmless": [order[-k:]]}
    draws = np.random.default_rng(seed)
    chosen["random"] = [draws.choice(len(harm), k, replace=False) for _ in range(cfg.draws)]
    check = {
        name: [judge(boundary, block, np.setdiff1d(everyone, out))[0] for out in chosen[name]]
        for name in CHOICES
    }

    gram = kernel(boundary.theta, x_old)[:, active][..., active].astype(jnp.float64)
    energies = {"predicted": predicted.drift, "measured": drift}
    energies = {
        name: attribution.mode_energies(gram, jnp.asarray(d[:, active]))
        for name, d in energies.items()
    }
    extremes = {"harmful": order[: cfg.shown], "harmless": order[::-1][: cfg.shown]}
    rise = mean_loss(boundary.f_old + predicted.drift, boundary.old) - mean_loss(
        boundary.f_old, boundary.old
    )
    return {
        "drift R2": metrics.r2(drift[:, active].ravel(), predicted.drift[:, active].ravel()),
        "harm": harm.tolist(),
        "gaps": {
            "samples - drift": float(
                np.abs(np.asarray(moved.sum(-1)) - predicted.drift).max()
                / np.abs(predicted.drift).max()
            ),
            "layers - drift": float(
                np.abs(np.asarray(sum(layers.values())) - predicted.drift).max()
                / np.abs(predicted.drift).max()
            ),
            "harm - forgetting": abs(float(harm.sum()) - rise) / abs(rise),
        },
        "shares by layer": {
            layer: float(share) for layer, share in attribution.shares(layers).items()
        },
        "cumulative": {name: np.cumsum(e).round(6).tolist() for name, e in energies.items()},
        "participation": {
            name: float(attribution.participation_rank(e)) for name, e in energies.items()
        },
        "all kept": by_key(whole_run),
        "removed harm": {
            name: float(np.mean([harm[out].sum() for out in chosen[name]])) for name in CHOICES
        },
        "check": {name: [by_key(one) for one in check[name]] for name in CHOICES},
        "shown": {
            name: [_sample(boundary.new.train, harm, i) for i in picks]
            for name, picks in extremes.items()
        },
    }


def by_key(outcome: Outcome) -> dict:
    """As it is stored."""
    return dict(zip(KEYS, outcome, strict=True))


def _sample(data, harm, i) -> dict:
    """One new sample as the figure needs it: 0 to 255 over its own range, and its target."""
    x = np.asarray(data.x[i], float)
    grey = np.round(255 * (x - x.min()) / max(np.ptp(x), 1e-9)).astype(int)
    return {
        "index": int(i),
        "harm": float(harm[i]),
        "target": np.asarray(data.y[i]).tolist(),
        "x": grey.tolist(),
    }


def judged(seeds: dict) -> list[dict]:
    """The claims, each with its numbers and whether they hold."""
    gaps = {
        name: max(run["gaps"][name] for run in seeds.values())
        for name in next(iter(seeds.values()))["gaps"]
    }
    # Kernels come in float32, their terms by layers too.
    bounds = {"samples - drift": 1e-9, "layers - drift": 1e-4, "harm - forgetting": 1e-9}
    text = ", ".join(f"{name} {gap:.0e}" for name, gap in gaps.items())
    claims = [
        {
            "claim": f"parts add up, relative gaps at most: {text}",
            "holds": all(gaps[name] < bounds[name] for name in gaps),
        }
    ]
    for seed, run in seeds.items():
        forgetting = {name: [one["forgetting"] for one in run["check"][name]] for name in CHOICES}
        (harmful,), (harmless,), random = (
            forgetting[name] for name in ("harmful", "harmless", "random")
        )
        order = f"{harmful:.4f} < {min(random):.4f} to {max(random):.4f} < {harmless:.4f}"
        text = (
            f"seed {seed}: forgetting measured without harmful, each random draw, harmless: "
            f"{order} (all kept: "
        )
        claims.append(
            {
                "claim": text + f"{run['all kept']['forgetting']:.4f})",
                "holds": harmful < min(random) <= max(random) < harmless,
            }
        )
    return claims


def markdown(stored: dict) -> str:
    """A row for each seed and choice, then the claims."""
    lines = [
        "| seed | left out | their harm | forgetting measured | forgetting predicted "
        "| accuracy on the new task |",
        "|---|---|---|---|---|---|",
    ]
    for seed, run in stored["seeds"].items():
        rows = {"nothing": (0.0, [run["all kept"]])} | {
            name: (run["removed harm"][name], run["check"][name]) for name in CHOICES
        }
        for name, (harm, found) in rows.items():
            cells = [_spread([one[key] for one in found]) for key in KEYS]
            lines.append(f"| {seed} | {name} | {harm:+.4f} | " + " | ".join(cells) + " |")
    lines.append("")
    for seed, run in stored["seeds"].items():
        shares = ", ".join(
            f"{layer} {share:.2f}" for layer, share in run["shares by layer"].items()
        )
        ranks = " / ".join(
            f"{run['participation'][side]:.1f}" for side in ("predicted", "measured")
        )
        r2 = run["drift R2"]
        lines.append(
            f"- seed {seed}: drift R² {r2:.3f}; participation rank predicted / measured {ranks}; "
            f"by layer {shares}"
        )
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def _spread(values) -> str:
    return f"{np.mean(values):.4f}" + (
        f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    )


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    for name, least in {"steps": 1, "removed": 1, "draws": 2, "shown": 1}.items():
        whole(name, settings[name], least)
    if not settings["seeds"]:
        raise ValueError("seeds=[]: expected at least one")
    for seed in settings["seeds"]:
        whole("seeds", seed, 0)
    finite("learning_rate_fraction", settings["learning_rate_fraction"], above=0.0)
    if settings["stream"].get("tasks") != 2:  # a mixture has them one level down, and its seed
        raise ValueError(
            f"stream.tasks={settings['stream'].get('tasks')}: expected 2, an old task and a new one"
        )
    return settings


def compute(cfg: DictConfig, settings: dict) -> dict:
    """Everything the table and the figure are made from.

    Forecasts are solved in float64; networks and kernels are float32.
    """
    jax.config.update("jax_enable_x64", True)
    start, seeds = time.perf_counter(), {}
    for seed in settings["seeds"]:
        seeds[str(seed)] = measure(cfg, seed)
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return {"claims": judged(seeds), "seeds": seeds}


def draw(stored: dict) -> Figure:
    """The first seed's samples, modes and layers, and the check with every seed."""
    seeds = stored["seeds"]
    return explanation(next(iter(seeds.values())), seeds)


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/explain")
def main(cfg: DictConfig) -> None:
    publish(cfg, "explain", check, partial(compute, cfg), markdown, draw)


if __name__ == "__main__":
    main()
