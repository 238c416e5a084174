"""The events of an experiment, in the order in which `ntkcl.experiment.run` yields them.

First the plan, then forecasts, baselines, and for each task evaluations and a measurement.
"""

from typing import NamedTuple

import numpy as np

from ntkcl.forecast import Estimate
from ntkcl.resources import Cost

# What a forecast knows of the network, see `ntkcl.experiment`.
ANCHORS = ("infinite", "init", "boundary", "path")
AHEAD = ("boundary", "path")  # those that know the network as measured when each task begins


class Plan(NamedTuple):
    """What is known before the first forecast: learning rate, its limit, the steps of each task;
    what a forecast of all tasks will take, where that is asked for."""

    learning_rate: float
    limit: float
    steps: tuple[int, ...]
    cost: Cost
    estimate: Estimate | None = None


class AnchorForecast(NamedTuple):
    """Predicted changes of all outputs by the tasks `first`, `first` + 1, ..., from one anchor.

    changes [T', N, c]: predicted; of the anchor `path` in hindsight.
    trial [T', N, c]: changes of the network itself at the predicted parameters; NaN where the form
      does not predict parameters.
    halved [T', N, c]: the same, predicted in two halves of the steps, the second from where the
      first has led.
    coarser [T', N, c]: changes predicted with half as many steps; NaN where all steps were taken.
    resegmented [T', N, c]: changes predicted by half as many segments; NaN where those were not
      trained anyway.
    lower_order [T', N, c]: changes by a method of lower order that the forecast contains, at some
      rows, NaN at others; NaN where there is none.
    For each of these tasks, at this anchor:
    rate_times_eigenvalue: h lam_max(K_tt).
    stable: whether h is within the rule's limit (in the form "integrated", that of the kernel at
      the beginning of the task).
    limit_share: h over that limit; NaN where it is not known, 0 for a rule without a limit.
    negative_mass: share of negative eigenvalues in sum |lam|. Rounding if it is small, a wrong
      kernel if it is not.
    condition, smallest_eigenvalue: lam_max / lam_min and lam_min, infinite and 0 for a singular
      kernel.
    kernels, gradients: how many of them the form "integrated" computed; kernels is the number of
      segments in the form "linearised".
    """

    anchor: str
    first: int
    changes: np.ndarray
    trial: np.ndarray
    halved: np.ndarray
    coarser: np.ndarray
    resegmented: np.ndarray
    lower_order: np.ndarray
    rate_times_eigenvalue: tuple[float, ...]
    stable: tuple[bool, ...]
    limit_share: tuple[float, ...]
    negative_mass: tuple[float, ...]
    condition: tuple[float, ...]
    smallest_eigenvalue: tuple[float, ...]
    kernels: tuple[int, ...]
    gradients: tuple[int, ...]
    cost: Cost


class Baselines(NamedTuple):
    """What forecasts are compared with and is known before training: `ntkcl.metrics.baselines`.

    input_cosine [T, N, c]: changes of all outputs.
    cka, cross_energy [T, T]: of the tasks' kernels at initialisation, by at most
      `forecast.SUBSAMPLE` inputs a task; NaN where the forecast from init held no kernels.
    remark: one line where there is something to say, such as why `input_cosine` is NaN.
    """

    input_cosine: np.ndarray
    cka: np.ndarray
    cross_energy: np.ndarray
    cost: Cost
    remark: str = ""


class Evaluation(NamedTuple):
    """Outputs [n, c] of the test inputs within the training of `task`, after `step` of its steps.

    `cost` is that of the evaluation.
    """

    task: int
    step: int
    outputs: np.ndarray
    cost: Cost


class Measurement(NamedTuple):
    """Outputs [N, c] after training `task` tasks; 0 is the untrained network.

    losses [S]: of the steps of the task trained last.  diverged: whether they grew too large.
    slope: the gradient's magnitude where the next task begins; NaN after the last.
    loss_slope: of the loss of the task trained last, by its first step, see `loss_slope`.
    cost: of training, of the initialisation for task 0.  measuring: of outputs and slope.
    """

    task: int
    outputs: np.ndarray
    losses: np.ndarray
    diverged: bool
    slope: float
    loss_slope: float
    cost: Cost
    measuring: Cost


Event = Plan | AnchorForecast | Baselines | Evaluation | Measurement
