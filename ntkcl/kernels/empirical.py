"""The kernel of any model at any size: implementations are compared before one is chosen.

`plan` says what each implementation would cost here, and which one is taken; `empirical` computes
the kernel with it, in tiles.
"""

import math
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from ntkcl.compilation import convolves, lowered, once
from ntkcl.kernels.checks import check
from ntkcl.kernels.contraction import contraction
from ntkcl.kernels.kernel import Kernel, network_of
from ntkcl.kernels.structured import structured
from ntkcl.kernels.tile_sizes import guess_edge, tile_mib
from ntkcl.kernels.tiles import Progress, tiled
from ntkcl.kernels.vector_products import vector_products
from ntkcl.resources import MIB
from ntkcl.types import Apply, Network
from ntkcl.validation import SettingError, finite, one_of

# Roughly the share of the machine's matrix-product rate that each reaches, the middle of what
# results/bench/kernels.md has for them: enough to order them, which is all they are used for.
EFFICIENCY = {"structured": 0.6, "contraction": 0.4, "vector_products": 0.3}
IMPLEMENTATIONS = {
    "structured": structured,
    "contraction": contraction,
    "vector_products": vector_products,
}
AUTO = ("auto", *IMPLEMENTATIONS)
CONVOLVED = 6  # times as long as a matrix product of as many multiply-adds, outside of loops
NEGLIGIBLE = 0.01  # seconds: what is estimated to take less is taken, nothing else compared


class Cost(NamedTuple):
    """What an implementation would take: seconds, MiB of its smallest tile, and the samples a side
    of the tile it would use."""

    implementation: str
    seconds: float
    least_mib: float
    edge: int


class Plan(NamedTuple):
    """The choice and its alternatives; `str(plan)` says it in one line."""

    choice: str
    n1: int
    n2: int
    outputs: int
    result_mib: float
    budget_mib: float
    costs: tuple[Cost, ...]

    def __str__(self):
        each = "; ".join(
            f"{cost.implementation} {cost.seconds:.3g} s in tiles of {cost.edge}"
            if cost.least_mib <= self.budget_mib
            else f"{cost.implementation} needs {cost.least_mib:,.3g} MiB for one pair"
            for cost in self.costs
        )
        size = f"{self.n1} x {self.n2} inputs, {self.outputs} outputs, {self.result_mib:,.4g} MiB"
        return f"kernel {size}, budget {self.budget_mib:g} MiB: {self.choice} ({each})"


def plan(
    model: Network | Apply,
    theta,
    x1,
    x2=None,
    *,
    budget_mib: float | int = 1024,
    in_memory: bool = True,
    implementation: str = "auto",
) -> Plan:
    """The fastest implementation whose smallest tile fits the budget, and the costs of all.

    Times are multiply-adds over the rate of a matrix product measured here; they tell the
    implementations apart and the order of magnitude, not the second. `in_memory=False` for a result
    that goes to a store.
    Raises ValueError with the numbers and the remedy where the result or the smallest tile fits
      nowhere.
    """
    network = network_of(model)
    kernels = _kernels(network)
    return _plan(network, kernels, theta, x1, x2, budget_mib, in_memory, implementation)


def _kernels(network: Network) -> Callable[[str], Kernel]:
    """Each implementation of a network's kernel, made once: what is traced to plan serves the
    kernel."""
    return cache(lambda name: IMPLEMENTATIONS[name](network))


def _plan(
    network, kernels, theta, x1, x2, budget_mib, in_memory, implementation, negligible=0.0
) -> Plan:
    """`plan`, which stops comparing at an implementation that takes at most `negligible` seconds:
    tracing the others would take longer than the kernel."""
    check(network, theta, x1, x2)
    finite("kernel.budget_mib", budget_mib, above=0.0)
    one_of("kernel.implementation", implementation, AUTO)
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    pairs = n1 * n2 if x2 is not None else n1 * (n1 + 1) / 2
    names = [name for name in IMPLEMENTATIONS if network.taps is not None or name != "structured"]
    if implementation not in ("auto", *names):
        raise SettingError(
            f"kernel.implementation={implementation}: this network has no taps; use "
            f"{' or '.join(names)}"
        )
    sides = n1 if x2 is None else n1 + n2
    asked = [name for name in names if implementation in ("auto", name)]
    costs: list[Cost] = []
    for name in asked if negligible else names:
        costs.append(_cost(kernels(name), theta, x1, pairs, sides, max(n1, n2), budget_mib))
        if costs[-1].seconds <= negligible and costs[-1].least_mib <= budget_mib:
            break
    c = jax.eval_shape(network.apply, theta, x1[0]).shape[0]
    result_mib = n1 * n2 * c**2 * jnp.result_type(*jax.tree.leaves(theta)).itemsize / MIB
    free_mib = psutil.virtual_memory().available / MIB
    if in_memory and result_mib > free_mib:
        raise SettingError(
            f"kernel: {n1} x {n2} inputs with {c} outputs make {result_mib:,.0f} MiB and "
            f"{free_mib:,.0f} MiB are free; "
            "give a store, fewer inputs, or use kernels.operator, which stores no kernel"
        )
    fitting = [
        cost
        for cost in costs
        if cost.least_mib <= budget_mib and implementation in ("auto", cost.implementation)
    ]
    if not fitting:
        least = "; ".join(f"{cost.implementation} {cost.least_mib:,.3g} MiB" for cost in costs)
        enough = min(
            cost.least_mib for cost in costs if implementation in ("auto", cost.implementation)
        )
        raise SettingError(
            f"kernel.budget_mib={budget_mib:g}: the smallest tiles take {least}; expected at least "
            f"{math.ceil(enough)}, or use kernels.operator"
        )
    best = min(fitting, key=lambda cost: cost.seconds)
    return Plan(best.implementation, n1, n2, c, result_mib, float(budget_mib), tuple(costs))


