"""Answers of what-if beside the trainings that they spare.

    python scripts/bench/whatif.py --case scratch     networks trained from scratch, Fashion-MNIST:
                                                      mlp of 1 and 3 hidden layers, cnn, vit;
                                                      momentum and Adam; class-incremental and
                                                      rotated; three seeds
    python scripts/bench/whatif.py --case text        MiniLM with low-rank additions, AdamW: a table
        --table FILE                                  made by scripts/data/debian_texts.py, five
                                                      pairs of sections; needs the extra pretrained
                                   --case text10      the same, class-incremental: a head of ten
        --table FILE                                  outputs, sketches in four directions of them
                                   --case full        the same with all parameters trained, AdamW
        --table FILE                                  at 1e-4, sketches in the gradients' place
                                   --case vision      EfficientNet-Lite0 with low-rank additions,
                                                      AdamW: three pairs of Fashion-MNIST
    --quick                                           one cell, tiny: whatif_quick_CASE.{json,md}

In each cell a network learns one task, a base training of the next is done and linearised, and
candidates are answered, each in four orders of its batches, then trained in the first. R2 of the
change from the base is of what the base's own outcome does not tell; a candidate differs where its
outcome is further from the base's than that of the base in another order. Each candidate is also
trained in another order, which is what a second training would say of it. Where a candidate is
beyond the base and its verdict poor, a second base answers once more: at its rate, length and
share, as the verdict asks for (`--one-base` leaves this out). The answer of each is made before it
is trained, that of a second base without seeing it. Writes whatif_CASE.{json,md} under
results/bench.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import jax
import numpy as np
from publish import as_json, command, parser, publish, stem, with_jax
from scipy import stats

from ntkcl import losses, metrics, networks, optimizers, whatif
from ntkcl.cli.config import CONF, resolve
from ntkcl.whatif.answers import AGREED, FAR, losses_of

CROSS_ENTROPY = losses.cross_entropy()
CACHES: dict[str, dict] = {  # how the base is linearised
    "scratch": dict(anchors=8),
    "text": dict(anchors=4),
    "text10": dict(anchors=4, outputs=4, keep="sketch", numbers=16_384),
    "full": dict(anchors=4, keep="sketch"),
    "vision": dict(anchors=4),
}
ORDERS = 4
OTHER = 1000  # further on in seeds: the order of a second training
TWICE = {"rate": "learning_rate", "epochs": "epochs"}  # beyond what the base is meant for
NEARER = "learning_rate", "epochs", "share"  # of a candidate, in the second base
RULES = {
    "momentum": (optimizers.sgd(momentum=0.9), 0.01),
    "adam": (optimizers.adam(), 1e-3),
}
NETWORKS = {
    "mlp": ["network=mlp", "network.width=256", "network.depth=1"],
    "mlp, 3 layers": ["network=mlp", "network.width=256", "network.depth=3"],
    "cnn": ["network=cnn", "network.width=16", "network.depth=2", "network.stride=2"],
    "vit": ["network=vit", "network.width=32", "network.patch=7"],
}
STREAMS = {
    "class": ["stream=split", "stream.scenario=class"],
    "rotated": ["stream=rotated", "stream.step=90", "stream.same_images=false"],
}
SIZES = {"class": {"train": 100, "test": 100}, "rotated": {"train": 20, "test": 20}}
TINY = ["stream.train_per_class=20", "stream.test_per_class=10"]
VISION_TASKS = (0, 1, 2)  # of pairs of classes, each followed by the next
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


def learned(stream, network, recipe, key, name, loss=CROSS_ENTROPY) -> Cell:
    """A network that has learned the first task of a stream, asked about the second."""
    first, second = stream[:2]
    theta = network.init(key, first.train.x[0])
    given = dict(head=np.maximum(first.head, second.head), loss=loss)
    plain = whatif.question(network, theta, tuple(first.test), tuple(first.train), **given)
    theta = whatif.train(plain, recipe._replace(share=0.0, order=5))[-1]
    samples = tuple(first.test), tuple(second.train)
    asked = whatif.question(network, theta, *samples, pool=tuple(first.train), **given)
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


def text(quick: bool, count: int, table, *, classes: bool = False, full: bool = False):
    """Cells of MiniLM: pairs of sections, with a head of two outputs that they share or, as
    `classes`, of one for each section."""
    pairs = list(zip(PAIRS, PAIRS[1:] + PAIRS[:1], strict=True))[: 1 if quick else None]
    size, length = (16 if quick else 96), 16
    common = ["source=table", f"source.path={table}", f"source.length={length}"]
    common += ["source.test_fraction=0.5", "stream=split", "network=minilm"]
    common += ["stream.scenario=class"] if classes else ["stream.tasks=2"]
    for seed in range(count):
        for one, two in pairs:
            sections = ",".join([one, two] + [p for p in PAIRS if classes and p not in (one, two)])
            cfg = [*common, f"source.classes=[{sections}]", f"seed={seed}"]
            yield pretrained(cfg, size, f"{one} then {two}", seed, full=full)


def vision(quick: bool, count: int, _):
    """Cells of EfficientNet-Lite0: pairs of classes, with a head of two outputs that they share."""
    size = 8 if quick else 48
    common = ["source=fashion_mnist", "stream=split", "network=efficientnet_lite0"]
    common += ["network.upsample=2"]
    for seed in range(count):
        for first in VISION_TASKS[: 1 if quick else None]:
            name = f"{2 * first}, {2 * first + 1} then {2 * first + 2}, {2 * first + 3}"
            yield pretrained([*common, f"seed={seed}"], size, name, seed, first)


def pretrained(overrides, size: int, tasks: str, seed: int, first: int = 0, full: bool = False):
    """A cell of a model with low-rank additions, or all of it trained, fine-tuned as is usual on
    two tasks of a stream."""
    optimizer = optimizers.by_name("adamw", {"weight_decay": 0.01})
    sizes = [f"stream.train_per_class={size}", f"stream.test_per_class={size}"]
    fixed = [
        f"network.trainable={'all' if full else 'lora'}",
        "loss=cross_entropy",
        "training.learning_rate=0.01",
    ]
    named = parts([*overrides, *sizes, *fixed])
    recipe = whatif.Recipe(1e-4 if full else 1e-3, 3, 16, 0.2, optimizer, "linear", 1.0, order=99)
    name = dict(tasks=tasks, seed=seed)
    return learned(named["stream"][first:], named["network"], recipe, named["key"], name)


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
    }
    for what, field in TWICE.items():
        twice = {field: getattr(base, field) * 2}
        changes |= {f"{what} x 2": twice, f"{what} x 2, share 5 %": twice | dict(share=0.05)}
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


def rows_of(cell: Cell, how: dict, second_base: bool = True) -> list[dict]:
    """A row for each candidate of a cell."""
    clock = time.perf_counter()
    measured(cell, cell.base)
    compiled = time.perf_counter() - clock
    clock = time.perf_counter()
    base = measured(cell, cell.base)
    train = time.perf_counter() - clock
    cache = whatif.prepare(cell.asked, cell.base, budget_mib=8000, **how)
    again = [measured(cell, cell.base._replace(order=200 + k)) for k in range(2)]
    about = cell.name | dict(
        before=accuracy(cell, cache.before),
        base=accuracy(cell, base),
        outside=cache.outside,
        f1_again=float(np.mean([f1(cell, cache.before, base, one) for one in again])),
        train_seconds=train,
        compile_seconds=compiled - train,
        prepare_seconds=sum(cache.seconds.values()),
        mib=cache.mib,
    )
    noise = float(np.mean([np.linalg.norm(one - base) for one in again]))
    rows, trues = [], {}
    asked = candidates(cell.base, cell.asked.sizes[0])
    for name, recipe in asked.items():
        whatif.ask(cache, recipe)  # compiled
        clock = time.perf_counter()
        answer = whatif.ask(cache, recipe)
        seconds = time.perf_counter() - clock
        answer = whatif.ask(cache, recipe, ORDERS)
        trues[name] = measured(cell, recipe)
        rows.append(about | dict(candidate=name, answer_seconds=seconds))
        rows[-1] |= _row(cell, answer, trues[name], base, noise, cache)
        second = measured(cell, recipe._replace(order=recipe.order + OTHER))
        rows[-1] |= _of_second(cell, trues[name], second, cache)
        print(rows[-1], flush=True)
    del cache
    for row in rows if second_base else ():
        if row["verdict"] == "poor" and " x 2" in row["candidate"]:
            recipe = asked[row["candidate"]]
            nearer = cell.base._replace(**{field: getattr(recipe, field) for field in NEARER})
            cache = whatif.prepare(cell.asked, nearer, budget_mib=8000, **how)
            answer = whatif.ask(cache, recipe, ORDERS)
            second = _row(cell, answer, trues[row["candidate"]], base, noise, cache)
            row |= {f"second_{key}": second[key] for key in SECOND}
            del cache
    return rows


SECOND = "r2", "lost_predicted", "distance", "coarse_r2", "verdict"


def f1(cell: Cell, before, true, predicted) -> float:
    """Of the old samples that are right before and wrong after: NaN where none is in either."""
    y, head = np.asarray(cell.asked.old.y), np.asarray(cell.asked.head)
    was, *after = (metrics.correct(f, y, head).astype(bool) for f in (before, true, predicted))
    lost, said = (was & ~right for right in after)
    total = int(lost.sum() + said.sum())
    return float(2 * (lost & said).sum() / total) if total else float("nan")


def _row(cell, answer, true, base, noise, cache) -> dict:
    change, predicted = true - base, answer.outputs[0] - base
    before, after = (accuracy(cell, f) for f in (cache.before, true))
    low, high = answer.band()
    rise, said = loss_changes(cell, cache.before, true), answer.loss_change[0]
    return dict(
        r2=metrics.r2((true - cache.before).ravel(), (answer.outputs[0] - cache.before).ravel()),
        change_r2=float(1 - ((change - predicted) ** 2).sum() / (change**2).sum()),
        differs=float(np.linalg.norm(change) / noise),
        lost=before - after,
        lost_predicted=float(answer.lost[0]),
        retained=after / before,
        retained_predicted=float(answer.correct[0].mean() / before),
        low=low,
        high=high,
        f1=f1(cell, cache.before, true, answer.outputs[0]),
        rank_of_losses=metrics.spearman(rise, said),
        distance=float(answer.distance[0]),
        coarse_r2=float(answer.coarse_r2),
        verdict=answer.verdict[0],
    )


def _of_second(cell: Cell, true, second, cache) -> dict:
    """What a second training says of a candidate."""
    drifts = (true - cache.before).ravel(), (second - cache.before).ravel()
    lost = accuracy(cell, cache.before) - accuracy(cell, second)
    return dict(again_r2=metrics.r2(*drifts), again_lost=lost)


def loss_changes(cell: Cell, before, after) -> np.ndarray:
    """The change of each old sample's loss."""
    first, last = (losses_of(cell.asked, f) for f in (before, after))
    return last - first


