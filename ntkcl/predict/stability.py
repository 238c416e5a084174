"""The largest learning rate at which training is stable, from the kernel of the untrained network."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import forecast, kernels
from ntkcl.predict.setting import Setting
from ntkcl.types import Params

DENSE = 5000  # rows x outputs up to which the stability limit is read off the Gram matrix itself
LARGEST = 30  # products for the largest eigenvalue of a larger one: it is found first, and best


def limit(setting: Setting, theta: Params) -> float:
    """The largest stable learning rate: the smallest of the tasks' limits, each at the largest eigenvalue, at theta, of what its method
    trains on. For minibatches one that no batch exceeds, that of the task's worst single sample.

    Raises ValueError for a kernel that is zero or not finite.
    """
    c = setting.tasks[0].targets.shape[1]
    f0 = jnp.zeros((len(setting.x), c))  # targets and outputs do not matter here
    tangent = kernels.tangent(setting.network, theta, setting.x, f0, setting.kernel_fn)

    def own(t, task):
        step = setting.method.step(tangent, setting.tasks, t, [f0] * (t + 1))
        n = len(task.inputs)
        if setting.batch_size in (None, n):
            top = _top(setting, theta, step.inputs, step.weights)
        else:
            # The Gram matrix of any batch, divided by its size, has eigenvalues no larger than those of its worst sample.
            top = n * _worst(setting, theta, step.inputs[:n], step.weights[:n])
            top += _top(setting, theta, step.inputs[n:], step.weights[n:]) if len(step.inputs) > n else 0.0
        if not np.isfinite(top):
            raise ValueError(f"network: the kernel of task {t} is not finite; use a smaller network.output_scale or network.w_std")
        if top <= 0:
            raise ValueError(f"network: the kernel of task {t} is zero, all units dead? Try another network.width or activation")
        return setting.optimizer.limit(setting.loss.curvature * top + step.ridge) * task.scale

    return min(own(t, task) for t, task in enumerate(setting.tasks))


def _top(setting, theta, inputs, weights) -> float:
    """Largest eigenvalue of the weighted Gram matrix of rows: from the matrix, or from products where it is large."""
    x = setting.x[inputs]
    if np.count_nonzero(weights) <= DENSE:
        block = np.asarray(setting.kernel_fn(theta, x))
        return forecast.largest_eigenvalue(block, weights) if np.isfinite(block).all() else float("nan")
    root, product = jnp.sqrt(jnp.asarray(weights, x.dtype)), kernels.operator(setting.network).product
    ritz = kernels.krylov.spectrum(lambda v: root * product(theta, x, None, root * v), root, order=LARGEST, key=jax.random.key(0))
    return float(ritz[0])


def _worst(setting, theta, inputs, weights) -> float:
    """Largest eigenvalue over the Gram matrices of single rows."""

    kernel = kernels.contraction(setting.network)

    @jax.jit
    def each(x, weights):
        def one(row):
            x, root = row[0], jnp.sqrt(row[1]).astype(setting.x.dtype)
            gram = kernel.gram(kernel.factors(theta, x[None]))[0, :, 0]
            return jnp.linalg.eigvalsh(root[:, None] * gram * root[None])[-1]

        return jnp.max(jax.lax.map(one, (x, weights)))

    return float(each(setting.x[inputs], jnp.asarray(weights)))
