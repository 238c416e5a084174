"""Fine-tunings of pretrained models, predicted before they are done.

    python scripts/bench/pretrained.py --case vision    EfficientNet-Lite0, pairs of classes of
                                                        Fashion-MNIST; needs the extra pretrained
    python scripts/bench/pretrained.py --case text      MiniLM, pairs of sections of a table made by
        --table FILE                                    scripts/data/debian_texts.py
    --done FILE                                         JSON lines: cells in it are not done again,
                                                        others are added as they are done
    --quick                                             a tiny cell: pretrained_quick_CASE.{json,md}

A network learns a pair of classes, then another with the same two outputs: 192 train and 192 test
samples a pair, batches of 16, 3 epochs. The second training is predicted by linearising the network
1, 4 and 8 times along the predicted path, then done; done again in another batch order, which no
forecast that does not know the order can beat; and done in part, as a pilot. Scores are of the test
samples of the first pair. Writes pretrained_CASE.{json,md} under results/bench.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from publish import as_json, command, parser, publish, stem, with_jax
from segments import number, seconds, table
from whatif import PAIRS, Cell, accuracy, learned, median, parts

from ntkcl import losses, metrics, networks, optimizers, whatif
from ntkcl.whatif.answers import losses_of

SEGMENTS = (1, 4, 8)
WAYS = {
    "1": "1 segment",
    "1, the network": "1, network read",
    "4": "4 segments",
    "8": "8 segments",
    "second": "second training",
    "pilot": "pilot, epochs",
    "a third of the data": "pilot, data",
}  # to know what a training will do
ADAMW = optimizers.by_name("adamw", {"weight_decay": 0.01})
CROSS_ENTROPY, SQUARED = losses.cross_entropy(), losses.squared_error()


class Row(NamedTuple):
    """A way to fine-tune: what is trained, by which rule, and how many cells there are of it, all
    pairs with one seed before the next."""

    network: str
    trainable: str
    rule: str
    rate: float
    count: int
    loss: Any = CROSS_ENTROPY

    def recipe(self, new: int) -> whatif.Recipe:
        plain = whatif.Recipe(self.rate, 3, min(16, new // 4), order=99)
        if self.rule == "sgd":
            return plain
        return plain._replace(optimizer=ADAMW, schedule="linear", clip=1.0)


ROWS = {
    "text": {
        "head, AdamW 1e-2": Row("minilm", "head", "adamw", 1e-2, 15),
        "LoRA, SGD .2, squared error": Row("minilm", "lora", "sgd", 0.2, 5, SQUARED),
        "LoRA, SGD .1": Row("minilm", "lora", "sgd", 0.1, 5),
        "LoRA, AdamW 3e-4": Row("minilm", "lora", "adamw", 3e-4, 10),
        "LoRA, AdamW 1e-3": Row("minilm", "lora", "adamw", 1e-3, 10),
        "full, AdamW 1e-4": Row("minilm", "all", "adamw", 1e-4, 5),
    },
    "vision": {
        "LoRA, AdamW 1e-3": Row("efficientnet_lite0", "lora", "adamw", 1e-3, 8),
        "full, AdamW 1e-4": Row("efficientnet_lite0", "all", "adamw", 1e-4, 7),
    },
}
SOURCES = {
    "minilm": f"source=table source.classes=[{','.join(PAIRS)}] source.test_fraction=0.5 "
    "source.length=16",
    "efficientnet_lite0": "source=fashion_mnist source.mean=0.498 source.sd=0.502 "
    "network.upsample=2",
}
PAIRS_OF = {"text": 5, "vision": 3}
QUICK = 8  # samples of a class, in place of 96


def cells(case: str, quick: bool) -> list[tuple[str, int, int]]:
    """(row, pair, seed): the first pair of every row, then other pairs, then other seeds."""
    every = [
        (name, k % PAIRS_OF[case], k // PAIRS_OF[case])
        for name, row in ROWS[case].items()
        for k in range(row.count)
    ]
    every.sort(key=lambda cell: (cell[2], cell[1] > 0))
    return [cell for cell in every if cell[0] == "LoRA, AdamW 1e-3"][:1] if quick else every


def made(row: Row, pair: int, seed: int, quick: bool, texts: Path | None) -> Cell:
    """A network that has learned one pair of classes, and is to learn the next."""
    size = QUICK if quick else 96
    cfg = [*SOURCES[row.network].split(), "stream=split", "stream.tasks=5", f"seed={seed}"]
    cfg += [f"stream.{part}_per_class={size}" for part in ("train", "test")]
    cfg += [f"network={row.network}", f"network.trainable={row.trainable}"]
    cfg += ["loss=cross_entropy", "training.learning_rate=0.01"]
    cfg += [f"source.path={texts}"] * (row.network == "minilm")
    named = parts(cfg)
    stream = tuple(named["stream"][(pair + k) % 5] for k in range(2))
    network = named["network"]
    if row.trainable == "head":
        network, stream = networks.precomputed(network, stream)
    return learned(stream, network, row.recipe(2 * size), named["key"], {}, row.loss)


def outputs(cell: Cell, theta, network=None) -> np.ndarray:
    """Of the old samples, [n, c], by the network itself or another."""
    f = networks.forward((network or cell.asked.network).apply, theta, cell.asked.old.x)
    return np.asarray(f, np.float64)


def measured(cell: Cell) -> dict:
    """One fine-tuning, predicted and then done: scores and processor seconds."""
    asked, recipe = cell.asked, cell.base
    before, new = outputs(cell, asked.theta), asked.sizes[0]
    one = recipe._replace(epochs=recipe.batch_size / new)  # a step: programs are compiled
    outputs(cell, whatif.train(asked, one)[-1])
    outputs(cell, *whatif.in_segments(asked, one)[::-1])
    times, ends = {}, {}
    for m in SEGMENTS:
        times[str(m)], (network, theta) = seconds(whatif.in_segments, asked, recipe, m)
        linear, own = outputs(cell, theta, network), outputs(cell, theta)
        # As forecasts do: where it is linearised anew, the network itself is read.
        ends |= {str(m): linear, f"{m}, the network": own} if m == 1 else {str(m): own}
    epoch = recipe.steps(new) // 3
    times["train"], (pilot, theta) = seconds(whatif.train, asked, recipe, [epoch])
    truth, ends["pilot"] = outputs(cell, theta), outputs(cell, pilot)
    third = recipe._replace(left_out=np.random.default_rng(7).permutation(new)[: new * 2 // 3])
    for name, other in (("a third of the data", third), ("second", recipe._replace(order=200))):
        ends[name] = outputs(cell, whatif.train(asked, other)[-1])
    learned_new = networks.forward(asked.network.apply, theta, asked.new.x)
    return dict(
        before=accuracy(cell, before),
        learned=float(np.mean(np.argmax(learned_new, 1) == np.argmax(asked.new.y, 1))),
        lost=accuracy(cell, before) - accuracy(cell, truth),
        seconds=times,
        scores={name: scores(cell, before, truth, end) for name, end in ends.items()},
    )


def scores(cell: Cell, before, truth, predicted) -> dict:
    """Of predicted outputs [n, c] of the old samples, beside the true ones."""
    y, head = np.asarray(cell.asked.old.y), np.asarray(cell.asked.head)
    loss, *rises = (losses_of(cell.asked, f) for f in (before, truth, predicted))
    right, *after = (metrics.correct(f, y, head) for f in (before, truth, predicted))
    changes = [f - before for f in (truth, predicted)]
    differences = [change - change.mean(1, keepdims=True) for change in changes]
    return dict(
        r2=metrics.r2(*map(np.ravel, changes)),
        cosine=metrics.cosine(*map(np.ravel, changes)),
        r2_differences=metrics.r2(*map(np.ravel, differences)),
        cosine_differences=metrics.cosine(*map(np.ravel, differences)),
        rank=metrics.spearman(*(rise - loss for rise in rises)),
        f1=metrics.flip_f1(*(metrics.flip_lost(right, one) for one in after)),
        flips=[float(metrics.flip_lost(right, one).sum()) for one in after],
        lost=float(right.mean() - after[1].mean()),
        rise=[float((rise - loss).mean()) for rise in rises],
    )


def many(rows: list[dict], name: str, key: str = "r2") -> list[float]:
    """A score of a forecast, a pilot or a second training, in each row that has it."""
    each = [row["scores"][name][key] for row in rows]
    return [one for one in each if one is not None]


def errors(rows: list[dict], name: str) -> list[float]:
    """Of the accuracy lost."""
    return [abs(row["scores"][name]["lost"] - row["lost"]) for row in rows]


def cost(rows: list[dict], m: int) -> float:
    """Processor seconds of a forecast over those of the training, the median."""
    return median([row["seconds"][str(m)] / row["seconds"]["train"] for row in rows])


def markdown(stored: dict) -> str:
    rows, machine = stored["rows"], stored["machine"]
    names = dict.fromkeys(row["row"] for row in rows)
    groups = {name: [row for row in rows if row["row"] == name] for name in names}
    lines = ["# Fine-tunings of pretrained models, predicted before they are done", ""]
    lines += [f"`{stored['command']}`; {machine['cores']} cores, JAX {machine['jax']}.", ""]
    lines += [
        "Medians over trainings, of the change of held-out old samples' outputs; a second training "
        "is in another batch order, a pilot the first of three epochs or a third of the data.",
        "",
    ]
    for title, key in (
        ("R2", "r2"),
        ("cosine", "cosine"),
        ("R2, outputs less their mean", "r2_differences"),
        ("rank of loss changes", "rank"),
        ("F1 of flips", "f1"),
    ):
        each = [
            [name, str(len(own)), *(number(median(many(own, by, key))) for by in WAYS)]
            for name, own in groups.items()
        ]
        lines += [*table([title, "trainings", *WAYS.values()], each), ""]
    each = [
        [
            name,
            *(f"{float(np.mean(errors(own, by))):.3f}" for by in WAYS),
            f"{float(np.mean([row['lost'] for row in own])):.3f}",
            *(number(cost(own, m)) for m in SEGMENTS),
        ]
        for name, own in groups.items()
    ]
    heads = ["error of accuracy lost, mean", *WAYS.values(), "accuracy lost"]
    lines += [*table([*heads, *(f"cost, {m}" for m in SEGMENTS)], each), ""]
    lines += ["Cost is in processor seconds of a training, without compilation.", ""]
    each = [
        [
            *(str(row[key]) for key in ("row", "pair", "seed")),
            *(f"{row[key]:.3f}" for key in ("before", "lost")),
            *(f"{row['scores'][by]['lost']:.3f}" for by in ("1", "4", "8", "second")),
            *(f"{row['scores'][by]['r2']:.3f}" for by in WAYS),
            str(round(row["scores"]["second"]["flips"][0])),
        ]
        for row in rows
    ]
    heads = ["each", "pair", "seed", "accuracy", "lost"]
    heads += [f"lost, {WAYS[by]}" for by in ("1", "4", "8", "second")]
    lines += table([*heads, *(f"R2, {way}" for way in WAYS.values()), "flips"], each)
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser(__doc__, quick=True)
    options.add_argument("--case", choices=tuple(ROWS), default="vision")
    options.add_argument("--table", type=Path, help="of texts, for --case text")
    options.add_argument("--done", type=Path, help="JSON lines of cells that are done")
    given = options.parse_args()
    kept = given.done.read_text().splitlines() if given.done and given.done.exists() else []
    rows = []
    for name, pair, seed in cells(given.case, given.quick):
        about = dict(row=name, pair=pair, seed=seed)
        known = [row for row in map(json.loads, kept) if about.items() <= row.items()]
        if not known:
            cell = made(ROWS[given.case][name], pair, seed, given.quick, given.table)
            known = [as_json(about | measured(cell))]
            print(json.dumps(known[0]), file=sys.stderr, flush=True)
            if given.done:
                with given.done.open("a") as file:
                    file.write(json.dumps(known[0]) + "\n")
        rows += known
    stored = {"command": command("pretrained", options, given), "machine": with_jax(), "rows": rows}
    publish(given.folder, stem("pretrained", given), stored, markdown)


if __name__ == "__main__":
    main()
