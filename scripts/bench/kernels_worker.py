"""The process that `kernels.py` measures in: one model, one kernel, requests in, numbers out.

The kernel is ours or neural-tangents'. The process runs in this environment and in the one with
neural-tangents, so nothing at the top imports ntkcl. Models are written for one input and for a
batch alike; parameters and inputs come from NumPy, so both sides hold the same numbers whatever
their JAX. A request is one line of JSON, and so is its reply.

    python scripts/bench/kernels_worker.py (ours | peer) (bytes it may allocate)
"""

import contextlib
import json
import os
import resource
import sys
import time
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

MATMUL = (4096, 1024, 4096)
OUTPUTS = 10


class MLP(nn.Module):
    """Two hidden layers in NTK parametrization, without biases: as `ntkcl.networks.mlp`."""

    width: int

    @nn.compact
    def __call__(self, x):
        for name in ("hidden_0", "hidden_1"):
            x = nn.relu(nn.Dense(self.width, use_bias=False, name=name)(x / x.shape[-1] ** 0.5))
        return nn.Dense(OUTPUTS, use_bias=False, name="readout")(x / x.shape[-1] ** 0.5)


class CNN(nn.Module):
    """Three 3x3 convolutions of strides 1, 2, 2, and a dense head."""

    channels: int

    @nn.compact
    def __call__(self, x):
        for stride in (1, 2, 2):
            x = nn.relu(nn.Conv(self.channels, (3, 3), (stride, stride))(x))
        return nn.Dense(OUTPUTS)(x.reshape(*x.shape[:-3], -1))


class ResNet(nn.Module):
    """ResNet-18's four stages of two blocks, narrow.

    With group norm in place of batch norm, and no pooling at the stem.
    """

    channels: int

    @nn.compact
    def __call__(self, x):
        def norm(x):
            return nn.GroupNorm(num_groups=4, reduction_axes=(-3, -2, -1))(x)

        conv = partial(nn.Conv, use_bias=False)
        x = nn.relu(norm(conv(self.channels, (3, 3))(x)))
        for stage in range(4):
            for block in range(2):
                width, stride = self.channels * 2**stage, 2 if stage and not block else 1
                y = nn.relu(norm(conv(width, (3, 3), (stride, stride))(x)))
                y = norm(conv(width, (3, 3))(y))
                x = nn.relu(
                    y
                    + (x if x.shape == y.shape else norm(conv(width, (1, 1), (stride, stride))(x)))
                )
        return nn.Dense(OUTPUTS)(x.mean((-3, -2)))


class Transformer(nn.Module):
    """Blocks of attention and a dense net, layer norm before each, mean over the tokens."""

    blocks: int
    heads: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.blocks):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(y, y)
            y = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
            x = x + nn.Dense(x.shape[-1])(y)
        return nn.Dense(OUTPUTS)(nn.LayerNorm()(x).mean(-2))


class Case(NamedTuple):
    """A module and the shape of one input."""

    module: nn.Module
    shape: tuple[int, ...]


CASES = {
    "mlp-8": Case(MLP(8), (12,)),
    "mlp-256": Case(MLP(256), (784,)),
    "mlp-1024": Case(MLP(1024), (784,)),
    "mlp-4096": Case(MLP(4096), (784,)),
    "cnn-2": Case(CNN(2), (8, 8, 1)),
    "cnn-32": Case(CNN(32), (28, 28, 1)),
    "resnet-18-8": Case(ResNet(8), (16, 16, 3)),
    "transformer-2": Case(Transformer(2, 4), (16, 64)),
}


