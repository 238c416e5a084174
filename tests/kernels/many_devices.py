"""A kernel block by whatever devices and processes there are.

`python many_devices.py OUT [rank port store]`; test_tiles.py runs it.
"""

import sys

import jax
import numpy as np

OUT, *JOINED = sys.argv[1:]
if JOINED:
    rank, port, store = JOINED
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(rank))
else:
    store = None
jax.config.update("jax_enable_x64", True)

from test_tiles import problem  # noqa: E402

from ntkcl import kernels  # noqa: E402

network, theta, x, y = problem()
kernel_fn = kernels.tiled(kernels.structured(network), budget_mib=0.2, store=store)
np.savez(
    OUT,
    xy=kernel_fn(theta, x, y),
    xx=kernel_fn(theta, x),
    devices=len(jax.devices()),
    processes=jax.process_count(),
)
