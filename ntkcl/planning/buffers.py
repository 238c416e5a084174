"""Buffers for replay: random ones, and one searched for with the least predicted forgetting."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ntkcl.methods import replay
from ntkcl.planning.candidate import Candidate, SharedKernel, predicted_outputs
from ntkcl.training.problem import Problem
from ntkcl.validation import SettingError, whole


def searched_buffers(
    problem: Problem,
    shared: SharedKernel,
    score: Callable[[Candidate, np.ndarray], float],
    *,
    per_task: int,
    weight: float | int = 1.0,
    draws: int = 10,
    proposals: int = 100,
    seed: int = 0,
) -> Iterator[tuple[Candidate, np.ndarray]]:
    """`draws` random buffers, then the one that a local search from the best of them ends with.

    Each comes with its predicted outputs [T+1, N, c].
    The search puts one sample of a task in the place of another of the same task, both at random,
    `proposals` times, and keeps what lowers the predicted score.

    Arguments:
      score: `score(candidate, outputs)`, smaller is better.
      per_task, weight: of `ntkcl.methods.replay`, `per_task` at most the samples of the smallest
        task.
    """
    whole("plan.replay.draws", draws)
    whole("plan.replay.proposals", proposals, 0)
    sizes = [len(task.inputs) for task in problem.tasks]
    if len(sizes) < 2:
        raise SettingError(f"stream.tasks={len(sizes)}: job=replay expected at least 2 tasks")
    rng = np.random.default_rng(seed)

    def candidate(name, picks):
        method = replay(per_task, weight, picks=tuple(tuple(sorted(pick)) for pick in picks))
        order = tuple(range(len(sizes)))
        return Candidate({"buffer": name}, order, problem._replace(method=method))

    def scored(name, picks):
        one = candidate(name, picks)
        outputs = predicted_outputs(one, shared)
        return _Scored(score(one, outputs), picks, one, outputs)

    random = []
    for k in range(draws):
        picks = [rng.permutation(n)[:per_task].tolist() for n in sizes]
        random.append(scored(f"random {k}", picks))
    yield from ((one.candidate, one.outputs) for one in random)
    best = min(random, key=lambda one: one.cost)
    for _ in range(proposals):
        swapped = _swapped(rng, best.picks, sizes)
        if swapped is not None:
            tried = scored("searched", swapped)
            best = tried if tried.cost < best.cost else best
    yield candidate("searched", best.picks), best.outputs


class _Scored(NamedTuple):
    """A buffer, its picks by task, with its cost, smaller is better, and predicted outputs."""

    cost: float
    picks: list[list[int]]
    candidate: Candidate
    outputs: np.ndarray


def _swapped(rng, picks: list[list[int]], sizes: list[int]) -> list[list[int]] | None:
    """The picks with one sample of a task replaced by another; None for a task that is kept whole.

    Never of the last task: what is kept of it is not replayed.
    """
    t = int(rng.integers(len(sizes) - 1))
    outside = np.setdiff1d(np.arange(sizes[t]), picks[t])
    if not len(outside):
        return None
    swapped = [list(pick) for pick in picks]
    swapped[t][rng.integers(len(swapped[t]))] = int(rng.choice(outside))
    return swapped
