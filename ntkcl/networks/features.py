"""What no training changes, computed once: the frozen beginning of a network of which a part is
trained.

Where a module that holds trained parameters is called on something that depends on the input alone,
that is a feature: computed once for each input, it takes the module's argument's place. For a head
alone these are the inputs of the head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.tree_util import Partial

from ntkcl.compilation import one_of, portable
from ntkcl.types import Network, Stream, Taps
from ntkcl.validation import SettingError

CHUNK = 256  # inputs at a time, which bounds the memory of their activations


def precomputed(network: Network, stream: Stream) -> tuple[Network, Stream]:
    """The same learning problem with the frozen beginning of the network taken out of the loop.

        f(x; theta) = rest(feature(x); theta),    x -> feature(x) in all tasks

    Outputs, kernels, trainings and forecasts are the same up to rounding; what reads the inputs
    themselves, such as the baseline of input cosines, reads features instead.

    Arguments:
      network: of a linen module, such as `networks.adapt` makes.
      stream: tasks with inputs x [n, ...].
    Returns: rest, and the stream with features [n, D] as inputs. Where nothing can be taken out,
      the arguments.
    Cost: one forward pass of each input; D numbers each are held.
    """
    feature, rest = features(network, one_of(stream[0].train.x))
    if rest is network:
        return network, stream

    def of(dataset):
        chunks = [dataset.x[at : at + CHUNK] for at in range(0, len(dataset.x), CHUNK)]
        return dataset._replace(x=jnp.concatenate([_mapped(feature, x) for x in chunks]))

    return rest, tuple(task._replace(train=of(task.train), test=of(task.test)) for task in stream)


@jax.jit
def _mapped(feature, x):
    return jax.vmap(feature)(x)


def features(network: Network, one: Any) -> tuple[Callable[[Any], Any], Network]:
    """feature(x) -> [D] and rest, with f(x; theta) = rest(feature(x); theta) for every theta.

    `one`: an input, or its shape and type. Whole numbers among the features are held as reals,
    exact up to 2^24 in float32. Where nothing comes before what is trained, the identity and the
    network.
    """
    if (init := network.init) is None:
        raise SettingError("features: this network has no init; expected one of networks.adapt")
    theta = jax.eval_shape(init, jax.random.key(0), one)
    apply = portable(network.apply)
    owners = {path[:n] for path in _paths(theta) for n in range(len(path))}
    try:
        plan = _planned(_Plan(frozenset(owners)), apply, theta, one)
    except jax.errors.UnexpectedTracerError:  # a call inside a jax.vmap, ... of the model's own
        return _identity, network
    if plan.kept in ((), (0,)):
        return _identity, network
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), theta)
    survey, read = (None, None) if network.taps is None else map(portable, network.taps)
    return Partial(_Feature(plan), apply, nothing), network._replace(
        init=lambda key, _: init(key, jnp.zeros(one.shape, one.dtype)),
        apply=Partial(_Rest(plan), apply),
        taps=survey and Taps(Partial(_Survey(plan), survey), Partial(_Read(plan), read)),
        batched=None,
        infinite=None,
    )


def _identity(x):
    return x


class _Plan(NamedTuple):
    """Which arguments of which calls are features.

    owners: the paths of the modules that hold something trained.
    slots: for each array argument of each of their calls, in turn, the feature it is, or None.
    kinds: shape and type of each feature; the first is the input itself.
    kept: those that the outputs depend on.
    """

    owners: frozenset
    slots: tuple = ()
    kinds: tuple = ()
    kept: tuple = ()

    def each_call(self, visit):
        """An interceptor: `visit(arrays) -> arrays` of each call of an owner, in turn."""
        root = None

        def intercept(call, args, kwargs, context):
            nonlocal root
            module = context.module
            root = module.scope.root if root is None else root
            is_other = context.method_name != "__call__" or module.scope.root is not root
            if is_other or module.path not in self.owners:
                return call(*args, **kwargs)
            leaves, tree = jax.tree.flatten((args, kwargs))
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, ARRAYS)]
            for i, array in zip(places, visit([leaves[i] for i in places]), strict=True):
                leaves[i] = array
            args, kwargs = jax.tree.unflatten(tree, leaves)
            return call(*args, **kwargs)

        return nn.intercept_methods(intercept)

    def recorded(self, apply, theta, x):
        """The outputs, and all array arguments of the calls in turn."""
        seen = []

        def visit(arrays):
            seen.extend(arrays)
            return arrays

        with self.each_call(visit):
            return apply(theta, x), seen

    def replaced(self, values):
        """The context in which the calls are given `values` [feature]."""
        slots = iter(self.slots)

        def visit(arrays):
            own = [(array, next(slots)) for array in arrays]
            return [array if slot is None else values[slot] for array, slot in own]

        return self.each_call(visit)

    def unpacked(self, packed):
        """All features, zeros for those that are not kept, from the kept ones in one vector."""
        values = [jnp.zeros(shape, dtype) for shape, dtype in self.kinds]
        at = 0
        for slot in self.kept:
            shape, dtype = self.kinds[slot]
            part = packed[at : at + values[slot].size].reshape(shape)
            at, values[slot] = at + part.size, part.astype(dtype)
        return values


ARRAYS = (jax.Array, np.ndarray)


class _Feature(NamedTuple):
    plan: _Plan

    def __call__(self, apply, theta, x):
        seen = self.plan.recorded(apply, theta, x)[1]
        values = [x] + [seen[self.plan.slots.index(k)] for k in range(1, len(self.plan.kinds))]
        parts = [jnp.ravel(values[slot]) for slot in self.plan.kept]
        kinds = [part.dtype for part in parts if jnp.issubdtype(part.dtype, jnp.floating)]
        dtype = jnp.result_type(*kinds) if kinds else jnp.result_type(float)
        return jnp.concatenate([part.astype(dtype) for part in parts])


class _Rest(NamedTuple):
    plan: _Plan

    def __call__(self, apply, theta, packed):
        values = self.plan.unpacked(packed)
        with self.plan.replaced(values):
            return apply(theta, values[0])


class _Survey(NamedTuple):
    plan: _Plan

    def __call__(self, survey, theta, packed):
        return survey(theta, self.plan.unpacked(packed)[0])


class _Read(NamedTuple):
    plan: _Plan

    def __call__(self, read, layers, theta, probes, packed):
        values = self.plan.unpacked(packed)
        with self.plan.replaced(values):
            return read(layers, theta, probes, values[0])


def _planned(plan: _Plan, apply, theta, one) -> _Plan:
    """Arguments that are no function of theta are features; two that are the same are one."""
    jaxpr = jax.make_jaxpr(plan.recorded)(apply, theta, one).jaxpr
    first = len(jax.tree.leaves(apply))
    count = len(jax.tree.leaves(theta))
    moved = _reached(jaxpr, jaxpr.invars[first : first + count])
    seen = jaxpr.outvars[1:]
    distinct = [jaxpr.invars[-1]]
    for v in seen:
        if not hasattr(v, "val") and v not in moved and v not in distinct:
            distinct.append(v)
    slots = tuple(
        distinct.index(v) if not hasattr(v, "val") and v in distinct else None for v in seen
    )
    kinds = tuple((v.aval.shape, v.aval.dtype) for v in distinct)
    plan = plan._replace(slots=slots, kinds=kinds)

    def rest(theta, values):
        with plan.replaced(values):
            return apply(theta, values[0])

    values = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    jaxpr = jax.make_jaxpr(rest)(theta, values).jaxpr
    needed = _needed(jaxpr)
    return plan._replace(kept=tuple(i for i, v in enumerate(jaxpr.invars[count:]) if v in needed))


def _reached(jaxpr, sources) -> set:
    """The variables that depend on the sources."""
    reached = set(sources)
    for eqn in jaxpr.eqns:
        if any(not hasattr(v, "val") and v in reached for v in eqn.invars):
            reached |= set(eqn.outvars)
    return reached


def _needed(jaxpr) -> set:
    """The variables that the outputs depend on."""
    needed = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed |= {v for v in eqn.invars if not hasattr(v, "val")}
    return needed


def _paths(theta) -> list[tuple[str, ...]]:
    return [tuple(key.key for key in path) for path, _ in jax.tree.leaves_with_path(theta)]
