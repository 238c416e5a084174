"""A plan, once: the untrained network, the candidates of one job, their ranking, some of them trained to see."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ntkcl import experiment
from ntkcl.experiment.scores import PARTS
from ntkcl.planning import grids
from ntkcl.planning.candidate import shared_kernel
from ntkcl.planning.ranking import SCORES, Ranking, agreement, rank, verified
from ntkcl.resources import Meter
from ntkcl.validation import one_of, seed, whole

JOBS = ("orders", "methods", "replay", "lr")


def plan(
    job: str,
    named: Mapping[str, Any],
    plan: Mapping[str, Any],
    grid: Sequence,
    say: Callable[[str], None],
) -> tuple[Ranking, dict]:
    """The ranking, and its summary: the score gone by, limits of the learning rate, agreement with what was trained, seconds.

    Arguments:
      job: one of `JOBS`.  named: the arguments of `experiment.initialise`.
      plan: `score`, `part`, `verify` (candidates to train besides the best and the worst; None
        trains none), `seed`, and one group of settings for each job.
      grid: the cells of job "methods".
      say: is told what is being done.
    Raises ValueError for settings out of range, before anything is computed.
    """
    one_of("plan.score", plan["score"], tuple(SCORES))
    one_of("plan.part", plan["part"], PARTS)
    seed("plan.seed", plan["seed"])
    if plan["verify"] is not None:
        whole("plan.verify", plan["verify"], 0)
    goal, training = {key: plan[key] for key in ("score", "part")}, named["training"]
    experiment.check(named["stream"], named["loss"], training, ())
    if training.optimizer_state == "carry":
        raise ValueError(
            "training.optimizer_state=carry: a plan begins each task at rest; expected reset"
        )
    meter = Meter()
    initialised = experiment.initialise(**named)
    shared = shared_kernel(initialised)
    limits = shared.limits(initialised.problem)
    say(f"limits of the learning rate by task: {', '.join(f'{limit:.5g}' for limit in limits)}")
    told = {
        "orders": lambda: grids.orders(initialised, shared, training, **plan["orders"]),
        "methods": lambda: grids.methods(initialised, shared, training, grid),
        "replay": lambda: grids.replay(
            initialised, shared, training, seed=plan["seed"], **goal, **plan["replay"]
        ),
        "lr": lambda: grids.learning_rates(initialised, shared, training, **plan["lr"]),
    }[job]()
    ranking = rank(told, shared, **goal)
    seconds = {"forecast": meter.read().seconds}
    say(f"{len(ranking.rows)} candidates predicted in {seconds['forecast']:.1f} s")
    if plan["verify"] is not None:
        for place, longer in verified(ranking, shared, plan["verify"], plan["seed"]):
            say(f"trained number {place + 1}")
            ranking = longer
        seconds["train"] = meter.read().seconds
    return ranking, goal | {
        "job": job,
        "limits": limits,
        "candidates": len(ranking.rows),
        "seconds": seconds,
    } | agreement(ranking.rows, **goal)
