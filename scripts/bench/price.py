"""What a forecast costs beside the training that it predicts.

    python scripts/bench/price.py                  all cases, each in a process of its own
    python scripts/bench/price.py --case NAME ...  some of them; the others are kept as stored
    python scripts/bench/price.py --quick          tiny sizes, to see it run: writes
                                                   price_quick.{json,md,png}

A case is one configuration, run again and again in one process: first to compile, then one to
five times, forecast and training taking turns. Reported are medians of the seconds of each phase,
as `summary.json` has them, and the peak of the process's memory. Training takes 500 steps a task.
The forecast of the whole stream (init) has the Gram matrices of the limit, which come before it.
Beside it is what `forecast.explain=true` estimates before it is made.
Writes price.{json,md} and price.png, the ratio against the width, under results/bench.
"""

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

from publish import command, parser, publish, stem, with_jax

PERMUTED = ("source=fashion_mnist", "stream=permuted", "stream.same_images=false")
IMAGES = (
    "source=fashion_mnist",
    "stream.same_images=false",
    "stream.tasks=2",
    "stream.train_per_class=10",
    "stream.test_per_class=10",
)
MINIBATCHES = ("loss=cross_entropy", "training.batch_size=20", "optimizer.momentum=0.9")
ADAM = ("optimizer=adam", "training.learning_rate=0.001", "training.learning_rate_fraction=null")
LARGE = (*PERMUTED, "network.width=256", "stream.tasks=2", "stream.test_per_class=20")


def width(w: int, *settings: str) -> tuple[str, ...]:
    return (*PERMUTED, f"network.width={w}", *settings)


# Name: settings, repeats.
CASES: dict[str, tuple[tuple[str, ...], int]] = {
    **{f"mlp {w}": (width(w), 5 if w < 1024 else 3) for w in (64, 256, 1024)},
    "mlp 4096": (width(4096), 1),
    **{f"minibatches {w}": (width(w, *MINIBATCHES), 3) for w in (256, 1024)},
    **{f"adam {w}": (width(w, *ADAM), 1) for w in (256, 1024)},
    **{f"{name} 256": (width(256, f"method={name}"), 1) for name in ("replay", "ewc")},
    "ogd 64": (width(64, "method=ogd", "method.per_task=20"), 1),
    "lenet": ((*IMAGES, "network=lenet"), 1),
    "cnn 16": ((*IMAGES, "network=cnn", "network.width=16"), 1),
    "resnet 8": ((*IMAGES, "network=resnet", "network.width=8"), 1),
    "vit 32": ((*IMAGES, "network=vit", "network.width=32"), 1),
    **{
        f"samples {10 * n}": ((*LARGE, f"stream.train_per_class={n}"), repeats)
        for n, repeats in ((10, 3), (30, 3), (100, 1), (300, 1), (1000, 1))
    },
}
TINY = ("stream.tasks=2", "stream.train_per_class=2", "stream.test_per_class=1", "training.steps=5")
QUICK = {f"mlp {w}": ((*TINY, f"network.width={w}"), 1) for w in (4, 8)}
PHASES = ("plan", "forecast_init", "baselines", "forecast_boundary", "train")


def measure(settings, repeats: int) -> dict:
    """Medians of the phases' seconds, the peak of memory, the form; in this process."""
    import hydra
    import jax

    from ntkcl import experiment
    from ntkcl.cli.config import CONF, resolve
    from ntkcl.experiment import record
    from ntkcl.resources import Meter

    jax.config.update("jax_enable_x64", True)
    meter, runs = Meter(), []
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=[*settings, "forecast.explain=true"])
    for _ in range(1 + repeats):
        named = resolve(cfg).requests[0].build()
        gathered = record.gather(experiment.run(**named), named["stream"])
        costs, estimate = gathered.costs, gathered.plan.estimate
        runs.append({name: sum(cost.seconds for cost in costs[name]) for name in PHASES})
    return {
        "settings": list(settings),
        "repeats": repeats,
        "seconds": {name: median(run[name] for run in runs[1:]) for name in PHASES},
        "compiling": sum(runs[0].values()) - sum(runs[-1].values()),
        "peak_mib": meter.read().peak_mib,
        "estimate": estimate._asdict() | {"peak_mib": costs["forecast_init"][0].peak_mib},
        "steps": named["training"].steps,
        "samples": [len(task.train.x) for task in named["stream"]],
        "machine": with_jax(),
    }


