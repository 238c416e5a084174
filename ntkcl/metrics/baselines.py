"""What a forecast has to beat: easy guesses at the same drift, and similarities of tasks.

Baselines with units predict drifts and are compared by `skills`. Those without are one number for
each pair of an old task S and a new one t, and are compared by `ranks`: their rank correlation over
the pairs with the measured squared change of S by t. Similarity alone can reach correlations near
-0.9 with forgetting on toy problems: no correlation without these rows. Theory section 11.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl.metrics.agreement import r2, spearman

Drifts = Sequence[np.ndarray]  # [n_S, a_S] by old task


def zero_drift(measured: Drifts) -> list[np.ndarray]:
    """Nothing is forgotten."""
    return [np.zeros_like(m) for m in measured]


def constant_shift(measured: Drifts) -> list[np.ndarray]:
    """The mean **measured** drift of each old task and output.

    An oracle, and the strictest baseline that ignores the inputs.
    """
    return [np.broadcast_to(m.mean(0), m.shape) for m in measured]


def skill_over(measured: Drifts, predicted: Drifts, baseline: Drifts) -> float:
    """1 - sum (m - p)^2 / sum (m - b)^2 over all entries.

    NaN for a value that is not finite, or a baseline without error.
    """
    m, p, b = map(_flat, (measured, predicted, baseline))
    spread = np.sum((m - b) ** 2)
    if not (np.isfinite(m).all() and np.isfinite(p).all() and np.isfinite(spread)) or spread == 0:
        return float("nan")
    return float(1.0 - np.sum((m - p) ** 2) / spread)


def skills(
    measured: Drifts, predicted: Drifts, baselines: Mapping[str, Drifts]
) -> dict[str, dict[str, float]]:
    """For each baseline the forecast's `skill` over it, and the baseline's own `r2`.

    NaN where there is no old task.
    """
    if not measured:
        return {name: {"skill": float("nan"), "r2": float("nan")} for name in baselines}

    def own_r2(drifts):
        m, b = _flat(measured), _flat(drifts)
        return r2(m, b) if np.isfinite(m).all() and np.isfinite(b).all() else float("nan")

    return {
        name: {"skill": skill_over(measured, predicted, drifts), "r2": own_r2(drifts)}
        for name, drifts in baselines.items()
    }


def ranks(
    measured: Float[np.ndarray, "T T"], guesses: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Spearman of each guess [T, T] with the measured squared change of task S by task t, S < t.

    Both have the pair at [S, t].
    NaN for a guess that is constant or has entries missing, and for fewer than three pairs, where
    every order is a good one.
    """
    above = np.triu_indices(len(measured), 1)
    m = measured[above]

    def one(guess):
        g = np.asarray(guess)[above]
        is_finite = np.isfinite(m).all() and np.isfinite(g).all()
        return spearman(m, g) if len(m) > 2 and is_finite else float("nan")

    return {name: one(guess) for name, guess in guesses.items()}


@jax.jit
def energy(block: Float[Array, "n1 a1 n2 a2"]) -> Float[Array, "2"]:
    """|K|_F^2 and |H K H|_F^2 of a block between the (sample, active output) pairs of two tasks.

    H takes off the mean over pairs.
    """
    K = block.reshape(block.shape[0] * block.shape[1], -1)
    centred = K - K.mean(0, keepdims=True) - K.mean(1, keepdims=True) + K.mean()
    return jnp.stack([jnp.sum(K**2), jnp.sum(centred**2)])


def similarity(energies: Float[np.ndarray, "T T"]) -> np.ndarray:
    """E_St / sqrt(E_SS E_tt), in [0, 1], of squared Frobenius norms [S, t] of kernel blocks.

    NaN for a kernel of zeros.
    With E = |K_St|_F^2 the normalised cross energy, an alignment of the covariances J_S^T J_S and
    J_t^T J_t: it needs no inputs in common. With centred blocks the centred kernel alignment (CKA)
    of the same two covariances.
    """
    own = np.sqrt(np.diag(energies))
    with np.errstate(invalid="ignore", divide="ignore"):
        return energies / (own[:, None] * own[None])


def _flat(drifts: Drifts) -> np.ndarray:
    return np.concatenate([drift.ravel() for drift in drifts])
