"""Training of any network on arrays of one's own: one task, from given parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import losses, methods, optimizers
from ntkcl.kernels.checks import check
from ntkcl.kernels.kernel import network_of
from ntkcl.training.problem import Problem, task_rows, train
from ntkcl.training.settings import Training, steps_of
from ntkcl.types import Apply, Dataset, Key, Loss, Network, Optimizer, Params, Rows, Task
from ntkcl.validation import SettingError, are_tokens, finite, shape_is, whole

SQUARED_ERROR = losses.squared_error()
SGD = optimizers.sgd()
NAIVE = methods.naive()


def fit(
    network: Network | Apply,
    theta: Params,
    new: Any,
    *,
    learning_rate: float | int,
    steps: int,
    loss: Loss = SQUARED_ERROR,
    optimizer: Optimizer = SGD,
    batch_size: int | None = None,
    head: Any = None,
    key: Key | None = None,
) -> Params:
    """The parameters after training from theta on `new`.

        theta_{s+1} = theta_s - learning_rate * direction of the mean loss over a batch of `new`

    It takes the steps and the batches that `ntkcl.forecast.change` predicts, where the arguments
    are the same.

    Arguments: as of `ntkcl.forecast.change`.
    Returns: a pytree like theta. Divergence is data: parameters that are not finite are returned
      as they are.
    Raises ValueError as `ntkcl.forecast.change`, but not for a learning rate above the stability
      limit.
    """
    settings = dict(loss=loss, optimizer=optimizer, batch_size=batch_size, head=head, key=key)
    given = dict(learning_rate=learning_rate, steps=steps, **settings)
    with jax.enable_x64(True):  # for the problem alone: training is in the caller's types
        problem = problem_of(network, theta, None, new, **given)  # type: ignore[arg-type]
    return train(problem, 0, problem.network, theta, ()).theta


def problem_of(
    network: Network | Apply,
    theta: Params,
    old: Any,
    new: Any,
    *,
    learning_rate: float | int,
    steps: int,
    loss: Loss,
    optimizer: Optimizer,
    batch_size: int | None,
    head: Any,
    key: Key | None,
) -> Problem:
    """The training on `new` as a stream of one task, whose test inputs are `old`.

    Inputs and targets are taken in the floating type of theta, inputs of whole numbers as they are.
    Where `old` is None, the first of the new inputs stands for it.
    Raises ValueError as `ntkcl.forecast.change`.
    """
    network = network_of(network)
    if not isinstance(loss, Loss):
        raise SettingError(f"loss={loss!r}: expected one such as losses.cross_entropy()")
    if not isinstance(optimizer, Optimizer):
        raise SettingError(f"optimizer={optimizer!r}: expected one such as optimizers.adam()")
    finite("learning_rate", learning_rate, above=0.0)
    whole("steps", steps)
    if network.centred:
        raise SettingError(
            "network: centred=True trains f - f_0, and theta_0 is not known here; expected "
            "centred=False, or networks.centred(network.apply, theta_0) in the network's place"
        )
    if network.rate_scale != 1 and optimizer.rule is None:
        raise SettingError(
            "network.parametrization=mup: how the learning rate scales is known for sgd; expected "
            "that, or ntk"
        )
    head, train = samples("new", new, network, theta, loss, head)
    kind = train.y.dtype
    old = train.x[:1] if old is None else _inputs("old", old, kind)
    if old.shape[1:] != train.x.shape[1:] or old.dtype != train.x.dtype:
        raise SettingError(
            f"old: inputs of shape {old.shape[1:]} {old.dtype} beside new ones of shape "
            f"{train.x.shape[1:]} {train.x.dtype}; expected the same"
        )
    check(network, theta, train.x, old)
    if batch_size is not None and whole("batch_size", batch_size) > len(train.x):
        raise SettingError(
            f"batch_size={batch_size}: expected at most {len(train.x)}, the samples of new, or None"
        )
    tested = Dataset(old, jnp.zeros((len(old), len(head)), kind))
    stream = (Task(train, tested, jnp.asarray(head, kind)),)
    return Problem(
        key=jax.random.key(0) if key is None else key,
        stream=stream,
        x=jnp.concatenate([train.x, old]),
        tasks=task_rows(stream, loss, Rows.of(stream).train),
        network=network,
        trained=network,
        loss=loss,
        optimizer=optimizer,
        method=NAIVE,
        learning_rate=float("nan"),
        transform=None,
        steps=steps_of(Training(steps=steps, batch_size=batch_size), stream),
        batch_size=batch_size,
    ).at(learning_rate * network.rate_scale)


def samples(
    name: str, given: Any, network: Network, theta: Params, loss: Loss, head: Any = None
) -> tuple[np.ndarray, Dataset]:
    """The head [c] and a data set (x, y) of a network at theta, checked.

    Inputs and targets in the floating type of theta, inputs of whole numbers as they are.
    Raises ValueError that begins with `name`, as `ntkcl.forecast.change`.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise SettingError(f"{name}: a {type(given).__name__}; expected (x, y), inputs and targets")
    kind = jnp.result_type(*jax.tree.leaves(theta)) if jax.tree.leaves(theta) else jnp.float32
    x = _inputs(f"{name}: x", given[0], kind)
    check(network, theta, x)
    check_tokens(name, network, theta, x)
    c = jax.eval_shape(network.apply, theta, x[0]).shape[0]
    head = _head(head, c)
    return head, Dataset(x, jnp.asarray(_targets(name, given[1], len(x), c, head, loss), kind))


