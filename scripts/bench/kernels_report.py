"""How `kernels.py` shows its rows: the table, the ratios to compare, the versions."""

import itertools
import json
import platform
import statistics
import subprocess
from importlib.metadata import version

OURS = ("structured", "contraction", "vector_products")
PEERS = ("1", "2", "3")
MATMUL = 4096 * 1024 * 4096  # multiply-adds of the product that rates are compared with


def facts(peers: dict, missing: dict, seconds: dict) -> dict:
    """What a row says of neural-tangents."""
    times = {
        name: statistics.median(seconds[name]) if name in seconds and name not in missing else None
        for name in PEERS
    }
    return dict(
        neural_tangents=times,
        neural_tangents_skipped=missing,
        neural_tangents_vmap_axes={
            name: request["vmap_axes"] for name, (_, request) in peers.items()
        },
    )


def row(group, one, answer, failed, seconds, peers, peer_facts) -> dict:
    """One line of the table; what was not measured is null, with the reason under `skipped`."""
    base = dict(
        case=group.case,
        n1=group.n,
        n2=group.n,
        symmetric=one.symmetric,
        implementation=one.implementation,
    )
    nothing = dict(neural_tangents=None, neural_tangents_skipped={}, neural_tangents_vmap_axes={})
    base |= nothing if one.symmetric or peer_facts is None else peer_facts
    empty = dict(
        seconds=None, seconds_range=None, matmul_fraction=None, peak_mib=None, multiply_adds=None
    )
    if answer is None or failed is not None:
        return base | empty | dict(max_relative_difference=None, skipped=failed)
    mine, rate = statistics.median(seconds[one]), MATMUL / statistics.median(seconds[one, "matmul"])
    needed = answer["needed"][one.implementation]
    gaps = (
        [difference(answer["values"], peer["values"]) for peer, _ in peers.values()]
        if not one.symmetric
        else []
    )
    return base | dict(
        seconds=mine,
        seconds_range=[min(seconds[one]), max(seconds[one])],
        matmul_fraction=needed / mine / rate,
        multiply_adds=needed,
        matmul_rate=rate,
        peak_mib=answer["peak_mib"],
        max_relative_difference=max(gaps, default=None),
        skipped=None,
    )


def difference(values, others) -> float:
    """Largest difference of two blocks over the largest entry."""
    return max(abs(u - v) for u, v in zip(values, others, strict=True)) / max(map(abs, others))


def ratios(rows: list[dict]) -> list[str]:
    """The comparisons of the rows, a line of Markdown each."""
    found = {
        (r["case"], r["n1"], r["symmetric"]): r
        for r in rows
        if r["implementation"] == "structured" and r["seconds"]
    }
    lines = []
    for (case, n, symmetric), r in found.items():
        peers = {name: s for name, s in (r["neural_tangents"] or {}).items() if s}
        if not symmetric:
            parts = [f"{r['matmul_fraction']:.2f} of the matrix-product rate"]
            if "3" in peers:
                times = peers["3"] / r["seconds"]
                parts.append(
                    f"{times:.2f} times as fast as neural-tangents' structured derivatives"
                )
            if peers:
                times = min(peers.values()) / r["seconds"]
                parts.append(f"{times:.2f} times as fast as the best of its three")
            if (case, n, True) in found:
                share = found[case, n, True]["seconds"] / r["seconds"]
                parts.append(f"K(X, X) takes {share:.2f} of the time of K(X, Y)")
            lines.append(f"* {case}, N = {n}: " + "; ".join(parts) + ".")
    return lines


COUNTED = """\
Seconds are medians, all of a row's measurements in turn. Share = (multiply-adds the form needs /
seconds) / (multiply-adds of a 4096 x 1024 x 4096 float32 product / its seconds), the product
measured in the same process, in turn as well. Counted, with k inputs, m outputs, P positions, G
groups, c = 10 outputs of the network and p parameters, for each pair of samples (n (n + 1) / 2
pairs where x2 = x1): structured: a dense layer k + c^2 m, the readout k, layers of many positions
the smaller of P^2 G (k + c^2 m) and c^2 G k m, the latter with c P G k m for each sample, other
leaves c^2 each; contraction: c^2 p; vector products: 2 c forward passes through the layers with
parameters. The plain form is counted where the code gets by with less, too (half of a Gram that is
symmetric in its outputs), so that a share says how fast the block came, not how busy the processor
was. Forward and backward passes for the factors are in the seconds, not in the count. Peak is the
high-water mark of a process of its own over one call, with the runtime (about 0.3 GiB), inputs,
parameters and the block. The last column is neural-tangents' best of three over our best; - was not
measured, for the reason in the JSON file."""


def markdown(stored: dict) -> str:
    """The table, the ratios, and what was run where."""
    title = "| case | N | " + " | ".join(
        f"{name.replace('_', ' ')}: s, share, peak MiB" for name in OURS
    )
    lines = [title + " | neural-tangents 1, s | 2, s | 3, s | ratio |", "|---" * 9 + "|"]
    for (case, n, symmetric), group in itertools.groupby(
        stored["rows"], lambda r: (r["case"], r["n1"], r["symmetric"])
    ):
        ours = {r["implementation"]: r for r in group}
        peers = next(iter(ours.values()))["neural_tangents"] or {}
        mine, theirs = (
            [r["seconds"] for r in ours.values() if r["seconds"]],
            [s for s in peers.values() if s],
        )
        entries = [cell(ours.get(name)) for name in OURS] + [
            number(peers.get(name)) for name in PEERS
        ]
        ratio = f"{min(theirs) / min(mine):.2f}" if mine and theirs else "-"
        lines.append(
            f"| {case}{', K(X, X)' if symmetric else ''} | {n} | "
            + " | ".join([*entries, ratio])
            + " |"
        )
    about = [
        f"* {name}: {fact}"
        for part in ("machine", "versions")
        for name, fact in stored[part].items()
    ]
    about = [f"`{stored['command']}`, {stored['minutes']:.0f} minutes", "", *about]
    return (
        "\n".join(["# Kernels", "", *ratios(stored["rows"]), "", *lines, "", COUNTED, "", *about])
        + "\n"
    )


def cell(r: dict | None) -> str:
    return (
        f"{number(r['seconds'])}, {r['matmul_fraction']:.2f}, {r['peak_mib']:.0f}"
        if r and r["seconds"]
        else "-"
    )


def number(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g}"


def versions(python: str | None) -> dict:
    """Of both sides."""
    names = ("jax", "flax", "numpy", "neural-tangents")
    ask = "import importlib.metadata as m, json; "
    ask += f"print(json.dumps({{p: m.version(p) for p in {names}}}))"
    mine = dict(python=platform.python_version()) | {
        name: version(name) for name in ("ntkcl", "jax", "jaxlib", "flax", "numpy")
    }
    if python is None:
        return mine
    theirs = json.loads(
        subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
    )
    return mine | {
        f"neural-tangents' {name}" if name != "neural-tangents" else name: v
        for name, v in theirs.items()
    }
