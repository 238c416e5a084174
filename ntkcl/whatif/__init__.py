"""What if: one training and a cache answer for a hundred others.

Before a network is trained further on new samples, one asks which old samples will break, and what
spares them: a share of old samples mixed in, another learning rate, fewer epochs, some new samples
left out. `prepare` does one such training, the base, and linearises the network along it; `ask`
follows any other candidate through these linearisations, without training it. `answers` does so
for a grid of candidates of the last task of a stream: the command's job=whatif.
"""

from ntkcl.whatif.answers import Answer, ask
from ntkcl.whatif.cache import Cache, prepare
from ntkcl.whatif.grid import NO_METHODS, bill_lines, candidates
from ntkcl.whatif.job import JOB, Answers, run_job
from ntkcl.whatif.price import Price, price
from ntkcl.whatif.question import Question, question, train
from ntkcl.whatif.recipe import SCHEDULES, Recipe
from ntkcl.whatif.recommend import drop, influence, replay, share
from ntkcl.whatif.segments import in_segments

__all__ = [
    "JOB",
    "NO_METHODS",
    "SCHEDULES",
    "Answer",
    "Answers",
    "Cache",
    "Price",
    "Question",
    "Recipe",
    "ask",
    "bill_lines",
    "candidates",
    "drop",
    "in_segments",
    "influence",
    "prepare",
    "price",
    "question",
    "replay",
    "run_job",
    "share",
    "train",
]
