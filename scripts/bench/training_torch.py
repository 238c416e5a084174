"""The plain PyTorch loops that `training.py` compares with, in a process of their own.

Reads lines of JSON {case, threads, steps, batch, samples, loader} and answers each with
{"seconds": ...}. Data lie in memory as one tensor; a batch comes from a shuffling `DataLoader`, as
in PyTorch's tutorials, or is one `index_select`, which is faster.
"""

import itertools
import json
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def model(case: dict) -> nn.Module:
    if case["kind"] == "mlp":
        sizes = [784, *[case["width"]] * case["depth"], 10]
        layers = [
            part for m, n in itertools.pairwise(sizes) for part in (nn.Linear(m, n), nn.ReLU())
        ]
        return nn.Sequential(nn.Flatten(), *layers[:-1])
    channels, side, layers = 1, 28, []
    for stride in case["strides"]:
        layers += [nn.Conv2d(channels, case["width"], 3, stride, padding=1), nn.ReLU()]
        channels, side = case["width"], -(-side // stride)
    return nn.Sequential(
        nn.Unflatten(1, (1, 28)), *layers, nn.Flatten(), nn.Linear(channels * side**2, 10)
    )


def measured(case: dict, threads: int, steps: int, batch: int, samples: int, loader: bool) -> float:
    """Seconds of `steps` steps of SGD on cross-entropy, after a warm-up of 20.

    Batches come from a `DataLoader`, or by indexing.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, y = torch.randn(samples, 28, 28), torch.randint(0, 10, (samples,))
    network, loss = model(case), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def loaded():
        while True:
            yield from DataLoader(TensorDataset(x, y), batch, shuffle=True)

    def indexed():
        while True:
            for index in torch.randperm(samples).split(batch):
                yield x[index], y[index]

    def train(count):
        for inputs, labels in itertools.islice(loaded() if loader else indexed(), count):
            optimizer.zero_grad()
            loss(network(inputs), labels).backward()
            optimizer.step()

    train(20)
    start = time.perf_counter()
    train(steps)
    return time.perf_counter() - start


if __name__ == "__main__":
    for line in sys.stdin:
        print(
            json.dumps({"seconds": measured(**json.loads(line)), "version": torch.__version__}),
            flush=True,
        )
