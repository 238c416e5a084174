"""The nouns of the project: aliases and NamedTuples, no functions.

A network is seen everywhere as a pure function of its parameters and **one** input; a head is a 0/1
mask over its outputs; a stream is a tuple of tasks. Task-, domain- and class-incremental learning
therefore differ in data, not in code.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Float, PRNGKeyArray

Params = Any
"""theta, a pytree of arrays."""
Key = PRNGKeyArray
"""A key of JAX's random numbers, `jax.random.key(seed)`."""
Apply = Callable[[Params, Any], Float[Array, " c"]]
"""apply(theta, x) -> f(x; theta) [c], for one x."""


class Dataset(NamedTuple):
    """Inputs `x` [n, *shape] and targets `y` [n, c]."""

    x: Any
    y: Any


class Source(NamedTuple):
    """Images in [0, 1] with one-hot targets; a pixel is standardised by (x - mean) / sd.

    Or texts as token ids [n, length], int32, 0 being padding; they stay as they are.
    """

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
"""Tasks in the order in which they are trained on."""


class Rows(NamedTuple):
    """Where each task's inputs are among all N inputs of the stream.

    First the train sets in turn, then the test sets.
    """

    train: tuple[slice, ...]
    test: tuple[slice, ...]

    @staticmethod
    def of(stream: Stream) -> "Rows":
        sizes = [len(task.train.x) for task in stream] + [len(task.test.x) for task in stream]
        slices = tuple(slice(a, b) for a, b in pairwise([0, *accumulate(sizes)]))
        return Rows(slices[: len(stream)], slices[len(stream) :])


class Survey(NamedTuple):
    """Where a model keeps its parameters.

    `layers` are affine in theirs; `rest` is every other leaf that the model uses, by its index.
    """

    layers: tuple[tuple[str, ...], ...]
    rest: tuple[int, ...]


class Taps(NamedTuple):
    """What a structured kernel reads off a model, for one input x.

    `survey(theta, x) -> Survey` uses shapes alone. `read(layers, theta, probes, x) -> (f, phi,
    z)` runs the model: for each layer one entry a call, phi [P, G, k] what its parameters multiply
    and z [P, G, m] what comes out, `probes` (where given) added to it, so that the derivative of f
    with respect to a probe is the back-propagated signal df/dz.
    """

    survey: Callable[[Params, Any], Survey]
    read: Callable[..., Any]


class Network(NamedTuple):
    """A model as the mathematics sees it.

    `init(key, x) -> theta` for one input x; `apply(theta, x) -> [c]`; `taps`, what the structured
    kernel reads, or None for a model that only offers the first two; `centred`, whether f - f_0 is
    trained and forecast in place of f; `batched(theta, x) -> [n, c]`, where the model was written
    for batches, so that kernels can see whether its samples interact; `rate_scale`, what a learning
    rate given as a number is multiplied by (gamma^2 in the parametrization mup, see
    `ntkcl.networks.parametrization`); `infinite(x1, x2=None) -> [n1, n2]`, the kernel that each
    output's tends to as the network gets wider, None where it is not known.
    """

    init: Callable[[Key, Any], Params] | None
    apply: Apply
    taps: Taps | None = None
    centred: bool = False
    batched: Callable[[Params, Any], Float[Array, "n c"]] | None = None
    rate_scale: float = 1.0
    infinite: Callable[..., Float[Array, "n1 n2"]] | None = None


class Loss(NamedTuple):
    """A loss of one sample, and what a learning rate means for it in function space.

    `value(f, y, head) -> scalar` for one sample [c]; `rate(learning_rate, n, head)` = eta_eff, so
    that full-batch gradient descent on n samples moves the active outputs by eta_eff K (y - f), or
    K (y - p(f)) where predictions are not the outputs themselves. `curvature`: a bound on the
    second derivatives of the loss, in the units in which squared error has 1, for stability limits.
    `quadratic`: whether the loss is squared error, and training has a closed form.
    """

    value: Callable[[Float[Array, " c"], Float[Array, " c"], Float[Array, " c"]], Float[Array, ""]]
    rate: Callable[..., float]
    curvature: float = 1.0
    quadratic: bool = True