def summarise(rows: list[dict]) -> dict:
    """What the table says, of candidates near the base, and of those beyond."""
    near = [row for row in rows if " x 2" not in row["candidate"]]
    differing = [row for row in near if row["differs"] > 1]
    errors = [abs(row["lost"] - row["lost_predicted"]) for row in near]
    return (
        {
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
            "median Spearman of accuracy lost": spearman(near, "lost_predicted"),
            "an answer / a training": median(
                [r["answer_seconds"] / r["train_seconds"] for r in rows]
            ),
            "base and cache / a training, compilation of both included": median(
                [
                    (r["compile_seconds"] + r["prepare_seconds"])
                    / (r["compile_seconds"] + r["train_seconds"])
                    for r in rows
                ]
            ),
        }
        | _by_sample(rows, near)
        | _by_second(rows)
    )


def _by_second(rows: list[dict]) -> dict:
    """What second trainings of the same candidates say, where they were done."""
    known = [row for row in rows if "again_r2" in row]
    near, beyond = (
        [r for r in known if (" x 2" in r["candidate"]) == far] for far in (False, True)
    )
    errors = [abs(row["lost"] - row["again_lost"]) for row in near]
    return {
        "a second training: candidates near the base": len(near),
        "its median R2 of the drift": median([row["again_r2"] for row in near]),
        "of the answers to these": median([row["r2"] for row in near]),
        "accuracy lost within .05 of it": share([error <= 0.05 for error in errors]),
        "within .1": share([error <= 0.1 for error in errors]),
        "median Spearman with it": spearman(near, "again_lost"),
        "the smallest share that keeps .95 by it within one step": share(
            list(recommended(rows, lambda row: (row["before"] - row["again_lost"]) / row["before"]))
        ),
        "its median R2 beyond the base": median([row["again_r2"] for row in beyond]),
        "of the answers to these, one base": median([row["r2"] for row in beyond]),
        "of the answers that took a second base": median(
            [row["second_r2"] for row in beyond if "second_r2" in row]
        ),
    }


