"""What what-if recommends beside chance: which old samples to replay, which new ones to leave out.

    python scripts/bench/whatif_recommend.py           networks from scratch on Fashion-MNIST,
                                                       class-incremental; five seeds
    python scripts/bench/whatif_recommend.py --quick   one cell, tiny: whatif_recommend_quick.*

Measured: the rise of the old test samples' mean loss after training with 5 % of the pool replayed
(a fifth of each batch), as recommended and as drawn, and after training without the 10 % of the new
samples that cost most and without 10 % drawn (with a share of .05). Means over three orders of the
batches and, of what is drawn, over four draws. Recommendations are made before any of it. Writes
whatif_recommend.{json,md} under results/bench.
"""

import numpy as np
from publish import command, parser, publish, stem, with_jax
from whatif import NETWORKS, RULES, SIZES, TINY, Cell, learned, measured, parts

from ntkcl import whatif
from ntkcl.whatif.answers import losses_of

ORDERS, DRAWS, ANCHORS = 3, 4, 8
KINDS = ("mlp", "mlp, 3 layers")


def cells(quick: bool):
    """Networks that have learned two classes, and are asked about two others."""
    for kind in KINDS[: 1 if quick else None]:
        for rule, (optimizer, rate) in RULES.items():
            for seed in range(1 if quick else 5):
                size = [f"stream.{part}_per_class={n}" for part, n in SIZES["class"].items()]
                cfg = ["source=fashion_mnist", "stream=split", "stream.scenario=class"]
                cfg += ["stream.tasks=2", "network.centred=false", "loss=cross_entropy"]
                cfg += ["network.parametrization=standard", "network.init=torch", f"seed={seed}"]
                cfg += [*NETWORKS[kind], *(TINY if quick else size), "training.learning_rate=0.01"]
                named = parts(cfg)
                recipe = whatif.Recipe(rate, 5, 20, 0.2, optimizer, order=99)
                name = dict(network=kind, rule=rule, seed=seed)
                yield learned(named["stream"], named["network"], recipe, named["key"], name)


def forgotten(cell: Cell, recipe: whatif.Recipe, before: float) -> float:
    """Rise of the old samples' mean loss, the mean over orders."""
    recipes = (recipe._replace(order=recipe.order + k) for k in range(ORDERS))
    after = [losses_of(cell.asked, measured(cell, one)).mean() for one in recipes]
    return float(np.mean(after)) - before


def row(cell: Cell) -> dict:
    """Recommended and drawn, of one cell."""
    cache = whatif.prepare(cell.asked, cell.base, anchors=ANCHORS, keep="passes")
    before = float(losses_of(cell.asked, cache.before).mean())
    new, pool = cell.asked.sizes
    few, many = pool // 20, new // 10
    sparse = cell.base._replace(share=0.05)
    replayed, dropped = whatif.replay(cache, cell.base, few), whatif.drop(cache, sparse, many)
    draw = np.random.default_rng(0).permutation
    candidates = {
        "replay": ({"replayed": replayed}, [{"replayed": draw(pool)[:few]} for _ in range(DRAWS)]),
        "drop": ({"left_out": dropped}, [{"left_out": draw(new)[:many]} for _ in range(DRAWS)]),
    }
    made = dict(cell.name)
    for name, (chosen, drawn) in candidates.items():
        base = cell.base if name == "replay" else sparse
        made[name] = forgotten(cell, base._replace(**chosen), before)
        at_random = [forgotten(cell, base._replace(**one), before) for one in drawn]
        made[f"{name}_at_random"] = float(np.mean(at_random))
    print(made, flush=True)
    return made


def less(row: dict, name: str) -> float:
    """How much less is forgotten than with what is drawn, as a share."""
    return 1 - row[name] / row[f"{name}_at_random"]


def markdown(stored: dict) -> str:
    machine = stored["machine"]
    lines = ["# What what-if recommends beside chance", ""]
    lines += [f"`{stored['command']}`; {machine['cores']} cores, JAX {machine['jax']}.", ""]
    lines += ["Rise of the old samples' mean loss, and how much less it is.", ""]
    columns = ["network", "rule", "seed", "5 % replayed, recommended", "drawn", "less"]
    columns += ["10 % left out, recommended", "drawn", "less"]
    lines.append(f"| {' | '.join(columns)} |")
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for one in stored["rows"]:
        numbers = [
            value
            for name in ("replay", "drop")
            for value in (one[name], one[f"{name}_at_random"], less(one, name))
        ]
        cells = [one["network"], one["rule"], str(one["seed"]), *(f"{n:.2f}" for n in numbers)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser(__doc__, quick=True)
    given = options.parse_args()
    rows = [row(cell) for cell in cells(given.quick)]
    facts = {"command": command("whatif_recommend", options, given), "machine": with_jax()}
    publish(given.folder, stem("whatif_recommend", given), facts | {"rows": rows}, markdown)


if __name__ == "__main__":
    main()
