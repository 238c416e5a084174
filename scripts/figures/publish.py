"""The frame of the scripts in this folder: numbers computed or read, then table and figure.

A script says how its numbers come about and how they are shown; the files are written here.
`publish` serves scripts with a preset under conf/figure, `publish_runs` those that gather what
`ntkcl experiment=PRESET` has made. Both write results/tables/NAME.json, and from it NAME.md and
results/figures/NAME.{png,pdf}; with draw=true, or --draw, they read the JSON file and compute
nothing. A preset with size=small computes less, of the digits that need no files, and writes below
results/small: it shows that the script runs, and its claims are not held against it.
"""

import argparse
import hashlib
import json
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import jax
import numpy as np
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from scipy import stats

from ntkcl.cli.config import CONF
from ntkcl.runs.files import plain, read_summary
from ntkcl.runs.identity import resolve
from ntkcl.runs.machine import cores
from ntkcl.types import Source
from ntkcl.validation import finite, one_of, whole

SIZES = ("paper", "small")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # colour-blind safe (Okabe, Ito)

# Where files lie is no part of what was computed; nor is the name of a size beside what it sets.
NOT_SETTINGS = ("draw", "results_dir", "size")


class Run(NamedTuple):
    """A complete run: its folder, its configuration, its summary."""

    folder: Path
    config: dict
    summary: dict

    @property
    def cell(self) -> dict:
        return {"width": self.config["network"].get("width"), "seed": self.config["seed"]}


