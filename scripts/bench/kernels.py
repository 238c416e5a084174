"""Time and memory of the kernels, beside matrix products and beside neural-tangents.

    python scripts/bench/kernels.py                       everything; builds an environment for
                                                          neural-tangents first
    python scripts/bench/kernels.py --without-peer        ours alone
    python scripts/bench/kernels.py --side-python PATH    neural-tangents by a Python that has it
    python scripts/bench/kernels.py --quick               tiny sizes, to see it run: writes
                                                          kernels_quick.{json,md}

Each of our measurements has a process of its own; neural-tangents shares one, since it takes long
to start. They take turns: peer, ours, peer, ours, a product of two matrices before each of ours,
and medians are compared. Neither of neural-tangents' ways to treat a batch (`vmap_axes` 0 and None)
is always faster: both are tried, the better is kept. Writes kernels.{json,md} under results/bench.
"""

import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from kernels_report import MATMUL, OURS, PEERS, facts, markdown, row, versions
from publish import command, machine, memory_available, parser, publish, stem, write

ROOT = Path(__file__).parents[2]
PINS = [
    "jax==0.4.25",
    "jaxlib==0.4.25",
    "tf2jax==0.3.6",
    "numpy<2",
    "scipy<1.13",
    "neural-tangents==0.6.5",
    "flax==0.8.2",
    "optax==0.2.2",
]
SHARE_OF_MEMORY = 0.8  # of what is free at the start, for one worker
# Seconds at the rate of a matrix product that a call may promise to be tried at all: vector
# products stay far below that rate.
LONGEST = {"structured": 16.0, "contraction": 6.0, "vector_products": 1.5}
PATIENCE = 60.0  # seconds for compilation and two calls


class Group(NamedTuple):
    """One case and size, whose measurements take turns.

    `ours`, K(X, X) too where `symmetric`, and neural-tangents' three.
    """

    case: str
    n: int
    symmetric: bool = False
    ours: tuple[str, ...] = OURS

    def members(self) -> list["Member"]:
        return [Member(name, False) for name in self.ours] + [
            Member(self.ours[0], True)
        ] * self.symmetric


class Member(NamedTuple):
    """One of our measurements in a group."""

    implementation: str
    symmetric: bool


PLAN = [
    *(
        Group(f"mlp-{width}", n, n == 512)
        for width in (256, 1024, 4096)
        for n in (32, 128, 512, 1024)
    ),
    *(
        Group(case, n, n == 128)
        for case in ("cnn-32", "resnet-18-8", "transformer-2")
        for n in (32, 128)
    ),
]
QUICK = [Group("mlp-8", 6, True), Group("cnn-2", 3, ours=("structured",))]


class Failed(Exception):
    """A measurement that could not be made, with its reason."""


class Worker:
    """A `kernels_worker.py` process: `ask` sends one request and waits for the reply.

    A dead or silent process is a `Failed`.
    """

    def __init__(self, python: str, side: str):
        self.command = [
            python,
            str(ROOT / "scripts" / "bench" / "kernels_worker.py"),
            side,
            str(budget()),
        ]
        self.process: subprocess.Popen | None = None

    def ask(self, do: str, timeout: float = PATIENCE, **request) -> dict:
        if self.process is None:
            environment = {"JAX_PLATFORMS": "cpu"} | os.environ
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=self.errors, env=environment
            )
        reply = b""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], timeout)[0]:
                self.close()
                raise Failed(f"no answer in {timeout:.0f} s")
            reply = self.process.stdout.readline()
        if not reply:
            code = self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:] or [
                "no message"
            ]
            self.close()
            raise Failed(f"the process ended with code {code}: {last[0]}"[:200])
        answer = json.loads(reply)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()
            self.process = None


def budget() -> int:
    """Bytes that one worker may hold."""
    return int(SHARE_OF_MEMORY * memory_available())


