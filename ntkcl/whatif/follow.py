"""Trainings followed through linearisations along another training, the base.

A candidate begins where the base begins. In the part of its steps that belongs to anchor s the
network is the linearisation at theta_s: the candidate takes its own steps, with its own optimizer,
on its own batches, and its parameters are carried on to the next part. Where a part ends it is
corrected by what the base, followed in the same way, is wrong by there: by as much of it as the
candidate has gone of the base's way in this part, and the less the more it went elsewhere.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ntkcl.types import Loss, Params
from ntkcl.whatif.anchors import Anchors


class Samples(NamedTuple):
    """What is trained on: targets [R, c], the weight of each sample's loss [R], the head [c]."""

    y: Any
    weights: Any
    head: Any


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


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def follow(
    base: Base,
    transform: optax.GradientTransformation,
    samples: Samples,
    taken: Steps,
    *,
    loss: Loss,
) -> Params:
    """Parameters after all steps of a candidate, from where the base begins, the optimizer at
    rest."""

    def step(carry, given):
        theta, state, begun = carry
        rows, part, first, s = given
        theta = _corrected(base, theta, begun, part, first)
        begun = jax.tree.map(lambda a, b: jnp.where(first, a, b), theta, begun)
        return (*_advance(base.anchors, transform, samples, loss, theta, state, rows, s), begun), ()

    theta = at(base.reached, 0)
    step = jax.checkpoint(step)  # a derivative through all steps keeps no slice of gradients
    theta, _, begun = jax.lax.scan(step, (theta, transform.init(theta), theta), tuple(taken))[0]
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


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def along(
    anchors: Anchors,
    transform: optax.GradientTransformation,
    samples: Samples,
    reached: Params,
    taken: Steps,
    *,
    loss: Loss,
) -> Base:
    """The base, once it is known what following it is wrong by; `taken` are its own steps."""

    def arrived(theta, wrong, s, arrives):
        true = at(reached, s)
        miss = jax.tree.map(lambda t, leaf: arrives * (t - leaf), true, theta)
        wrong = jax.tree.map(lambda e, by: e.at[s].add(by), wrong, miss)
        return jax.tree.map(jnp.add, theta, miss), wrong

    def step(carry, given):
        theta, state, wrong = carry
        rows, part, first, s = given
        theta, wrong = arrived(theta, wrong, part, first)
        return (*_advance(anchors, transform, samples, loss, theta, state, rows, s), wrong), ()

    theta = at(reached, 0)
    start = theta, transform.init(theta), jax.tree.map(jnp.zeros_like, reached)
    theta, _, wrong = jax.lax.scan(step, start, tuple(taken))[0]
    return Base(anchors, reached, arrived(theta, wrong, parts(reached), True)[1])


def at(thetas: Params, s) -> Params:
    """Those of leaves [m, ...] at place s."""
    return jax.tree.map(lambda leaf: leaf[s], thetas)


def parts(reached: Params) -> int:
    """m, of the parameters where each part begins, and at the end, leaves [m + 1, ...]."""
    return jax.tree.leaves(reached)[0].shape[0] - 1


def _advance(anchors, transform, samples, loss, theta, state, rows, s):
    """One step of the network linearised at anchor s, on the batch `rows`."""
    f, pull = anchors.at(s, rows, theta)

    def mean_loss(f):
        each = jax.vmap(loss.value, (0, 0, None))(f, samples.y[rows], samples.head)
        return jnp.mean(samples.weights[rows] * each)

    updates, state = transform.update(pull(jax.grad(mean_loss)(f)), state, theta)
    return optax.apply_updates(theta, updates), state
