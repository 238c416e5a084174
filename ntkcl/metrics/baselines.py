"""What a forecast has to beat before it may be called one: easy guesses at the same drift, and similarities of tasks.

Baselines with units foretell drifts and are compared by `skills`; those without, one number a pair of an old task S and a new one t,
by their rank correlation over the pairs with the measured squared change of S by t, `ranks`. Similarity alone can reach correlations
near -0.9 with forgetting on toy problems: no correlation without these rows. Theory section 11.
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
    """The mean **measured** drift of each old task and output: an oracle, the strictest that ignores the inputs."""
    return [np.broadcast_to(m.mean(0), m.shape) for m in measured]


def skill_over(measured: Drifts, predicted: Drifts, baseline: Drifts) -> float:
    """1 - sum (m - p)^2 / sum (m - b)^2 over all entries; NaN for a value that is not finite, or a baseline without error."""
    m, p, b = (
        np.concatenate([d.ravel() for d in drifts]) for drifts in (measured, predicted, baseline)
    )
    spread = np.sum((m - b) ** 2)
    if not (np.isfinite(m).all() and np.isfinite(p).all() and np.isfinite(spread)) or spread == 0:
        return float("nan")
    return float(1.0 - np.sum((m - p) ** 2) / spread)


def skills(
    measured: Drifts, predicted: Drifts, baselines: Mapping[str, Drifts]
) -> dict[str, dict[str, float]]:
    """For each baseline the forecast's `skill` over it, and the baseline's own `r2`; NaN where there is no old task."""
    if not measured:
        return {name: {"skill": float("nan"), "r2": float("nan")} for name in baselines}
    flat = np.concatenate([m.ravel() for m in measured])
    own = {name: np.concatenate([b.ravel() for b in drifts]) for name, drifts in baselines.items()}
    return {
        name: {
            "skill": skill_over(measured, predicted, drifts),
            "r2": r2(flat, own[name])
            if np.isfinite(flat).all() and np.isfinite(own[name]).all()
            else float("nan"),
        }
        for name, drifts in baselines.items()
    }


def ranks(
    measured: Float[np.ndarray, "T T"], guesses: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Spearman of each guess [T, T] with the measured squared change of task S by task t at [S, t], over S < t.

    NaN for a guess that is constant or has entries missing, and for fewer than three pairs, where every order is a good one.
    """
    above = np.triu_indices(len(measured), 1)
    m = measured[above]

    def one(guess):
        g = np.asarray(guess)[above]
        return (
            spearman(m, g)
            if len(m) > 2 and np.isfinite(m).all() and np.isfinite(g).all()
            else float("nan")
        )

    return {name: one(guess) for name, guess in guesses.items()}


@jax.jit
def energy(block: Float[Array, "n1 a1 n2 a2"]) -> Float[Array, "2"]:
    """|K|_F^2 and |H K H|_F^2 of a block between the (sample, active output) pairs of two tasks, H taking off the mean over pairs."""
    K = block.reshape(block.shape[0] * block.shape[1], -1)
    centred = K - K.mean(0, keepdims=True) - K.mean(1, keepdims=True) + K.mean()
    return jnp.stack([jnp.sum(K**2), jnp.sum(centred**2)])


def similarity(energies: Float[np.ndarray, "T T"]) -> np.ndarray:
    """E_St / sqrt(E_SS E_tt), in [0, 1], of squared Frobenius norms [S, t] of kernel blocks; NaN for a kernel of zeros.

    With E = |K_St|_F^2 the normalised cross energy, an alignment of the covariances J_S^T J_S and J_t^T J_t: it needs no inputs in
    common. With centred blocks the centred kernel alignment (CKA) of the same two covariances.
    """
    own = np.sqrt(np.diag(energies))
    with np.errstate(invalid="ignore", divide="ignore"):
        return energies / (own[:, None] * own[None])
