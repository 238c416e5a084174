"""What is checked before a kernel is computed; each mistake gets an error of one line."""

import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl.compilation import once
from ntkcl.types import Network
from ntkcl.validation import SettingError

ARRAY = (jax.Array, np.ndarray, np.generic)
PACKAGE = str(Path(__file__).parents[1])


def check(network: Network, theta, x1, x2=None) -> None:
    """Raises ValueError for inputs and parameters that do not belong to this network.

    It finds empty or mismatched inputs; integers where the model takes reals; parameters of another
    model, or not finite; a model that maps one input to anything but [c]; a model written for
    batches in which the samples interact. Values are read only outside of `jax.jit`.
    """
    sides = {"x1": x1} if x2 is None else {"x1": x1, "x2": x2}
    for name, x in sides.items():
        if not isinstance(x, ARRAY):
            raise SettingError(
                f"kernel: {name} is a {type(x).__name__}; expected an array [n, *shape of one "
                "input]"
            )
        if jnp.ndim(x) == 0 or jnp.size(x) == 0:
            raise SettingError(
                f"kernel: {name} has shape {jnp.shape(x)}; expected [n, *shape of one input] with "
                "n of at least 1"
            )
    if x2 is not None and (x1.shape[1:], x1.dtype) != (x2.shape[1:], x2.dtype):
        kinds = (
            f"inputs of shape {x1.shape[1:]} {x1.dtype} in x1 and {x2.shape[1:]} {x2.dtype} in x2"
        )
        raise SettingError(f"kernel: {kinds}; expected the same in both")
    _check_model(network, theta, x1)
    for name, tree in {"theta": theta, **sides}.items():
        if any(not _finite(leaf) for leaf in jax.tree.leaves(tree)):
            raise SettingError(f"kernel: {name} holds NaN or infinite values; expected finite ones")
    if network.batched is not None:
        _check_samples(network, theta, x1)


def _check_model(network, theta, x):
    for path, leaf in jax.tree.leaves_with_path(theta):
        kind = leaf.dtype if isinstance(leaf, ARRAY) else type(leaf).__name__
        if not isinstance(leaf, ARRAY) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise SettingError(
                f"kernel: theta{jax.tree_util.keystr(path)} is {kind}; expected arrays of reals, "
                "counters and keys left out"
            )
    if not any(leaf.size for leaf in jax.tree.leaves(theta)):
        raise SettingError("kernel: theta holds no parameters; expected a pytree of arrays")
    leaves, tree = jax.tree.flatten(theta)
    kinds = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    one = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    _check_shapes(network.init, network.apply, tree, kinds, one)


@once  # models are traced, which takes longer than many a kernel
def _check_shapes(init, apply, tree, kinds, one) -> None:
    """Of a model, its parameters and one input, by their shapes alone."""
    theta = jax.tree.unflatten(tree, kinds)
    if not jnp.issubdtype(one.dtype, jnp.floating):
        real = jax.ShapeDtypeStruct(one.shape, jnp.result_type(float))
        try:
            jax.eval_shape(apply, theta, real)
        # Whatever the model's library raises: it looks its inputs up, so it takes integers.
        except Exception:
            pass
        else:
            raise SettingError(
                f"kernel: inputs are {one.dtype}, and this model takes reals; convert and scale "
                "them first"
            )
    wanted = theta if init is None else _shape(one, init, jax.random.key(0), one)
    if shapes(wanted) != shapes(theta):
        path, shape = sorted(shapes(wanted).items() ^ shapes(theta).items())[0]
        raise SettingError(
            f"kernel: theta holds the parameters of another model, or of one for other inputs than "
            f"{one.shape} each: {path} {shape} is in one of the two only"
        )
    f = _shape(one, apply, theta, one)
    if not hasattr(f, "shape") or len(f.shape) != 1 or f.shape[0] == 0:
        raise SettingError(
            f"kernel: the model maps one input of shape {one.shape} to "
            f"{jax.tree.map(jnp.shape, f)}; expected outputs [c]"
        )
    if not jnp.issubdtype(f.dtype, jnp.floating):
        raise SettingError(f"kernel: the model's outputs are {f.dtype}; expected reals")


def _shape(one, function, *arguments):
    """`jax.eval_shape`, with one line in place of whatever the model's library raises."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, ValueError) and PACKAGE in raised_in:
            raise  # ours, and one line already
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingError(
            "kernel: the model does not take these parameters and an input of shape "
            f"{one.shape}: {first}"
        ) from error


def _check_samples(network, theta, x):
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((theta, x))):
        return
    # Rows that differ by construction: samples that are all alike could interact unseen.
    batch = jnp.concatenate([x[:3], jnp.zeros_like(x[:1]), jnp.ones_like(x[:1])])
    together = network.batched(theta, batch)
    alone = jax.vmap(network.apply, (None, 0))(theta, batch)
    # Entries that are NaN or infinite on both sides, such as those of a direction at zero, tell
    # nothing; on one side they mix.
    comparable = jnp.isfinite(together) | jnp.isfinite(alone)
    gap = float(jnp.max(jnp.abs(jnp.where(comparable, together - alone, 0))))
    if not gap <= 1e-3 * float(jnp.max(jnp.abs(jnp.where(jnp.isfinite(alone), alone, 0)))):
        raise SettingError(
            f"kernel: the model mixes the samples of a batch (outputs differ by {gap:.3g} from "
            "those of one input at a time); "
            "a kernel needs one output for one input: is batch norm in training mode?"
        )


def shapes(tree) -> dict[str, tuple[int, ...]]:
    """{path of a leaf: its shape}."""
    return {
        jax.tree_util.keystr(path): jnp.shape(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _finite(leaf) -> bool:
    return (
        isinstance(leaf, jax.core.Tracer)
        or not jnp.issubdtype(leaf.dtype, jnp.inexact)
        or bool(np.all(np.isfinite(leaf)))
    )