def _by_sample(rows: list[dict], near: list[dict]) -> dict:
    """What rows tell since they hold bands, flips and second bases."""
    flips = [
        row["f1"] - row["f1_again"]
        for row in near
        if row["candidate"] == "another order" and None not in (row["f1"], row["f1_again"])
    ]
    second = [row for row in rows if "second_r2" in row]
    trusted = [row for row in second if row["second_verdict"] == "good"]
    return {
        "median rank correlation of the changes of loss": median(
            [row["rank_of_losses"] for row in near]
        ),
        "accuracy after within the band of 90 %": share(
            [r["low"] - 1e-9 <= r["before"] - r["lost"] <= r["high"] + 1e-9 for r in near]
        ),
        "median width of the band": median([row["high"] - row["low"] for row in near]),
        "the smallest share that keeps .95 within one step of the true one": share(
            list(recommended(rows))
        ),
        "F1 of flips less that of a second training, another order, median": median(flips),
        "AUROC of the verdict's signs for R2 < .8": auroc(rows),
        "good, of them R2 < .8": f"{sum(r['verdict'] == 'good' for r in rows)}, "
        + str(sum(r["verdict"] == "good" and r["r2"] < 0.8 for r in rows)),
        "beyond the base and poor": len(second),
        "of these, median R2 with the first base": median([row["r2"] for row in second]),
        "and with a second": median([row["second_r2"] for row in second]),
        "good with a second, of them R2 < .8": f"{len(trusted)}, "
        + str(sum(row["second_r2"] < 0.8 for row in trusted)),
    }