def parameters(case: Case):
    """Weights of unit output variance, norms and biases near their start.

    The MLP's weights have unit variance, for its forward pass scales them. Every leaf is drawn by
    its own path, so neither the order of the leaves nor JAX's generator matters.
    """
    shapes = jax.eval_shape(lambda: case.module.init(jax.random.key(0), jnp.zeros(case.shape)))[
        "params"
    ]

    def leaf(path, shape):
        kind = path[-1].key
        draw = np.random.default_rng(
            zlib.crc32(jax.tree_util.keystr(path).encode())
        ).standard_normal(shape.shape)
        scale = {"bias": 0.1, "scale": 0.1}.get(
            kind, 1.0 if isinstance(case.module, MLP) else np.prod(shape.shape[:-1]) ** -0.5
        )
        return jnp.asarray(draw * scale + (kind == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def inputs(case: Case, n: int, side: int):
    return jnp.asarray(np.random.default_rng(side).standard_normal((n, *case.shape)), jnp.float32)


def ours(case: Case, implementation: str):
    """`kernel(theta, x1, x2) -> [n1, c, n2, c]`, and what its form needs."""
    from ntkcl import kernels, networks

    mlp = isinstance(case.module, MLP)
    network = (
        networks.mlp(outputs=OUTPUTS, width=case.module.width, depth=2)
        if mlp
        else networks.network(case.module)
    )
    kernel = getattr(kernels, implementation)(network)

    def counts(theta, x1, x2):
        return multiply_adds(network, kernels.structured(network), theta, x1, x2)

    return kernel, counts


def peer(case: Case, implementation: str, vmap_axes):
    """neural-tangents' kernel in our order of arguments and axes.

    The axes are moved outside of the timed part.
    """
    import neural_tangents as nt

    settings = dict(trace_axes=(), vmap_axes=vmap_axes, implementation=int(implementation))
    kernel = jax.jit(
        nt.empirical_ntk_fn(lambda theta, x: case.module.apply({"params": theta}, x), **settings)
    )
    return lambda theta, x1, x2: kernel(x1, x2, theta)


def multiply_adds(network, structured, theta, x1, x2):
    """What each form needs, from the shapes of the layers.

    Symmetric blocks count their n (n + 1) / 2 different pairs.
    structured: a dense layer k + c^2 m a pair, a readout (whose signals all inputs share) k, any
    other the smaller of P^2 G (k + c^2 m) and c^2 G k m, the latter with c P G k m a sample to
    build the gradients; the other leaves c^2 each.
    contraction: c^2 p a pair. vector products: two passes over all layers a pair and output.
    """
    n1, n2, c = len(x1), len(x1 if x2 is None else x2), OUTPUTS
    pairs, samples = (n1 * (n1 + 1) / 2, n1) if x2 is None else (n1 * n2, n1 + n2)
    survey = network.taps.survey(theta, x1[0])
    _, phi, z = jax.eval_shape(
        lambda theta: network.taps.read(survey.layers, theta, {}, x1[0]), theta
    )
    shared = jax.eval_shape(structured.factors, theta, x1).shared
    leaves = [leaf.size for leaf in jax.tree_util.tree_leaves(theta)]
    gram, forward, widest = pairs * c**2 * sum(leaves[i] for i in survey.rest), 0, 0
    for layer in survey.layers:
        positions = sum(call.shape[0] for call in phi[layer])
        (_, groups, k), m = phi[layer][0].shape, z[layer][0].shape[-1]
        by_positions = pairs * positions**2 * groups * (k + c**2 * m)
        by_gradients = pairs * c**2 * groups * k * m + samples * c * positions * groups * k * m
        gram += pairs * k if "/".join(layer) in shared else min(by_positions, by_gradients)
        forward += positions * groups * k * m
        widest = max(widest, positions * groups * m)
    needed = dict(
        structured=gram,
        contraction=pairs * c**2 * sum(leaves),
        vector_products=pairs * c * 2 * forward,
    )
    return dict(needed=needed, parameters=sum(leaves), forward=forward, widest=widest, outputs=c)


def meter():
    """ntkcl's, from the repository where the environment has no ntkcl; it needs JAX alone."""
    sys.path.append(str(Path(__file__).parents[2]))
    from ntkcl.resources import Meter

    return Meter()


def matmul():
    m, k, n = MATMUL
    a, b = (
        jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
        for shape in ((m, k), (k, n))
    )
    product = jax.jit(jnp.matmul)
    return lambda: product(a, b)


def timed(call) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def corner(block, side):
    """The block at its first and last two samples as numbers, in our order of axes."""
    block = np.asarray(block) if side == "ours" else np.asarray(block).transpose(0, 2, 1, 3)
    ends = [
        np.unique(np.clip([0, 1, n - 2, n - 1], 0, n - 1)) for n in (block.shape[0], block.shape[2])
    ]
    return block[ends[0]][:, :, ends[1]].astype(float).ravel().tolist()


def serve(side: str, receive, send):
    """Answers requests, by what they ask to do.

    prepare: compile, run once for the values, once for time and peak memory. time, matmul: one
    call each. forget: drop what is prepared.
    """
    ready: dict = {}

    def prepare(name, n, symmetric, implementation, vmap_axes=None, **_):
        case = CASES[name]
        kernel, counts = (
            ours(case, implementation)
            if side == "ours"
            else (peer(case, implementation, vmap_axes), None)
        )
        theta, x1 = parameters(case), inputs(case, n, 1)
        x2 = None if symmetric else inputs(case, n, 2)
        call = partial(kernel, theta, x1, x2)
        block = jax.block_until_ready(call())
        answer = dict(values=corner(block, side)) | (
            {} if counts is None else counts(theta, x1, x2)
        )
        del block
        gauge = meter()
        answer["seconds"] = timed(call)
        answer["peak_mib"] = gauge.read().peak_mib
        ready[implementation, vmap_axes] = call
        return answer

    def forget(**_):
        ready.clear()
        jax.clear_caches()
        return {}

    def time_one(**request):
        key = request["implementation"], request.get("vmap_axes")
        if key not in ready:  # another measurement took the process before this one down
            prepare(**request)
        return dict(seconds=timed(ready[key]))

    def time_matmul(**_):
        if "matmul" not in ready:
            ready["matmul"] = matmul()
            timed(ready["matmul"])
        return dict(seconds=timed(ready["matmul"]))

    orders = dict(prepare=prepare, forget=forget, time=time_one, matmul=time_matmul)
    for line in receive:
        request = json.loads(line)
        try:
            reply = orders[request.pop("do")](**request)
        except Exception as error:  # whatever a library raises is this measurement's result
            reply = dict(
                error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[
                    :200
                ]
            )
        print(json.dumps(reply), file=send, flush=True)


def main() -> None:
    side, limit = sys.argv[1], int(sys.argv[2])
    # An allocation that fails is better than a system that ends some process for want of memory.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    send = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not disturb the replies
    serve(side, sys.stdin, send)


if __name__ == "__main__":
    main()
