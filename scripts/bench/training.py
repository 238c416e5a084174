"""Steps of training a second: every method, a plain PyTorch loop, and a bare loop of our own.

    python scripts/bench/training.py                      everything; builds an environment for
                                                          PyTorch first
    python scripts/bench/training.py --side-python PATH   PyTorch by a Python that has it
    python scripts/bench/training.py --quick              tiny sizes, to see it run: writes
                                                          training_quick.{json,md}

Minibatch SGD on cross-entropy, batches of 64, float32, images 28 x 28 drawn from a normal
distribution. All take turns within one run, medians are compared; PyTorch with one and with two
threads, the faster kept, once with batches from its `DataLoader`, as its tutorials have it, and
once with batches indexed by hand. The bare loop has none of the machinery of methods. A method is
timed on its second task, its memory that of a first one of 1,024 samples: `joint`, `ewc` and such
go through all of them at every step; OGD keeps the outputs of the true class. Writes
training.{json,md} under results/bench.
"""

import itertools
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from kernels import side_environment
from kernels_worker import timed
from publish import command, machine, parser, publish, stem

from ntkcl import losses, methods, networks
from ntkcl.compilation import convolves
from ntkcl.training import loop
from ntkcl.types import Dataset, Task

ROOT = Path(__file__).parents[2]
PINS = ["torch==2.13.0", "numpy"]
CASES = {
    "mlp-100": (dict(kind="mlp", width=100, depth=2), 1000),
    "mlp-256": (dict(kind="mlp", width=256, depth=2), 1000),
    "mlp-1024": (dict(kind="mlp", width=1024, depth=2), 200),
    "cnn-32": (dict(kind="cnn", width=32, strides=[1, 2, 1]), 40),
}
METHODS = {
    name: getattr(methods, name) for name in methods.__all__ if name not in ("naive", "together")
}
ONE_DIRECTION = ("ogd", "ogd_plus", "pca_ogd")  # for each sample they keep
METHODS |= {name: partial(METHODS[name], outputs="true") for name in ONE_DIRECTION}
FEWER = "sgd of methods"  # as many steps as a method is timed for
WITH_METHODS = ("mlp-256",)
BATCH, SAMPLES, ROUNDS, FEWER_ROUNDS = 64, 1024, 7, 3
PEERS = ("indexed", "loader")  # where PyTorch's batches come from
LOSS, SGD = losses.cross_entropy(), optax.sgd(0.01)


def network(case: dict):
    if case["kind"] == "mlp":
        return networks.mlp(
            outputs=10, width=case["width"], depth=case["depth"], b_std=0.1, centred=False
        )
    return networks.cnn(
        outputs=10, width=case["width"], depth=3, stride=2, stride_every=2, b_std=0.1, centred=False
    )


def bare(theta, x, y, order, *, apply):
    """Nothing but SGD: what the machinery is measured against.

    Convolutions step by step, as `train.walk` takes them.
    """
    if not convolves(apply, theta, x[0]):
        return bare_loop(theta, x, y, order, apply=apply)
    for index in order:
        theta = bare_step(theta, x, y, index, apply=apply)
    return theta


@partial(jax.jit, static_argnames="apply")
def bare_loop(theta, x, y, order, *, apply):
    return jax.lax.scan(
        lambda theta, index: (bare_step(theta, x, y, index, apply=apply), None), theta, order
    )[0]


@partial(jax.jit, static_argnames="apply")
def bare_step(theta, x, y, index, *, apply):
    def objective(theta):
        f = jax.vmap(apply, (None, 0))(theta, x[index])
        return -jnp.mean(jnp.sum(y[index] * jax.nn.log_softmax(f), -1))

    return jax.tree.map(lambda p, g: p - 0.01 * g, theta, jax.grad(objective)(theta))


def tasks(samples: int) -> list[Task]:
    def one(key):
        x = jax.random.normal(key, (samples, 28, 28))
        y = jax.nn.one_hot(jax.random.randint(key, (samples,), 0, 10), 10)
        return Task(Dataset(x, y), Dataset(x[:1], y[:1]), jnp.ones(10))

    return [one(key) for key in jax.random.split(jax.random.key(0), 2)]


def calls(name: str, case: dict, steps: int, samples: int) -> dict:
    """What is timed of ours: name -> a function that trains `steps` steps.

    "sgd of methods" and each method: a tenth of them.
    """
    net = network(case)
    first, second = tasks(samples)
    theta, key = net.init(jax.random.key(1), first.train.x[0]), jax.random.key(2)
    settings = dict(apply=net.apply, loss=LOSS, transform=SGD, steps=steps, batch_size=BATCH)
    fit = partial(loop.train, key, theta, second.train, second.head, **settings)
    trainings = {
        "sgd": partial(fit, method=methods.naive()),
        "bare": lambda: bare(
            theta, *second.train, loop.batches(key, samples, BATCH, steps), apply=net.apply
        ),
    }

    def with_memory(method):
        memory = method.begin((), net, theta, first)
        state = loop.at_rest(theta, SGD, memory)
        (seen,) = loop.segments(key, state, first.train, first.head, method=method, **settings)
        memory = method.begin(
            method.consolidate(seen.state.memory, net, LOSS, seen.theta, first), net, theta, second
        )
        return partial(fit, method=method, memory=memory)

    if name not in WITH_METHODS:
        return trainings
    settings["steps"] = max(steps // 10, 1)
    fit = partial(fit, steps=settings["steps"])
    return trainings | {
        name: with_memory(make()) for name, make in {FEWER: methods.naive, **METHODS}.items()
    }


class Peer:
    """A `training_torch.py` process."""

    def __init__(self, python: str):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [python, str(ROOT / "scripts" / "bench" / "training_torch.py")],
            stdin=pipe,
            stdout=pipe,
            text=True,
        )

    def __call__(self, **request) -> float:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["seconds"]