def auroc(rows: list[dict]) -> float:
    """How well the signs of a verdict tell an R2 below .8 from one above."""
    sign = [max((1 - r["coarse_r2"]) / (1 - AGREED), r["distance"] / FAR) for r in rows]
    bad = np.array([row["r2"] < 0.8 for row in rows])
    sign = np.nan_to_num(np.array(sign), nan=np.inf)
    if bad.all() or not bad.any():
        return float("nan")
    rank = stats.rankdata(sign)
    count = bad.sum()
    return float((rank[bad].sum() - count * (count + 1) / 2) / (count * (~bad).sum()))


def spearman(rows: list[dict], key: str) -> float:
    """Of the accuracy lost with what is said of it, the median over cells."""
    return median(
        [
            metrics.spearman(*(np.array([row[name] for row in cell]) for name in ("lost", key)))
            for cell in by_cell(rows)
        ]
    )


def recommended(
    rows: list[dict],
    said: Callable[[dict], float] = itemgetter("retained_predicted"),
    retention: float = 0.95,
) -> Iterator[bool]:
    """Whether the smallest share that is said to retain so much accuracy is, in each cell, at most
    a step of the list from the smallest that does."""
    for cell in by_cell(rows):
        shares = [row for row in cell if row["candidate"].startswith("share")]
        shares.insert(-1, next(row for row in cell if row["candidate"] == "another order"))
        places = [
            next((k for k, row in enumerate(shares) if of(row) >= retention), len(shares))
            for of in (itemgetter("retained"), said)
        ]
        yield abs(places[0] - places[1]) <= 1


def by_cell(rows: list[dict]) -> list[list[dict]]:
    """The rows of each cell."""
    cells: dict[tuple, list] = {}
    for row in rows:
        key = tuple(row[k] for k in row if k in ("stream", "network", "rule", "tasks", "seed"))
        cells.setdefault(key, []).append(row)
    return list(cells.values())


def share(holds) -> float:
    return float(np.mean(holds)) if len(holds) else float("nan")


def median(values) -> float:
    """Of those that are numbers: None is NaN as JSON keeps it."""
    known = [value for value in values if value is not None and value == value]
    return float(np.median(known)) if known else float("nan")


def _text(value: str | float | None) -> str:
    if value is None or value != value:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}"


def markdown(stored: dict) -> str:
    lines = ["# Answers of what-if beside the trainings that they spare", ""]
    machine = stored["machine"]
    lines += [
        f"`{stored['command']}`; {machine['cores']} cores, JAX {machine['jax']}.",
        "",
    ]
    lines += ["| of candidates near the base, and of all for verdicts and costs | |", "|---|---|"]
    lines += [f"| {name} | {_text(value)} |" for name, value in stored["summary"].items()]
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


CASES = {
    "scratch": scratch,
    "text": text,
    "text10": partial(text, classes=True),
    "full": partial(text, full=True),
    "vision": vision,
}


def main() -> None:
    options = parser(__doc__, quick=True)
    options.add_argument("--case", choices=tuple(CASES), default="scratch")
    options.add_argument("--table", type=Path, help="of texts, for --case text, text10, full")
    options.add_argument("--seeds", type=int, default=3, help="of each cell (3)")
    options.add_argument("--cells", type=int, help="the first so many of them, in place of all")
    options.add_argument("--one-base", action="store_true", help="no second base")
    given = options.parse_args()
    cells = CASES[given.case](given.quick, 1 if given.quick else given.seeds, given.table)
    rows = []
    for cell in islice(cells, given.cells):
        rows += rows_of(cell, CACHES[given.case], not given.one_base)
        if given.case == "scratch":
            jax.clear_caches()  # the programs of 45 cells are more than a process may map
    facts = {"command": command("whatif", options, given), "machine": with_jax()}
    stored = facts | {"summary": summarise(rows), "rows": rows}
    publish(given.folder, stem("whatif", given), as_json(stored), markdown)


if __name__ == "__main__":
    main()
