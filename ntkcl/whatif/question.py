"""A network that stands somewhere, and what it may be trained on next."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl import losses, methods
from ntkcl.compilation import portable
from ntkcl.kernels.kernel import network_of
from ntkcl.training import loop
from ntkcl.training.arrays import samples
from ntkcl.types import Apply, Dataset, Loss, Method, Network, Params, Task
from ntkcl.validation import SettingError
from ntkcl.whatif.follow import Samples
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
    def samples(self) -> Samples:
        """What is trained on, beside the inputs, each sample with the weight 1."""
        y = self.rows.y
        return Samples(y, jnp.ones(len(y), y.dtype), self.head)

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
    if isinstance(theta, Mapping) and "batch_stats" in theta:
        raise SettingError(
            "theta: it holds batch_stats, which would be trained as parameters are; expected those "
            "alone, and networks.network(module, constants={'batch_stats': ...})"
        )
    if network.centred:
        raise SettingError(
            "network: centred=True trains f - f_0, and theta_0 is not known here; expected "
            "centred=False, or networks.centred(network.apply, theta_0) in the network's place"
        )
    mask, fresh = samples("new", new, network, theta, loss, head)
    sets = {"pool": Dataset(fresh.x[:0], fresh.y[:0])}
    for name, one in ({"old": old} | ({} if pool is None else {"pool": pool})).items():
        _same_inputs(name, one, fresh.x)
        sets[name] = samples(name, one, network, theta, loss, head)[1]
    return Question(network, theta, loss, jnp.asarray(mask, fresh.y.dtype), new=fresh, **sets)


def _same_inputs(name: str, given: Any, new: Any) -> None:
    if not isinstance(given, tuple | list) or len(given) != 2 or np.ndim(given[0]) == 0:
        return  # `samples` says it
    shape = np.shape(given[0])[1:]
    if shape != new.shape[1:]:
        raise SettingError(
            f"{name}: inputs of shape {shape} beside new ones of shape {new.shape[1:]}; expected "
            "the same"
        )


def train(asked: Question, recipe: Recipe, cuts: Sequence[int] = ()) -> list[Params]:
    """The network itself trained, as a candidate: its parameters after each of `cuts` steps, in
    order, and at the end."""
    recipe.checked(*asked.sizes)
    state, rows, wanted = start(asked, recipe), asked.rows, {0: asked.theta}
    for k, batch in enumerate(recipe.batches(*asked.sizes)):
        state = step(asked, rows, recipe, state, batch)
        wanted |= {k + 1: state.theta} if k + 1 in cuts else {}
    return [*(wanted[cut] for cut in cuts), jax.block_until_ready(state).theta]


def start(asked: Question, recipe: Recipe) -> loop.State:
    """Where a candidate begins."""
    memory = remembered(recipe.method, asked.network, asked)
    return loop.at_rest(asked.theta, recipe.transform(asked.sizes[0]), memory)


def remembered(method: Method, network: Network, asked: Question) -> Any:
    """What a method keeps of the pool, the one task before, which has ended where the network
    stands.

    network: the question's own, or one of the same outputs whose inputs the question's are.
    Raises ValueError for a method that keeps old samples where there are none.
    """
    if methods.is_naive(method):
        return ()
    theta, (old, new) = asked.theta, _tasks(asked)
    memory = method.begin((), network, theta, old)
    memory = method.consolidate(memory, network, asked.loss, theta, old)
    return method.begin(memory, network, theta, new)


def check_followed(method: Method, asked: Question) -> None:
    """SettingError for a method that no linearised network can be trained with."""
    old, _ = _tasks(asked)
    method.begin((), asked.network, asked.theta, old)
    try:
        method.begin((), asked.network._replace(taps=None), asked.theta, old)
    except SettingError as error:
        raise SettingError(
            "whatif.method: it reads the inputs of layers, which a linearised network does not "
            "have; expected one such as ogd, or train the candidate"
        ) from error


def _tasks(asked: Question) -> tuple[Task, Task]:
    """The pool as the one task before, and the new samples as the next."""
    pool: Any = asked.pool if len(asked.pool.x) else _NoSamples()
    nothing = Dataset(asked.new.x[:0], asked.new.y[:0])
    return Task(pool, nothing, asked.head), Task(asked.new, nothing, asked.head)


class _NoSamples:
    """In the place of an empty pool: a method that keeps no old samples never looks into it."""

    def __getattr__(self, name: str) -> Any:
        raise SettingError(
            "whatif.method: it keeps old samples, and there are none; give a pool, or expected one "
            "that keeps none, such as l2 or lwf"
        )

    def __iter__(self) -> Any:
        return self.x


def step(
    asked: Question, rows: Dataset, recipe: Recipe, state: loop.State, batch: np.ndarray
) -> loop.State:
    """One step, on the samples `batch` [b] of `rows`; outside of loops, so that candidates of all
    lengths share a program."""
    return loop.advance(
        state,
        rows,
        asked.head,
        batch[None],
        apply=portable(asked.network.apply),
        transform=portable(recipe.transform(asked.sizes[0])),
        loss=asked.loss,
        count=1,
        method=in_loop(recipe.method),
    )[0]._replace(memory=state.memory)


def in_loop(method: Method) -> Method | None:
    """The method as loops take it: None where it adds nothing, so that nothing of it is
    compiled."""
    return None if methods.is_naive(method) else method
