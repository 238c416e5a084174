"""The forms that one layer's term of the structured kernel takes: what is kept, what is computed.

With z[p] = phi[p] . leaf at position p, delta[p] = df/dz[p] and M^a = sum_p phi[p] (x) delta^a[p],

    <M_i^a, M_j^b> = sum_{p,q} (phi_i[p] . phi_j[q]) (delta_i^a[p] . delta_j^b[q]).

Each form is a NamedTuple of arrays with the samples in front. `term.gram(other, shared)` gives
[n1, c, n2, c], where `shared` is what the layer keeps once for all samples, None in most forms.
`term.work(c)` counts the multiply-adds of one pair of samples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntkcl.kernels.contraction import signals_gram
from ntkcl.kernels.kernel import strips

# Building M costs c P k m multiply-adds a sample, shared by all the pairs that the sample takes
# part in; we count on as many partners as this.
PARTNERS = 64


class GradientTerm(NamedTuple):
    """M [n, c, s], the gradients themselves: cheaper where there are many positions."""

    M: Any

    def gram(self, other: "GradientTerm", shared=None):
        return signals_gram(self.M, other.M)

    def work(self, c: int) -> int:
        return c**2 * self.M.shape[-1]


class PositionsTerm(NamedTuple):
    """phi [n, P, k] and delta [n, c, P, m]: the right-hand side, position by position."""

    phi: Any
    delta: Any

    def gram(self, other: "PositionsTerm", shared=None):
        def at(p, q):
            signals = signals_gram(self.delta[:, :, p], other.delta[:, :, q])
            return _inputs_gram(self.phi[:, p], other.phi[:, q]) * signals

        def add(total, pq):
            return total + at(*pq), None

        P = self.phi.shape[1]
        if P == 1:
            return at(0, 0)
        pairs = jnp.stack(jnp.meshgrid(jnp.arange(P), jnp.arange(P)), -1).reshape(-1, 2)
        return jax.lax.scan(add, jnp.zeros_like(at(0, 0)), pairs)[0]

    def work(self, c: int) -> int:
        positions, k = self.phi.shape[1:]
        return positions**2 * (k + c**2 * self.delta.shape[-1])


class CommutingTerm(NamedTuple):
    """phi [n, k] and delta [n, c, m] of one position, where delta_i^a . delta_j^b is symmetric in
    a and b (`ntkcl.kernels.commuting`), so that half of the products are enough."""

    phi: Any
    delta: Any

    def gram(self, other: "CommutingTerm", shared=None):
        signals = _symmetric_gram(self.delta, other.delta)
        return _inputs_gram(self.phi, other.phi) * signals

    def work(self, c: int) -> int:
        made = sum(length * (c - first) for first, length in strips(c))
        return self.phi.shape[-1] + made * self.delta.shape[-1]


class ReadoutTerm(NamedTuple):
    """phi [n, k] of one position, where delta is the same for all inputs, as in a readout: of it
    only the Gram matrix [c, c] is kept, in `shared`."""

    phi: Any

    def gram(self, other: "ReadoutTerm", shared):
        return _inputs_gram(self.phi, other.phi) * shared[None, :, None, :]

    def work(self, c: int) -> int:
        return self.phi.shape[-1]


Term = GradientTerm | PositionsTerm | CommutingTerm | ReadoutTerm

# One sample's phi [P, G, k] and delta [c, P, G, m] in one of the forms.
Form = Callable[[Any, Any], Term]


def cheaper(phi, delta) -> Term:
    """The form that takes fewer multiply-adds, by its shapes."""
    (positions, groups, k), (c, m) = phi.shape, (delta.shape[0], delta.shape[-1])
    by_positions = positions**2 * groups * (k + c**2 * m)
    by_gradients = groups * k * m * (c**2 + 2 * c * positions / PARTNERS)
    if groups == 1 and by_positions <= by_gradients:
        return PositionsTerm(phi[:, 0], delta[:, :, 0])
    return GradientTerm(jnp.einsum("pgk,cpgm->cgkm", phi, delta).reshape(c, -1))


def commuting(phi, delta) -> Term:
    """For a layer of one position whose signals commute."""
    return CommutingTerm(phi[0, 0], delta[:, 0, 0])


def readout(phi, delta) -> Term:
    """For a layer of one position whose signals are the same for all inputs."""
    return ReadoutTerm(phi[0, 0])


def shared_gram(delta):
    """delta^a . delta^b [c, c] of one position: what a `ReadoutTerm` shares."""
    return jnp.dot(delta[:, 0, 0], delta[:, 0, 0].T)


def _inputs_gram(phi1, phi2):
    """phi_i . phi_j of one position, [n1, 1, n2, 1]."""
    return jnp.dot(phi1, phi2.T)[:, None, :, None]


def _symmetric_gram(u, v):
    """`signals_gram` of signals [n, c, m] that commute: strips of outputs on and above the
    diagonal, the others mirrored."""
    made = [
        (first, length, signals_gram(u[:, first : first + length], v[:, first:]))
        for first, length in strips(u.shape[1])
    ]

    def mirrored(first, length, above, strip):
        return strip[..., first - above : first - above + length].transpose(0, 3, 2, 1)

    def whole_strip(i):
        first, length, strip = made[i]
        before = [mirrored(first, length, above, other) for above, _, other in made[:i]]
        return jnp.concatenate([*before, strip], -1)

    return jnp.concatenate([whole_strip(i) for i in range(len(made))], 1)
