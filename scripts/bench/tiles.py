"""A block streamed to disk under a memory budget: the process's peak, and a repeat.

    python scripts/bench/tiles.py            2,000 x 2,000 inputs, 10 outputs, budget 1,024 MiB;
                                             about a minute on 2 cores
    python scripts/bench/tiles.py --quick    200 x 200 inputs, to see it run

Claim: peak resident memory, beyond what the process held before the call, at most 1.2 times the
output and the budget together. Writes tiles.{json,md} under results/bench.
"""

import tempfile
import time

import jax
from publish import parser, publish, stem, with_jax

from ntkcl import kernels, networks
from ntkcl.resources import Meter


def measure(n: int, width: int, budget_mib: int) -> dict:
    network = networks.mlp(outputs=10, width=width, depth=2)
    x, y = (jax.random.normal(jax.random.key(k), (n, 784)) for k in (0, 1))
    theta = jax.block_until_ready(network.init(jax.random.key(2), x[0]))
    tiles, found = [], {"n": n, "outputs": 10, "width": width, "budget_mib": budget_mib}
    with tempfile.TemporaryDirectory() as folder:
        kernel_fn = kernels.tiled(
            kernels.structured(network),
            budget_mib=budget_mib,
            store=folder,
            progress=lambda todo: tiles.append(len(todo)) or todo,
        )
        meter = Meter()
        before = meter.read().peak_mib
        for name in ("first", "repeated"):
            start = time.perf_counter()
            block = kernel_fn(theta, x, y)
            found[name] = {
                "seconds": time.perf_counter() - start,
                "tiles": tiles[-1],
                "peak_mib": meter.read().peak_mib,
            }
        found["output_mib"] = block.nbytes / 2**20
        del block
    found["before_mib"] = before
    found["allowed_mib"] = 1.2 * (found["output_mib"] + budget_mib)
    found["used_mib"] = found["first"]["peak_mib"] - before
    found["machine"] = with_jax()
    return found


def markdown(found: dict) -> str:
    first, repeated, machine = found["first"], found["repeated"], found["machine"]
    network = f"MLP 784-{found['width']}-{found['width']}-10"
    peak = f"peak resident {first['peak_mib']:,.0f} less {found['before_mib']:,.0f} before"
    return f"""# Blocks in tiles, streamed to disk

{found["n"]:,} x {found["n"]:,} inputs, 10 outputs, {network}, float32.
{machine["cores"]} cores, JAX {machine["jax"]}, Python {machine["python"]}.

| | MiB |
|---|---|
| the block | {found["output_mib"]:,.0f} |
| budget | {found["budget_mib"]:,} |
| allowed: both and 20 % | {found["allowed_mib"]:,.0f} |
| used: {peak} | {found["used_mib"]:,.0f} |

First: {first["seconds"]:.1f} s, {first["tiles"]} tiles, compilation and writing included.
Repeated: {repeated["seconds"]:.1f} s, {repeated["tiles"]} tiles, every checksum read.
"""


def main() -> None:
    given = parser(__doc__, quick=True).parse_args()
    stored = measure(200, 64, 16) if given.quick else measure(2000, 1024, 1024)
    publish(given.folder, stem("tiles", given), stored, markdown)


if __name__ == "__main__":
    main()