def foreseen(
    side: str, implementation: str, n: int, counts: dict, rate: float, vmap_axes=0
) -> str | None:
    """Why a measurement is not tried: memory and multiply-adds that its form needs."""
    c, p = counts["outputs"], counts["parameters"]
    form = dict(zip(PEERS, ("contraction", "vector_products", "structured"), strict=True)).get(
        implementation, implementation
    )
    seconds = counts["needed"][form] / rate
    numbers = {
        "contraction": 2 * n * c * p,
        "vector_products": n * c * p if side == "peer" else 0,
        "structured": 0,
    }[form]
    if side == "peer" and vmap_axes is None:
        numbers = max(numbers, n * n * c * counts["widest"])
        # The derivatives of every output by the whole batch.
        seconds = max(seconds, 4 * n * n * c * counts["forward"] / rate)
    gib, limit = 4 * numbers / 2**30, budget() / 2**30
    if gib > limit:
        return f"needs {gib:.0f} GiB for its derivatives, {limit:.0f} are there"
    if seconds > LONGEST[form]:
        needed = f"{seconds * rate:.1e} multiply-adds"
        return f"needs {needed}, {seconds:.0f} s at the rate of a matrix product"
    return None


def measure(group: Group, neighbour: Worker | None, repeats: int | None, won: dict) -> list[dict]:
    """The rows of one group. `won`: see `prepare_peers`.

    Structured goes first: its process counts what every form needs.
    """
    members = group.members()
    workers = {one: Worker(sys.executable, "ours") for one in members}
    prepared, failed, peers, missing, seconds = {}, {}, {}, {}, {}
    rate = float("inf")
    for one in members:
        try:
            if prepared:
                refuse(foreseen("ours", one.implementation, group.n, prepared[members[0]], rate))
            elif failed:
                raise Failed("the structured form failed, whose process counts what this one needs")
            prepared[one] = workers[one].ask("prepare", name=group.case, n=group.n, **one._asdict())
            if one == members[0]:
                rate = MATMUL / min(workers[one].ask("matmul")["seconds"] for _ in range(3))
        except Failed as failure:
            failed[one] = str(failure)
    if prepared and neighbour is not None:
        peers, missing = prepare_peers(group, neighbour, prepared[members[0]], rate, won)
    seconds = in_turn(
        {one: workers[one] for one in prepared}, peers, neighbour, failed, missing, repeats
    )
    for worker in workers.values():
        worker.close()
    peer_facts = facts(peers, missing, seconds) if neighbour is not None else None
    return [
        row(group, one, prepared.get(one), failed.get(one), seconds, peers, peer_facts)
        for one in members
    ]


def refuse(reason: str | None) -> None:
    if reason is not None:
        raise Failed(reason)


def prepare_peers(group: Group, neighbour: Worker, counts: dict, rate: float, won: dict):
    """{implementation: request and reply of the faster vmap_axes}, {implementation: why none}.

    `vmap_axes` None costs n times the derivatives or memory of 0: only where it `won` at this
    case's smallest N is it tried again at larger ones. It goes first, since running out of time
    takes along what the process had prepared.
    """
    tried, reasons = {name: [] for name in PEERS}, {name: [] for name in PEERS}
    with contextlib.suppress(Failed):
        neighbour.ask("forget")
    for vmap_axes, implementation in itertools.product((None, 0), PEERS):
        if vmap_axes is None and not won.get((group.case, implementation), True):
            continue
        request = dict(
            name=group.case,
            n=group.n,
            symmetric=False,
            implementation=implementation,
            vmap_axes=vmap_axes,
        )
        start = time.perf_counter()
        try:
            refuse(foreseen("peer", implementation, group.n, counts, rate, vmap_axes))
            answer = neighbour.ask(
                "prepare", PATIENCE if vmap_axes == 0 else PATIENCE / 2, **request
            )
            tried[implementation].append((answer, request))
            outcome = f"{answer['seconds']:.3g} s, ready after {time.perf_counter() - start:.0f} s"
        except Failed as failure:
            outcome = str(failure)
            reasons[implementation].append(f"vmap_axes={vmap_axes}: {outcome}")
        say(f"           neural-tangents {implementation}, vmap_axes={vmap_axes}: {outcome}")
    found = {
        name: min(tried[name], key=lambda one: one[0]["seconds"]) for name in PEERS if tried[name]
    }
    won |= {
        (group.case, name): name in found and found[name][1]["vmap_axes"] is None for name in PEERS
    }
    return found, {name: "; ".join(reasons[name]) for name in PEERS if name not in found}


