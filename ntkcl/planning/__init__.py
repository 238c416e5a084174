"""Plan without training: rank what one could do by what the kernel of one untrained network foretells, then train a few to see.

A `Candidate` is one training of the stream: an order of its tasks, a method, a buffer, a learning rate. All of them share the
untrained network, its kernel and the decompositions of it.
"""

from ntkcl.planning.buffers import searched_buffers
from ntkcl.planning.candidate import Candidate, Ground, foretold, ground, trained
from ntkcl.planning.orders import every_order, searched_orders
from ntkcl.planning.ranking import SCORES, Ranking, rank, verified

__all__ = [
    "SCORES",
    "Candidate",
    "Ground",
    "Ranking",
    "every_order",
    "foretold",
    "ground",
    "rank",
    "searched_buffers",
    "searched_orders",
    "trained",
    "verified",
]
