"""K v over all of Fashion-MNIST without K: time beside one gradient on the same data, and memory.

    python scripts/bench/matrix_free.py            60,000 images x 10 outputs, MLP 784-1024-10; some
                                                   two minutes on 2 cores
    python scripts/bench/matrix_free.py --quick    2,000 images at width 64, to see it run: writes
                                                   matrix_free_quick.{json,md}

Claim: under 4 GiB, and a product within 4 times one gradient of the mean squared loss, the fastest
of whole batch and two chunk sizes. Product and gradients take turns, medians are compared. Memory
is the process's peak, data set and JAX included, in a first product before any gradient has run.
Writes matrix_free.{json,md} under results/bench.
"""

import os
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from kernels_worker import timed
from publish import parser, publish, stem, with_jax

from ntkcl import networks, sources
from ntkcl.kernels.operator import CHUNK, operator
from ntkcl.resources import Meter

ROOT = Path(__file__).parents[2]
REPEATS = 7
GRADIENT_CHUNKS = (500, 1000)  # they divide 60,000: the gradient has no ragged chunk to pay for
BOUNDS = {"peak_gib": 4.0, "ratio": 4.0}


def images(n: int):
    """The first n train images, standardised, and their one-hot targets."""
    settings = yaml.safe_load((ROOT / "conf/source/fashion_mnist.yaml").read_text())
    del settings["_target_"]
    source = sources.tfds_or_idx(**settings)
    x = (source.train.x[:n] - np.float32(source.mean)) / np.float32(source.sd)
    return jnp.asarray(x), jnp.asarray(source.train.y[:n])


def gradient(apply, chunk: int | None):
    """(theta, x, y) -> gradient of mean (f - y)^2.

    Over the whole batch at once, or summed over chunks that divide it.
    """

    def loss(theta, x, y):
        return jnp.sum((jax.vmap(apply, (None, 0))(theta, x) - y) ** 2)

    def whole(theta, x, y):
        return jax.grad(lambda theta: loss(theta, x, y) / y.size)(theta)

    def chunked(theta, x, y):
        def add(total, part):
            return jax.tree.map(jnp.add, total, jax.grad(loss)(theta, *part)), None

        parts = jax.tree.map(lambda a: a.reshape(-1, chunk, *a.shape[1:]), (x, y))
        total = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, theta), parts)[0]
        return jax.tree.map(lambda g: g / y.size, total)

    return jax.jit(chunked if chunk else whole)


def measure(n: int, width: int) -> dict:
    x, y = images(n)
    network = networks.mlp(outputs=10, width=width, depth=1)
    theta = network.init(jax.random.key(0), x[0])
    product, v = operator(network).product, jax.random.normal(jax.random.key(1), y.shape)
    meter = Meter()
    timed(lambda: product(theta, x, None, v))
    peak_mib = meter.read().peak_mib

    members = {"product": lambda: product(theta, x, None, v)}
    for chunk in (None, *GRADIENT_CHUNKS):
        function = gradient(network.apply, chunk)
        members[f"gradient, {f'chunks of {chunk}' if chunk else 'whole batch'}"] = (
            lambda function=function: function(theta, x, y)
        )
    for f in members.values():
        timed(f)  # compiles
    times = {name: [] for name in members}
    for _ in range(REPEATS):
        for name, f in members.items():
            times[name].append(timed(f))
    medians = {name: statistics.median(t) for name, t in times.items()}
    fastest = min((name for name in medians if name != "product"), key=medians.get)
    return {
        "n": n,
        "outputs": 10,
        "width": width,
        "chunk": CHUNK,
        "seconds": times,
        "median_seconds": medians,
        "fastest_gradient": fastest,
        "ratio": medians["product"] / medians[fastest],
        "peak_gib": peak_mib / 1024,
        "dense_kernel_gib": (n * 10) ** 2 * 4 / 2**30,
        "machine": with_jax() | {"load_at_the_end": os.getloadavg()[0]},
    }


def markdown(found: dict) -> str:
    machine = found["machine"]
    ranges = {name: f"{min(t):.3f} | {max(t):.3f}" for name, t in found["seconds"].items()}
    medians = found["median_seconds"].items()
    rows = "\n".join(f"| {name} | {median:.3f} | {ranges[name]} |" for name, median in medians)
    under = f"claimed: under {BOUNDS['peak_gib']:g}"
    claimed = f"claimed: at most {BOUNDS['ratio']:g}"
    sizes = (
        f"MLP 784-{found['width']}-{found['outputs']}, float32, {found['chunk']} samples a chunk"
    )
    cores = f"{machine['cores']} cores ({machine['processor']})"
    versions = f"JAX {machine['jax']} on {machine['device']}, Python {machine['python']}"
    return f"""# K v without K

{found["n"]:,} Fashion-MNIST images, {sizes}.
{cores}, {versions};
{REPEATS} repeats taken in turn.

| one evaluation | median s | least | most |
|---|---|---|---|
{rows}

Product over the fastest gradient ({found["fastest_gradient"]}): {found["ratio"]:.2f} ({claimed}).
Peak memory of the process, data set included: {found["peak_gib"]:.2f} GiB ({under});
the dense kernel would take {found["dense_kernel_gib"]:,.0f} GiB.
"""


def main() -> None:
    given = parser(__doc__, quick=True).parse_args()
    stored = measure(2000, 64) if given.quick else measure(60_000, 1024)
    publish(given.folder, stem("matrix_free", given), stored, markdown)


if __name__ == "__main__":
    main()
