"""A single training predicted by itself: no base, no cache, linearised anew where it comes to."""

import jax
from jax.tree_util import Partial

from ntkcl import networks
from ntkcl.compilation import portable
from ntkcl.methods import is_naive
from ntkcl.types import Network, Params
from ntkcl.validation import SettingError, whole
from ntkcl.whatif.follow import same
from ntkcl.whatif.question import Question, start, step
from ntkcl.whatif.recipe import Recipe


def in_segments(asked: Question, recipe: Recipe, segments: int = 1) -> tuple[Network, Params]:
    """The network linearised last and the parameters predicted for the end of a candidate.

        theta_{s+1} = the candidate's own steps from theta_s, taken on
                      f(x; theta_s) + J(x; theta_s) (theta - theta_s)

    theta_0 is where the network stands; the optimizer's state is carried through all segments.

    Arguments:
      asked, recipe: as of `train`, whose steps are taken: clip, schedule, batches in their order.
      segments: m, of equal shares of the sum of the steps' learning rates; 1 trains the
        linearisation at theta_0, as many as steps is training itself.
    Cost: about 1.5 trainings, for any m.
    What a method asks of the network where it stands is that of the network itself.
    Raises ValueError as `Recipe.checked`, and for more segments than steps.
    """
    recipe.checked(*asked.sizes)
    batches, rows = recipe.batches(*asked.sizes), asked.rows
    if whole("whatif.segments", segments) > len(batches):
        raise SettingError(
            f"whatif.segments={segments}: expected at most {len(batches)}, the steps"
        )
    state, cuts = start(asked, recipe), set(recipe.cuts(asked.sizes[0], segments)[:-1].tolist())
    network = asked.network
    for k, batch in enumerate(batches):
        if k in cuts:
            network = networks.linearised(asked.network, state.theta)
            if not is_naive(recipe.method):
                parts = portable(asked.network.apply), asked.theta, portable(network.apply)
                network = network._replace(apply=Partial(_exact_at_start, *parts))
        state = step(asked._replace(network=network), rows, recipe, state, batch)
    return network, state.theta


def _exact_at_start(apply, start, linearised, theta, x):
    """The linearised network, but the network itself at the parameters `start`."""
    return jax.lax.cond(same(theta, start), apply, linearised, theta, x)
