"""Which new samples make a network forget, in which eigenmodes and layers, and whether leaving them out keeps it from forgetting.

Two tasks. Where the second begins, one kernel block and one solve foretell the drift of the first task and attribute it, and the rise
of its loss, to single new samples. The check trains anew: without the samples named most harmful, most harmless, or drawn at random.
Writes results/tables/explain.{json,md} and, from the JSON alone, results/figures/explain.png; exit code 1 if a claim fails.

    python scripts/figures/explain.py [draw=true] [stream=rotated] [seeds=[0]] [results_dir=elsewhere]
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
from publish import claims_list, publish, settings_of

from ntkcl import forecast, kernels, losses, metrics, networks, optimizers
from ntkcl.configuration import CONF
from ntkcl.figures import explanation
from ntkcl.forecast import attribution
from ntkcl.settings import finite, whole
from ntkcl.train import fit

LOSS, SGD = losses.squared_error(), optimizers.sgd()
CHOICES = ("harmful", "random", "harmless")


class Scene(NamedTuple):
    """Where the second task begins: the network (`apply` centred where that is asked for), theta after the first task, both tasks,
    the rate h in function space, steps, and the old outputs and the new ones as they are, float64."""

    network: object
    theta: object
    old: object
    new: object
    learning_rate: float
    steps: int
    f_old: np.ndarray
    f_new: np.ndarray


def begin(cfg: DictConfig, seed: int) -> Scene:
    """The first task learned."""
    stream = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32),
        instantiate(cfg.stream, seed=seed)(instantiate(cfg.source)),
    )
    old, new = stream
    network = instantiate(cfg.network)(outputs=old.train.y.shape[1])
    theta = network.init(jax.random.key(seed), old.train.x[0])
    if network.centred:
        network = network._replace(apply=networks.centred(network.apply, theta))

    def limit(task):
        weights = np.broadcast_to(np.asarray(task.head), task.train.y.shape)
        top = forecast.largest_eigenvalue(
            np.asarray(kernels.structured(network)(theta, task.train.x)), weights
        )
        return SGD.limit(top) / LOSS.rate(1.0, len(task.train.x), task.head)

    rate = cfg.learning_rate_fraction * min(map(limit, stream))
    fitted = train(network, theta, old, SGD.transform(rate), cfg.steps)
    f_old, f_new = (outputs(network, fitted, task.train.x) for task in stream)
    return Scene(network, fitted, old, new, float(rate), cfg.steps, f_old, f_new)


def train(network, theta, task, transform, steps):
    return fit(
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


class Foretold(NamedTuple):
    """K(both, new) of the train inputs, old ones first; coefficients of the new samples; drift of the old outputs."""

    block: jnp.ndarray
    alpha: jnp.ndarray
    drift: np.ndarray


def foretell(scene: Scene, block, kept=None) -> Foretold:
    """The second task by the closed form, of all new samples or of those `kept`, with the same pull on each."""
    n_old, n_new = len(scene.f_old), len(scene.f_new)
    kept = np.arange(n_new) if kept is None else kept
    y, weights = (
        np.asarray(scene.new.train.y, np.float64),
        np.broadcast_to(np.asarray(scene.new.head), scene.f_new.shape),
    )
    step = forecast.Step(n_old + kept, jnp.asarray(y[kept]), weights[kept])
    rule = SGD.rule(LOSS.rate(scene.learning_rate, n_new, scene.new.head), scene.steps)
    f = jnp.asarray(np.concatenate([scene.f_old, scene.f_new]))
    solve = forecast.one_task(lambda inputs: block[:, :, inputs - n_old], f, step, rule)
    return Foretold(block, solve.alpha, np.asarray(solve.change[:n_old]))


class Judge(NamedTuple):
    """Forgetting of the old task (rise of its mean train loss) and accuracy on the new one's tests, when only `kept` are trained on."""

    forgetting: float
    foretold: float
    accuracy: float


def judge(scene: Scene, block, kept) -> tuple[Judge, np.ndarray]:
    """Trained and foretold; the learning rate shrinks with the number of samples, so that each of the others pulls as before.

    Also the measured drift.
    """
    n = len(scene.f_new)
    new = scene.new._replace(train=jax.tree.map(lambda a: a[kept], scene.new.train))
    theta = train(
        scene.network,
        scene.theta,
        new,
        SGD.transform(scene.learning_rate * len(kept) / n),
        scene.steps,
    )
    after = outputs(scene.network, theta, scene.old.train.x)
    before = mean_loss(scene.f_old, scene.old)
    told = mean_loss(scene.f_old + foretell(scene, block, kept).drift, scene.old) - before
    right = metrics.correct(
        outputs(scene.network, theta, new.test.x), np.asarray(new.test.y), np.asarray(new.head)
    ).mean()
    return Judge(mean_loss(after, scene.old) - before, told, float(right)), after - scene.f_old