class Optimizer(NamedTuple):
    """A training rule and its kernel-space equivalent.

    Kept together so that a forecast cannot use another rule's filter.

    `transform(learning_rate)` is the Optax transformation; `rule(rate, steps)` the filter g(lam, r)
    of the eigenvalues of K_tt and the residual's coefficients, at one rate or at one [steps] for
    each step; `limit(lam_max)` the largest `rate` at which it is stable. `rate` is eta_eff, the
    learning rate times the normalisation of the loss. A rule whose update is not linear in the
    gradients (Adam) has no kernel-space equivalent: `rule` is None. `memoryless`: whether two steps
    leave of a residual what one step and one more do from rest, as without momentum; then the
    filter of S steps may be cut in two.
    """

    transform: Callable[[float], optax.GradientTransformation]
    rule: Callable[[Any, int], Callable[..., Any]] | None
    limit: Callable[[float], float]
    memoryless: bool = False


class TaskRows(NamedTuple):
    """A task as kernel space sees it.

    inputs: [n], where its train inputs are among all N inputs.
    targets: [n, c].  head: [c].
    scale: 1 / loss.rate(1, n, head), which turns the mean loss over the task into the (1/2) sum of
      squares.
    """

    inputs: Any
    targets: Any
    head: Any
    scale: float


class Places(NamedTuple):
    """The kernel between N inputs, which are named by their places.

    block(rows, inputs): K(x[rows], x[inputs]) [n, c, m, c].
    change(inputs, alpha): K(x, x[inputs]) alpha [N, c] for alpha [m, c], by whatever means: the
      products J (J^T alpha) need no block.
    products(inputs): K(x[inputs], x[inputs]) by its products; None where the kernel is known by
      blocks alone.
    """

    block: Callable[..., Any]
    change: Callable[..., Any]
    products: "Callable[..., Products] | None" = None


class Products(NamedTuple):
    """A kernel [m, c, m, c] by its products with vectors.

    seconds: what one takes, roughly.
    matvec: `matvec()`, a `jax.tree_util.Partial` v [m, c] -> K v in the kernel's type.
    """

    seconds: float
    matvec: Callable[[], Any]


class Tangent(NamedTuple):
    """What a method's kernel-space equivalent may ask of a network linearised at its anchor.

    Inputs are places among all N.

    `kernel`: K, as `Places` or as a function `columns(inputs)` = K(x, x[inputs]) [N, c, m, c];
    `squares(inputs, weights)` = sum over rows and outputs of weight (df/dtheta)^2, a pytree like
    theta; `scaled(metric)` = J diag(1/metric) J^T, as `Places`; `at_zero()` the linearised outputs
    [N, c] of parameters 0.
    """

    kernel: Any
    squares: Callable[..., Params]
    scaled: Callable[[Params], Places]
    at_zero: Callable[[], Any]


class Method(NamedTuple):
    """A continual-learning algorithm: what it adds to training, and what that is in kernel space.

    In training, `memory` being a pytree that starts as ():
      `begin(memory, network, theta, task) -> memory` before a task;
      `consolidate(memory, network, loss, theta, task) -> memory` after it, but for the last;
      `objective(memory, apply, loss, theta, batch, head, task_loss) -> scalar`, what is minimised;
      `project(memory, apply, loss, theta, gradient) -> gradient`;
      `observe(memory, apply, theta, batch, head, gradient, update) -> memory` after every step, the
        gradient being that of the objective at theta, before the projection; None for a memory that
        no step changes.
    In kernel space: `step(tangent, tasks, t, fs) -> ntkcl.dynamics.Step` of task t, given the
    outputs [f_0, ..., f_t] before and after the tasks so far; None where no such step is known
    before training: then forecasts train the linearised network, and the stability limit is that of
    the task alone. `converged`: the equivalent holds for training to the end alone, not for a
    number of steps. `step_is_of`: the (begin, objective, project, consolidate, observe) that `step`
    was written for, see `ntkcl.methods.custom`, which makes methods.
    """

    begin: Callable[..., Any]
    objective: Callable[..., Any]
    project: Callable[..., Any]
    consolidate: Callable[..., Any]
    step: Callable[..., Any] | None
    observe: Callable[..., Any] | None = None
    converged: bool = False
    step_is_of: tuple[Any, ...] = ()
