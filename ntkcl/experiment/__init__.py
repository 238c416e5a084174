"""One experiment: forecast, train and measure a stream of tasks.

`run` and `run_seeds` yield events in the order in which things happen, `predict` those before
anything is trained; `record.gather` turns them into arrays, `compare` sets a forecast beside the
measurement, `scores` computes accuracies and losses.
"""

from ntkcl.experiment.checks import check
from ntkcl.experiment.run import predict, run, run_seeds
from ntkcl.experiment.stages import DEFAULT, EFFORT, NAIVE
from ntkcl.experiment.start import Initialised, initialise

__all__ = [
    "DEFAULT",
    "EFFORT",
    "NAIVE",
    "Initialised",
    "check",
    "initialise",
    "predict",
    "run",
    "run_seeds",
]
