"""Trainings followed through linearisations along another training, the base.

A candidate begins where the base begins. In the part of its steps that belongs to anchor s the
network is the linearisation at theta_s: the candidate takes its own steps, with its own optimizer,
on its own batches, and its parameters are carried on to the next part. Where a part ends it is
corrected by what the base, followed in the same way, is wrong by there: by as much of it as the
candidate has gone of the base's way in this part, and the less the more it went elsewhere.

A method's own functions are given the linearised network in the network's place. Its inputs are
places among the samples that are trained on, those of the pool among them: so no method is written
a second time.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ntkcl.types import Dataset, Loss, Method, Params
from ntkcl.whatif.anchors import Anchors


class Samples(NamedTuple):
    """What is trained on: targets [R, c], the weight of each sample's loss [R], the head [c]."""

    y: Any
    weights: Any
    head: Any


class Rule(NamedTuple):
    """How a training takes its steps: the optimizer's transformation, and what its method keeps of
    the samples before, () of none."""

    transform: Any
    memory: Any = ()


class Steps(NamedTuple):
    """The steps of a training: batches [S, b]; the part of the base that each belongs to [S], and
    whether it is the first of it [S]; the anchor at which it is linearised [S]."""

    batches: Any
    part: Any
    first: Any
    anchor: Any


class Base(NamedTuple):
    """The training that others are followed along.

    anchors: m linearisations on its way.
    reached: leaves [m + 1, ...], its parameters where each part begins, and at its end.
    wrong: leaves [m + 1, ...], `reached` less where following the base by its own linearisations
      ends, part by part; the first is 0.
    """

    anchors: Anchors
    reached: Params
    wrong: Params


def steps(batches: np.ndarray, cuts: np.ndarray, every: int = 1) -> Steps:
    """In the parts that begin at `cuts`, linearised at `every` so many of the anchors alone."""
    part = np.searchsorted(cuts[1:], np.arange(len(batches)), side="right")
    return Steps(batches, part, np.append(True, np.diff(part) > 0), part // every * every)


@partial(jax.jit, static_argnames=("loss", "method"))
@jax.default_matmul_precision("highest")
def follow(
    base: Base,
    rule: Rule,
    samples: Samples,
    taken: Steps,
    *,
    loss: Loss,
    method: Method | None = None,
) -> Params:
    """Parameters after all steps of a candidate, from where the base begins, the optimizer at
    rest."""
    start = at(base.reached, 0)
    advance = _advancing(base.anchors, start, rule, samples, loss, method)

    def step(carry, given):
        theta, state, begun = carry
        rows, part, first, s = given
        theta = _corrected(base, theta, begun, part, first)
        begun = jax.tree.map(lambda a, b: jnp.where(first, a, b), theta, begun)
        return (*advance(theta, state, rows, s), begun), ()

    step = jax.checkpoint(step)  # a derivative through all steps keeps no slice of gradients
    carry = start, rule.transform.init(start), start
    theta, _, begun = jax.lax.scan(step, carry, tuple(taken))[0]
    end = parts(base.reached)  # fewer steps than anchors do not come to it
    return _corrected(base, theta, begun, end, taken.part[-1] == end - 1)


def _corrected(base, theta, begun, s, arrives):
    """theta where part s begins, `begun` being where the one before began."""
    followed = jax.tree.map(jnp.subtract, base.reached, base.wrong)
    way = jax.tree.map(lambda end, start: end[s] - start[s - 1], followed, base.reached)
    gone = jax.tree.map(jnp.subtract, theta, begun)
    # what does not move has no direction, and is not corrected
    length, own = (jnp.sqrt(optax.tree.vdot(moved, moved) + 1e-30) for moved in (way, gone))
    forward = optax.tree.vdot(way, gone) / length
    share = jnp.clip(forward / length, 0, 1) * forward / own
    share = jnp.where(arrives & (s > 0), share, 0)
    return jax.tree.map(lambda leaf, e: leaf + share * e[s], theta, base.wrong)


@partial(jax.jit, static_argnames=("loss", "method"))
@jax.default_matmul_precision("highest")
def along(
    anchors: Anchors,
    rule: Rule,
    samples: Samples,
    reached: Params,
    taken: Steps,
    *,
    loss: Loss,
    method: Method | None = None,
) -> Base:
    """The base, once it is known what following it is wrong by; `taken` are its own steps."""
    start = at(reached, 0)
    advance = _advancing(anchors, start, rule, samples, loss, method)

    def arrived(theta, wrong, s, arrives):
        true = at(reached, s)
        miss = jax.tree.map(lambda t, leaf: arrives * (t - leaf), true, theta)
        wrong = jax.tree.map(lambda e, by: e.at[s].add(by), wrong, miss)
        return jax.tree.map(jnp.add, theta, miss), wrong

    def step(carry, given):
        theta, state, wrong = carry
        rows, part, first, s = given
        theta, wrong = arrived(theta, wrong, part, first)
        return (*advance(theta, state, rows, s), wrong), ()

    carry = start, rule.transform.init(start), jax.tree.map(jnp.zeros_like, reached)
    theta, _, wrong = jax.lax.scan(step, carry, tuple(taken))[0]
    return Base(anchors, reached, arrived(theta, wrong, parts(reached), True)[1])


def at(thetas: Params, s) -> Params:
    """Those of leaves [m, ...] at place s."""
    return jax.tree.map(lambda leaf: leaf[s], thetas)


def parts(reached: Params) -> int:
    """m, of the parameters where each part begins, and at the end, leaves [m + 1, ...]."""
    return jax.tree.leaves(reached)[0].shape[0] - 1


def _advancing(anchors, start, rule, samples, loss, method):
    """`advance(theta, state, rows, s)`: one step of the network linearised at anchor s, on the
    batch `rows`, in a training that begins at `start`."""
    pull = _pulling(anchors, start, rule.memory, samples, loss, method)

    def advance(theta, state, rows, s):
        updates, state = rule.transform.update(pull(theta, rows, s), state, theta)
        return optax.apply_updates(theta, updates), state

    return advance


def _pulling(anchors, start, memory, samples, loss, method):
    """`pull(theta, rows, s)`: the gradient of what is minimised, projected by the method; of none
    it is that of the mean loss."""

    def mean_loss(f, rows):
        each = jax.vmap(loss.value, (0, 0, None))(f, samples.y[rows], samples.head)
        return jnp.mean(samples.weights[rows] * each)

    def plain(theta, rows, s):
        f, back = anchors.at(s, rows, theta)
        return back(jax.grad(mean_loss)(f, rows))

    def with_method(theta, rows, s):
        def apply(theta, row):
            # What a method has kept of where training begins is read there, and so it is exact.
            return anchors.one(jnp.where(same(theta, start), 0, s), theta, row)

        def objective(theta):
            task_loss = mean_loss(anchors.at(s, rows, theta)[0], rows)
            batch = Dataset(rows, samples.y[rows])
            return method.objective(memory, apply, loss, theta, batch, samples.head, task_loss)

        return method.project(memory, apply, loss, theta, jax.grad(objective)(theta))

    return plain if method is None else with_method


def same(one: Params, other: Params) -> Any:
    """Whether all numbers of two pytrees are the same, as an array."""
    return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(jnp.array_equal, one, other))))
