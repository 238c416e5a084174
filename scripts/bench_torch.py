"""The plain PyTorch loop that `bench_training.py` compares with, in a process and an environment of its own.

Reads lines of JSON {case, threads, steps, batch, samples} and answers each with {"seconds": ...}. Data lie in memory as one tensor and
a batch is one `index_select`: a `DataLoader` would be slower.
"""

import itertools
import json
import sys
import time

import torch
from torch import nn


def model(case: dict) -> nn.Module:
    if case["kind"] == "mlp":
        sizes = [784, *[case["width"]] * case["depth"], 10]
        layers = [part for m, n in itertools.pairwise(sizes) for part in (nn.Linear(m, n), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *layers[:-1])
    channels, side, layers = 1, 28, []
    for stride in case["strides"]:
        layers += [nn.Conv2d(channels, case["width"], 3, stride, padding=1), nn.ReLU()]
        channels, side = case["width"], -(-side // stride)
    return nn.Sequential(nn.Unflatten(1, (1, 28)), *layers, nn.Flatten(), nn.Linear(channels * side**2, 10))


def measured(case: dict, threads: int, steps: int, batch: int, samples: int) -> float:
    """Seconds of `steps` steps of SGD on cross-entropy, after one warm-up of 20."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, y = torch.randn(samples, 28, 28), torch.randint(0, 10, (samples,))
    network, loss = model(case), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def train(count):
        order = torch.cat([torch.randperm(samples) for _ in range(-(-count * batch // samples))])
        for s in range(count):
            index = order[s * batch : (s + 1) * batch]
            optimizer.zero_grad()
            loss(network(x[index]), y[index]).backward()
            optimizer.step()

    train(20)
    start = time.perf_counter()
    train(steps)
    return time.perf_counter() - start


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps({"seconds": measured(**json.loads(line)), "version": torch.__version__}), flush=True)
