"""The kernel by layers: a layer that is affine in its parameters has Jacobians that are sums of outer products.

With z[p] = phi[p] . leaf at position p (one position for a vector, one a pixel or a token otherwise) and delta[p] = df/dz[p],

    df_a/dleaf = M^a = sum_p phi[p] (x) delta^a[p],
    <M_i^a, M_j^b> = sum_{p,q} (phi_i[p] . phi_j[q]) (delta_i^a[p] . delta_j^b[q]).

The right-hand side needs no Jacobian: for a dense net of width n it saves a factor of about n. Where there are many positions the left
is cheaper, so each layer takes the form that costs less. Leaves that are not in such a layer (scales of a norm, embeddings, parameters
used twice in different ways) enter with their exact Jacobians.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntkcl.kernels.checks import check
from ntkcl.kernels.commuting import commutes
from ntkcl.kernels.contraction import signals_gram
from ntkcl.kernels.kernel import Factors, Kernel, Work, factored, forward_work, network_of, strips

# Building M costs c P k m multiply-adds a sample, shared by all the pairs it takes part in; we count on as many partners as this.
PARTNERS = 64


def structured(network: Any) -> Kernel:
    """K[i, a, j, b] = sum over layers of <M_i^a, M_j^b>, by the cheaper of two exact forms, plus the other leaves' contraction.

    Arguments: a network with taps, such as any linen module's (`ntkcl.networks.network`).
    Returns: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]` in the parameters' floating type.
    Cost: (n1 + n2) c backward passes, and a layer of k inputs, m outputs and P positions n1 n2 times the smaller of
      P^2 (k + c^2 m) and c^2 k m multiply-adds; memory for the block and (n1 + n2) c P m or (n1 + n2) c k m numbers.
    Raises ValueError for a network without taps, and as `ntkcl.kernels.checks.check` does.
    Source: Novak, Sohl-Dickstein, Schoenholz 2022, section 3.3 (structured derivatives).
    """

    def pair(a, b):
        return sum(by_layer(a, b).values())

    factors = layer_factors(network)

    def work(theta, x):
        forward, c, _ = forward_work(network, theta, x)
        terms = jax.eval_shape(factors, theta, x[:1]).samples.values()
        return Work((1 + c) * forward, sum(_pair_work(term, c) for term in terms))

    return factored("structured", network, factors, pair, work)


def layers(network: Any):
    """`kernels_fn(theta, x1, x2=None) -> {layer: [n1, c, n2, c]}`: the terms that `structured` adds up, which of them interferes.

    Leaves outside of affine layers come together under "rest". No tiles: for blocks that fit into memory several times.
    """
    kernel = structured(network)
    factors = kernel.factors

    @jax.jit
    @jax.default_matmul_precision("highest")
    def split(a, b):
        return by_layer(a, b)

    def kernels_fn(theta, x1, x2=None):
        check(network, theta, x1, x2)
        a = factors(theta, x1)
        return split(a, a if x2 is None else factors(theta, x2))

    return kernels_fn


class Term(NamedTuple):
    """One layer's factors: phi [n, P, k] and delta [n, c, P, m]; or M [n, c, s] as delta, phi None; or phi alone, where delta is
    the same for all inputs (a readout's) and only its Gram matrix [c, c] is kept, among the shared factors."""

    phi: Any
    delta: Any


class CommutingTerm(NamedTuple):
    """phi [n, 1, k] and delta [n, c, 1, m] of a layer whose signals commute (`ntkcl.kernels.commuting`)."""

    phi: Any
    delta: Any


def layer_factors(network: Any):
    """`factors(theta, x) -> Factors({layer: Term or CommutingTerm}, {readout: [c, c]})`."""
    taps = network_of(network).taps
    if taps is None:
        raise ValueError(
            "structured kernel: this network has no taps; use kernels.contraction or kernels.vector_products"
        )

    def factors(theta, x):
        survey = taps.survey(theta, x[0])
        dtype = jnp.result_type(*jax.tree.leaves(theta))
        leaves, tree = jax.tree.flatten(theta)

        def outputs(probes, rest, one):
            full = list(leaves)
            for i, leaf in zip(survey.rest, rest, strict=True):
                full[i] = leaf
            f, phi, _ = taps.read(survey.layers, jax.tree.unflatten(tree, full), probes, one)
            return f, phi

        names = ["/".join(layer) for layer in survey.layers] + ["rest"] * bool(survey.rest)
        if len(set(names)) < len(names):
            raise ValueError(
                f'structured kernel: two layers share a name among {", ".join(names)}; rename one, "rest" is taken'
            )

        shapes = jax.eval_shape(lambda: taps.read(survey.layers, theta, {}, x[0])[2])
        zeros = jax.tree.map(lambda z: jnp.zeros(z.shape, z.dtype), shapes)
        rest = [leaves[i] for i in survey.rest]

        def derivatives(one):
            (delta, jacobian), phi = jax.jacrev(outputs, (0, 1), has_aux=True)(zeros, rest, one)
            # The calls of a layer that runs several times are so many more positions.
            phi = {layer: jnp.concatenate(calls, 0).astype(dtype) for layer, calls in phi.items()}
            delta = {
                layer: jnp.concatenate(calls, 1).astype(dtype) for layer, calls in delta.items()
            }
            return phi, delta, [j.reshape(j.shape[0], -1).astype(dtype) for j in jacobian]

        def varying():
            """The layers whose delta depends on the input, as told by vmap, which knows what it had to batch."""
            layers = set()

            @jax.custom_batching.custom_vmap
            def told(delta):
                return delta

            @told.def_vmap
            def _(_, batched, delta):
                layers.update(layer for layer, depends in batched[0].items() if depends)
                return delta, batched[0]

            jax.eval_shape(jax.vmap(lambda one: told(derivatives(one)[1])), x)
            return layers

        def commuting(layer, readout):
            def f(z, probe):
                return taps.read(survey.layers, theta, {layer: [z], readout: [probe]}, x[0])[0]

            return commutes(f, zeros[layer][0], zeros[readout][0])

        single = [layer for layer in survey.layers if _one_position(shapes[layer])]
        depends = varying() if single else ()
        readouts = [layer for layer in single if layer not in depends]
        halved = [
            layer
            for layer in single
            if layer not in readouts and any(commuting(layer, r) for r in readouts)
        ]

        def term(layer, phi, delta):
            if layer in readouts:
                return Term(phi[:, 0], None)
            return (
                CommutingTerm(phi[:, 0], delta[:, :, 0]) if layer in halved else _term(phi, delta)
            )

        def one_sample(one):
            phi, delta, jacobian = derivatives(one)
            terms = {
                "/".join(layer): term(layer, phi[layer], delta[layer]) for layer in survey.layers
            }
            terms |= {"rest": Term(None, jnp.concatenate(jacobian, -1))} if rest else {}
            return terms, {"/".join(layer): gram(delta[layer]) for layer in readouts}

        def gram(delta):
            return jnp.dot(delta[:, 0, 0], delta[:, 0, 0].T)

        return Factors(*jax.vmap(one_sample, out_axes=(0, None))(x))

    return factors


def _one_position(calls):
    return len(calls) == 1 and calls[0].shape[:2] == (1, 1)


def _term(phi, delta):
    """The cheaper form for one sample's phi [P, G, k] and delta [c, P, G, m]."""
    (positions, groups, k), (c, m) = phi.shape, (delta.shape[0], delta.shape[-1])
    by_positions = positions**2 * groups * (k + c**2 * m)
    by_gradients = groups * k * m * (c**2 + 2 * c * positions / PARTNERS)
    if groups == 1 and by_positions <= by_gradients:
        return Term(phi[:, 0], delta[:, :, 0])
    return Term(None, jnp.einsum("pgk,cpgm->cgkm", phi, delta).reshape(c, -1))


def _pair_work(term, c):
    """Multiply-adds of one pair of samples in the form the term took, as in `_layer`."""
    if term.phi is None:
        return c**2 * term.delta.shape[-1]
    positions, k = term.phi.shape[1:]
    if isinstance(term, CommutingTerm):
        return k + sum(length * (c - first) for first, length in strips(c)) * term.delta.shape[-1]
    return positions**2 * (k + (c**2 * term.delta.shape[-1] if term.delta is not None else 0))


def by_layer(a: Factors, b: Factors):
    """{layer: [n1, c, n2, c]}."""
    return {
        layer: _layer(a.samples[layer], b.samples[layer], a.shared.get(layer))
        for layer in a.samples
    }


def _commuting_gram(u, v):
    """`signals_gram` of signals [n, c, m] that commute: strips of outputs on and above the diagonal, the others mirrored."""
    made = [
        (first, length, signals_gram(u[:, first : first + length], v[:, first:]))
        for first, length in strips(u.shape[1])
    ]

    def mirrored(first, length, above, strip):
        return strip[..., first - above : first - above + length].transpose(0, 3, 2, 1)

    return jnp.concatenate(
        [
            jnp.concatenate(
                [*(mirrored(first, length, above, other) for above, _, other in made[:i]), strip],
                -1,
            )
            for i, (first, length, strip) in enumerate(made)
        ],
        1,
    )


def _layer(a: Term | CommutingTerm, b: Term | CommutingTerm, shared=None):
    if a.delta is None:
        return jnp.dot(a.phi[:, 0], b.phi[:, 0].T)[:, None, :, None] * shared[None, :, None, :]
    if a.phi is None:
        return signals_gram(a.delta, b.delta)

    if isinstance(a, CommutingTerm):
        return jnp.dot(a.phi[:, 0], b.phi[:, 0].T)[:, None, :, None] * _commuting_gram(
            a.delta[:, :, 0], b.delta[:, :, 0]
        )

    def at(p, q):
        inputs = jnp.dot(a.phi[:, p], b.phi[:, q].T)
        return inputs[:, None, :, None] * signals_gram(a.delta[:, :, p], b.delta[:, :, q])

    positions = a.phi.shape[1]
    if positions == 1:
        return at(0, 0)
    pairs = jnp.stack(jnp.meshgrid(jnp.arange(positions), jnp.arange(positions)), -1).reshape(-1, 2)
    return jax.lax.scan(lambda total, pq: (total + at(*pq), None), jnp.zeros_like(at(0, 0)), pairs)[
        0
    ]
