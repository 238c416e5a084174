"""Where the error of a forecast comes from: measured - predicted as a sum of terms.

Each term comes from an experiment of its own. A narrow network is trained on minibatches. From the
measurement down, each forecast of the same drift leaves out one thing more:

    boundary        kernel motion within a task: the kernel of each task's start, the true batches
                    followed step by step
    init            kernel motion in earlier tasks: the kernel of the untrained network, still the
                    true batches
    full batches    minibatch noise: gradient descent on the whole task, in closed form
    flow            discretisation: gradient flow in place of steps
    one kernel      approximation: the mean kernel of all outputs for each of them, none between
                    two outputs
    infinite width  finite width: the limit of that kernel

Settings in conf/figure/error_budget.yaml. Writes results/tables/error_budget.{json,md} and
results/figures/error_budget.png; exit code 1 if a claim fails.

    python scripts/figures/error_budget.py [widths=[64,256,1024]] [draw=true]
"""

import sys

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import claims_list, increasing, on_images, publish, settings_of

from ntkcl import (
    dynamics,
    experiment,
    forecast,
    kernels,
    losses,
    methods,
    networks,
    optimizers,
    streams,
)
from ntkcl.cli.config import CONF
from ntkcl.kernels.infinite import infinite_kernel_fn
from ntkcl.metrics.error_budget import budget
from ntkcl.training.problem import Anchor, train
from ntkcl.training.settings import Training, rate
from ntkcl.types import Rows
from ntkcl.validation import finite, seed, whole

MEANING = {
    "boundary": "kernel motion within a task",
    "init": "kernel motion in earlier tasks",
    "full batches": "minibatch noise",
    "flow": "discretisation",
    "one kernel": "one kernel for all outputs",
    "infinite width": "finite width",
}


def ladder(settings: dict, stream, width: int, number: int) -> dict[str, np.ndarray]:
    """Drift of all old tasks' outputs at the end of the stream: measured, then by each forecast.

    Every drift is one vector.
    """
    shape = dict(depth=settings["depth"], activation="relu", w_std=2**0.5)
    training = Training(
        steps=settings["steps"],
        batch_size=settings["batch_size"],
        learning_rate_fraction=settings["learning_rate_fraction"],
    )
    initialised = experiment.initialise(
        jax.random.key(number),
        stream,
        networks.mlp(outputs=stream[0].train.y.shape[1], width=width, **shape),
        losses.squared_error(),
        optimizers.sgd(),
        training,
        methods.naive(),
        forecast.Effort(),
        kernels.empirical,
    )
    kernel_fn, effort = initialised.kernel_fn, initialised.effort
    true = initialised.problem.at(
        rate(training, forecast.limit(initialised.problem, initialised.theta, kernel_fn))
    )
    full = true._replace(batch_size=None)
    flow = full._replace(
        optimizer=full.optimizer._replace(
            rule=lambda rate, steps: dynamics.gradient_flow(rate, steps)
        )
    )
    c = stream[0].train.y.shape[1]

    def shared(theta, x1, x2=None):
        return kernels.with_outputs(kernels.traced(jnp.asarray(kernel_fn(theta, x1, x2))), c)

    start, count = (
        Anchor(initialised.theta, (), (jnp.asarray(initialised.outputs(initialised.theta)),)),
        len(stream),
    )
    infinite = infinite_kernel_fn(true.network.infinite, c)
    step_by_step = forecast.simulated(kernel_fn, effort)

    def closed(problem, kernel_fn=kernel_fn):
        return forecast.closed(kernel_fn, effort)(problem, start, count)

    outcomes_of = {
        "init": step_by_step(true, start, count),
        "full batches": closed(full),
        "flow": closed(flow),
        "one kernel": closed(flow, shared),
        "infinite width": closed(flow, infinite),
    }
    here, boundary, outputs = start, [], [np.asarray(start.history[0])]
    for t in range(count):
        boundary += step_by_step(true, here, 1)
        fitted = train(true, t, true.network, here.theta, ())
        outputs.append(initialised.outputs(fitted.theta))
        here = Anchor(fitted.theta, (), (*here.history, jnp.asarray(outputs[-1])))

    def drift(changes):
        rows = Rows.of(stream).train[:-1]
        return np.concatenate(
            [
                np.sum(changes[s + 1 :], 0)[own][:, np.flatnonzero(stream[s].head)].ravel()
                for s, own in enumerate(rows)
            ]
        )

    outcomes_of = {"boundary": boundary} | outcomes_of
    predicted = {
        name: drift(np.stack([outcome.change for outcome in outcomes]))
        for name, outcomes in outcomes_of.items()
    }
    return {"measured": drift(np.diff(np.stack(outputs), axis=0))} | predicted