def measure(
    name: str, case: dict, peer: Peer | None, steps: int, samples: int, rounds: int
) -> list[dict]:
    """Rows of one case, all in turn."""
    trainings = calls(name, case, steps, samples)
    for call in trainings.values():
        timed(call)  # compiles
    taken: dict = {
        who: [] for who in (*trainings, *(itertools.product(PEERS, (1, 2)) if peer else ()))
    }
    slow = (FEWER, *METHODS)
    for k in range(rounds):
        for who, times in taken.items():
            if who in slow and k >= FEWER_ROUNDS:
                continue
            if isinstance(who, tuple):
                request = dict(
                    case=case,
                    loader=who[0] == "loader",
                    threads=who[1],
                    steps=max(steps // 4, 1),
                    batch=BATCH,
                    samples=samples,
                )
                times.append(peer(**request) * steps / request["steps"])
            else:
                times.append(timed(trainings[who]))
    counts = {who: max(steps // 10, 1) if who in slow else steps for who in taken}
    rate = {who: counts[who] / statistics.median(times) for who, times in taken.items()}
    torch = {
        kind: max(rate[kind, threads] for threads in (1, 2)) if peer else None for kind in PEERS
    }

    def overhead(who, over):
        return statistics.median(a / b for a, b in zip(taken[who], taken[over], strict=True)) - 1

    return [
        dict(
            case=name,
            method=who,
            steps_per_second=rate[who],
            samples_per_second=rate[who] * BATCH,
            pytorch_steps_per_second=torch["indexed"],
            pytorch_loader_steps_per_second=torch["loader"],
            overhead_over_sgd=overhead(who, FEWER if who in METHODS else "sgd"),
            overhead_over_bare=overhead(who, "bare") if counts[who] == steps else None,
        )
        for who in trainings
        if who != FEWER
    ]


def matmul_gflops() -> float:
    """Of a large matrix product, a second: what no training on this machine exceeds.

    A multiply-add counts as two.
    """
    square = jnp.ones((2048, 2048))
    product = jax.jit(jnp.dot)
    product(square, square).block_until_ready()
    return (
        2
        * 2048**3
        / statistics.median(timed(lambda: product(square, square)) for _ in range(ROUNDS))
        / 1e9
    )


def step_gflop(case: dict) -> float | None:
    """Of the products in one step of an MLP.

    Outputs, gradients by weights, and by the inputs of all layers but the first.
    """
    if case["kind"] != "mlp":
        return None
    sizes = [784, *[case["width"]] * case["depth"], 10]
    layers = [m * n for m, n in itertools.pairwise(sizes)]
    return 2 * BATCH * (3 * sum(layers) - layers[0]) / 1e9


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.1%}"


def markdown(stored: dict) -> str:
    heads = (
        "case",
        "method",
        "steps a second",
        "of the product's rate",
        "PyTorch",
        "times",
        "with its DataLoader",
        "times",
    )
    heads += ("over sgd", "over bare")
    lines = [
        f"`{stored['command']}`, {stored['machine']['cores']} cores "
        f"({stored['machine']['cpu']}), {stored['minutes']:.0f} minutes; "
        f"a product of 2048 x 2048 matrices runs at {stored['matmul_gflops']:.0f} GFLOP a second.",
        "",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
    ]
    for r in stored["rows"]:
        peers = (r[f"pytorch_{key}steps_per_second"] for key in ("", "loader_"))
        of_rate = "" if r["matmul_fraction"] is None else f"{r['matmul_fraction']:.2f}"
        beside = " | ".join(
            " | " if one is None else f"{one:.0f} | {r['steps_per_second'] / one:.2f}"
            for one in peers
        )
        lines.append(
            f"| {r['case']} | {r['method']} | {r['steps_per_second']:.0f} | {of_rate} | {beside} "
            f"| {percent(r['overhead_over_sgd'])} | {percent(r['overhead_over_bare'])} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser(__doc__, quick=True)
    options.add_argument("--without-peer", action="store_true", help="no PyTorch")
    text = "a Python that has PyTorch, instead of building one"
    options.add_argument("--side-python", metavar="PATH", help=text)
    text = "only this case; written as training_NAME"
    options.add_argument("--case", choices=tuple(CASES), help=text)
    given = options.parse_args()
    peer = (
        None
        if given.without_peer
        else Peer(given.side_python or side_environment(ROOT / ".venv-torch", PINS))
    )
    start, rows = time.perf_counter(), []
    for name, (case, steps) in CASES.items():
        if given.case in (None, name):
            print(
                f"{(time.perf_counter() - start) / 60:5.1f} min  {name}",
                file=sys.stderr,
                flush=True,
            )
            tiny = (case | {"width": 8}, peer, 4, 256, 1)
            rows += measure(name, *(tiny if given.quick else (case, peer, steps, SAMPLES, ROUNDS)))
    files = stem("training", given)
    peak = matmul_gflops()
    for row in rows:
        # Methods do other work beside it.
        plain = row["method"] in ("sgd", "bare") and not given.quick
        work = step_gflop(CASES[row["case"]][0]) if plain else None
        row["matmul_fraction"] = work and row["steps_per_second"] * work / peak
    stored = dict(
        command=command("training", options, given),
        machine=machine(),
        minutes=(time.perf_counter() - start) / 60,
        matmul_gflops=peak,
        rows=rows,
    )
    publish(given.folder, files, stored, markdown)


if __name__ == "__main__":
    main()
