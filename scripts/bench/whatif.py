"""Answers of what-if beside the trainings that they spare.

    python scripts/bench/whatif.py --case scratch     networks trained from scratch, Fashion-MNIST:
                                                      mlp of 1 and 3 hidden layers, cnn; momentum
                                                      and Adam; class-incremental and rotated; three
                                                      seeds
    python scripts/bench/whatif.py --case text        MiniLM with low-rank additions, AdamW: a table
        --table FILE                                  made by scripts/data/debian_texts.py, five
                                                      pairs of sections; needs the extra pretrained
    --quick                                           one cell, tiny: whatif_quick_CASE.{json,md}

In each cell a network learns one task, a base training of the next is done and linearised, and ten
candidates are answered, then trained. R2 of the change from the base is of what the base's own
outcome does not tell; a candidate differs where its outcome is further from the base's than that of
the base in another order. The answer of each is made before it is trained. Writes
whatif_CASE.{json,md} under results/bench.
"""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
from publish import command, parser, publish, stem, with_jax

from ntkcl import metrics, networks, optimizers, whatif
from ntkcl.cli.config import CONF, resolve

ANCHORS = {"scratch": 8, "text": 4}
BEYOND = ("rate x 2", "epochs x 2")  # further from the base than it is meant for
RULES = {
    "momentum": (optimizers.sgd(momentum=0.9), 0.01),
    "adam": (optimizers.adam(), 1e-3),
}
NETWORKS = {
    "mlp": ["network=mlp", "network.width=256", "network.depth=1"],
    "mlp, 3 layers": ["network=mlp", "network.width=256", "network.depth=3"],
    "cnn": ["network=cnn", "network.width=16", "network.depth=2", "network.stride=2"],
}
STREAMS = {
    "class": ["stream=split", "stream.scenario=class"],
    "rotated": ["stream=rotated", "stream.step=90", "stream.same_images=false"],
}
SIZES = {"class": {"train": 100, "test": 100}, "rotated": {"train": 20, "test": 20}}
TINY = ["stream.train_per_class=20", "stream.test_per_class=10"]
PAIRS = ["games,science", "sound,graphics", "python,perl", "admin,net", "editors,math"]


class Cell(NamedTuple):
    """What is asked: a trained network with its samples, the base's recipe, and a name."""

    name: dict[str, Any]
    asked: whatif.Question
    base: whatif.Recipe


