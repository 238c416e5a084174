"""What training a network on new examples does to old ones: arrays in, arrays out."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import kernels, networks
from ntkcl.compilation import convolves
from ntkcl.forecast.forms import FORMS, form_of
from ntkcl.forecast.outcome import Effort
from ntkcl.forecast.stability import limit
from ntkcl.training.arrays import SGD, SQUARED_ERROR, problem_of
from ntkcl.training.problem import Anchor, Problem
from ntkcl.types import Apply, Key, Loss, Network, Optimizer, Params, Rows
from ntkcl.validation import SettingError

EFFORT = Effort()


def change(
    network: Network | Apply,
    theta: Params,
    old: Any,
    new: Any,
    *,
    learning_rate: float | int,
    steps: int,
    loss: Loss = SQUARED_ERROR,
    optimizer: Optimizer = SGD,
    batch_size: int | None = None,
    head: Any = None,
    form: str = "auto",
    key: Key | None = None,
) -> np.ndarray:
    """How the outputs on old inputs will change if the network is trained on new ones.

        f(old; theta_S) - f(old; theta),    theta_S after S = `steps` updates on `new` from theta

    The network itself is not trained: it is linearised at theta. For full batches, squared error
    and gradient descent the change is K(old, x) g(K(x, x)) (y - f(x; theta)), K the tangent kernel
    at theta, its columns those of the head's outputs, and g(lam) = (1 - (1 - h lam)^S) / lam with
    h = learning_rate / (m sum(head)). It is exact for a model that is linear in its parameters, and
    better the wider the network.

    `ntkcl.training.fit` with the same arguments does the training, to check.

    Arguments:
      network: `ntkcl.networks.network(module)` of a Flax linen module, any other
        `ntkcl.types.Network`, or a function `apply(theta, x) -> [c]` of one input x, such as
        `lambda theta, x: nnx.merge(graph, theta)(x)` or `lambda theta, x: eqx.combine(theta,
        static)(x)`.
      theta: the parameters now, a pytree of arrays of reals.
      old: inputs [n, ...] at which the change is wanted.
      new: (x, y), inputs [m, ...] and targets [m, c] that the network would be trained on; for
        cross-entropy a distribution a row, such as `jax.nn.one_hot(labels, c)`.
      learning_rate: of the optimizer, for the mean of `loss` over a batch. A network in
        parametrization mup scales it, as a run does.
      steps: updates.
      loss: `ntkcl.losses.squared_error()` or `cross_entropy()`.
      optimizer: `ntkcl.optimizers.sgd(momentum)`, `adam()` or any of Optax by `by_name(name)`. It
        begins at rest.
      batch_size: samples a step; None is all of `new`.
      head: 0/1 mask [c] of the outputs that the loss sees; None is all of them.
      form: one of `ntkcl.forecast.FORMS`, or "auto", the first that is exact for the linearised
        network: "closed" for squared error and full batches with sgd, "simulated" along the true
        batches for any loss with sgd, else "linearised", which trains the linearised network and
        holds no kernel. For more than 20,000 samples x outputs "auto" takes "linearised" in place
        of "simulated", and for convolutional networks in place of "closed" too.
      key: which batches are drawn; None is `jax.random.key(0)`.
    Returns: [n, c] in float64. Inputs and targets are taken in theta's floating type, the solve is
      in float64 whatever JAX's default.
    Raises ValueError, one line, for shapes that do not fit, empty sets, values that are not finite,
      labels in place of targets, a form that cannot predict this training; and for a learning rate
      above the stability limit of the linearised network, where that limit is exact: squared error,
      full batches, more than one step. Where it is only sufficient (minibatches, cross-entropy) a
      rate above it is a warning.
    Cost: the kernel K(x, x) [m c, m c], its decomposition, and two passes through the network.
    Source: Jacot et al. 2018; Lee et al. 2019.
    """
    settings = dict(loss=loss, optimizer=optimizer, batch_size=batch_size, head=head, key=key)
    given = dict(learning_rate=learning_rate, steps=steps, **settings)
    with jax.enable_x64(True):
        problem = problem_of(network, theta, old, new, **given)  # type: ignore[arg-type]
        x, rows = problem.x, problem.stream[0].train.y.size
        parts = loss, optimizer, problem.method, problem.full_batches, rows
        form = form_of(form, *parts, lambda: not convolves(problem.network.apply, theta, x[0]))
        kernel_fn = kernels.empirical(problem.network)
        _check_rate(problem, theta, kernel_fn, learning_rate)
        f = networks.forward(problem.network.apply, theta, x).astype(jnp.float64)
        (outcome,) = FORMS[form](kernel_fn, EFFORT)(problem, Anchor(theta, (), (f,)), 1)
        return np.asarray(outcome.change, np.float64)[Rows.of(problem.stream).test[0]]


def _check_rate(problem: Problem, theta: Params, kernel_fn, learning_rate: float) -> None:
    """SettingError, or a warning, for a learning rate above the stability limit."""
    if problem.optimizer.rule is None or problem.steps[0] == 1:
        return
    most = limit(problem, theta, kernel_fn)
    if problem.learning_rate <= most:
        return
    most = most / problem.network.rate_scale
    above = f"learning_rate={learning_rate:g}: above {most:.6g}, the stability limit"
    if problem.loss.quadratic and problem.full_batches:
        raise SettingError(
            f"{above} of the network linearised at theta, so that its training diverges; use at "
            f"most {most:.6g}"
        )
    warnings.warn(f"{above} that is known to be safe: training may diverge", stacklevel=3)
