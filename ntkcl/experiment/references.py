"""What a run is held against: networks trained from theta_0 on each task alone, and on all tasks at
once.

They depend neither on the method nor on a forecast, so they are trained once and shared by all runs
that agree in the rest: a small file each, found by what it is made of, `facts_of`. The learning
rate is among the facts as a number, since what fraction of a limit it is depends on the method,
whose rows the limit knows. A file that is damaged, or of something else, is reported and made
again.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ntkcl.experiment.scores import score_matrices
from ntkcl.experiment.stages import NAIVE
from ntkcl.experiment.start import Initialised
from ntkcl.training.loop import diverged
from ntkcl.training.problem import Problem, train
from ntkcl.types import Dataset, Loss, Stream

Scores = dict[str, np.ndarray]


def single(initialised: Initialised, learning_rate: float) -> Float[np.ndarray, "T N c"]:
    """Outputs on all N inputs of T networks, network t trained from theta_0 on task t alone.

    S plain steps of the run's optimizer at rest, on the batches that the run draws for task t: what
    a naive run does to its first task. NaN where training diverged.
    """
    problem = initialised.problem._replace(method=NAIVE).at(learning_rate)
    return np.stack(
        [
            _trained(initialised, problem, t, problem.stream[t : t + 1])
            for t in range(len(problem.stream))
        ]
    )


def joint(initialised: Initialised, learning_rate: float) -> Float[np.ndarray, "T N c"]:
    """Outputs on all N inputs of one network trained from theta_0 on all tasks at once, T times the
    same.

    What a naive run does to a stream whose one task is the union of the tasks' samples, each with
    the head of its own task: as many steps as the stream takes, on the mean loss over the union or
    over batches of the run's size drawn from it. NaN where training diverged. (`methods.joint` is
    another thing: a sequence, whose last stage begins where the tasks before have left the
    parameters.)

    A learning rate that is stable on every task is stable here too: the Hessian at theta_0 is the
    mean of the tasks' own, weighted by their sizes, and its largest eigenvalue at most the largest
    of theirs.
    """
    stream = initialised.problem.stream
    # The rate is set after the steps, for rules that ask how many there will be.
    f = _trained(
        initialised, united(initialised.problem._replace(method=NAIVE)).at(learning_rate), 0, stream
    )
    return np.broadcast_to(f, (len(stream), *f.shape))


TRAINED: dict[str, Callable[[Initialised, float], np.ndarray]] = {"single": single, "joint": joint}


def united(problem: Problem) -> Problem:
    """For `predict.fit`: one task, the union of all, with the steps of all. A target is the pair of
    its y and its task's head."""
    stream = problem.stream
    samples = [
        (task.train.x, (task.train.y, jnp.broadcast_to(task.head, task.train.y.shape)))
        for task in stream
    ]
    union = Dataset(*jax.tree.map(lambda *parts: jnp.concatenate(parts), *samples))
    task = stream[0]._replace(train=union, head=jnp.ones_like(stream[0].head))
    value = problem.loss.value
    loss = problem.loss._replace(value=lambda f, y, head: value(f, *y))
    return problem._replace(stream=(task,), loss=loss, steps=(sum(problem.steps),))


def _trained(initialised, problem, t, tasks):
    fitted = train(problem, t, problem.trained, initialised.theta, ())
    f, losses = initialised.outputs(fitted.theta), np.asarray(fitted.losses)
    lost = any(diverged(task, initialised.problem.loss, losses, f) for task in tasks)
    return np.full_like(f, np.nan) if lost else f


def score(outputs: Float[np.ndarray, "T N c"], stream: Stream, loss: Loss) -> Scores:
    """`accuracy` and `loss` [T] on test inputs, `accuracy_train` and `loss_train` on train inputs:
    outputs[j] judged on task j."""
    after = np.concatenate(
        [outputs[:1], outputs]
    )  # `score_matrices` takes the outputs before and after each task
    test, train = (score_matrices(after, stream, part, loss) for part in ("test", "train"))
    named = {
        "accuracy": test["R"],
        "loss": test["R_loss"],
        "accuracy_train": train["R"],
        "loss_train": train["R_loss"],
    }
    return {name: R.diagonal() for name, R in named.items()}