def check(cfg: DictConfig) -> dict:
    settings = settings_of(cfg, without=["source"])
    increasing("widths", settings["widths"])
    for name in ("depth", "steps", "batch_size", "tasks", "per_class"):
        whole(name, settings[name])
    for number in settings["seeds"]:
        seed("seeds", number)
    finite("learning_rate_fraction", settings["learning_rate_fraction"], above=0.0)
    return settings


def compute(settings: dict, source) -> dict:
    cells = []
    for width in settings["widths"]:
        for number in settings["seeds"]:
            stream = streams.rotated(
                source,
                tasks=settings["tasks"],
                train_per_class=settings["per_class"],
                test_per_class=1,
                same_images=False,
                seed=number,
            )
            stream = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), stream)
            drifts = ladder(settings, stream, width, number)
            gap = drifts["measured"] - drifts["infinite width"]
            terms = sum(
                a - b
                for a, b in zip(list(drifts.values()), list(drifts.values())[1:], strict=False)
            )
            cells.append(
                {
                    "width": width,
                    "seed": number,
                    "terms": budget(drifts),
                    "left over": float(np.abs(gap - terms).max()),
                }
            )
            print(
                f"width {width}, seed {number}: R2 of init {cells[-1]['terms'][1]['r2']:.3f}",
                file=sys.stderr,
            )
    return {"cells": cells, "claims": claims(settings, cells)}


def mean(cells, width, k, key) -> float:
    return float(np.mean([cell["terms"][k][key] for cell in cells if cell["width"] == width]))


def claims(settings, cells) -> list[dict]:
    narrow, wide = settings["widths"][0], settings["widths"][-1]
    motion = {
        width: sum(mean(cells, width, k, "share") for k in (0, 1)) for width in (narrow, wide)
    }
    less = narrow == wide or motion[wide] < motion[narrow]
    return [
        {
            "claim": "the terms add up to the error",
            "holds": max(cell["left over"] for cell in cells) < 1e-9,
        },
        {"claim": f"kernel motion is smaller at width {wide} than at {narrow}", "holds": less},
    ]


def markdown(stored: dict) -> str:
    settings, cells = stored["settings"], stored["cells"]
    lines = [
        "# Error budget",
        "",
        f"Rotated, {settings['tasks']} tasks x {settings['per_class']} images a class, "
        f"batches of {settings['batch_size']}, {settings['steps']} steps a task, "
        f"seeds {settings['seeds']}; {stored['seconds']:.0f} s. "
        "Mean over seeds: the squares of each term as a share of those of the measured drift, "
        "and R2 of the forecast that leaves it out, and all above it.",
        "",
        "| left out | forecast | "
        + " | ".join(f"width {width}: share, R2" for width in settings["widths"])
        + " |",
        "|---|---|" + "---|" * len(settings["widths"]),
    ]
    for k, (name, meaning) in enumerate(MEANING.items()):
        values = (
            f"{mean(cells, width, k, 'share'):.2g}, {mean(cells, width, k, 'r2'):.3f}"
            for width in settings["widths"]
        )
        lines.append(f"| {meaning} | {name} | " + " | ".join(values) + " |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    widths = stored["settings"]["widths"]
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for j, width in enumerate(widths):
        shares = [mean(stored["cells"], width, k, "share") for k in range(len(MEANING))]
        places = np.arange(len(MEANING)) + (j - (len(widths) - 1) / 2) * 0.8 / len(widths)
        axis.bar(places, shares, 0.8 / len(widths), label=f"width {width}")
    axis.set_xticks(
        range(len(MEANING)),
        [meaning.replace(" ", "\n", 2) for meaning in MEANING.values()],
        fontsize=9,
    )
    axis.set(yscale="log", ylabel="squares of the term / of the measured drift")
    axis.legend()
    return figure


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/error_budget")
def main(cfg: DictConfig) -> None:
    publish(cfg, "error_budget", check, on_images(cfg, compute), markdown, draw)


if __name__ == "__main__":
    main()
