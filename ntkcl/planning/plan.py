"""One plan: the untrained network, the candidates of a job, their ranking, some of them trained."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ntkcl import experiment
from ntkcl.experiment.scores import PARTS
from ntkcl.experiment.start import Initialised
from ntkcl.planning import grids
from ntkcl.planning.candidate import SharedKernel, shared_kernel
from ntkcl.planning.ranking import SCORES, Ranking, agreement, rank, verified
from ntkcl.resources import Meter
from ntkcl.training.settings import Training
from ntkcl.validation import SettingError, one_of, seed, whole

JOBS = ("orders", "methods", "replay", "lr")
"""What can be planned: names that the setting `job` may have beside `run`."""


def plan(
    job: str,
    named: Mapping[str, Any],
    plan: Mapping[str, Any],
    grid: Sequence,
    say: Callable[[str], None],
) -> tuple[Ranking, dict]:
    """The ranking, and its summary.

    The summary holds the score that ranks, limits of the learning rate, the agreement with what was
    trained, seconds.
    Arguments:
      job: one of `JOBS`.  named: the arguments of `experiment.initialise`.
      plan: `score`, `part`, `verify` (candidates to train besides the best and the worst; None
        trains none), `seed`, and one group of settings for each job.
      grid: the cells of job "methods".
      say: called with a line for each phase.
    Raises ValueError for settings out of range, before anything is computed.
    """
    _check(plan)
    goal, training = {key: plan[key] for key in ("score", "part")}, named["training"]
    experiment.check(named["stream"], named["loss"], training, ())
    if training.optimizer_state == "carry":
        raise SettingError(
            "training.optimizer_state=carry: a plan begins each task at rest; expected reset"
        )
    meter = Meter()
    initialised = experiment.initialise(**named)
    shared = shared_kernel(initialised)
    limits = shared.limits(initialised.problem)
    say(f"limits of the learning rate by task: {', '.join(f'{limit:.5g}' for limit in limits)}")
    candidates = _candidates(job, initialised, shared, training, plan, grid)
    ranking = rank(candidates, shared, **goal)
    seconds = {"forecast": meter.read().seconds}
    say(f"{len(ranking.rows)} candidates predicted in {seconds['forecast']:.1f} s")
    if plan["verify"] is not None:
        for place, longer in verified(ranking, shared, plan["verify"], plan["seed"]):
            say(f"trained number {place + 1}")
            ranking = longer
        seconds["train"] = meter.read().seconds
    summary = {"job": job, "limits": limits, "candidates": len(ranking.rows), "seconds": seconds}
    return ranking, goal | summary | agreement(ranking.rows, **goal)


def _check(plan: Mapping[str, Any]) -> None:
    """ValueError for settings of any job that are out of range."""
    one_of("plan.score", plan["score"], tuple(SCORES))
    one_of("plan.part", plan["part"], PARTS)
    seed("plan.seed", plan["seed"])
    if plan["verify"] is not None:
        whole("plan.verify", plan["verify"], 0)


def _candidates(
    job: str,
    initialised: Initialised,
    shared: SharedKernel,
    training: Training,
    plan: Mapping[str, Any],
    grid: Sequence,
) -> grids.Candidates:
    """The candidates of one job, and their predicted outputs."""
    given = initialised, shared, training
    if job == "orders":
        return grids.orders(*given, **plan["orders"])
    if job == "methods":
        return grids.methods(*given, grid)
    if job == "replay":
        goal = {key: plan[key] for key in ("score", "part")}
        return grids.replay(*given, goal=goal, seed=plan["seed"], **plan["replay"])
    return grids.learning_rates(*given, **plan["lr"])