@once
def empirical(
    model: Network | Apply,
    *,
    implementation: str = "auto",
    budget_mib: float | int = 1024,
    store: str | Path | None = None,
    devices: Any = None,
    progress: Progress | None = None,
) -> Callable[..., np.ndarray]:
    """The kernel of any model at any size: planned, in tiles, over all devices.

    The map is `kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]`, a numpy array.

    Arguments:
      model: a `Network` (of any linen module: `ntkcl.networks.network`) or `apply(theta, x) -> [c]`
        for one x.
      implementation: "auto" takes, for each shape of inputs, the first that is estimated to take
        at most `NEGLIGIBLE` seconds, else what `plan` chooses; or "structured", "contraction",
        "vector_products".
      budget_mib, store, devices, progress: see `ntkcl.kernels.tiled`.
    Raises ValueError as `plan` and `tiled` do.
    """
    one_of("kernel.implementation", implementation, AUTO)
    finite("kernel.budget_mib", budget_mib, above=0.0)
    network, plans = network_of(model), {}
    kernels = _kernels(network)

    @cache
    def by_name(name):
        return tiled(
            kernels(name),
            budget_mib=budget_mib,
            store=store,
            devices=devices,
            progress=progress,
        )

    def kernel_fn(theta, x1, x2=None):
        kind = tuple((getattr(x, "shape", None), getattr(x, "dtype", None)) for x in (x1, x2))
        if kind not in plans:
            limits = budget_mib, store is None, implementation
            plans[kind] = _plan(network, kernels, theta, x1, x2, *limits, negligible=NEGLIGIBLE)
        return by_name(plans[kind].choice)(theta, x1, x2)

    return kernel_fn


def _cost(kernel: Kernel, theta, x, pairs, sides, longest, budget_mib) -> Cost:
    work = kernel.work(theta, x)
    seconds = (sides * work.sample + pairs * work.pair) / (matmul_rate() * EFFICIENCY[kernel.name])
    edge = int(min(longest, guess_edge(kernel, theta, x, budget_mib)))
    return Cost(kernel.name, seconds, tile_mib(kernel, theta, x, 1), edge)


def product_seconds(model: Network | Apply, theta, n: int, one) -> float:
    """Roughly the seconds of K(x, x) v = J (J^T v) by `ntkcl.kernels.operator`, x being n inputs
    such as `one`: a pass with tangents, and one with its transpose."""
    return 4 * pass_seconds(model, theta, n, one, in_loop=True)


def pass_seconds(model: Network | Apply, theta, n: int, one, *, in_loop: bool = False) -> float:
    """Roughly the seconds of n inputs, such as `one`, through the network; it takes longer within a
    loop of a program, convolutions most of all."""
    leaves, tree = jax.tree.flatten(theta)
    kinds = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    network, one = network_of(model), jax.ShapeDtypeStruct(one.shape, one.dtype)
    work, convolved = _pass_work(network.apply, tree, kinds, one)
    # f - f_0 is counted as two passes, and has the tangents of one.
    work /= 2 if network.centred else 1
    slower = (30 if convolved else 1.5) if in_loop else (CONVOLVED if convolved else 1)
    return n * slower * work / matmul_rate()


@once
def _pass_work(apply, tree, kinds, one) -> tuple[float, bool]:
    """Multiply-adds of one forward pass, and whether convolutions are among them."""
    theta = jax.tree.unflatten(tree, kinds)
    counted = lowered(apply, theta, one).cost_analysis() or {}
    work = counted.get("flops", 2 * sum(kind.size for kind in kinds)) / 2
    return work, convolves(apply, theta, one)


@cache
def matmul_rate() -> float:
    """Multiply-adds a second of a float32 matrix product on the default device, best of five."""
    a = np.ones((1024, 1024), np.float32)
    product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    jax.block_until_ready(product(a))

    def seconds():
        start = time.perf_counter()
        jax.block_until_ready(product(a))
        return time.perf_counter() - start

    return float(1024**3 / min(seconds() for _ in range(5)))
