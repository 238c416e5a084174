"""The kernel by layers, whose Jacobians are sums of outer products.

A layer that is affine in its parameters computes z[p] = phi[p] . leaf at position p: one position
for a vector, one a pixel or a token otherwise. With delta[p] = df/dz[p],

    df_a/dleaf = M^a = sum_p phi[p] (x) delta^a[p],
    <M_i^a, M_j^b> = sum_{p,q} (phi_i[p] . phi_j[q]) (delta_i^a[p] . delta_j^b[q]).

The right-hand side needs no Jacobian: for a dense net of width n it saves a factor of about n.
Where there are many positions the left-hand side is cheaper, so each layer takes the form that
costs less (`ntkcl.kernels.layer_terms`). Leaves that are not in such a layer (scales of a norm,
embeddings, parameters used twice in different ways) enter with their exact Jacobians.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntkcl.compilation import portable
from ntkcl.kernels.checks import check
from ntkcl.kernels.commuting import commutes
from ntkcl.kernels.kernel import Factors, Kernel, Work, factored, forward_work, network_of
from ntkcl.kernels.layer_terms import (
    Form,
    GradientTerm,
    cheaper,
    commuting,
    readout,
    shared_gram,
)
from ntkcl.types import Params, Survey, Taps
from ntkcl.validation import SettingError


def structured(network: Any) -> Kernel:
    """The kernel as a sum over layers, each by the cheaper of two exact forms.

        K[i, a, j, b] = sum over layers of <M_i^a, M_j^b>, plus the other leaves' contraction

    Arguments: a network with taps, such as any linen module's (`ntkcl.networks.network`).
    Returns: `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]` in the parameters' floating type.
    Cost: (n1 + n2) c backward passes, and a layer of k inputs, m outputs and P positions n1 n2
      times the smaller of P^2 (k + c^2 m) and c^2 k m multiply-adds; memory for the block and
      (n1 + n2) c P m or (n1 + n2) c k m numbers.
    Raises ValueError for a network without taps, and as `ntkcl.kernels.checks.check` does.
    Source: Novak, Sohl-Dickstein, Schoenholz 2022, section 3.3 (structured derivatives).
    """

    def pair(a, b):
        return sum(by_layer(a, b).values())

    taps = taps_of(network)

    def work(theta, x):
        forward, c, _ = forward_work(network, theta, x)
        terms = jax.eval_shape(factors, taps, theta, x[:1]).samples.values()
        return Work((1 + c) * forward, sum(term.work(c) for term in terms))

    return factored("structured", network, taps, factors, pair, work)


def layers(network: Any) -> Callable[..., dict[str, Any]]:
    """`kernels_fn(theta, x1, x2=None) -> {layer: [n1, c, n2, c]}`, the terms of `structured`: which
    layer interferes.

    Leaves outside of affine layers come together under "rest". There are no tiles: this is for
    blocks that fit into memory several times.
    """
    factors_of = structured(network).factors

    @jax.jit
    @jax.default_matmul_precision("highest")
    def split(a, b):
        return by_layer(a, b)

    def kernels_fn(theta, x1, x2=None):
        check(network, theta, x1, x2)
        a = factors_of(theta, x1)
        return split(a, a if x2 is None else factors_of(theta, x2))

    return kernels_fn


def by_layer(a: Factors, b: Factors) -> dict[str, Any]:
    """{layer: [n1, c, n2, c]}."""
    return {
        layer: term.gram(b.samples[layer], a.shared.get(layer)) for layer, term in a.samples.items()
    }


def taps_of(network: Any) -> Taps:
    """Those of a network, `ntkcl.compilation.portable`; ValueError where it has none."""
    taps = network_of(network).taps
    if taps is None:
        raise SettingError(
            "structured kernel: this network has no taps; use kernels.contraction or "
            "kernels.vector_products"
        )

    return Taps(*map(portable, taps))


def factors(taps: Taps, theta: Params, x: Any) -> Factors:
    """Factors({layer: its term}, {readout: [c, c]})."""
    tapped = _tapped(taps, theta, x[0])
    forms = _forms(tapped, x)

    def one_sample(one):
        phi, delta, jacobian = _derivatives(tapped, one)
        terms = {_name(layer): form(phi[layer], delta[layer]) for layer, form in forms.items()}
        if jacobian:
            terms["rest"] = GradientTerm(jnp.concatenate(jacobian, -1))
        readouts = [layer for layer, form in forms.items() if form is readout]
        return terms, {_name(layer): shared_gram(delta[layer]) for layer in readouts}

    return Factors(*jax.vmap(one_sample, out_axes=(0, None))(x))


class _Tapped(NamedTuple):
    """A network at theta whose layers are read; `zeros`, {layer: [P, G, m] of each call}, are
    probes that change nothing."""

    taps: Taps
    survey: Survey
    theta: Params
    zeros: dict


def _tapped(taps: Taps, theta, one) -> _Tapped:
    survey = taps.survey(theta, one)
    names = [_name(layer) for layer in survey.layers] + ["rest"] * bool(survey.rest)
    if len(set(names)) < len(names):
        raise SettingError(
            f"structured kernel: two layers share a name among {', '.join(names)}; rename one, "
            '"rest" is taken'
        )
    signals = jax.eval_shape(lambda: taps.read(survey.layers, theta, {}, one)[2])
    zeros = jax.tree.map(lambda z: jnp.zeros(z.shape, z.dtype), signals)
    return _Tapped(taps, survey, theta, zeros)


def _name(layer: tuple[str, ...]) -> str:
    return "/".join(layer)


def _derivatives(tapped: _Tapped, one):
    """Of one input: phi {layer: [P, G, k]}, delta {layer: [c, P, G, m]}, and the Jacobians
    [c, size] of the other leaves."""
    taps, survey, theta, zeros = tapped
    leaves, tree = jax.tree.flatten(theta)
    dtype = jnp.result_type(*leaves)

    def outputs(probes, rest, one):
        full = list(leaves)
        for i, leaf in zip(survey.rest, rest, strict=True):
            full[i] = leaf
        f, phi, _ = taps.read(survey.layers, jax.tree.unflatten(tree, full), probes, one)
        return f, phi

    def joined(calls, axis):
        """The calls of a layer that runs several times are so many more positions."""
        return jnp.concatenate(calls, axis).astype(dtype)

    rest = [leaves[i] for i in survey.rest]
    (delta, jacobian), phi = jax.jacrev(outputs, (0, 1), has_aux=True)(zeros, rest, one)
    return (
        {layer: joined(calls, 0) for layer, calls in phi.items()},
        {layer: joined(calls, 1) for layer, calls in delta.items()},
        [j.reshape(j.shape[0], -1).astype(dtype) for j in jacobian],
    )


def _forms(tapped: _Tapped, x) -> dict[tuple[str, ...], Form]:
    """Which form each layer's term takes."""
    zeros = tapped.zeros
    single = [layer for layer in tapped.survey.layers if _one_position(zeros[layer])]
    varying = _varying(tapped, x) if single else set()
    readouts = [layer for layer in single if layer not in varying]

    def commute(layer, end):
        def f(z, probe):
            probes = {layer: [z], end: [probe]}
            return tapped.taps.read(tapped.survey.layers, tapped.theta, probes, x[0])[0]

        return commutes(f, zeros[layer][0], zeros[end][0])

    def form(layer):
        if layer in readouts:
            return readout
        halved = layer in single and any(commute(layer, end) for end in readouts)
        return commuting if halved else cheaper

    return {layer: form(layer) for layer in tapped.survey.layers}


def _one_position(calls) -> bool:
    return len(calls) == 1 and calls[0].shape[:2] == (1, 1)


def _varying(tapped: _Tapped, x) -> set[tuple[str, ...]]:
    """The layers whose delta depends on the input: vmap knows which of them it had to batch."""
    layers: set[tuple[str, ...]] = set()

    @jax.custom_batching.custom_vmap
    def seen(delta):
        return delta

    @seen.def_vmap
    def _(_, batched, delta):
        layers.update(layer for layer, depends in batched[0].items() if depends)
        return delta, batched[0]

    jax.eval_shape(jax.vmap(lambda one: seen(_derivatives(tapped, one)[1])), x)
    return layers
