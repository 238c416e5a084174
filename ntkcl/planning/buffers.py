"""A buffer for replay that the forecast forgets least with."""

from collections.abc import Callable, Iterator

import numpy as np

from ntkcl.methods import replay
from ntkcl.planning.candidate import Candidate, SharedKernel, predicted_outputs
from ntkcl.training.problem import Problem
from ntkcl.validation import whole


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
    """`draws` random buffers, then the one that a local search from the best of them ends with, each with its outputs [T+1, N, c].

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
        raise ValueError(f"stream.tasks={len(sizes)}: job=replay expected at least 2 tasks")
    rng = np.random.default_rng(seed)

    def candidate(name, picks):
        method = replay(per_task, weight, picks=tuple(tuple(sorted(pick)) for pick in picks))
        return Candidate(
            {"buffer": name}, tuple(range(len(sizes))), problem._replace(method=method)
        )

    def told(name, picks):
        one = candidate(name, picks)
        outputs = predicted_outputs(one, shared)
        return score(one, outputs), picks, outputs

    random = [
        told(f"random {k}", [rng.permutation(n)[:per_task].tolist() for n in sizes])
        for k in range(draws)
    ]
    yield from (
        (candidate(f"random {k}", picks), outputs) for k, (_, picks, outputs) in enumerate(random)
    )
    best = min(random, key=lambda one: one[0])
    for _ in range(proposals):
        t = int(rng.integers(len(sizes) - 1))  # what is kept of the last task is never replayed
        outside = np.setdiff1d(np.arange(sizes[t]), best[1][t])
        if len(outside):
            swapped = [list(pick) for pick in best[1]]
            swapped[t][rng.integers(per_task)] = int(rng.choice(outside))
            tried = told("searched", swapped)
            best = tried if tried[0] < best[0] else best
    yield candidate("searched", best[1]), best[2]
