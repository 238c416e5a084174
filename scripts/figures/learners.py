"""Every method against forgetting on ten tasks of Fashion-MNIST, rotated and permuted.

Streams, network and training are those of the presets learners_rotated and learners_permuted. Each
method tries every combination of its settings below on a validation stream: another seed, so other
images, permutations and initialisation. The combination with the highest average accuracy there is
run with the seeds of the table; of penalties, whose steps diverge beyond some strength, one whose
next stronger value in the grid trained as well, for what is barely stable with one seed is not with
another. `joint` is one network trained on the shuffled images of all tasks, as many steps as the
others take in all. Every run is kept in results/tables/learners.runs.jsonl as soon as it has ended,
and not repeated. From these runs: results/tables/learners.{json,md} and
results/figures/learners.png; exit code 1 if a claim fails.

    python scripts/figures/learners.py [RESULTS] [--draw]
"""

import hashlib
import itertools
import json
import sys
import time
from pathlib import Path

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from publish import claims_list, publish_runs
from scipy import stats

from ntkcl import experiment, metrics
from ntkcl.cli.config import CONF, resolve
from ntkcl.experiment.events import Measurement
from ntkcl.types import Dataset, Rows, Stream, Task

STREAMS = ("rotated", "permuted")
RATES = (0.01, 0.03, 0.1)
BUFFER = {"size": [1000], "batch_size": [32]}
GRID: dict[str, dict[str, list]] = {
    "naive": {},
    "joint": {},
    "ewc_diagonal": {"labels": ["sampled"], "penalty": [1.0, 3.0, 10.0, 30.0]},
    "si": {"strength": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]},
    "ogd": {"per_task": [30], "outputs": ["true"]},
    "gpm": {"threshold": [0.95, 0.97, 0.99]},
    "agem": BUFFER | {"batch_size": [64]},
    "er": BUFFER,
    "der_plus_plus": BUFFER | {"alpha": [0.03, 0.1, 0.3]},
}
STRENGTHS = {"ewc_diagonal": "penalty", "si": "strength"}
BETTER = ("ewc_diagonal", "si", "ogd", "er", "der_plus_plus", "gpm", "agem")
NEAR_JOINT = ("er", "der_plus_plus")
VALIDATION, SEEDS = 1000, (0, 1, 2, 3, 4)


def combinations(method: str) -> list[dict]:
    """Every cell of a method's grid, the learning rate among its settings."""
    values = {"learning_rate": RATES, **GRID[method]}
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


def overrides(stream: str, method: str, settings: dict, seed: int) -> list[str]:
    own = {key: value for key, value in settings.items() if key != "learning_rate"}
    return [
        f"experiment=learners_{stream}",
        f"method={'naive' if method == 'joint' else method}",
        f"seed={seed}",
        f"training.learning_rate={settings['learning_rate']}",
        *(f"method.{key}={value}" for key, value in own.items()),
    ]


def as_one_task(stream: Stream) -> Stream:
    """One task made of all: shuffled by the trainer as any other."""

    def joined(part):
        return Dataset(
            *(
                jnp.concatenate(arrays)
                for arrays in zip(*(getattr(task, part) for task in stream), strict=True)
            )
        )

    return (Task(joined("train"), joined("test"), stream[0].head),)


def accuracies(stream: str, method: str, settings: dict, seed: int) -> np.ndarray:
    """R [T, T] on test images; for `joint` [1, T], after all tasks. Zeros once it diverged."""
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        cfg = hydra.compose("config", overrides=overrides(stream, method, settings, seed))
        named = resolve(cfg).requests[0].build()
    tasks = named["stream"]
    if method == "joint":
        named["stream"] = as_one_task(tasks)
    events = [e for e in experiment.run(**named, anchors=[]) if isinstance(e, Measurement)]
    outputs = [e.outputs for e in events[1:] if not e.diverged]
    rows = Rows.of(named["stream"]).test
    if method == "joint":
        cuts = np.cumsum([0, *(len(task.test.x) for task in tasks)]) + rows[0].start
        rows = tuple(slice(a, b) for a, b in itertools.pairwise(cuts))
    R = np.zeros((len(events) - 1 if method == "joint" else len(tasks), len(tasks)))
    for i, f in enumerate(outputs):
        for j, task in enumerate(tasks):
            R[i, j] = np.mean(
                metrics.correct(f[rows[j]], np.asarray(task.test.y), np.asarray(task.head))
            )
    return R


