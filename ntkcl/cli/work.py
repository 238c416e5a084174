"""A run or a plan that is being made: its request, its parts, and what they are in words."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import jax

from ntkcl import compilation, whatif
from ntkcl.cli.config import Request
from ntkcl.resources import Cost, Meter
from ntkcl.runs.identity import RUN_JOBS, Run
from ntkcl.types import Stream

LEARNER = ("network", "loss", "optimizer", "method")
"""The parts that know nothing of data and seeds."""


class Work(NamedTuple):
    """A run that is being made: the request, the parts it names, what building them cost."""

    request: Request
    parts: dict[str, Any]
    setup: Cost

    @property
    def run(self) -> Run:
        return self.request.run

    @property
    def stream(self) -> Stream:
        return self.parts["stream"]


def build(request: Request) -> Work:
    """The parts that a request names, data included."""
    meter = Meter()
    return Work(request, request.build(), meter.read())


def sharing(works: Sequence[Work]) -> list[Work]:
    """The same, with functions that are one object where their settings are the same: seeds that
    are trained as one share a program, and functions of one's own are made anew at each call."""
    first = works[0]
    made = []
    for work in works:
        same = {
            group: first.parts[group]
            for group in LEARNER
            if getattr(work.request.nodes, group) == getattr(first.request.nodes, group)
        }
        made.append(work._replace(parts=work.parts | same))
    return made


def inputs(stream: Stream) -> int:
    """How many inputs a stream has."""
    return sum(len(task.train.x) + len(task.test.x) for task in stream)


def description(work: Work) -> dict[str, str]:
    """What is run: the data and tasks, the network, how it is trained, the method."""
    run, stream, network = work.run, work.stream, work.parts["network"]
    choices = run.choices
    shape = f" of width {run.width}" if run.width is not None else ""
    with suppress(Exception):  # of a network of one's own that only takes numbers; it is but a line
        one = compilation.one_of(stream[0].train.x)
        theta = jax.eval_shape(network.init, work.parts["key"], one)
        shape += f", {sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(theta)):,} parameters"
    data = f"{work.request.source}, {len(stream)} tasks ({choices['stream']})"
    learner = f"{choices['loss']}, {choices['optimizer']}"
    return {
        "data": f"{data}, {inputs(stream):,} inputs",
        "network": f"{choices['network']}{shape}",
        "training": f"{learner}, {_steps(work)}" if run.job in (*RUN_JOBS, whatif.JOB) else learner,
        "method": _methods(work) or choices["method"],
    }


def _methods(work: Work) -> str:
    """Those that job=whatif asks about, by name."""
    asked = work.request.grid() if work.run.job == whatif.JOB else []
    return ", ".join(dict.fromkeys(at["method"] for at, _ in asked))


def _steps(work: Work) -> str:
    """How long each task is trained, on what batches."""
    training = work.parts["training"]
    length = f"{training.steps} steps" if training.epochs is None else f"{training.epochs:g} epochs"
    batch = "full batches" if training.batch_size is None else f"batches of {training.batch_size}"
    return f"{length} a task, {batch}"
