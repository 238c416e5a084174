"""What a forecast costs beside what it forecasts.

    python scripts/bench/forecast.py            rotated Fashion-MNIST, 5 tasks x 200 images x 10
                                                outputs, width 1024, 2,000 steps a task
    python scripts/bench/forecast.py --quick    digits, width 16, a few steps, to see it run: writes
                                                forecast_quick.{json,md}

Measured: the R matrix of every cell of a grid of methods, and the training of one cell. Claim: the
forecast of the whole grid of `plan.methods`, 31 cells, from loading the kernel's first tile to the
last R matrix, takes less than training one cell. Both in one process, each twice: the first time
programs are compiled, and the second time is what is claimed of. The cell that is trained is plain
sequential training, the cheapest of the grid. Writes forecast.{json,md} under results/bench; exit
code 1 if the claim fails.
"""

import platform
import sys
from importlib.metadata import version
from typing import Any, NamedTuple

import hydra
import jax
from omegaconf import OmegaConf
from publish import command, parser, publish, stem, with_jax

from ntkcl import experiment, planning
from ntkcl.cli.config import CONF, resolve
from ntkcl.cli.parts import grid_of
from ntkcl.planning import grids
from ntkcl.planning.candidate import scores
from ntkcl.resources import Cost, Meter
from ntkcl.training.settings import rate

FULL = [
    "source=fashion_mnist",
    "stream=rotated",
    "stream.same_images=false",
    "network.width=1024",
    "training.steps=2000",
]
QUICK = [
    "stream=rotated",
    "stream.tasks=2",
    "stream.train_per_class=2",
    "stream.test_per_class=1",
    "network.width=16",
    "training.steps=5",
]


def measure(overrides) -> dict:
    """Seconds of the limits and the kernel, of each cell's forecast and scores, of a training: the
    whole grid twice, one cell twice."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=overrides)
    named = resolve(cfg).requests[0].build()
    methods = OmegaConf.to_container(cfg.plan.methods)
    grid, meter = list(grid_of("plan.methods", methods)), Meter()
    compiling = predicted(named, grid, meter)
    again = predicted(named, grid, meter)
    shared, limits, cells = again.shared, again.limits, again.cells
    plain = again.problem.at(rate(named["training"], min(limits)))
    one = planning.Candidate({}, tuple(range(len(plain.tasks))), plain)
    trainings = []
    for _ in range(2):
        measured = scores(planning.measured_outputs(one, shared), one, shared)["average_loss_train"]
        trainings.append(meter.read().seconds)
    return {
        "overrides": overrides,
        "cells": len(cells),
        "seconds": {
            "kernel": again.kernel.seconds,
            "forecast_compiling": compiling.seconds,
            "forecast": again.seconds,
            "train_one_cell": trainings[0],
            "train_one_cell_again": trainings[1],
        },
        "ratio": again.seconds / trainings[1],
        "peak_mib": max(again.kernel.peak_mib, *(cell["peak_mib"] for cell in cells)),
        "naive": {"predicted": cells[0]["predicted_average_loss_train"], "measured": measured},
        "each": cells,
    }


class Predicted(NamedTuple):
    """A grid's forecast: what its cells share, what that cost, and each cell."""

    problem: Any
    shared: planning.SharedKernel
    limits: list[float]
    kernel: Cost
    cells: list[dict]

    @property
    def seconds(self) -> float:
        return self.kernel.seconds + sum(cell["seconds"] for cell in self.cells)


def predicted(named: dict, grid: list, meter: Meter) -> Predicted:
    initialised = experiment.initialise(**named)
    meter.read()  # the untrained network is not counted
    shared = planning.shared_kernel(initialised)
    limits = shared.limits(initialised.problem)
    kernel = meter.read()
    cells = []
    for candidate, outputs in grids.methods(initialised, shared, named["training"], grid):
        loss = scores(outputs, candidate, shared)["average_loss_train"]
        cells.append(
            candidate.coordinates | {"predicted_average_loss_train": loss, **meter.read()._asdict()}
        )
    return Predicted(initialised.problem, shared, limits, kernel, cells)


def markdown(stored: dict) -> str:
    seconds = stored["seconds"]
    lines = [
        "# The price of a forecast",
        "",
        f"`{stored['command']}`: {' '.join(stored['overrides'])}; "
        f"{stored['machine']['cores']} cores, {stored['machine']['processor']}, "
        f"JAX {stored['versions']['jax']}.",
        "",
        "| what | seconds |",
        "|---|---|",
        f"| kernel and limits of the untrained network | {seconds['kernel']:.1f} |",
        f"| with it, the R matrices of {stored['cells']} cells | {seconds['forecast']:.1f} |",
        f"| the same, compilation included | {seconds['forecast_compiling']:.1f} |",
        f"| training one cell, compilation included | {seconds['train_one_cell']:.1f} |",
        f"| training one cell once more | {seconds['train_one_cell_again']:.1f} |",
        "",
        f"All forecasts / one training, compiled: {stored['ratio']:.2f}. "
        f"Peak memory {stored['peak_mib']:.0f} MiB.",
        "",
        "| cell | seconds | predicted average loss |",
        "|---|---|---|",
    ]
    hidden = ("seconds", "peak_mib", "predicted_average_loss_train", "learning_rate")
    for cell in stored["each"]:
        name = ", ".join(
            f"{value}" if key == "method" else f"{key} {value}"
            for key, value in cell.items()
            if key not in hidden
        )
        lines.append(
            f"| {name} | {cell['seconds']:.2f} | {cell['predicted_average_loss_train']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser(__doc__, quick=True)
    given = options.parse_args()
    jax.config.update("jax_enable_x64", True)
    packages = {name: version(name) for name in ("jax", "flax", "optax")}
    stored = measure(QUICK if given.quick else FULL) | {
        "command": command("forecast", options, given),
        "machine": with_jax(),
        "versions": packages | {"python": platform.python_version()},
    }
    publish(given.folder, stem("forecast", given), stored, markdown)
    sys.exit(0 if given.quick or stored["ratio"] < 1 else 1)


if __name__ == "__main__":
    main()
