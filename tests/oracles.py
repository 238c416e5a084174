"""Slow, dense, obvious: what the fast code is compared with."""

import jax
import numpy as np


def train_linear(phis, ys, theta, rate, steps):
    """GD on (1/2) sum (phi theta - y)^2, task after task, in a plain loop. Returns theta after each
    task."""
    history = []
    for phi, y in zip(phis, ys, strict=True):
        for _ in range(steps):
            theta = theta - rate * phi.T @ (phi @ theta - y)
        history.append(theta)
    return history


def kernel(apply, theta, x1, x2):
    """K[i, a, j, b], one pair of inputs and one pair of outputs at a time."""
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    f = jax.jit(jax.jacrev(lambda v, x: apply(unravel(v), x)))
    j1, j2 = ([np.asarray(f(flat, x)) for x in xs] for xs in (x1, x2))
    c = j1[0].shape[0]
    K = np.zeros((len(x1), c, len(x2), c))
    for i, a, j, b in np.ndindex(*K.shape):
        K[i, a, j, b] = j1[i][a] @ j2[j][b]
    return K


def two_teachers(e, n_a, n_b, rho):
    """Kernel regression on two teachers in turn, kernel eigenvalues e: E_A after A, E_B after B,
    E_A after B (theory, section 10)."""

    def learning(n):
        low, high = 0.0, e.sum()  # kappa solves n = sum e / (kappa + e), which falls in kappa
        for _ in range(200):
            kappa = (low + high) / 2
            low, high = (kappa, high) if np.sum(e / (kappa + e)) > n else (low, kappa)
        return kappa, kappa / (kappa + e)

    (kappa_a, p), (kappa_b, q) = learning(n_a), learning(n_b)
    gamma = np.sum((1 - q) ** 2) / n_b
    forward = kappa_b * n_b + (1 - 2 * rho) / (1 - gamma) * np.sum(q**2 * e * (1 - p))
    kept = (
        1 + q**2 * (1 - p) + (1 - q) ** 2 - 2 * q * (1 - p) - 2 * rho * (1 - q) * (1 - q * (1 - p))
    )
    return kappa_a * n_a, forward, np.sum(e * kept) + gamma * forward
