"""Every node composes and instantiates, every preset is built and runs a few steps.

Stored results agree with what presets expect.
"""

import inspect
import itertools
import json
import math
import re
from pathlib import Path

import hydra
import jax.numpy as jnp
import pytest
import yaml
from cases import ROOT, mostly_slow, tiny_source, word_tokenizer
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ntkcl import methods
from ntkcl.cli import config, parts
from ntkcl.runs import files
from ntkcl.runs.identity import resolve
from ntkcl.runs.settings import UNHASHED_DEFAULTS

CONF = ROOT / "conf"
TINY = {"width": 8, "depth": 2, "heads": 2, "rank": 2}
WEIGHTS = ROOT / "tests" / "networks" / "pretrained"
PRETRAINED = {
    "minilm": TINY
    | {"weights": str(WEIGHTS / "bert_tiny.safetensors")}
    | {"expansion": 2, "vocabulary": 30, "positions": 12},
    "vit_b16": TINY | {"weights": str(WEIGHTS / "vit_tiny_weights.npz")} | {"patch": 4, "side": 16},
}
OTHERS = ("experiment", "figure", "help", "launcher", "sweeper", "wandb")
NODES = sorted(
    p.relative_to(CONF)
    for p in CONF.rglob("*.yaml")
    if p.parent != CONF and p.parent.name not in OTHERS
)
PRESETS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
SIZED = [
    p for p in PRESETS if "${sized:" in (CONF / "experiment" / f"{p}.yaml").read_text()
]  # those that have size=small
FASHION = Path(yaml.safe_load((CONF / "source" / "fashion_mnist.yaml").read_text())["idx_dir"])


def compose(*overrides):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


@pytest.mark.parametrize("node", NODES, ids=str)
def test_every_node_composes_and_its_target_exists(node):
    group, name = node.parent.name, node.stem
    cfg = compose(
        f"{group}={name}",
        *{
            "idx": ["source.idx_dir=somewhere"],
            "npz": ["source.path=somewhere"],
            "table": ["source.path=somewhere"],
            "vit_b16": ["network.weights=somewhere"],
        }.get(name, []),
    )
    chosen = cfg[group]
    OmegaConf.to_container(chosen, resolve=True, throw_on_missing=True)
    if "_target_" not in chosen:
        assert group == "tracking" and chosen.mode == name
        return
    target = hydra.utils.get_method(chosen["_target_"])
    settings = {key: value for key, value in chosen.items() if not key.startswith("_")}
    given = {"network": dict(outputs=3)}.get(group, {})
    inspect.signature(target).bind(
        *(["a source"] if group == "stream" else []), **settings, **given
    )
    if group == "stream":
        small = dict(tasks=2, train_per_class=2, test_per_class=2)
        small = {
            "mixture": dict(of=small),
            "teacher_student": dict(tasks=2, train_size=2, test_size=2),
        }.get(name, small)
        assert len(instantiate(chosen, **small)(tiny_source())) == 2
    # EfficientNet's only size takes seconds: tests/networks/test_pretrained.py makes it.
    if group == "network" and name != "efficientnet_lite0":
        assert instantiate(chosen, **PRETRAINED.get(name, {}))(outputs=3).init is not None
    if group == "loss":
        value = float(instantiate(chosen).value(jnp.ones(2), jnp.array([0.0, 1.0]), jnp.ones(2)))
        assert value == pytest.approx({"squared_error": 0.25, "cross_entropy": math.log(2)}[name])
    if group == "optimizer":
        assert (
            instantiate(chosen).limit(4.0)
            == {"sgd": 0.5, "adam": math.inf, "optax": math.inf}[name]
        )
    if group == "method":
        assert methods.is_naive(instantiate(chosen)) == (name == "naive")


def test_settings_that_there_have_not_always_been_leave_older_runs_their_names():
    cfg = compose()
    older = cfg.copy()
    for group, old in UNHASHED_DEFAULTS.items():
        older[group] = {key: value for key, value in cfg[group].items() if key not in old}
    assert resolve(cfg).id == resolve(older).id == "f60d1bc8a49bbd47"
    changed = (
        "network.parametrization=mup",
        "network.init=torch",
        "network.gamma0=2.0",
        "training.epochs=3",
    )
    others = [
        compose(setting) for setting in (*changed, "training.schedule={name: linear_schedule}")
    ]
    assert len({resolve(c).id for c in (cfg, *others)}) == 6
    assert resolve(compose("training.devices=all")).id == resolve(cfg).id


@pytest.mark.parametrize("job, own", [("run", ""), ("orders", "plan"), ("whatif", "whatif")])
def test_a_job_is_another_by_the_settings_of_its_own_plan_alone(job, own):
    cfg = compose(f"job={job}")
    for group in ("plan", "whatif"):
        other = cfg.copy()
        other[group].verify = 3
        assert (resolve(other).id != resolve(cfg).id) == (group == own), group


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_says_its_claim_command_expectation_and_time(preset):
    header = (CONF / "experiment" / f"{preset}.yaml").read_text()
    for word in ("claim", "command", "expect", "time"):
        assert re.search(rf"^# {word} +\S", header, re.M), word
    assert f"ntkcl experiment={preset}" in header and "TBD" not in header


