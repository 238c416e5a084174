"""Candidates ranked by their predicted scores; some of them trained, to measure the ranking."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ntkcl import metrics
from ntkcl.planning.candidate import Candidate, SharedKernel, measured_outputs, scores

SCORES = {"average_loss": 1.0, "forgetting": 1.0, "average_accuracy": -1.0}
"""Scores to rank by, and the sign that makes smaller better."""


class Ranking(NamedTuple):
    """Candidates, best predicted first, and a row for each.

    A row holds the coordinates, `predicted_*` scores, and `measured_*` where it was trained.
    """

    candidates: tuple[Candidate, ...]
    rows: tuple[dict, ...]


def cost(row: dict, score: str, part: str) -> float:
    """The score to go by, smaller is better, NaN last."""
    value = SCORES[score] * row[f"{score}_{part}"]
    return value if value == value else float("inf")


def rank(
    predicted: Iterable[tuple[Candidate, np.ndarray]], shared: SharedKernel, score: str, part: str
) -> Ranking:
    """All candidates by one of `SCORES` of their predicted outputs, on train or test inputs."""
    each = [(candidate, scores(outputs, candidate, shared)) for candidate, outputs in predicted]
    each.sort(key=lambda one: cost(one[1], score, part))
    rows = (
        one.coordinates | {f"predicted_{name}": value for name, value in row.items()}
        for one, row in each
    )
    return Ranking(tuple(candidate for candidate, _ in each), tuple(rows))


def places_to_verify(count: int, verify: int, seed: int) -> list[int]:
    """The best, the worst, and `verify` others at random: places in the ranking."""
    others = np.random.default_rng(seed).permutation(np.arange(1, max(count - 1, 1)))[:verify]
    return sorted({0, count - 1, *others.tolist()})


def verified(
    ranking: Ranking, shared: SharedKernel, verify: int, seed: int
) -> Iterator[tuple[int, Ranking]]:
    """The ranking, with one more candidate trained at each step, and that candidate's place."""
    for k in places_to_verify(len(ranking.rows), verify, seed):
        candidate = ranking.candidates[k]
        of_training = scores(measured_outputs(candidate, shared), candidate, shared)
        measured = {f"measured_{name}": value for name, value in of_training.items()}
        rows = (*ranking.rows[:k], ranking.rows[k] | measured, *ranking.rows[k + 1 :])
        ranking = ranking._replace(rows=rows)
        yield k, ranking


def agreement(rows: Sequence[dict], score: str, part: str) -> dict[str, float | int]:
    """How well predicted and measured scores agree over the candidates that were trained.

    Returns:
      spearman: the rank correlation of predicted with measured scores.
      regret: measured(best predicted) - measured(best); NaN where the best predicted diverged.
      regret_share: the regret as a share of the range of measured scores.
      verified, diverged: how many were trained, and how many of them diverged. Those count in
        neither number.
    A predicted score that is NaN is the worst.
    """
    predicted, measured = _costs(rows, score, part)
    came = np.isfinite(measured)
    counts: dict[str, float | int] = {
        "verified": len(measured),
        "diverged": int(np.sum(~came)),
    }
    if np.sum(came) < 2:
        return counts | dict.fromkeys(("spearman", "regret", "regret_share"), float("nan"))
    has_regret = came[np.argmin(predicted)]
    predicted, measured = predicted[came], measured[came]
    gap = float(measured[np.argmin(predicted)] - measured.min())
    regret = gap if has_regret else float("nan")
    spread = float(np.ptp(measured))
    return counts | {
        "spearman": metrics.spearman(measured, predicted),
        "regret": regret,
        "regret_share": regret / spread if spread > 0 else regret,
    }


def _costs(rows: Sequence[dict], score: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and measured scores of the rows that have both, smaller is better."""
    names = [f"{side}_{score}_{part}" for side in ("predicted", "measured")]
    trained = [row for row in rows if names[1] in row]
    pairs = [[SCORES[score] * row[name] for name in names] for row in trained]
    predicted, measured = np.array(pairs, float).reshape(-1, 2).T
    return np.where(np.isnan(predicted), np.inf, predicted), measured
