"""The linearised network is trained, by the trainer itself with any loss, rule and method.

No kernel is held. It costs about one training of such a network, and a few per cent to see at some
inputs how far its tangents hold; with k steps taken as one (`Effort.coarsen`) it takes 1 / k of the
steps, and half as many more to see what that changes.

With m segments a task (`Effort.segments`) the network is linearised anew, m times a task, at the
parameters to which the forecast has come, and the network's own outputs are read there. One segment
keeps the anchor's linearisation for all tasks ahead; as many segments as steps are training itself.
Past the first task one segment is too few where the learning rate exceeds the stability limit of
the kernel at the anchor: there it takes as many as "auto".
"""

from collections.abc import Callable
from functools import cache, partial

import numpy as np

from ntkcl import metrics, networks
from ntkcl.forecast import spot_check
from ntkcl.forecast.outcome import Effort, Outcome
from ntkcl.forecast.stability import limit_share
from ntkcl.training.problem import (
    Anchor,
    Problem,
    carried_optimizer_state,
    consolidate,
    train_in_segments,
)
from ntkcl.types import Network, Params

MOST = 16  # segments a task that "auto" goes up to
AGREED = 0.95  # R2 of the changes by m segments with those by 2m, with which it is content


def linearised(kernel_fn, effort: Effort):
    """`(problem, anchor, count) -> outcomes`, by training the network linearised at the anchor, or
    anew in every segment."""

    def forecast(problem: Problem, anchor: Anchor, count: int) -> list[Outcome]:
        k, segments, share = effort.coarsen, effort.segments, float("nan")
        if segments == 1 and anchor.ahead(1).start:
            share = limit_share(problem, anchor)
            segments = "auto" if share > 1 else 1
        fine, coarse = (
            cache(partial(_in_segments, problem.coarsened(each), anchor, count))
            for each in (k, 2 * k)
        )
        most = min(problem.steps) // k
        m = _enough(fine, most) if isinstance(segments, str) else segments
        outcomes = [one._replace(kernels=m) for one in fine(m)]
        outcomes[0] = outcomes[0]._replace(limit_share=share)
        if isinstance(segments, str) and m > 1:  # half as many have been trained already
            outcomes = [
                one._replace(resegmented=partial(_change, fine, m // 2, place))
                for place, one in enumerate(outcomes)
            ]
        if k == 1:
            return outcomes
        return [
            one._replace(coarser=two.change) for one, two in zip(outcomes, coarse(m), strict=True)
        ]

    return forecast


def _enough(trained: Callable[[int], list[Outcome]], most: int) -> int:
    """Twice as many segments, from 2 on, until those predict what half of them did."""
    m = 1
    while 2 * m <= min(MOST, most):
        m *= 2
        more, fewer = (np.ravel([one.change for one in trained(n)]) for n in (m, m // 2))
        if np.isfinite(more).all() and metrics.r2(more, fewer) >= AGREED:
            break
    return m


def _change(trained, count, place):
    return trained(count)[place].change


def _in_segments(problem: Problem, anchor: Anchor, count: int, m: int) -> list[Outcome]:
    if m == 1:
        network = networks.linearised(problem.network, anchor.theta)
        return train_model(problem, network, anchor, count)
    anew = partial(networks.linearised, problem.network)
    return train_model(problem, problem.network, anchor, count, anew, m)


def train_model(
    problem: Problem,
    network: Network,
    anchor: Anchor,
    count: int,
    network_at: Callable[[Params], Network] | None = None,
    segments: int = 1,
) -> list[Outcome]:
    """The next `count` tasks, by training this network in place of the problem's; or, in so many
    segments a task, `network_at(theta)`, and reading this one where they end."""
    theta, memory, state = anchor.theta, anchor.memory, anchor.optimizer_state
    f, outcomes = networks.forward(network.apply, theta, problem.x), []
    network_at = network_at or (lambda theta: network)
    for t in anchor.ahead(count):
        watched, total = network_at, None
        if segments > 1:
            places = spot_check.rows(
                problem, anchor.ahead(count), spot_check.TANGENT_PASSES * segments
            )
            x = problem.inputs(places)
            watched, total = spot_check.along_tangents(network, x, network_at)
        fitted = train_in_segments(problem, t, watched, theta, memory, state, segments)
        if t + 1 in anchor.ahead(count):
            memory = consolidate(problem, t, network, fitted)
        theta, state = fitted.theta, carried_optimizer_state(problem, fitted)
        before, f = f, networks.forward(network.apply, theta, problem.x)
        change = np.asarray(f, np.float64) - np.asarray(before, np.float64)
        one = Outcome(change, float("nan"), float("nan"), theta=theta)
        if total is not None:
            lower = spot_check.spread(total(theta), places, len(change))
            one = one._replace(theta=None, lower_order=lower)
        outcomes.append(one)
    return outcomes
