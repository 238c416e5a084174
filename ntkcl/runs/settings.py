"""The top-level settings of a run, one row each: what it makes of a run, and of its references.

One table for everybody who asks: the command's check of unknown settings, the hash that names a
run, the facts that references are found by, the table that tells settings from results.
"""

from typing import Any, NamedTuple


class Setting(NamedTuple):
    """hashed: whether another value makes another run.  of_references: whether another value makes
    other reference networks.  not_hashed: settings of that group that make no other run."""

    hashed: bool = True
    of_references: bool = True
    not_hashed: tuple[str, ...] = ()


SETTINGS = {
    "source": Setting(not_hashed=("data_dir", "download")),
    "stream": Setting(),
    "network": Setting(),
    "loss": Setting(),
    "optimizer": Setting(),
    "training": Setting(not_hashed=("devices",)),
    "precision": Setting(),
    "seed": Setting(),
    "method": Setting(of_references=False),
    "forecast": Setting(of_references=False, not_hashed=("explain",)),
    "experiment_name": Setting(of_references=False),
    "job": Setting(of_references=False),  # of a plan; see `ntkcl.runs.identity.FOREIGN`
    "plan": Setting(of_references=False),
    "whatif": Setting(of_references=False),
    "kernel": Setting(hashed=False),
    "checkpoints": Setting(hashed=False),
    "references": Setting(hashed=False),
    "seeds": Setting(hashed=False),
    "seeds_by": Setting(hashed=False),
    "results_dir": Setting(hashed=False),
    "tracking": Setting(hashed=False),
    "sweep": Setting(hashed=False),
    "figures": Setting(hashed=False),
    "compilation_cache": Setting(hashed=False),
    "size": Setting(hashed=False),
}
GROUPS = ("method", "stream", "source", "network", "loss", "optimizer")  # chosen by name

# Settings that runs once had no other value of are not hashed at that value, so that older runs
# keep their names.
UNHASHED_DEFAULTS: dict[str, dict[str, Any]] = {
    "source": {"tokenizer": None, "length": 64},
    "stream": {"interpolation": "bilinear"},
    "network": {"parametrization": "ntk", "init": "normal", "gamma0": 1.0},
    "forecast": {"coarsen": 1, "segments": 1},
    "training": {
        "epochs": None,
        "optimizer_state": "reset",
        "evaluate_every": None,
        "schedule": None,
        "compute": None,
    },
}

# References take the learning rate as a number, begin at rest, and nobody evaluates them on the
# way.
NOT_OF_REFERENCES = (
    "learning_rate",
    "learning_rate_fraction",
    "allow_unstable",
    "optimizer_state",
    "evaluate_every",
)