def in_turn(
    workers: dict,
    peers: dict,
    neighbour: Worker | None,
    failed: dict,
    missing: dict,
    repeats: int | None,
) -> dict:
    """{ours, or a peer's implementation: seconds by round}; under (ours, "matmul") the product's.

    Who fails leaves the round.
    """
    seconds: dict = {}

    def turn(who, worker, into, **request):
        if who in failed or who in missing:
            return
        try:
            seconds.setdefault(into, []).append(worker.ask(**request)["seconds"])
        except Failed as failure:
            (missing if who in peers else failed)[who] = str(failure)

    slowest = max([answer["seconds"] for answer, _ in peers.values()], default=0.0)
    for _ in range(repeats or (7 if slowest < 1 else 5 if slowest < 4 else 3)):
        for implementation, one in itertools.zip_longest(peers, workers):
            if implementation is not None:
                turn(
                    implementation, neighbour, implementation, do="time", **peers[implementation][1]
                )
            if one is not None:
                turn(one, workers[one], (one, "matmul"), do="matmul")
                turn(one, workers[one], one, do="time", implementation=one.implementation)
    return seconds


def side_environment(folder: Path, pins: list[str] = PINS) -> str:
    """A Python with what we compare with, such as neural-tangents, which wants an older JAX.

    Built once, again when the pins change.
    """
    python, stamp = folder / "bin" / "python", folder / "pins"
    if not (stamp.exists() and stamp.read_text() == " ".join(pins)):
        say(f"building {folder}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins],
            check=True,
        )
        stamp.write_text(" ".join(pins))
    return str(python)


def main() -> None:
    options = parser(__doc__, quick=True)
    options.add_argument("--without-peer", action="store_true", help="no neural-tangents")
    text = "a Python that has neural-tangents, instead of building one"
    options.add_argument("--side-python", metavar="PATH", help=text)
    text = "only this case; written as kernels_NAME"
    options.add_argument("--case", metavar="NAME", help=text)
    text = "rounds; by default 3 to 7, fewer where they take long"
    options.add_argument("--repeats", type=int, help=text)
    given = options.parse_args()
    side = (
        None
        if given.without_peer
        else given.side_python or side_environment(ROOT / ".venv-neural-tangents")
    )
    neighbour = None if side is None else Worker(side, "peer")
    record = dict(
        command=command("kernels", options, given),
        machine=machine(),
        versions=versions(side),
    )
    files = stem("kernels", given)
    start, rows, won = time.perf_counter(), [], {}
    for group in QUICK if given.quick else PLAN:
        if given.case in (None, group.case):
            say(f"{(time.perf_counter() - start) / 60:5.1f} min  {group.case} N = {group.n}")
            rows += measure(group, neighbour, given.repeats, won)
            stored = record | dict(minutes=(time.perf_counter() - start) / 60, rows=rows)
            write(given.folder, f"{files}_so_far", stored, markdown)
    if neighbour is not None:
        neighbour.close()
    if not rows:
        options.error(
            f"--case {given.case}: expected one of "
            f"{', '.join(dict.fromkeys(group.case for group in PLAN))}"
        )
    for unfinished in given.folder.glob(f"{files}_so_far.*"):
        unfinished.unlink()
    publish(given.folder, files, stored, markdown)
    broken = {
        r["skipped"] for r in rows if r["implementation"] == "structured" and r["seconds"] is None
    }
    if broken:
        sys.exit("structured, which every case can afford, failed: " + "; ".join(sorted(broken)))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
