"""What a story tells: its plan, forecasts, baselines, looks and measurements, in the order in which `ntkcl.experiment` yields them."""

from typing import NamedTuple

import numpy as np

from ntkcl.resources import Cost

# From where a forecast sees the stream, see `ntkcl.experiment`.
ANCHORS = ("infinite", "init", "boundary", "path")
AHEAD = ("boundary", "path")  # those that know the network as measured when each task begins


class Plan(NamedTuple):
    """What is known before the first forecast: the learning rate and its limit, the steps of each task."""

    learning_rate: float
    limit: float
    steps: tuple[int, ...]
    cost: Cost


class AnchorForecast(NamedTuple):
    """Predicted changes [T', N, c] of all outputs by tasks `first`, `first` + 1, ..., seen from one anchor (from `path`: in hindsight).

    `trial` are the changes of the network itself, its parameters moved as foretold, `halved` those of two strides in its place; NaN
    where the form does not tell how they move.
    For each of these tasks, at this anchor: `rate_times_eigenvalue` is h lam_max(K_tt); `stable` whether h is within the rule's limit
    (of the form "integrated", that of the kernel with which it begins the task);
    `limit_share` h over that limit, NaN where it is not known, 0 for a rule without one;
    `negative_mass` the share of eigenvalues below zero in sum |lam|, rounding if it is small and a wrong kernel if it is not;
    `condition` lam_max / lam_min, infinite for a singular kernel;
    `kernels`, `gradients` what the form "integrated" took of them.
    """

    anchor: str
    first: int
    changes: np.ndarray
    trial: np.ndarray
    halved: np.ndarray
    rate_times_eigenvalue: tuple[float, ...]
    stable: tuple[bool, ...]
    limit_share: tuple[float, ...]
    negative_mass: tuple[float, ...]
    condition: tuple[float, ...]
    kernels: tuple[int, ...]
    gradients: tuple[int, ...]
    cost: Cost


class Baselines(NamedTuple):
    """What every forecast is compared with and that is known before anything is trained, see `ntkcl.metrics.baselines`.

    `input_cosine` [T, N, c] changes of all outputs; `cka`, `cross_energy` [T, T] of the tasks' kernels at initialisation, NaN where the
    init forecast held none. `remark`: one line where there is something to say, such as why `input_cosine` is NaN.
    """

    input_cosine: np.ndarray
    cka: np.ndarray
    cross_energy: np.ndarray
    cost: Cost
    remark: str = ""


class Evaluation(NamedTuple):
    """Outputs of the test inputs [n, c] in the midst of training `task`, after `step` of its steps; what looking at them cost."""

    task: int
    step: int
    outputs: np.ndarray
    cost: Cost


class Measurement(NamedTuple):
    """Outputs [N, c] after `task` tasks were trained (0: the untrained network), the losses [S] on the way, and whether they blew up.

    `slope`: the gradient's magnitude at which the next task begins, NaN where none comes. `cost` is that of training (of the
    initialisation for task 0), `measuring` that of reading the outputs and the slope.
    """

    task: int
    outputs: np.ndarray
    losses: np.ndarray
    diverged: bool
    slope: float
    cost: Cost
    measuring: Cost


Event = Plan | AnchorForecast | Baselines | Evaluation | Measurement
