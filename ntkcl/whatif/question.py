"""A network that stands somewhere, and what it may be trained on next."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl import losses
from ntkcl.compilation import portable
from ntkcl.kernels.kernel import network_of
from ntkcl.training import loop
from ntkcl.training.arrays import samples
from ntkcl.types import Apply, Dataset, Loss, Network, Params
from ntkcl.validation import SettingError
from ntkcl.whatif.recipe import Recipe

CROSS_ENTROPY = losses.cross_entropy()


class Question(NamedTuple):
    """A network that stands somewhere, and what it may be trained on next; see `question`."""

    network: Network
    theta: Params
    loss: Loss
    head: Float[Array, " c"]
    old: Dataset
    new: Dataset
    pool: Dataset

    @property
    def rows(self) -> Dataset:
        """All samples that are trained on: the new ones, then the pool."""
        return Dataset(*(jnp.concatenate(both) for both in zip(self.new, self.pool, strict=True)))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many samples are new, and how many may be replayed."""
        return len(self.new.x), len(self.pool.x)


def question(
    network: Network | Apply,
    theta: Params,
    old: Any,
    new: Any,
    *,
    pool: Any = None,
    loss: Loss = CROSS_ENTROPY,
    head: Any = None,
) -> Question:
    """What training a network further on new samples would do to old ones.

    Arguments:
      network, theta, loss, head: as of `ntkcl.forecast.change`.
      old: (x, y), inputs [n, ...] and targets [n, c] whose fate is asked for.
      new: (x, y), what the network may be trained on.
      pool: (x, y), old samples that may be replayed beside the new ones; None is none.
    Raises ValueError as `ntkcl.forecast.change`.
    """
    network = network_of(network)
    if network.centred:
        raise SettingError(
            "network: centred=True trains f - f_0, and theta_0 is not known here; expected "
            "centred=False, or networks.centred(network.apply, theta_0) in the network's place"
        )
    mask, fresh = samples("new", new, network, theta, loss, head)
    given = {"old": old, "pool": (fresh.x[:1], fresh.y[:1]) if pool is None else pool}
    sets = {name: samples(name, one, network, theta, loss, head)[1] for name, one in given.items()}
    for name, one in sets.items():
        if one.x.shape[1:] != fresh.x.shape[1:] or one.x.dtype != fresh.x.dtype:
            raise SettingError(
                f"{name}: inputs of shape {one.x.shape[1:]} {one.x.dtype} beside new ones of shape "
                f"{fresh.x.shape[1:]} {fresh.x.dtype}; expected the same"
            )
    if pool is None:
        sets["pool"] = Dataset(fresh.x[:0], fresh.y[:0])
    return Question(network, theta, loss, jnp.asarray(mask, fresh.y.dtype), new=fresh, **sets)


def train(asked: Question, recipe: Recipe, cuts: Sequence[int] = ()) -> list[Params]:
    """The network itself trained, as a candidate: its parameters after each of `cuts` steps, in
    order, and at the end."""
    recipe.checked(*asked.sizes)
    order, transform = recipe.batches(*asked.sizes), recipe.transform(asked.sizes[0])
    state, rows, wanted = loop.at_rest(asked.theta, transform), asked.rows, {0: asked.theta}
    given = portable(asked.network.apply), portable(transform)
    for k, batch in enumerate(order):
        state = _step(state, rows, asked.head, batch[None], *given, asked.loss)
        wanted |= {k + 1: state.theta} if k + 1 in cuts else {}
    return [wanted[cut] for cut in cuts] + [jax.block_until_ready(state.theta)]


def _step(state, rows, head, batch, apply, transform, loss):
    """A step outside of loops, so that candidates of all lengths share a program."""
    given = dict(apply=apply, transform=transform, loss=loss, count=1, method=None)
    return loop.advance(state, rows, head, np.asarray(batch), **given)[0]
