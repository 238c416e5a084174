"""The forecasts of an experiment as events: each form's outcomes at an anchor, and the baselines.

Nothing here trains; everything is computed from the problem and the network as it stands.
"""

import jax.numpy as jnp
import numpy as np

from ntkcl import forecast
from ntkcl.experiment.events import AnchorForecast, Baselines, Plan
from ntkcl.metrics import baselines
from ntkcl.training.settings import rate


def plan(initialised, training, meter) -> Plan:
    """The learning rate, and the stability limit that it is held against."""
    problem, theta, kernel_fn = initialised.problem, initialised.theta, initialised.kernel_fn
    # A given rate that may exceed the limit needs none, and on many samples the limit takes longer
    # than training.
    needed = training.learning_rate is None or not training.allow_unstable
    limit = forecast.limit(problem, theta, kernel_fn) if needed else float("nan")
    learning_rate = rate(training, limit, problem.network.rate_scale)
    return Plan(learning_rate, float(limit), problem.steps, meter.read())


def anchor_forecast(name, problem, anchor, outcomes, outputs, meter) -> AnchorForecast:
    """What the outcomes of the next tasks say, and what can be seen of them before training."""
    ahead = anchor.ahead(len(outcomes))
    peak = problem.learning_rate * problem.extremes[1]
    rates = [peak / problem.tasks[t].scale for t in ahead]
    missing = np.full_like(outcomes[0].change, np.nan)
    curvature, nan = problem.loss.curvature, float("nan")
    tops = [curvature * outcome.top for outcome in outcomes]
    tops_at_anchor = [
        top if outcome.anchor_top is None else curvature * outcome.anchor_top
        for top, outcome in zip(tops, outcomes, strict=True)
    ]
    limits = [problem.optimizer.limit(top) if top == top else nan for top in tops]
    return AnchorForecast(
        anchor=name,
        first=ahead.start,
        changes=np.stack([outcome.change for outcome in outcomes]),
        trial=forecast.trial(problem, anchor, outcomes, outputs),
        halved=forecast.halved(problem, anchor, outcomes, outputs),
        coarser=_checks(outcomes, [outcome.coarser for outcome in outcomes]),
        resegmented=_checks(
            outcomes, [outcome.resegmented and outcome.resegmented() for outcome in outcomes]
        ),
        lower_order=np.stack(
            [missing if one.lower_order is None else one.lower_order for one in outcomes]
        ),
        rate_times_eigenvalue=tuple(r * top for r, top in zip(rates, tops_at_anchor, strict=True)),
        stable=tuple(not r > limit for r, limit in zip(rates, limits, strict=True)),
        limit_share=tuple(
            r / limit if limit == limit else outcome.limit_share
            for r, limit, outcome in zip(rates, limits, outcomes, strict=True)
        ),
        negative_mass=tuple(outcome.negative_mass for outcome in outcomes),
        condition=tuple(outcome.condition for outcome in outcomes),
        smallest_eigenvalue=tuple(outcome.smallest for outcome in outcomes),
        kernels=tuple(outcome.kernels for outcome in outcomes),
        gradients=tuple(outcome.gradients for outcome in outcomes),
        cost=meter.read(),
    )


def _checks(outcomes, changes) -> np.ndarray:
    """The same changes, forecast in another way: NaN where there was none, infinite where it
    diverged."""
    missing = np.full_like(outcomes[0].change, np.nan)
    return np.stack(
        [
            missing if change is None else np.where(np.isfinite(change), change, np.inf)
            for change in changes
        ]
    )


def path_diagnostic(t, change, steps, meter) -> AnchorForecast:
    """What the kernels on task t's path did, `change` [N, c], in the form of a forecast."""
    changes, unknown = change[None], (float("nan"),)
    not_applicable = np.full_like(changes, np.nan)
    return AnchorForecast(
        anchor="path",
        first=t,
        changes=changes,
        trial=not_applicable,
        halved=not_applicable,
        coarser=not_applicable,
        resegmented=not_applicable,
        lower_order=not_applicable,
        rate_times_eigenvalue=unknown,
        stable=(True,),
        limit_share=unknown,
        negative_mass=unknown,
        condition=unknown,
        smallest_eigenvalue=unknown,
        kernels=(0,),
        gradients=(steps,),
        cost=meter.read(),
    )


def baseline_forecasts(problem, theta, f0, kernel_fn, meter) -> Baselines:
    """What every forecast is compared with; similarities of kernels where there is a
    `kernel_fn`."""
    tasks = len(problem.stream)
    both = np.full((tasks, tasks, 2), np.nan)  # [S, t, 2]
    if kernel_fn is not None:
        both = forecast.energies(problem, theta, kernel_fn)
    cross_energy, cka = (
        baselines.similarity(np.asarray(both[..., k], np.float64)) for k in range(2)
    )
    input_cosine, remark = forecast.input_cosine(problem, jnp.asarray(f0))
    return Baselines(input_cosine, cka, cross_energy, meter.read(), remark)
