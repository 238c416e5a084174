"""The runs of a preset, from where `ntkcl experiment=PRESET` has put them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hydra
import yaml

from ntkcl.configuration import CONF
from ntkcl.identity import identify
from ntkcl.results import read_summary


class Run(NamedTuple):
    """A complete run: its folder, its configuration, its summary."""

    folder: Path
    config: dict
    summary: dict

    @property
    def cell(self) -> dict:
        return {"width": self.config["network"].get("width"), "seed": self.config["seed"]}


def complete(root: Path, preset: str) -> Iterator[Run]:
    """Those under the preset's name, a sweep of it included; one that is being written is hidden."""
    for path in sorted((root / "runs" / preset).glob("[!.]*/summary.json")):
        yield Run(path.parent, yaml.safe_load((path.parent / "config.yaml").read_text()), read_summary(path.parent))


def as_it_stands(root: Path, preset: str) -> Iterator[Run]:
    """Those that the preset makes at some width and seed; a trial with other settings in the same place is told and left out."""
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        cfg = hydra.compose("config", overrides=[f"experiment={preset}"])
    for run in complete(root, preset):
        cfg.network.width, cfg.seed = run.cell["width"], run.cell["seed"]
        if run.folder.name.endswith(identify(cfg)["id"][:8]):
            yield run
        else:
            print(f"left out, not a run of the preset as it stands: {run.folder}", file=sys.stderr)
