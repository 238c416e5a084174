"""Gradient projection memory: each layer's gradient is projected off the layer's old inputs."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl import validation
from ntkcl.compilation import once, portable
from ntkcl.methods.custom import custom
from ntkcl.methods.memory import draw_memory, mean_over
from ntkcl.types import Method
from ntkcl.validation import SettingError

RANKS = 64  # bases are filled up with zeros to multiples of it: one program serves several ranks


class Kept(NamedTuple):
    """A projector M M^T [G, k, k] by its products: own x + sign basis (basis^T x).

    The basis [G, k, r] is that of M, own 0 and sign 1, or where M has more than half of the k
    directions that of the others, own 1 and sign -1.
    """

    basis: Any
    own: Any
    sign: Any

    def matrix(self):
        """M M^T itself."""
        whole = jnp.eye(self.basis.shape[1], dtype=self.basis.dtype)
        product = jnp.einsum("gir,gjr->gij", self.basis, self.basis, precision="highest")
        return self.own * whole[None] + self.sign * product

    def off(self, x):
        """x [k, G, m] less what is kept out of."""
        inside = jnp.einsum("gjr,jgm->grm", self.basis, x, precision="highest")
        spanned = jnp.einsum("gir,grm->igm", self.basis, inside, precision="highest")
        return (1 - self.own) * x - self.sign * spanned


class Memory(NamedTuple):
    """What is kept out of, and how many tasks there were.

    kept: a tree like theta. Each layer has one leaf, the inputs kept out of, as `Kept`, and every
      parameter outside of layers a number, 1 once it is frozen.
    """

    kept: Any
    tasks: Any


@once
def gpm(
    threshold: float | int | Sequence[float | int] = 0.97,
    per_task: int | None = 200,
    increment: float | int = 0.0,
    *,
    seed: int = 0,
) -> Method:
    """Projects the gradient G [k, m] of each layer to G - M M^T G.

    M is an orthonormal basis [k, r] of inputs of old tasks.

    A layer computes z = phi . W, phi [k] its input at one position, with a 1 (times what is in
    front of the bias) beside it where it has a bias, so that the bias is a row of W like any other.
    After a task R [k, s] are the phi of the kept samples at all positions, and M takes, of R' = R -
    M M^T R, the fewest left singular vectors for which |M M^T R|^2 + |R'_r|^2 >= threshold |R|^2.
    From then on z stays as it is for every input in the span of M. Parameters that are in no layer
    the taps can see (of norms, embeddings, ...) are frozen after task 0, unless all layers are left
    free.

    Arguments:
      threshold: epsilon from 0 to 1, one for all layers or one for each, in the order in which they
        run. 0 leaves a layer free, such as a readout where each task has a head of its own; 1 keeps
        everything above rounding.
      per_task, seed: samples of each task that R is made of, None for all (the paper: 300 of
        permuted MNIST, 125 of CIFAR-100).
      increment: added to the thresholds with every task, up to 1; a layer left free stays free.
    The paper: permuted MNIST [0.95, 0.99, 0.99] without biases; CIFAR-100 0.97 and 0.003 a task.
    The authors' code keeps one vector fewer than their equation (5) asks for after task 0; here the
    equation holds.
    Kernel space: at one anchor a layer's phi . phi' becomes phi . (1 - M M^T) phi' (theory 6),
    which takes away more than Jacobian rows of old samples span; forecasts train the linearised
    network.
    Cost a step and layer: 2 k r m multiply-adds, r the smaller of rank and k - rank, in blocks of
    `RANKS`.
    Raises ValueError, before anything is trained, for a network without taps, other than one
    threshold a layer, a memory larger than a task.
    Source: Saha, Garg, Roy 2021, equations 4 to 9; frozen parameters: their code, of batch norm.
    """
    thresholds = _Thresholds.of(threshold, increment)
    if per_task is not None:
        validation.whole("method.per_task", per_task)
    validation.seed("method.seed", seed)

    def begin(memory, network, theta, task):
        x = task.train.x[0]
        layers = _survey(network, theta, x).layers
        thresholds.check(layers)
        # A task that has too few samples is refused before it is trained.
        draw_memory(seed, int(memory.tasks) if memory else 0, len(task.train.x), per_task)
        if memory:
            return memory
        dtype = jnp.result_type(*jax.tree.leaves(theta))
        shapes = jax.eval_shape(partial(_grams, network.taps.read, layers), theta, x)
        zeros = {layer: _nothing(*shape.shape[:2], dtype) for layer, shape in shapes.items()}
        return Memory(_tree(theta, zeros, jnp.zeros((), dtype)), jnp.int32(0))

    def project(memory, apply, loss, theta, gradient):
        return jax.tree.map(_off, memory.kept, gradient, is_leaf=_is_kept)

    def consolidate(memory, network, loss, theta, task):
        t = int(memory.tasks)
        x = task.train.x[draw_memory(seed, t, len(task.train.x), per_task)]
        layers = _survey(network, theta, x[0]).layers
        grams = _mean_grams(portable(network.taps.read), layers, theta, x)
        wanted = thresholds.after(t, layers)
        grown = {
            layer: _by_products(
                *_grown(_at(memory.kept, layer).matrix(), grams[layer], wanted[layer])
            )
            for layer in layers
        }
        is_frozen = float(any(thresholds.values))
        frozen = jnp.asarray(is_frozen, jnp.result_type(*jax.tree.leaves(theta)))
        return Memory(_tree(theta, grown, frozen), memory.tasks + 1)

    return custom(begin=begin, project=project, consolidate=consolidate, step=None)


class _Thresholds(NamedTuple):
    """One threshold for all layers, or one for each; how much they grow with every task."""

    values: tuple[float | int, ...]
    is_one_for_all: bool
    increment: float | int

    @staticmethod
    def of(threshold: Any, increment: float | int) -> "_Thresholds":
        several = isinstance(threshold, Sequence) and not isinstance(threshold, str)
        values = threshold if several else (threshold,)
        checked = tuple(validation.unit("method.threshold", one) for one in values)
        return _Thresholds(checked, not several, validation.unit("method.increment", increment))

    def check(self, layers) -> None:
        """ValueError for other than one threshold a layer."""
        names = ["/".join(layer) for layer in layers]
        if not self.is_one_for_all and len(self.values) != len(names):
            raise SettingError(
                f"method.threshold={list(self.values)}: expected one number, or {len(names)}, one "
                f"for each of {', '.join(names)}"
            )

    def after(self, t: int, layers) -> dict:
        """The threshold of each layer after task t; a layer of threshold 0 stays free."""
        values = self.values * len(layers) if self.is_one_for_all else self.values
        pairs = zip(layers, values, strict=True)
        return {layer: min(v + t * self.increment, 1.0) if v else 0.0 for layer, v in pairs}


def _survey(network, theta, x):
    if network.taps is None:
        raise SettingError(
            "method=gpm: this network has no taps to read its layers' inputs; expected "
            "networks.network of a linen module"
        )
    return network.taps.survey(theta, x)


def _grams(read, layers, theta, x):
    """{layer: phi phi^T [G, k, k]}, summed over the positions of one input, in the widest type."""
    phis = read(layers, theta, {}, x)[1]
    wide = {layer: jnp.concatenate(calls, 0).astype(float) for layer, calls in phis.items()}
    return {
        layer: jnp.einsum("pgi,pgj->gij", phi, phi, precision="highest")
        for layer, phi in wide.items()
    }


@partial(jax.jit, static_argnames="layers")
def _mean_grams(read, layers, theta, x):
    grams = partial(_grams, read, layers, theta)
    return mean_over(grams, jax.eval_shape(grams, x[0]), x)


@jax.jit
@jax.default_matmul_precision("highest")
@partial(jnp.vectorize, signature="(k,k),(k,k),()->(k),(k,k)")
def _grown(kept, gram, threshold):
    """The projector `kept` and the fewest eigenvectors of the Gram matrix, off it, that leave at
    most 1 - threshold of its trace: axes [k, k], and whether each is kept out of [k]."""
    wide, total = kept.astype(gram.dtype), jnp.trace(gram)
    outside = jnp.eye(len(gram), dtype=gram.dtype) - wide
    energy, modes = jnp.linalg.eigh(outside @ gram @ outside)
    rounding = len(gram) * jnp.finfo(gram.dtype).eps
    taken = jnp.cumsum(jnp.maximum(energy, 0)) > (1 - threshold + rounding) * total
    # Of the sum the nearest projector: what rounding has made of `kept` does not add up over tasks.
    sizes, axes = jnp.linalg.eigh(wide + (modes * taken[None]) @ modes.T)
    return sizes > 0.5, axes.astype(kept.dtype)


def _nothing(groups: int, k: int, dtype) -> Kept:
    zero = jnp.zeros((), dtype)
    return Kept(jnp.zeros((groups, k, _columns(0, k)), dtype), zero, zero + 1)


def _columns(rank: int, k: int) -> int:
    return min(-(-max(rank, 1) // RANKS) * RANKS, k)


def _by_products(out, axes) -> Kept:
    """The projector onto the axes [G, k, k] that are kept `out` of [G, k], the last of them, by a
    basis of those or of the others, whichever are fewer."""
    out, axes = np.asarray(out), np.asarray(axes)
    ranks, k = out.sum(1), axes.shape[1]
    few = ranks.max() <= k - ranks.min()
    count = _columns(int(ranks.max() if few else k - ranks.min()), k)
    chosen = axes * (out if few else ~out)[:, None]
    chosen = chosen[:, :, k - count :] if few else chosen[:, :, :count]
    own = jnp.asarray(not few, axes.dtype)
    return Kept(jnp.asarray(chosen), own, 1 - 2 * own)


def _is_kept(node) -> bool:
    return isinstance(node, Kept)


def _tree(theta, layers, other, path=()):
    """theta with the parameters of each layer replaced by its entry, any other by `other`."""
    if path in layers:
        return layers[path]
    if not isinstance(theta, dict):
        return other
    return {name: _tree(below, layers, other, (*path, name)) for name, below in theta.items()}


def _at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def _off(kept, gradient):
    """A layer's gradient {kernel, bias} less what the projector keeps out.

    Or the gradient of a parameter outside of layers, zero where it is frozen.
    """
    if not isinstance(gradient, dict):
        return gradient * (1 - kept)
    groups, k = kept.basis.shape[:2]
    bias = "bias" in gradient
    rows = gradient["kernel"].reshape(k - bias, groups, -1)
    if bias:
        rows = jnp.concatenate([rows, gradient["bias"].reshape(1, groups, -1)])
    rows = kept.off(rows)
    parts = {"kernel": rows[: k - bias]} | ({"bias": rows[k - 1]} if bias else {})
    return {name: part.reshape(gradient[name].shape) for name, part in parts.items()}