def publish(
    cfg: DictConfig,
    name: str,
    check: Callable[[DictConfig], dict],
    compute: Callable[[dict], dict],
    markdown: Callable[[dict], str],
    draw: Callable[[dict], Figure],
) -> None:
    """Table and figure of a preset under conf/figure: cfg -> check -> settings -> compute.

    Exit code 1 if a claim of newly computed numbers fails, but for size=small.
    """
    small = is_small(cfg)  # before anything is computed, or written over what is there
    root = prepare(cfg.results_dir)
    if cfg.draw:
        show_again(root, name, read(root, name, "draw=true"), markdown, draw)
        return
    settings, start = check(cfg), time.perf_counter()
    stored = {"settings": settings, **compute(settings)}
    stored["seconds"] = round(time.perf_counter() - start, 1)
    stored["made with"] = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "cpus": len(cores()),
    }
    text = json.dumps(plain(stored), indent=1, allow_nan=False)
    write(root, name, re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", on_one_line, text))
    finish(root, name, markdown, draw, judged=not small)


def is_small(cfg: DictConfig) -> bool:
    """Whether the preset is to show that it runs, and no more."""
    return one_of("size", cfg.get("size", "paper"), SIZES) == "small"


def publish_runs(
    doc: str,
    name: str,
    gather: Callable[[Path], dict | list],
    markdown: Callable[[dict | list], str],
    draw: Callable[[dict | list], Figure] | None = None,
) -> None:
    """Table, and figure if there is one, of what `gather(folder of results)` finds or computes.

    `doc`, the script's docstring, is its help. Exit code 1 if a claim of gathered numbers fails.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = "folder of results (results)"
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"), help=text)
    parser.add_argument("--draw", action="store_true", help="from the stored table, no runs needed")
    given = parser.parse_args()
    root = prepare(given.results)
    if given.draw:
        show_again(root, name, read(root, name, "--draw"), markdown, draw)
        return
    write(root, name, json.dumps(plain(gather(root)), indent=1, allow_nan=False))
    finish(root, name, markdown, draw)


def prepare(root: str | Path) -> Path:
    """The folder of results, with its folders of tables and figures."""
    for folder in ("tables", "figures"):
        (Path(root) / folder).mkdir(parents=True, exist_ok=True)
    return Path(root)


def read(root: Path, name: str, option: str) -> dict | list:
    """What tables/`name`.json holds; `option` asked for it."""
    table = root / "tables" / f"{name}.json"
    if not table.exists():
        sys.exit(f"{table} does not exist: run without {option} first")
    return json.loads(table.read_text())


def write(root: Path, name: str, text: str) -> None:
    (root / "tables" / f"{name}.json").write_text(text + "\n")


def on_one_line(numbers: re.Match) -> str:
    """A list of numbers, which `json.dumps` puts on a line each."""
    return "[" + re.sub(r"\s+", " ", numbers[1]) + "]"


def finish(
    root: Path, name: str, markdown: Callable, draw: Callable | None, judged: bool = True
) -> None:
    """Table and figure of what has just been stored; exit code 1 if a claim that is judged
    fails."""
    stored = read(root, name, "")
    show(root, name, stored, markdown, draw)
    claims = stored["claims"] if isinstance(stored, dict) and "claims" in stored else []
    if judged and not all(claim["holds"] for claim in claims):
        sys.exit(1)


def show_again(root: Path, name: str, stored: dict | list, *how) -> None:
    """`show`; one line for a table that an older version of the script has stored."""
    try:
        show(root, name, stored, *how)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        table, script = root / "tables" / f"{name}.json", f"python scripts/figures/{name}.py"
        sys.exit(
            f"{table} does not hold what is drawn now ({type(error).__name__}: {error}); "
            f"make it anew: {script}"
        )


def show(
    root: Path, name: str, stored: dict | list, markdown: Callable, draw: Callable | None
) -> None:
    """tables/`name`.md, printed too, and figures/`name`.{png,pdf}."""
    table = markdown(stored)
    (root / "tables" / f"{name}.md").write_text(table)
    if draw is not None:
        figure = draw(stored)
        figure.savefig(root / "figures" / f"{name}.png", dpi=150)
        figure.savefig(root / "figures" / f"{name}.pdf", metadata={"CreationDate": None})
    print(table)


def claim(text: str, *, ours: str, holds: bool, published: str = "", because: str = "") -> dict:
    """What is held to be true, the published number, ours, and where it fails the reason found."""
    return {
        "claim": text,
        "published": published,
        "ours": ours,
        "holds": bool(holds),
        "because": because,
    }


def claims_list(claims: list[dict]) -> list[str]:
    """A line of Markdown each."""
    return [f"- {'holds' if one['holds'] else 'FAILS'}: {_said(one)}" for one in claims]


def _said(one: dict) -> str:
    parts = [f"{one['claim'].rstrip(':')}: {one['ours']}" if one.get("ours") else one["claim"]]
    if one.get("published"):
        parts.append(f"published: {one['published']}")
    if one.get("because") and not one["holds"]:
        parts.append(one["because"])
    return "; ".join(parts)


def interval(values: Sequence[float]) -> list[float]:
    """The mean, and half of its 95 % interval (Student's t)."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return [float(np.mean(values)), float("nan")]
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return [round(float(np.mean(values)), 6), round(float(half), 6)]


def plus_minus(values: Sequence[float], form: str = ".2f") -> str:
    """The mean and half of its 95 % interval, to be read."""
    mean, half = interval(values)
    return f"{mean:{form}} ± {half:{form}}"


def above_zero(values: Sequence[float]) -> bool:
    """Whether the 95 % interval of the mean is."""
    mean, half = interval(values)
    return mean > half


def joined(values: Sequence, form: str = "") -> str:
    """Numbers by width or seed, on one line."""
    return " / ".join(format(value, form) for value in values)


def settings_of(cfg: DictConfig, without: Sequence[str] = ()) -> dict:
    """The settings of a preset as plain values, but for those named."""
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return {key: value for key, value in values.items() if key not in (*NOT_SETTINGS, *without)}


def numbers(name: str, values: Any, least: int = 1) -> list[float]:
    """The values; ValueError for other than a list of at least `least` different finite numbers."""
    if not isinstance(values, list) or len(set(map(str, values))) != max(len(values), least):
        raise ValueError(f"{name}={values}: expected a list of at least {least} different numbers")
    for value in values:
        finite(name, value)
    return values


def increasing(name: str, values: list, least: int = 1) -> None:
    """ValueError for numbers that do not increase, or are fewer than `least`."""
    if len(values) < least or values != sorted(set(values)):
        raise ValueError(f"{name}={values}: expected at least {least}, increasing")


def counts(name: str, values: Any, least: int = 1, smallest: int = 1) -> None:
    """ValueError for other than a list of whole numbers that increase from `smallest` or above."""
    for value in numbers(name, values, least):
        whole(name, value, smallest)
    increasing(name, values, least)


def on_images(cfg: DictConfig, compute: Callable[[dict, Source], dict]) -> Callable[[dict], dict]:
    """`compute` with the source that `cfg` names, the digits where it is small, and a record of
    its images.

    Solves are in float64; networks keep the type of the images.
    """
    node = source_of(cfg)

    def compute_on_images(settings: dict) -> dict:
        try:
            source = instantiate(node)
        except InstantiationException as error:
            sys.exit(f"{error.__cause__ or error}; source=digits needs no files")
        jax.config.update("jax_enable_x64", True)
        x = np.ascontiguousarray(source.train.x)
        images = {
            "source": node["_target_"].rsplit(".", 1)[-1],
            "train set": len(x),
            "sha256": hashlib.sha256(x.tobytes()).hexdigest()[:16],
        }
        return {"images": images, **compute(settings, source)}

    return compute_on_images


def source_of(cfg: DictConfig) -> DictConfig:
    """The settings of the source that `cfg` names, of the digits where it is small."""
    if is_small(cfg):
        return OmegaConf.load(Path(CONF) / "source" / "digits.yaml")  # type: ignore[return-value]
    return cfg.source


def complete(root: Path, preset: str) -> Iterator[Run]:
    """The runs under the preset's name, sweeps included; one being written is hidden."""
    for path in sorted((root / "runs" / preset).glob("[!.]*/summary.json")):
        folder = path.parent
        config = yaml.safe_load((folder / "config.yaml").read_text())
        yield Run(folder, config, read_summary(folder))


def as_it_stands(root: Path, preset: str) -> Iterator[Run]:
    """Those that the preset makes at some width and seed.

    A trial with other settings in the same place is named on the terminal and left out.
    """
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        cfg = hydra.compose("config", overrides=[f"experiment={preset}"])
    for run in complete(root, preset):
        cfg.network.width, cfg.seed = run.cell["width"], run.cell["seed"]
        if run.folder.name.endswith(resolve(cfg).id[:8]):
            yield run
        else:
            print(f"left out, not a run of the preset as it stands: {run.folder}", file=sys.stderr)