def gather(root: Path) -> dict:
    """What is stored: a row for each stream and method, and the claims."""
    jax.config.update("jax_enable_x64", True)  # as the command does: networks keep their precision
    rows = compute(Kept(root / "tables" / "learners.runs.jsonl"))
    return {"claims": judge(rows), "rows": rows}


class Kept:
    """Runs that have ended, a line of JSON each, by what they were."""

    def __init__(self, path: Path):
        self.path, self.rows = path, {}
        for line in path.read_text().splitlines() if path.exists() else ():
            row = json.loads(line)
            self.rows[row["run"]] = row

    def run(self, stream: str, method: str, settings: dict, seed: int) -> np.ndarray:
        """R of a run, trained if it was not before with the presets as they stand."""
        asked = overrides(stream, method, settings, seed)
        preset = (Path(CONF) / "experiment" / f"learners_{stream}.yaml").read_text()
        lines = [line.split("#")[0].rstrip() for line in preset.splitlines()]
        name = hashlib.sha256(
            json.dumps([asked, method, *filter(None, lines)]).encode()
        ).hexdigest()[:16]
        if name not in self.rows:
            start = time.perf_counter()
            R = accuracies(stream, method, settings, seed)
            seconds = time.perf_counter() - start
            row = {
                "stream": stream,
                "method": method,
                **settings,
                "seed": seed,
                "seconds": round(seconds, 1),
                "run": name,
            }
            self.rows[name] = row | {"R": R.round(6).tolist()}
            with self.path.open("a") as file:
                file.write(json.dumps(self.rows[name]) + "\n")
            score = R[-1].mean()
            print(
                f"{stream:9} {method:15} {settings} seed {seed}: {score:.4f} in {seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
        return np.array(self.rows[name]["R"])


def scores(R: np.ndarray) -> dict[str, float]:
    """Average accuracy, learning accuracy and forgetting; of `joint`, with one row, the first."""
    row = {"average_accuracy": float(R[-1].mean())}
    if len(R) == 1:
        return row
    return row | {
        "learning_accuracy": metrics.learning_accuracy(R),
        "forgetting": metrics.forgetting_chaudhry(R),
    }


def compute(kept: Kept) -> list[dict]:
    """A row for each stream and method.

    The settings chosen, what every combination gave on the validation stream, scores by seed.
    """
    rows = []
    for stream in STREAMS:
        tried, chosen, by_seed = {}, {}, {method: [] for method in GRID}
        for method in GRID:
            tried[method] = [
                cell | scores(kept.run(stream, method, cell, VALIDATION))
                for cell in combinations(method)
            ]
            chosen[method] = choice(method, tried[method])
        # By seed, so that all methods share its stream.
        for seed, method in itertools.product(SEEDS, GRID):
            by_seed[method].append(scores(kept.run(stream, method, chosen[method], seed)))
        for method, scored in by_seed.items():
            measured = {key: [one[key] for one in scored] for key in scored[0]}
            rows.append(
                {
                    "stream": stream,
                    "method": method,
                    "settings": chosen[method],
                    "validation": tried[method],
                    **measured,
                }
            )
    return rows


def choice(method: str, tried: list[dict]) -> dict:
    """The cell of the method's grid with the best average accuracy of those `tried`.

    Of a strength, one with room for a stronger one.
    """

    def room(cell):
        if method not in STRENGTHS:
            return True
        name = STRENGTHS[method]
        stronger = [
            one
            for one in tried
            if one["learning_rate"] == cell["learning_rate"] and one[name] > cell[name]
        ]
        if not stronger:
            return False
        return min(stronger, key=lambda one: one[name])["average_accuracy"] > 0  # 0: it diverged

    scored = zip(combinations(method), tried, strict=True)
    return max(scored, key=lambda pair: (room(pair[0]), pair[1]["average_accuracy"]))[0]


def interval(values) -> float:
    """Half the width of the 95 % confidence interval of a mean, by Student's t."""
    return float(
        stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    )


def judge(rows: list[dict]) -> list[dict]:
    """Each method beats plain training, in paired differences by seed; replay is near joint."""
    claims = []
    for stream in STREAMS:
        score = {
            row["method"]: np.array(row["average_accuracy"])
            for row in rows
            if row["stream"] == stream
        }
        for method in BETTER:
            gain = score[method] - score["naive"]
            text = (
                f"{stream}: {method} ends above naive by {gain.mean():.1%} ± {interval(gain):.1%}"
            )
            claims.append({"claim": text, "holds": bool(gain.mean() > interval(gain))})
        whole = score["joint"].mean() - score["naive"].mean()
        for method in NEAR_JOINT:
            closed = (score[method].mean() - score["naive"].mean()) / whole
            text = (
                f"{stream}: {method} closes {closed:.0%} of the way from naive to joint, "
                "more than half"
            )
            claims.append({"claim": text, "holds": bool(closed > 0.5)})
    return claims


def markdown(stored: dict) -> str:
    lines = []
    for stream in STREAMS:
        lines += [
            f"{stream.capitalize()}, {len(SEEDS)} seeds, "
            "mean ± half of the 95 % confidence interval:",
            "",
        ]
        lines += [
            "| method | average accuracy | learning accuracy | forgetting "
            "| settings, chosen on the validation stream |",
            "|---|---|---|---|---|",
        ]
        for row in stored["rows"]:
            if row["stream"] == stream:
                cells = [
                    _entry(row.get(key))
                    for key in ("average_accuracy", "learning_accuracy", "forgetting")
                ]
                settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
                lines.append(f"| {row['method']} | {' | '.join(cells)} | {settings} |")
        lines.append("")
    return "\n".join([*lines, *claims_list(stored["claims"])]) + "\n"


def _entry(values) -> str:
    return "" if values is None else f"{100 * np.mean(values):.1f} ± {100 * interval(values):.1f}"


def draw(stored: dict) -> Figure:
    """Average accuracy by method with its confidence interval, every seed a dot.

    Naive and joint training are lines.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, stream in zip(figure.subplots(1, 2, sharey=True), STREAMS, strict=True):
        own = [row for row in stored["rows"] if row["stream"] == stream]
        for row, colour in ((own[0], "tab:red"), (own[1], "tab:green")):
            axis.axhline(
                100 * np.mean(row["average_accuracy"]), color=colour, lw=1, label=row["method"]
            )
        shown = sorted(own[2:], key=lambda row: np.mean(row["average_accuracy"]))
        for k, row in enumerate(shown):
            values = 100 * np.array(row["average_accuracy"])
            spread = interval(values) if len(values) > 2 else None  # of two, their dots tell more
            axis.errorbar(k, values.mean(), spread, color="tab:blue", marker="s", ms=5, capsize=4)
            axis.plot(np.full(len(values), k), values, ".", color="0.4", ms=4)
        axis.set_xticks(
            range(len(shown)), [row["method"].replace("_", "\n", 1) for row in shown], fontsize=8
        )
        axis.set(title=f"{stream} Fashion-MNIST, 10 tasks")
        axis.legend(fontsize=8)
    figure.axes[0].set_ylabel("average accuracy in %, after all tasks")
    return figure


def main() -> None:
    publish_runs(__doc__, "learners", gather, markdown, draw)


if __name__ == "__main__":
    main()