def in_its_own_process(settings, repeats: int) -> dict:
    """`measure` there: what one case leaves in memory is not the next one's peak."""
    given = json.dumps([settings, repeats])
    words = [sys.executable, __file__, "--measure", given]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ratio(case: dict, phase: str = "forecast_init") -> float:
    return case["seconds"][phase] / case["seconds"]["train"]


def markdown(stored: dict) -> str:
    first = next(iter(stored["cases"].values()))
    lines = [
        "# The price of a forecast",
        "",
        f"`{stored['command']}`: {first['machine']['cores']} cores, "
        f"{first['machine']['processor']}, JAX {stored['jax']}. Seconds, compiled, medians.",
        "",
        "| case | tasks x samples | steps | init | boundary | train | init / train "
        "| boundary / init | limit | baselines | peak, MiB "
        "| init, estimated | its peak, estimated |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in stored["cases"].items():
        seconds, samples = case["seconds"], case["samples"]
        init, boundary, train = (
            seconds[phase] for phase in ("forecast_init", "forecast_boundary", "train")
        )
        lines.append(
            f"| {name} | {len(samples)} x {samples[0]:,} | {case['steps']} | {init:.2f} "
            f"| {boundary:.2f} | {train:.2f} | **{init / train:.2f}** | {boundary / init:.2f} "
            f"| {seconds['plan']:.2f} | {seconds['baselines']:.2f} | {case['peak_mib']:,.0f} "
            f"| {case['estimate']['seconds']:.2f} "
            f"| {case['estimate']['mib']:,.0f} of {case['estimate']['peak_mib']:,.0f} |"
        )
    lines += ["", "Settings of each case:", ""]
    lines += [f"* {name}: `{' '.join(case['settings'])}`" for name, case in stored["cases"].items()]
    return "\n".join(lines) + "\n"


def draw(cases: dict, file: Path) -> None:
    """init / train against the width, and against the number of samples a task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for kind, axis in (("mlp", left), ("minibatches", left), ("adam", left), ("samples", right)):
        own = {int(name.split()[1]): case for name, case in cases.items() if name.startswith(kind)}
        if own:
            label = {"mlp": "squared error, full batches", "adam": "Adam"}.get(kind, kind)
            ratios = [ratio(own[size]) for size in sorted(own)]
            axis.plot(sorted(own), ratios, "o-", label=label)
    left.set_xlabel("width")
    right.set_xlabel("samples a task, width 256")
    left.set_ylabel("seconds of the forecast / of the training")
    left.legend(fontsize=8)
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.axhline(1, color="0.4", lw=0.8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def main() -> None:
    options = parser(__doc__, quick=True)
    options.add_argument("--case", action="append", help="one of them; may be given again")
    options.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(*given.measure)))
        return
    cases, chosen = (QUICK if given.quick else CASES), given.case
    given.case = None  # the table is of all cases, whenever they were measured
    name = stem("price", given)
    file = given.folder / f"{name}.json"
    before = json.loads(file.read_text())["cases"] if file.is_file() and chosen else {}
    for case in chosen or cases:
        if case not in cases:
            sys.exit(f"--case={case}: expected one of {', '.join(cases)}")
        before[case] = in_its_own_process(*cases[case])
        print(f"{case}: {ratio(before[case]):.3f}", file=sys.stderr, flush=True)
        ordered = {case: before[case] for case in cases if case in before}
        about = {"command": command("price", options, given), "jax": version("jax")}
        publish(given.folder, name, {"cases": ordered, **about}, markdown)
    draw(ordered, given.folder / f"{name}.png")


if __name__ == "__main__":
    main()
