"""The nouns of the house: aliases and NamedTuples, no functions.

A network is seen everywhere as a pure function of its parameters and **one** input; a head is a 0/1 mask over its
outputs; a stream is a tuple of tasks. Task-, domain- and class-incremental learning therefore differ in data, not in code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Float, PRNGKeyArray

Params = Any  # a pytree of arrays, theta
Key = PRNGKeyArray
Apply = Callable[[Params, Any], Float[Array, " c"]]  # (theta, x) -> f(x; theta), one x


class Dataset(NamedTuple):
    """Inputs `x` [n, *shape] and targets `y` [n, c]."""

    x: Any
    y: Any


class Source(NamedTuple):
    """Images in [0, 1] with one-hot targets, and the two numbers that standardise a pixel: (x - mean) / sd."""

    train: Dataset
    test: Dataset
    mean: float
    sd: float


class Task(NamedTuple):
    """What is trained on, what is tested on, and the mask [c] of the outputs that take part."""

    train: Dataset
    test: Dataset
    head: Any


Stream = tuple[Task, ...]


class Survey(NamedTuple):
    """Where a model keeps its parameters: `layers` that are affine in theirs, and every other leaf it uses, `rest`, by its index."""

    layers: tuple[tuple[str, ...], ...]
    rest: tuple[int, ...]


class Taps(NamedTuple):
    """What a structured kernel reads off a model, for one input x.

    `survey(theta, x) -> Survey` looks at shapes alone. `read(layers, theta, probes, x) -> (f, phi, z)` runs the model: for each
    layer one entry a call, phi [P, G, k] what its parameters multiply and z [P, G, m] what comes out, `probes` (where given) added
    to it, so that the derivative of f with respect to a probe is the back-propagated signal df/dz.
    """

    survey: Callable[[Params, Any], Survey]
    read: Callable[..., Any]


class Network(NamedTuple):
    """A model as the mathematics sees it.

    `init(key, x) -> theta` for one input x; `apply(theta, x) -> [c]`; `taps`, what the structured kernel reads, or None for a model
    that only offers the first two; `centred`, whether f - f_0 is trained and forecast in place of f; `batched(theta, x) -> [n, c]`,
    where the model was written for batches, so that kernels can see whether its samples interact.
    """

    init: Callable[[Key, Any], Params] | None
    apply: Apply
    taps: Taps | None = None
    centred: bool = False
    batched: Callable[[Params, Any], Float[Array, "n c"]] | None = None


class Loss(NamedTuple):
    """A loss of one sample, and what a learning rate means for it in function space.

    `value(f, y, head) -> scalar` for one sample [c]; `rate(learning_rate, n, head)` = eta_eff, so that full-batch gradient descent on n
    samples moves the active outputs by eta_eff K (y - f): the loss is quadratic in f.
    """

    value: Callable[[Float[Array, " c"], Float[Array, " c"], Float[Array, " c"]], Float[Array, ""]]
    rate: Callable[..., float]


class Optimizer(NamedTuple):
    """A training rule and its twin in kernel space, kept together so that a forecast cannot use another rule's filter.

    `transform(learning_rate)` is the Optax transformation; `filter(lam, rate, steps)` what it does to the eigenvalue
    `lam` of K_tt; `limit(lam_max)` the largest `rate` at which it is stable. `rate` is eta_eff, the learning rate times
    the normalisation of the loss.
    """

    transform: Callable[[float], optax.GradientTransformation]
    filter: Callable[..., Any]
    limit: Callable[[float], float]
