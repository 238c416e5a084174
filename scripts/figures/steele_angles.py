"""Steele 2026: the smallest angle between two tasks' gradients, and what is forgotten.

Pairs of tasks of four kinds, each with a dial of similarity. From the untrained network come the
smallest principal angle between the tasks' largest gradient directions, and the forecast of
forgetting; both are held against training. Settings in conf/figure/steele_angles.yaml. Writes
results/tables/steele_angles.{json,md} and results/figures/steele_angles.{png,pdf}; exit code 1 if a
claim fails.

    python scripts/figures/steele_angles.py [size=small] [draw=true] [results_dir=PATH]
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
    claim,
    claims_list,
    counts,
    interval,
    numbers,
    on_images,
    publish,
    settings_of,
)

from ntkcl import experiment, kernels, losses, metrics, optimizers, streams
from ntkcl.cli.config import CONF
from ntkcl.experiment import record
from ntkcl.experiment.compare import compare
from ntkcl.training.settings import Training
from ntkcl.validation import finite, whole

KINDS = {
    "inputs": "teacher-student, overlap of inputs",
    "teachers": "teacher-student, correlation of teachers",
    "angles": "rotated Fashion-MNIST, degrees",
    "patches": "permuted Fashion-MNIST, side of the patch",
}
RANGES = {"inputs": (0, 1), "teachers": (-1, 1), "angles": (0, 360), "patches": (2, 28)}
PUBLISHED = 0.994  # correlation of forgetting with 1 - cos^2 theta_min, of synthetic tasks
CONSTANT = 1e-6  # below this the angle does not change


def stream_of(kind: str, dial: float, settings: dict, source, seed: int):
    """Two tasks, as like as the dial says."""
    n = settings["samples"]
    if kind in ("inputs", "teachers"):
        alike = {"overlap": dial, "correlation": 0.0} if kind == "inputs" else {"correlation": dial}
        sizes = {"train_size": n, "test_size": n}
        return streams.teacher_student(source, dimension=50, **alike, **sizes, seed=seed)
    sizes = {"train_per_class": n // 10, "test_per_class": n // 10, "seed": seed}
    if kind == "angles":
        angles = [0.0, float(dial)]
        return streams.rotated(source, angles=angles, tasks=2, same_images=False, **sizes)
    return streams.permuted(source, patch=int(dial), tasks=2, same_images=False, **sizes)


def pair(settings: dict, network, stream, seed: int) -> dict:
    """One pair of tasks: the angle and the forecast of forgetting, and the forgetting measured."""
    key, loss = jax.random.key(seed), losses.squared_error()
    training = Training(
        steps=settings["steps"], learning_rate_fraction=settings["learning_rate_fraction"]
    )
    network = network(outputs=stream[0].train.y.shape[1])
    theta = network.init(jax.random.fold_in(key, 0), stream[0].train.x[0])
    events = experiment.run(
        key, stream, network, loss, optimizers.sgd(), training, anchors=["init"]
    )
    run = record.gather(events, stream)
    numbers = compare(run, "init", stream, "train", loss)
    return {
        "cosine": largest_cosine(network, theta, stream, settings["rank"]),
        "predicted": numbers["mean_forgetting_predicted"],
        "measured": numbers["mean_forgetting_measured"],
    }


def largest_cosine(network, theta, stream, rank: int) -> float:
    """cos theta_min between the spans of each task's `rank` largest gradient directions.

    They are V_t = J_t^T U Lam^-1/2 of K_tt = U Lam U^T; V_1^T V_2 needs K_12 alone.
    """
    kernel_fn = kernels.structured(network)
    x = [np.asarray(task.train.x) for task in stream]
    roots = []
    for own in x:
        gram = np.asarray(kernel_fn(theta, own), np.float64)
        lam, modes = np.linalg.eigh(gram.reshape(gram.shape[0] * gram.shape[1], -1))
        roots.append(modes[:, -rank:] / np.sqrt(lam[-rank:]))
    across = np.asarray(kernel_fn(theta, *x), np.float64)
    across = across.reshape(len(roots[0]), len(roots[1]))
    return float(min(np.linalg.svd(roots[0].T @ across @ roots[1], compute_uv=False)[0], 1.0))


def compute_for(cfg: DictConfig):
    """`compute(settings, source)` with the network of the configuration."""

    def compute(settings: dict, source) -> dict:
        start, pairs, network = time.perf_counter(), {}, instantiate(cfg.network)
        for kind in KINDS:
            pairs[kind] = [
                {
                    "dial": dial,
                    "seed": seed,
                    **pair(settings, network, stream_of(kind, dial, settings, source, seed), seed),
                }
                for dial in settings[kind]
                for seed in settings["seeds"]
            ]
            print(f"{kind}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        summary = summarise(pairs)
        return {"claims": judge(summary, pairs), "summary": summary, "pairs": pairs}

    return compute


def summarise(pairs: dict) -> dict[str, dict]:
    """By kind the correlation of the measured forgetting with 1 - cos^2 theta_min, as published,
    and with the forecast: within each seed, the mean and half of its 95 % interval over seeds; NaN
    where the angle does not change. R2 of the forecast over all pairs."""
    return {kind: _row(rows) for kind, rows in pairs.items()} | {
        "all": _row([one for rows in pairs.values() for one in rows])
    }


def _row(rows: list[dict]) -> dict[str, list[float] | float]:
    by_seed = [[one for one in rows if one["seed"] == seed] for seed in seeds_of(rows)]
    found: dict[str, list[float] | float] = {}
    for name, function in (("angle", lambda one: 1 - one["cosine"] ** 2), ("forecast", _predicted)):
        sides = [
            (np.array([function(one) for one in own]), np.array([one["measured"] for one in own]))
            for own in by_seed
        ]
        found[name] = interval([_pearson(*both) for both in sides])
        found[f"{name} rank"] = interval([_ranked(*both) for both in sides])
    measured, predicted = (
        np.array([one[key] for one in rows]) for key in ("measured", "predicted")
    )
    return found | {"r2": metrics.r2(measured, predicted)}


def seeds_of(rows: list[dict]) -> list[int]:
    """The seeds of these pairs, each once."""
    return list(dict.fromkeys(one["seed"] for one in rows))


def _predicted(one: dict) -> float:
    return one["predicted"]


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > CONSTANT else float("nan")


def _ranked(a: np.ndarray, b: np.ndarray) -> float:
    return metrics.spearman(b, a) if np.ptp(a) > CONSTANT else float("nan")


def judge(summary: dict, pairs: dict) -> list[dict]:
    """The angle's correlation and sign, and the forecast's, by kind and over all pairs."""
    angles = [summary[kind]["angle"] for kind in KINDS]
    forecasts = [summary[kind]["forecast"] for kind in KINDS]
    whole = summary["all"]
    return [
        claim(
            "forgetting is a (1 - cos² θ_min) + b with a > 0: correlation above .9, by kind",
            published=f"{PUBLISHED}, synthetic tasks",
            ours=" / ".join(map(correlation, angles)),
            holds=all(value is not None and value > 0.9 for value, _ in angles),
            because=unseen(pairs, summary),
        ),
        claim(
            "the forecast from the same kernel goes along with forgetting more closely than the "
            "angle, in every kind: correlation",
            ours=" / ".join(map(correlation, forecasts)),
            holds=all(
                one > (abs(other) if _known(other) else 0)
                for (one, _), (other, _) in zip(forecasts, angles, strict=True)
            ),
        ),
        claim(
            "over all kinds together the forecast's correlation is above the angle's",
            ours=f"{correlation(whole['forecast'])}, {correlation(whole['angle'])}",
            holds=whole["forecast"][0] > abs(whole["angle"][0]),
        ),
    ]


def correlation(found: list) -> str:
    """The mean and half of its interval over seeds."""
    value, half = found
    return "the angle is constant" if not _known(value) else f"{value:.3f} ± {half:.3f}"


def _known(value) -> bool:
    return value is not None and np.isfinite(value)


def unseen(pairs: dict, summary: dict) -> str:
    """What the angle cannot see."""
    rows = pairs["teachers"]
    means = [
        np.mean([one["measured"] for one in rows if one["dial"] == dial])
        for dial in dict.fromkeys(one["dial"] for one in rows)
    ]
    return (
        "the targets are not in it: with the same inputs and other teachers the angle stays the "
        f"same and forgetting goes from {min(means):.2f} to {max(means):.2f}; where targets have "
        "nothing to do with each other, tasks of nearer inputs forget more "
        f"({correlation(summary['inputs']['angle'])})"
    )


def markdown(stored: dict) -> str:
    """A row a kind of pairs."""
    lines = [
        "| pairs of tasks | dial | 1 - cos² θ_min: correlation | by rank "
        "| forecast: correlation | by rank | R² |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, row in stored["summary"].items():
        dial = " / ".join(f"{value:g}" for value in stored["settings"].get(kind, []))
        keys = ("angle", "angle rank", "forecast", "forecast rank")
        cells = [correlation(row[key]) for key in keys]
        numbers = " | ".join([*cells, f"{row['r2']:.3f}"])
        lines.append(f"| {KINDS.get(kind, 'all')} | {dial} | {numbers} |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """Measured forgetting of every pair against the angle, and against the forecast."""
    figure = Figure(figsize=(9.6, 4), layout="constrained")
    by_angle, by_forecast = figure.subplots(1, 2)
    for colour, (kind, label) in zip(COLOURS, KINDS.items(), strict=True):
        cosine, predicted, measured = (
            np.array([one[key] for one in stored["pairs"][kind]])
            for key in ("cosine", "predicted", "measured")
        )
        style = {"color": colour, "ms": 4, "ls": "", "marker": "o", "alpha": 0.8}
        by_angle.plot(1 - cosine**2, measured, label=label, **style)
        by_forecast.plot(predicted, measured, **style)
    by_forecast.axline((0, 0), slope=1, color="0.6", lw=1, zorder=0)
    rank = stored["settings"]["rank"]
    by_angle.set(
        xlabel=rf"$1 - \cos^2 \theta_{{\min}}$, {rank} gradient directions a task",
        ylabel="forgetting, measured (rise of the loss)",
    )
    by_forecast.set(
        xlabel="forgetting, predicted from the untrained network", ylabel="forgetting, measured"
    )
    by_angle.legend(fontsize=7)
    return figure


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    for name, least in {"rank": 1, "steps": 1, "samples": 10}.items():
        whole(name, settings[name], least)
    if settings["rank"] > settings["samples"]:
        raise ValueError(f"rank={settings['rank']}: expected at most samples={settings['samples']}")
    finite("learning_rate_fraction", settings["learning_rate_fraction"], above=0.0)
    counts("seeds", settings["seeds"], 2, 0)
    for kind, (low, high) in RANGES.items():
        for dial in numbers(kind, settings[kind], 2):
            if not low <= dial <= high:
                raise ValueError(f"{kind}={settings[kind]}: expected numbers from {low} to {high}")
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/steele_angles")
def main(cfg: DictConfig) -> None:
    compute = on_images(cfg, compute_for(cfg))
    publish(cfg, "steele_angles", check, compute, markdown, draw)


if __name__ == "__main__":
    main()