def parts(overrides):
    """The stream and the network of a configuration."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=overrides)
    return resolve(cfg).requests[0].build()


def learned(stream, network, recipe, key, name) -> Cell:
    """A network that has learned the first task of a stream, asked about the second."""
    first, second = stream[:2]
    theta = network.init(key, first.train.x[0])
    head = np.maximum(first.head, second.head)
    plain = whatif.question(network, theta, tuple(first.test), tuple(first.train), head=head)
    theta = whatif.train(plain, recipe._replace(share=0.0, order=5))[-1]
    samples = tuple(first.test), tuple(second.train)
    asked = whatif.question(network, theta, *samples, pool=tuple(first.train), head=head)
    return Cell(name, asked, recipe)


def scratch(quick: bool, count: int, _):
    """Cells from scratch."""
    seeds = range(count)
    for stream, of_stream in list(STREAMS.items())[: 1 if quick else None]:
        for kind, of_network in list(NETWORKS.items())[: 1 if quick else None]:
            for rule, (optimizer, rate) in RULES.items():
                for seed in seeds:
                    size = [f"stream.{part}_per_class={n}" for part, n in SIZES[stream].items()]
                    size = size if not quick else TINY
                    init = ["network.parametrization=standard", "network.init=torch"]
                    common = ["source=fashion_mnist", "stream.tasks=2", "network.centred=false"]
                    cfg = [*common, *of_stream, *of_network, *size, *init, f"seed={seed}"]
                    named = parts([*cfg, "loss=cross_entropy", "training.learning_rate=0.01"])
                    recipe = whatif.Recipe(rate, 5, 20, 0.2, optimizer, order=99)
                    name = dict(stream=stream, network=kind, rule=rule, seed=seed)
                    yield learned(named["stream"], named["network"], recipe, named["key"], name)


def text(quick: bool, count: int, table):
    """Cells of MiniLM: pairs of sections, a head of two outputs that they share."""
    optimizer = optimizers.by_name("adamw", {"weight_decay": 0.01})
    for seed in range(count):
        for one, two in list(zip(PAIRS, PAIRS[1:] + PAIRS[:1], strict=True))[
            : 1 if quick else None
        ]:
            cfg = ["source=table", f"source.path={table}", f"source.classes=[{one},{two}]"]
            cfg += ["source.test_fraction=0.5", "source.length=16", "stream=split"]
            size = 16 if quick else 96
            cfg += [f"stream.train_per_class={size}", f"stream.test_per_class={size}"]
            cfg += ["stream.tasks=2", "network=minilm", "network.trainable=lora"]
            named = parts(
                [*cfg, "loss=cross_entropy", "training.learning_rate=0.01", f"seed={seed}"]
            )
            recipe = whatif.Recipe(1e-3, 3, 16, 0.2, optimizer, "linear", 1.0, order=99)
            name = dict(tasks=f"{one} then {two}", seed=seed)
            yield learned(named["stream"], named["network"], recipe, named["key"], name)


def candidates(base: whatif.Recipe, new: int) -> dict[str, whatif.Recipe]:
    """What is asked, each in an order of its own."""
    out = np.random.default_rng(7).permutation(new)[: new // 10]
    changes = {
        "another order": {},
        "share 0": dict(share=0.0),
        "share 1 %": dict(share=0.01),
        "share 5 %": dict(share=0.05),
        "share 10 %": dict(share=0.1),
        "share 50 %": dict(share=0.5),
        "rate / 2": dict(learning_rate=base.learning_rate / 2),
        "10 % left out": dict(left_out=out),
        "rate x 2": dict(learning_rate=base.learning_rate * 2),
        "epochs x 2": dict(epochs=base.epochs * 2),
    }
    return {
        name: base._replace(order=100 + k, **change)
        for k, (name, change) in enumerate(changes.items())
    }


def measured(cell: Cell, recipe: whatif.Recipe) -> np.ndarray:
    """Outputs of the old samples after the training itself."""
    theta = whatif.train(cell.asked, recipe)[-1]
    f = networks.forward(cell.asked.network.apply, theta, cell.asked.old.x)
    return np.asarray(f, np.float64)


def accuracy(cell: Cell, outputs: np.ndarray) -> float:
    y, head = np.asarray(cell.asked.old.y), np.asarray(cell.asked.head)
    return float(metrics.correct(outputs, y, head).mean())


def rows_of(cell: Cell, anchors: int) -> list[dict]:
    """A row for each candidate of a cell."""
    clock = time.perf_counter()
    measured(cell, cell.base)
    compiled = time.perf_counter() - clock
    clock = time.perf_counter()
    base = measured(cell, cell.base)
    train = time.perf_counter() - clock
    cache = whatif.prepare(cell.asked, cell.base, anchors=anchors, budget_mib=6000)
    again = [measured(cell, cell.base._replace(order=200 + k)) for k in range(2)]
    noise = float(np.mean([np.linalg.norm(one - base) for one in again]))
    before = accuracy(cell, cache.before)
    about = cell.name | dict(
        before=before,
        base=accuracy(cell, base),
        train_seconds=train,
        compile_seconds=compiled - train,
        prepare_seconds=sum(cache.seconds.values()),
        mib=cache.mib,
    )
    rows = []
    for name, recipe in candidates(cell.base, cell.asked.sizes[0]).items():
        whatif.ask(cache, recipe)  # compiled
        clock = time.perf_counter()
        answer = whatif.ask(cache, recipe)
        seconds = time.perf_counter() - clock
        true = measured(cell, recipe)
        rows.append(about | _row(cell, name, answer, true, base, noise, before, seconds, cache))
        print({k: v for k, v in rows[-1].items() if k not in ("compile_seconds",)}, flush=True)
    return rows


def _row(cell, name, answer, true, base, noise, before, seconds, cache) -> dict:
    change, predicted = true - base, answer.outputs[0] - base
    after = accuracy(cell, true)
    return dict(
        candidate=name,
        r2=metrics.r2((true - cache.before).ravel(), (answer.outputs[0] - cache.before).ravel()),
        change_r2=float(1 - ((change - predicted) ** 2).sum() / (change**2).sum()),
        differs=float(np.linalg.norm(change) / noise),
        lost=before - after,
        lost_predicted=float(answer.lost[0]),
        distance=float(answer.distance[0]),
        coarse_r2=float(answer.coarse_r2),
        answer_seconds=seconds,
    )


def summarise(rows: list[dict]) -> dict:
    """What the table says, of candidates near the base, and of those beyond."""
    near = [row for row in rows if row["candidate"] not in BEYOND]
    differing = [row for row in near if row["differs"] > 1]
    errors = [abs(row["lost"] - row["lost_predicted"]) for row in near]
    cells = {}
    for row in near:
        key = tuple(row[k] for k in row if k in ("stream", "network", "rule", "tasks", "seed"))
        cells.setdefault(key, []).append((row["lost"], row["lost_predicted"]))
    ranks = [metrics.spearman(*map(np.array, zip(*cell, strict=True))) for cell in cells.values()]
    ranks = [rank for rank in ranks if rank == rank]
    return {
        "candidates": len(near),
        "differ from the base by more than a second training": len(differing),
        "of these, nearer than the base's own outcome": share(
            [r["change_r2"] > 0 for r in differing]
        ),
        "of these, median R2 of the change from the base": median(
            [r["change_r2"] for r in differing]
        ),
        "median R2 of the drift": median([row["r2"] for row in near]),
        "accuracy lost within .05": share([error <= 0.05 for error in errors]),
        "accuracy lost within .1": share([error <= 0.1 for error in errors]),
        "median Spearman of accuracy lost": median(ranks),
        "an answer / a training": median([r["answer_seconds"] / r["train_seconds"] for r in rows]),
        "base and cache / a training, compilation included": median(
            [r["prepare_seconds"] / r["train_seconds"] for r in rows]
        ),
    }


def share(holds) -> float:
    return float(np.mean(holds)) if len(holds) else float("nan")


def median(values) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def markdown(stored: dict) -> str:
    lines = ["# Answers of what-if beside the trainings that they spare", ""]
    machine = stored["machine"]
    lines += [
        f"`{stored['command']}`; {machine['cores']} cores, JAX {machine['jax']}.",
        "",
    ]
    lines += ["| of candidates near the base | |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in stored["summary"].items()]
    lines += [
        "",
        "| candidate | median R2 | of the change from the base | error of accuracy lost | "
        "distance | R2 of half the anchors |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["candidate"] for row in stored["rows"]):
        own = [row for row in stored["rows"] if row["candidate"] == name]
        numbers = [median([row[key] for row in own]) for key in ("r2", "change_r2")]
        numbers += [float(np.mean([abs(row["lost"] - row["lost_predicted"]) for row in own]))]
        numbers += [median([row[key] for row in own]) for key in ("distance", "coarse_r2")]
        lines.append(f"| {name} | " + " | ".join(f"{number:.3g}" for number in numbers) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser(__doc__, quick=True)
    options.add_argument("--case", choices=("scratch", "text"), default="scratch")
    options.add_argument("--table", type=Path, help="of texts, for --case text")
    options.add_argument("--seeds", type=int, default=3, help="of each cell (3)")
    given = options.parse_args()
    cells = {"scratch": scratch, "text": text}[given.case](
        given.quick, 1 if given.quick else given.seeds, given.table
    )
    rows = [row for cell in cells for row in rows_of(cell, ANCHORS[given.case])]
    facts = {"command": command("whatif", options, given), "machine": with_jax()}
    stored = facts | {"summary": summarise(rows), "rows": rows}
    stored = json.loads(json.dumps(stored).replace("NaN", "null").replace("Infinity", "null"))
    publish(given.folder, stem("whatif", given), stored, markdown)


if __name__ == "__main__":
    main()
