"""What what-if says of methods that spare old samples, beside the trainings themselves.

    python scripts/bench/whatif_methods.py               networks from scratch on Fashion-MNIST, mlp
                                                         of 1 and 3 hidden layers, momentum and
                                                         Adam, class-incremental; three seeds
                                        --case text      MiniLM with low-rank additions, AdamW,
        --table FILE                                     gradients kept; three pairs of sections of
                                                         the table of scripts/data/debian_texts.py
    python scripts/bench/whatif_methods.py --quick       one or two cells, tiny:
                                                         whatif_methods_quick_CASE.*

A network has learned two classes and is asked about others, with each method: in another order of
the batches, with nothing replayed, at half the rate. Each is answered along a base with the same
method and, from scratch, along one without any, all of share .05, then trained, and trained in
another order, which is what a second training would say of it. R2 of the drift of the old test
samples' outputs, and the accuracy that they lose. Answers are given before any of it. Writes
whatif_methods_CASE.{json,md} under results/bench.
"""

from itertools import islice
from pathlib import Path
from typing import Any

from publish import as_json, command, parser, publish, stem, with_jax
from whatif import OTHER, Cell, accuracy, measured, median, share, text
from whatif_recommend import cells

from ntkcl import methods, metrics, whatif

SEEDS, PAIRS, SHARE = 3, 3, 0.05
# Each as strong as changes what is kept, and learns the new classes, in one cell of seed 0.
METHODS: dict[str, dict[str, Any]] = {
    "scratch": {
        "l2": methods.l2(0.5),
        "functional": methods.functional(1.0, 50),
        "lwf": methods.lwf(0.3),
        "ewc": methods.ewc(3.0),
        "ewc_diagonal": methods.ewc_diagonal(1000.0),
        "mas": methods.mas(0.1),
        "ogd": methods.ogd(50),
        "replay": methods.replay(20),
    },
    "text": {
        "l2": methods.l2(1.0),
        "functional": methods.functional(1.0, 32),
        "lwf": methods.lwf(1.0),
        "ewc_diagonal": methods.ewc_diagonal(1000.0),
        "mas": methods.mas(3.0),
    },
}
SMALL = {"functional": methods.functional(1.0, 5), "ogd": methods.ogd(5)}
HOW: dict[str, dict[str, Any]] = {  # the base is linearised
    "scratch": dict(anchors=8, keep="passes"),
    "text": dict(anchors=4, keep="gradients"),
}
CANDIDATES = {"another order": {}, "share 0": {"share": 0.0}, "rate / 2": {"rate": 0.5}}
BASES = {"same": "along a base with the method", "plain": "along one without"}


def rows_of(cell: Cell, name: str, method, how: dict, both: bool) -> list[dict]:
    """A row for each candidate with a method, along both bases or the one of its own."""
    plain = cell.base._replace(share=SHARE)
    bases = {"same": plain._replace(method=method)} | ({"plain": plain} if both else {})
    caches = {key: whatif.prepare(cell.asked, base, **how) for key, base in bases.items()}
    made = []
    for k, (candidate, change) in enumerate(CANDIDATES.items()):
        rate = plain.learning_rate * change.get("rate", 1.0)
        recipe = bases["same"]._replace(order=100 + k, learning_rate=rate)
        recipe = recipe._replace(share=change.get("share", SHARE))
        row = cell.name | dict(method=name, candidate=candidate)
        answers = {key: whatif.ask(cache, recipe) for key, cache in caches.items()}
        before = caches["same"].before
        true, again = (
            measured(cell, recipe._replace(order=order))
            for order in (recipe.order, recipe.order + OTHER)
        )
        naive = measured(cell, recipe._replace(method=methods.naive()))
        drift, was = (true - before).ravel(), accuracy(cell, before)
        row |= dict(lost=was - accuracy(cell, true), lost_without=was - accuracy(cell, naive))
        row |= dict(again_r2=metrics.r2(drift, (again - before).ravel()))
        row |= dict(again_lost=was - accuracy(cell, again))
        for key, answer in answers.items():
            row[f"{key}_r2"] = metrics.r2(drift, (answer.outputs[0] - before).ravel())
            row[f"{key}_lost"] = float(answer.lost[0])
            row[f"{key}_verdict"] = answer.verdict[0]
        made.append(row)
        print(row, flush=True)
    return made


def summarise(rows: list[dict], method: str) -> dict[str, float]:
    """What the table says of one method."""
    own = [row for row in rows if row["method"] == method]
    said = {"accuracy lost without it": median([row["lost_without"] for row in own])}
    said["with it"] = median([row["lost"] for row in own])
    for key in sides(rows):
        said[f"{key} R2"] = median([row[f"{key}_r2"] for row in own])
        errors = [abs(row[f"{key}_lost"] - row["lost"]) for row in own]
        said[f"{key} within .05"] = share([error <= 0.05 for error in errors])
    return said


def sides(rows: list[dict]) -> list[str]:
    """What each candidate is said by."""
    return [key for key in (*BASES, "again") if f"{key}_r2" in rows[0]]


def of_good(rows: list[dict], base: str) -> tuple[int, int]:
    """Answers that are `good`, and how many of them have an R2 below .8."""
    good = [row for row in rows if row[f"{base}_verdict"] == "good"]
    return len(good), sum(not row[f"{base}_r2"] >= 0.8 for row in good)


def markdown(stored: dict) -> str:
    machine, rows = stored["machine"], stored["rows"]
    lines = ["# What what-if says of methods", ""]
    lines += [f"`{stored['command']}`; {machine['cores']} cores, JAX {machine['jax']}.", ""]
    lines += [
        "Medians over networks and candidates: the accuracy on old samples that is lost without a "
        "method and with it; R2 of the drift of their outputs and, in brackets, the part of the "
        "answers whose accuracy lost is within .05, along a base with the same method, along one "
        "without, and of a second training.",
        "",
    ]
    words = BASES | {"again": "a second training"}
    heads = ["method", "lost without", "with", *(words[key] for key in sides(rows))]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        said = summarise(rows, method)
        numbers = [f"{said[key]:.2f}" for key in ("accuracy lost without it", "with it")]
        for key in sides(rows):
            numbers.append(f"{said[f'{key} R2']:.3f} ({said[f'{key} within .05']:.2f})")
        lines.append(f"| {' | '.join([method, *numbers])} |")
    lines.append("")
    for base in sides(rows)[:-1]:
        good, wrong = of_good(rows, base)
        counted = f"{good} of {len(rows)} `good`, {wrong} of them below .8"
        lines += [f"Answers {BASES[base]}: {counted}.", ""]
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__, quick=True)
    options.add_argument("--case", choices=tuple(METHODS), default="scratch")
    options.add_argument("--table", type=Path, help="of texts, for --case text")
    given = options.parse_args()
    from_scratch = given.case == "scratch"
    if from_scratch:
        chosen = (cell for cell in cells(given.quick) if cell.name["seed"] < SEEDS)
    else:
        chosen = islice(text(given.quick, 1, given.table), PAIRS)
    some = SMALL if given.quick else METHODS[given.case]
    rows = [
        row
        for cell in chosen
        for name, method in some.items()
        for row in rows_of(cell, name, method, HOW[given.case], from_scratch)
    ]
    facts = {"command": command("whatif_methods", options, given), "machine": with_jax()}
    publish(given.folder, stem("whatif_methods", given), as_json(facts | {"rows": rows}), markdown)


if __name__ == "__main__":
    main()
