"""Sketches of gradients beside gradients, in the answers of what-if.

MiniLM with low-rank additions learns two sections of a table of texts, then two others (AdamW, the
cells of whatif.py --case text). Candidates are answered with all numbers of the gradients and with
sketches, which keep those of a sample of the parameters.

    python scripts/bench/whatif_sketch.py [--table FILE] [--pairs 2] [--quick]

FILE is made by scripts/data/debian_texts.py, with at least 200 texts a section. Writes
results/bench/whatif_sketch.{json,md}.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import whatif as bench
from publish import command, parser, publish, stem, with_jax

from ntkcl import metrics, whatif

NUMBERS = (256, 1024, 4096)
ASKED = "another order", "share 0", "share 5 %", "share 50 %", "rate / 2", "10 % left out"


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def rows_of(cell: bench.Cell) -> list[dict]:
    """A row for each candidate and number of numbers."""
    recipes = bench.candidates(cell.base, cell.asked.sizes[0])

    def answers(**kept):
        cache = whatif.prepare(cell.asked, cell.base, anchors=4, budget_mib=8000, **kept)
        return cache, {name: whatif.ask(cache, recipes[name]) for name in ASKED}

    cache, exact = answers(keep="gradients")
    before, of_gradients, rows = cache.before, cache.mib, []
    del cache
    for numbers in NUMBERS:
        cache, sketched = answers(keep="sketch", numbers=numbers)
        for name in ASKED:
            change, other = (one[name].outputs[0] - before for one in (exact, sketched))
            rows.append(
                cell.name
                | dict(
                    numbers=numbers,
                    candidate=name,
                    cosine=cosine(change, other),
                    r2=metrics.r2(change.ravel(), other.ravel()),
                    lost=float(exact[name].lost[0]),
                    lost_sketched=float(sketched[name].lost[0]),
                    mib=cache.mib,
                    gradients_mib=of_gradients,
                )
            )
            print(rows[-1], flush=True)
    return rows


def markdown(stored: dict) -> str:
    lines = ["# Sketches of gradients beside gradients", ""]
    lines += [f"`{stored['command']}`; {stored['machine']['cores']} cores.", ""]
    lines += ["Of the changes of old texts' outputs, with sketches against with gradients.", ""]
    lines += [
        "| numbers | MiB, of gradients | cosine, median | least | R2, median | accuracy lost |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for numbers, group in itertools.groupby(
        sorted(stored["rows"], key=lambda row: row["numbers"]), lambda row: row["numbers"]
    ):
        own = list(group)
        cosines = [row["cosine"] for row in own]
        apart = np.mean([abs(row["lost"] - row["lost_sketched"]) for row in own])
        lines.append(
            f"| {numbers} | {own[0]['mib']:.0f}, {own[0]['gradients_mib']:.0f} "
            f"| {np.median(cosines):.3f} | {min(cosines):.3f} "
            f"| {np.median([row['r2'] for row in own]):.3f} | {apart:.3f} apart |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser(__doc__, quick=True)
    options.add_argument("--table", type=Path, default=Path("debian_texts.csv"), help="of texts")
    options.add_argument("--pairs", type=int, default=2, help="of sections, at most five (2)")
    given = options.parse_args()
    cells = itertools.islice(bench.text(given.quick, 1, given.table), given.pairs)
    rows = [row for cell in cells for row in rows_of(cell)]
    stored = {"command": command("whatif_sketch", options, given), "machine": with_jax()}
    stored = json.loads(json.dumps(stored | {"rows": rows}))
    publish(given.folder, stem("whatif_sketch", given), stored, markdown)


if __name__ == "__main__":
    main()
