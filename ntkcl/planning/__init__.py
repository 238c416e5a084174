"""Planning without training: what one could do, ranked by predictions from one untrained network.

A few of the candidates may be trained, to measure how good the ranking is.

A `Candidate` is one training of the stream: an order of its tasks, a method, a buffer, a learning
rate. All of them share the untrained network, its kernel and the decompositions of it.
"""

from ntkcl.planning.buffers import searched_buffers
from ntkcl.planning.candidate import (
    Candidate,
    SharedKernel,
    measured_outputs,
    predicted_outputs,
    scores,
    shared_kernel,
)
from ntkcl.planning.orders import every_order, searched_orders
from ntkcl.planning.plan import JOBS, plan
from ntkcl.planning.ranking import SCORES, Ranking, rank, verified

__all__ = [
    "JOBS",
    "SCORES",
    "Candidate",
    "Ranking",
    "SharedKernel",
    "every_order",
    "measured_outputs",
    "plan",
    "predicted_outputs",
    "rank",
    "scores",
    "searched_buffers",
    "searched_orders",
    "shared_kernel",
    "verified",
]