def of_a_sweep(preset, which, *overrides):
    """The preset's configuration with the first or the last value of all that it sweeps over."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [f"experiment={preset}", *overrides]
        swept = hydra.compose("config", chosen, return_hydra_config=True).hydra.sweeper.params or {}
        values = [f"{key}={str(value).split(',')[which]}" for key, value in swept.items()]
        return hydra.compose("config", [*chosen, *values])


def minilm_of_tests():
    """Weights that are read in no time."""
    return tuple(f"network.{key}={value}" for key, value in PRETRAINED["minilm"].items())


def small_network_and_data(preset, tmp_path, prepared):
    """Overrides that make a preset's network and data small."""
    if preset == "whatif_text":
        words = "game data library tool for the of and a in to"
        tokenizer = word_tokenizer(tmp_path / "tokenizer.json", words.split())
        table = f"source.path={ROOT}/tests/data/debian_texts.csv"
        return (*minilm_of_tests(), table, f"source.tokenizer={tokenizer}", "source.length=12")
    data = ("source.download=false", f"source.data_dir={prepared}")
    if preset == "whatif_vision":
        return ("network.trainable=head", "network.upsample=1", *data)
    return ("network.width=8", *data)


@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes_the_checks_and_its_parts_are_made(preset, which):
    for size in ("full", "small") if preset in SIZED else ("full",):
        tiny = minilm_of_tests() if preset == "whatif_text" else ()
        cfg = of_a_sweep(preset, which, f"size={size}", *tiny)
        config.resolve(cfg)
        assert parts.without_data(parts.nodes(cfg))["network"](outputs=2).apply
        assert cfg.experiment_name == preset + ("_small" if size == "small" else "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*were cut")  # texts, to the few positions of tiny weights
@pytest.mark.skipif(
    not FASHION.is_dir(),
    reason="the Debian package dataset-fashion-mnist is not installed (.ci/run installs it)",
)
@pytest.mark.parametrize("preset", [p for p in PRESETS if p not in SIZED])
def test_every_preset_runs_a_few_steps(ntkcl, tmp_path, prepared, preset):
    small = (
        *small_network_and_data(preset, tmp_path, prepared),
        "seed=0",
        "seeds=[]",
        "training.steps=3",
        "training.epochs=null",
        "training.batch_size=null",
        "stream.tasks=2",
        "stream.train_per_class=3",
        "stream.test_per_class=2",
    )
    if preset.startswith("methods"):
        small += tuple(f"~plan.methods.{name}" for name in ("lwf", "functional", "ogd"))
        small += (
            "plan.methods.l2={penalty: [0.1, 1], centre: previous}",
            "plan.methods.replay={per_task: 2, weight: 1}",
        )
    if preset.startswith("whatif"):
        small += tuple(f"whatif.{one}" for one in ("anchors=2", "verify=2", "shares=[0,0.2]"))
    if preset == "trust":
        small += ("stream=permuted",)  # of the three that it sweeps over
    code, _, err = ntkcl(
        f"experiment={preset}",
        *small,
        "tracking=disabled",
    )
    assert (code, err) == (0, "")
    (folder,) = (
        folder
        for kind in ("runs", "plans")
        for folder in (tmp_path / "results" / kind).glob(f"{preset}/*")
    )
    if folder.parts[-3] == "runs":
        assert files.load(folder)[0]["status"] == "completed"
    else:
        summary, candidates = files.load_plan(folder)
        assert (
            summary["verified"]
            == len(candidates)
            == {"orders": 2, "methods": 4}.get(summary["job"], 2)
        )


@pytest.mark.parametrize("preset", mostly_slow(SIZED, "smoke"))
def test_every_preset_of_two_sizes_runs_in_its_small_one(ntkcl, tmp_path, preset):
    code, _, err = ntkcl(f"experiment={preset}", "size=small", "tracking=disabled")
    assert (code, err) == (0, "")
    summaries = [
        json.loads(p.read_text())
        for p in (tmp_path / "results").glob(f"*/{preset}_small/*/summary.json")
    ]
    said = re.search(r"size=small: (\d+)", (CONF / "experiment" / f"{preset}.yaml").read_text())
    if preset in ("orders", "whatif_digits"):
        assert [one["candidates"] for one in summaries] == [int(said.group(1))]
    else:
        assert [one["status"] for one in summaries] == ["completed"] * int(said.group(1))


STORED = json.loads((ROOT / "results" / "tables" / "fashion_width.json").read_text())


def test_the_stored_table_follows_from_its_runs():
    for cell in STORED["cells"]:
        own = [
            run["R2 init"]
            for run in STORED["runs"]
            if (run["stream"], run["width"]) == (cell["stream"], cell["width"])
        ]
        assert len(own) == cell["n"] and sum(own) / len(own) == pytest.approx(cell["R2 init mean"])


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.endswith("_fashion")])
def test_stored_results_are_what_the_preset_expects(preset):
    """`expect   drift_r2 at init .83 / .91 / .96 at width 64 / 256 / 1024 (mean of 3 seeds)`
    against results/tables."""
    header = (CONF / "experiment" / f"{preset}.yaml").read_text()
    values, widths = (
        re.search(pattern, header).group(1)
        for pattern in (r"at init ([\d. /]+) at", r"width ([\d /]+) \(")
    )
    expected = dict(zip(map(int, widths.split("/")), map(float, values.split("/")), strict=True))
    cells = {
        c["width"]: c for c in STORED["cells"] if c["stream"] == preset.removesuffix("_fashion")
    }
    for width, value in expected.items():
        assert (
            cells[width]["R2 init mean"] == pytest.approx(value, abs=0.0051)
            and cells[width]["n"] >= 3
        )
    ordered = [cells[width]["R2 init mean"] for width in sorted(expected)]
    assert all(
        a < b for a, b in itertools.pairwise(ordered)
    )  # the claim: the wider, the better predicted
