"""Which layers have signals that commute, so that half of their Gram matrix is enough.

The Gram matrix of signals that commute is symmetric in its two outputs.

In f(x) = R h(z(x)) with a constant R and an elementwise h, delta^a = R_a * h'(z) unit by unit, so

    delta_i^a . delta_j^b = sum_u R_au R_bu h'_u(z_i) h'_u(z_j) = delta_i^b . delta_j^a,

as in the last hidden layer of an MLP. That a model is of this form is read off the program of its
derivative, never off numbers.
"""

from collections.abc import Callable

import jax

# Primitives in which each entry of a result depends on the entries at its own place; in any other
# an entry may meet its neighbours.
ENTRY_BY_ENTRY = {
    "add",
    "add_any",
    "sub",
    "mul",
    "div",
    "neg",
    "select_n",
    "convert_element_type",
    "copy",
}
# These keep the order of the entries, where they keep the size too.
ORDER_KEPT = {
    "reshape",
    "squeeze",
    "expand_dims",
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
}
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr"}

# How a tangent depends on that of z: not, entry by entry, by one linear map after that, otherwise.
NOT, ENTRYWISE, LINEAR, OTHERWISE = range(4)


def commutes(f: Callable, z, probe) -> bool:
    """Whether df/dz in f(z, probe) acts entry by entry, then by one linear map, and only through
    what the probe is added to.

    Arguments: z and probe, arrays; `probe` is added to a readout's output, on which f depends
      linearly and alike for all inputs.
    """

    def tangents(of_z, of_probe):
        return jax.jvp(f, (z, probe), (of_z, of_probe))[1]

    jaxpr = jax.make_jaxpr(tangents)(z, probe).jaxpr
    (found,) = _kinds(jaxpr, [ENTRYWISE, NOT], z.size, jaxpr.invars[1])
    return found == NOT


def _kinds(jaxpr, kinds, size, probe=None):
    """The kinds of a program's outputs, given those of its inputs. What meets the probe after one
    linear map is accounted for."""
    known = dict(zip(map(id, jaxpr.invars), kinds, strict=True))
    for eqn in jaxpr.eqns:
        ins = [known.get(id(v), NOT) for v in eqn.invars]
        if (
            eqn.primitive.name in ("add", "add_any")
            and any(v is probe for v in eqn.invars)
            and max(ins) == LINEAR
        ):
            continue
        if any(ins):
            known |= dict(zip(map(id, eqn.outvars), _through(eqn, ins, size), strict=True))
    return [known.get(id(v), NOT) for v in jaxpr.outvars]


def _through(eqn, ins, size):
    name = eqn.primitive.name
    if name in CALLS:
        inner = eqn.params[CALLS[name]]
        return _kinds(getattr(inner, "jaxpr", inner), ins, size)
    if name == "reshape" and eqn.params["dimensions"] is not None:  # it permutes
        return [OTHERWISE]
    touched = [v for v, kind in zip(eqn.invars, ins, strict=True) if kind]
    entrywise = all(v.aval.size == size for v in (*touched, eqn.outvars[0]))
    if max(ins) == ENTRYWISE and entrywise and name in ENTRY_BY_ENTRY | ORDER_KEPT:
        return [ENTRYWISE]
    if max(ins) == ENTRYWISE and name == "dot_general" and ins.count(NOT) == 1:
        return [LINEAR]
    if max(ins) == LINEAR and (
        name in ORDER_KEPT or (name in ("mul", "div") and min(v.aval.size for v in eqn.invars) == 1)
    ):
        return [LINEAR]
    return [OTHERWISE] * len(eqn.outvars)
