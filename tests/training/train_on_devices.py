"""Training on one device and on eight, and whether a batch is shared.

`python train_on_devices.py OUT`; test_train.py runs it.
"""

import sys
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import optax  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))
from cases import random_stream  # noqa: E402

from ntkcl import experiment, losses, methods, networks, optimizers  # noqa: E402
from ntkcl.compilation import portable  # noqa: E402
from ntkcl.experiment import record  # noqa: E402
from ntkcl.training import loop  # noqa: E402
from ntkcl.training.settings import Training  # noqa: E402

STREAM = random_stream(jax.random.key(5), [24, 24])
NETWORK, LOSS, HEAD = networks.mlp(outputs=2, width=16), losses.squared_error(), STREAM[0].head
found = {"devices": len(jax.devices())}
for batch_size, method, anchors in (
    (None, methods.naive(), ["boundary"]),
    (16, methods.er(size=8, batch_size=4), []),
):
    for devices in (1, "all"):
        training = Training(steps=12, batch_size=batch_size, devices=devices, evaluate_every=5)
        parts = NETWORK, LOSS, optimizers.sgd(momentum=0.5), training
        run = record.gather(
            experiment.run(jax.random.key(0), STREAM, *parts, method=method, anchors=anchors),
            STREAM,
        )
        found |= {
            f"losses {batch_size} {devices}": run.losses,
            f"measured {batch_size} {devices}": run.measured,
        }

    whole, shared = loop.spread(8)
    state = jax.device_put(
        loop.at_rest(NETWORK.init(jax.random.key(0), STREAM[0].train.x[0]), optax.sgd(0.1)), whole
    )
    dataset = jax.device_put(STREAM[0].train, whole if batch_size else shared)
    order = loop.batches(jax.random.key(0), 24, batch_size, 3) if batch_size else None
    bound = dict(apply=portable(NETWORK.apply), transform=portable(optax.sgd(0.1)))
    settings = dict(loss=LOSS, count=3, method=None, shared=shared, **bound)
    compiled = loop.advance.lower(state, dataset, HEAD, order, **settings).compile()
    found[f"hidden {batch_size}"] = [
        f"f64[{n},16]" in compiled.as_text() for n in ((batch_size or 24) // 8, batch_size or 24)
    ]
    found[f"replicated {batch_size}"] = all(
        leaf.is_fully_replicated for leaf in jax.tree.leaves(compiled.output_shardings[0].theta)
    )
np.savez(sys.argv[1], **found)