def check_tokens(name: str, network: Network, theta: Params, x: Any) -> None:
    """SettingError for whole numbers that a network cannot look up: in a compiled program such an
    id is embedded as NaN, so the inputs with the smallest and the largest one are tried outside."""
    if not are_tokens(x) or isinstance(x, jax.core.Tracer):
        return
    x = np.asarray(x)
    for place in {int(x.argmin()), int(x.argmax())}:
        one = x[np.unravel_index(place, x.shape)[0]]
        if not np.isfinite(network.apply(theta, one)).all():
            raise SettingError(
                f"{name}: an input holds the token id {x.flat[place]}, for which the outputs are "
                "NaN; expected ids of the network's vocabulary"
            )


def _inputs(name: str, x: Any, kind):
    """As an array [n, ...], numbers in the given floating type, whole numbers as they are."""
    if np.ndim(x) == 0 or np.size(x) == 0:
        raise SettingError(
            f"{name} has shape {np.shape(x)}; expected [n, *shape of one input], n at least 1"
        )
    _numbers(name, x)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    _finite(name, x)
    return x.astype(kind)


def _head(head, c: int) -> np.ndarray:
    head = np.ones(c) if head is None else np.asarray(head, float)
    shape_is("head", head, (c,))
    if not np.isin(head, (0, 1)).all() or not head.any():
        raise SettingError(f"head={head.tolist()}: expected 0 and 1, at least one 1")
    return head


def _targets(name: str, y, n: int, c: int, head: np.ndarray, loss: Loss) -> np.ndarray:
    """[n, c]; SettingError for labels, and for what is no target of this loss."""
    y = _numbers(f"{name}: y", y)
    if y.shape != (n, c):
        labels = y.ndim == 1 and np.issubdtype(y.dtype, np.integer)
        remedy = f", such as jax.nn.one_hot(y, {c})" if labels else ""
        raise SettingError(f"{name}: y has shape {y.shape}; expected targets ({n}, {c}){remedy}")
    _finite(f"{name}: y", y)
    if not losses.takes(loss, y, head):
        raise SettingError(
            f"{name}: y is no distribution over the outputs of the head; use one-hot targets for "
            "this loss"
        )
    return y


def _numbers(name: str, values) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind in "OUS":  # objects and text
        raise SettingError(f"{name} holds {values.dtype}; expected numbers")
    return values


def _finite(name: str, values) -> None:
    bad = int(np.sum(~np.isfinite(values)))
    if bad:
        raise SettingError(f"{name} holds {bad} NaN or infinite values; expected finite ones")
