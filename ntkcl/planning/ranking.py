"""Candidates in a row, best first by what was predicted; some of them trained to see."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ntkcl import metrics
from ntkcl.planning.candidate import Candidate, SharedKernel, measured_outputs, scores

SCORES = {
    "average_loss": 1.0,
    "forgetting": 1.0,
    "average_accuracy": -1.0,
}  # and the sign that makes smaller better


class Ranking(NamedTuple):
    """`rows`, best predicted first: the coordinates, `predicted_*` scores, and `measured_*` for those that were trained."""

    candidates: tuple[Candidate, ...]
    rows: tuple[dict, ...]


def cost(row: dict, score: str, part: str) -> float:
    """The score to go by, smaller is better, NaN last."""
    value = SCORES[score] * row[f"{score}_{part}"]
    return value if value == value else float("inf")


def rank(
    told: Iterable[tuple[Candidate, np.ndarray]], shared: SharedKernel, score: str, part: str
) -> Ranking:
    """All candidates by one of `SCORES` of their predicted outputs, on train or test inputs."""
    each = [(candidate, scores(outputs, candidate, shared)) for candidate, outputs in told]
    each.sort(key=lambda one: cost(one[1], score, part))
    rows = (
        one.coordinates | {f"predicted_{name}": value for name, value in row.items()}
        for one, row in each
    )
    return Ranking(tuple(candidate for candidate, _ in each), tuple(rows))


def chosen(count: int, verify: int, seed: int) -> list[int]:
    """The best, the worst, and `verify` others at random: places in the ranking."""
    others = np.random.default_rng(seed).permutation(np.arange(1, max(count - 1, 1)))[:verify]
    return sorted({0, count - 1, *others.tolist()})


def verified(
    ranking: Ranking, shared: SharedKernel, verify: int, seed: int
) -> Iterator[tuple[int, Ranking]]:
    """The ranking, with one more candidate trained at each step, and that candidate's place."""
    for k in chosen(len(ranking.rows), verify, seed):
        candidate = ranking.candidates[k]
        measured = {
            f"measured_{name}": value
            for name, value in scores(
                measured_outputs(candidate, shared), candidate, shared
            ).items()
        }
        rows = (*ranking.rows[:k], ranking.rows[k] | measured, *ranking.rows[k + 1 :])
        ranking = ranking._replace(rows=rows)
        yield k, ranking


def agreement(rows: Sequence[dict], score: str, part: str) -> dict[str, float | int]:
    """Over the candidates that were trained: Spearman of predicted with measured scores, and the regret of the best predicted one,
    measured(best predicted) - measured(best), itself and as a share of the range of measured
    scores. `diverged` of them count in neither, and where one of these was predicted to be the
    best, the regret is unknown. A predicted score that is NaN is the worst."""
    names = [f"{side}_{score}_{part}" for side in ("predicted", "measured")]
    pairs = np.array(
        [[SCORES[score] * row[name] for name in names] for row in rows if names[1] in row], float
    ).reshape(-1, 2)
    pairs[:, 0] = np.where(np.isnan(pairs[:, 0]), np.inf, pairs[:, 0])
    came = np.isfinite(pairs[:, 1])
    predicted, measured = pairs[came].T
    told: dict[str, float | int] = {"verified": len(pairs), "diverged": int(np.sum(~came))}
    if len(measured) < 2:
        return told | dict.fromkeys(("spearman", "regret", "regret_share"), float("nan"))
    best = came[np.argmin(pairs[:, 0])]
    regret = float(measured[np.argmin(predicted)] - measured.min()) if best else float("nan")
    spread = float(np.ptp(measured))
    share = regret / spread if spread > 0 else regret
    return told | {
        "spearman": metrics.spearman(measured, predicted),
        "regret": regret,
        "regret_share": share,
    }