def measure(cfg: DictConfig, seed: int) -> dict:
    """One seed: the attribution, what the check found, and the samples shown."""
    scene = begin(cfg, seed)
    x_old, x_new = scene.old.train.x, scene.new.train.x
    kernel = kernels.structured(scene.network)
    block = kernel(scene.theta, jnp.concatenate([x_old, x_new]), x_new)
    told = foretell(scene, block)
    n, active = len(x_old), np.flatnonzero(scene.old.head)

    moved = attribution.by_sample(block[:n], told.alpha)
    residual = jnp.asarray(scene.old.train.y, jnp.float64) - scene.f_old
    harm = np.asarray(attribution.loss_change(moved, residual, scene.old.head).sum(0)) / (
        n * len(active)
    )
    layers = attribution.by_layer(
        kernels.layers(scene.network)(scene.theta, x_old, x_new), told.alpha
    )

    order = np.argsort(-harm)  # most harmful first
    everyone, k = np.arange(len(harm)), cfg.removed
    whole_run, drift = judge(scene, block, everyone)
    chosen = {"harmful": [order[:k]], "harmless": [order[-k:]]}
    draws = np.random.default_rng(seed)
    chosen["random"] = [draws.choice(len(harm), k, replace=False) for _ in range(cfg.draws)]
    check = {
        name: [judge(scene, block, np.setdiff1d(everyone, out))[0] for out in chosen[name]]
        for name in CHOICES
    }

    gram = kernel(scene.theta, x_old)[:, active][..., active].astype(jnp.float64)
    energies = {"foretold": told.drift, "measured": drift}
    energies = {
        name: attribution.mode_energies(gram, jnp.asarray(d[:, active]))
        for name, d in energies.items()
    }
    extremes = {"harmful": order[: cfg.shown], "harmless": order[::-1][: cfg.shown]}
    rise = mean_loss(scene.f_old + told.drift, scene.old) - mean_loss(scene.f_old, scene.old)
    return {
        "drift R2": forecast.r2(drift[:, active].ravel(), told.drift[:, active].ravel()),
        "harm": harm.tolist(),
        "gaps": {
            "samples - drift": float(
                np.abs(np.asarray(moved.sum(-1)) - told.drift).max() / np.abs(told.drift).max()
            ),
            "layers - drift": float(
                np.abs(np.asarray(sum(layers.values())) - told.drift).max()
                / np.abs(told.drift).max()
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
        "all kept": whole_run._asdict(),
        "removed harm": {
            name: float(np.mean([harm[out].sum() for out in chosen[name]])) for name in CHOICES
        },
        "check": {name: [one._asdict() for one in check[name]] for name in CHOICES},
        "shown": {
            name: [_sample(scene.new.train, harm, i) for i in picks]
            for name, picks in extremes.items()
        },
    }


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
    told = ", ".join(f"{name} {gap:.0e}" for name, gap in gaps.items())
    claims = [
        {
            "claim": f"parts add up, relative gaps at most: {told}",
            "holds": all(gaps[name] < bounds[name] for name in gaps),
        }
    ]
    for seed, run in seeds.items():
        left = {name: [one["forgetting"] for one in run["check"][name]] for name in CHOICES}
        (harmful,), (harmless,), random = left["harmful"], left["harmless"], left["random"]
        told = f"{harmful:.4f} < {min(random):.4f} to {max(random):.4f} < {harmless:.4f}"
        text = f"seed {seed}: forgetting measured without harmful, each random draw, harmless: {told} (all kept: "
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
        "| seed | left out | their harm | forgetting measured | forgetting foretold | accuracy on the new task |",
        "|---|---|---|---|---|---|",
    ]
    for seed, run in stored["seeds"].items():
        rows = {"nothing": (0.0, [run["all kept"]])} | {
            name: (run["removed harm"][name], run["check"][name]) for name in CHOICES
        }
        for name, (harm, found) in rows.items():
            cells = [_spread([one[key] for one in found]) for key in Judge._fields]
            lines.append(f"| {seed} | {name} | {harm:+.4f} | " + " | ".join(cells) + " |")
    lines.append("")
    for seed, run in stored["seeds"].items():
        shares = ", ".join(
            f"{layer} {share:.2f}" for layer, share in run["shares by layer"].items()
        )
        ranks = " / ".join(f"{run['participation'][side]:.1f}" for side in ("foretold", "measured"))
        r2 = run["drift R2"]
        lines.append(
            f"- seed {seed}: drift R² {r2:.3f}; participation rank foretold / measured {ranks}; by layer {shares}"
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
