"""What a run is held against: networks trained from theta_0 on each task alone, and on all tasks at once.

They depend neither on the method nor on a forecast, so they are trained once and shared by all runs that agree in the rest: a small
file each, found by what it is made of, `facts_of`. The learning rate is among the facts as a number, since what fraction of a limit it
is depends on the method, whose rows the limit knows. A file that is damaged, or of something else, is told and made again.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ntkcl import predict
from ntkcl.experiment import NAIVE, Begun, diverged
from ntkcl.record import score_matrices
from ntkcl.types import Dataset, Loss, Stream

Scores = dict[str, np.ndarray]

ELSEWHERE = ("method", "forecast", "experiment_name")
OF_THE_RUN = (  # a rate is told as a number; references begin at rest, and nobody looks at them on the way
    "learning_rate", "learning_rate_fraction", "allow_unstable", "optimizer_state", "evaluate_every",
)  # fmt: skip


def single(begun: Begun, learning_rate: float) -> Float[np.ndarray, "T N c"]:
    """Outputs on all N inputs of T networks, network t trained from theta_0 on task t alone.

    S plain steps of the run's optimizer at rest, on the batches that the run draws for task t: what a naive run does to its first task.
    NaN where training diverged.
    """
    setting = begun.setting._replace(method=NAIVE).at(learning_rate)
    return np.stack([_trained(begun, setting, t, setting.stream[t : t + 1]) for t in range(len(setting.stream))])


def joint(begun: Begun, learning_rate: float) -> Float[np.ndarray, "T N c"]:
    """Outputs on all N inputs of one network trained from theta_0 on all tasks at once, T times the same.

    What a naive run does to a stream whose one task is the union of the tasks' samples, each with the head of its own task: as many
    steps as the stream takes, on the mean loss over the union or over batches of the run's size drawn from it. NaN where training
    diverged. (`methods.joint` is another thing: a sequence, whose last stage begins where the tasks before have left the parameters.)

    A learning rate that is stable on every task is stable here too: the Hessian at theta_0 is the mean of the tasks' own, weighted by
    their sizes, and its largest eigenvalue at most the largest of theirs.
    """
    stream = begun.setting.stream
    # The rate is set after the steps, for rules that ask how many there will be.
    f = _trained(begun, united(begun.setting._replace(method=NAIVE)).at(learning_rate), 0, stream)
    return np.broadcast_to(f, (len(stream), *f.shape))


TRAINED: dict[str, Callable[[Begun, float], np.ndarray]] = {"single": single, "joint": joint}


def united(setting: predict.Setting) -> predict.Setting:
    """For `predict.fit`: one task, the union of all, with the steps of all. A target is the pair of its y and its task's head."""
    stream = setting.stream
    samples = [(task.train.x, (task.train.y, jnp.broadcast_to(task.head, task.train.y.shape))) for task in stream]
    union = Dataset(*jax.tree.map(lambda *parts: jnp.concatenate(parts), *samples))
    task = stream[0]._replace(train=union, head=jnp.ones_like(stream[0].head))
    value = setting.loss.value
    loss = setting.loss._replace(value=lambda f, y, head: value(f, *y))
    return setting._replace(stream=(task,), loss=loss, steps=(sum(setting.steps),))


def _trained(begun, setting, t, tasks):
    fitted = predict.fit(setting, t, setting.trained, begun.theta, ())
    f, losses = begun.outputs(fitted.theta), np.asarray(fitted.losses)
    lost = any(diverged(task, begun.setting.loss, losses, f) for task in tasks)
    return np.full_like(f, np.nan) if lost else f


def score(outputs: Float[np.ndarray, "T N c"], stream: Stream, loss: Loss) -> Scores:
    """`accuracy` and `loss` [T] on test inputs, `accuracy_train` and `loss_train` on train inputs: outputs[j] judged on task j."""
    after = np.concatenate([outputs[:1], outputs])  # `score_matrices` takes the outputs before and after each task
    test, train = (score_matrices(after, stream, part, loss) for part in ("test", "train"))
    named = {"accuracy": test["R"], "loss": test["R_loss"], "accuracy_train": train["R"], "loss_train": train["R_loss"]}
    return {name: R.diagonal() for name, R in named.items()}


def facts_of(coordinates: Mapping, learning_rate: float, stream: Stream) -> dict:
    """What references are made of: a run's coordinates but for method, forecast and name, its learning rate, and its data.

    The data as a SHA-256 sum, so that other images under the same configuration are other facts.
    """
    kept = {key: value for key, value in coordinates.items() if key not in ELSEWHERE}
    kept["training"] = {key: value for key, value in kept["training"].items() if key not in OF_THE_RUN}
    data = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(stream)):
        data.update(f"{leaf.shape} {leaf.dtype};".encode())
        data.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    # Through JSON and back, as what is read will be.
    return json.loads(json.dumps(kept | {"learning_rate": learning_rate, "data": data.hexdigest()}))


def known(kinds: Sequence[str], folder: Path, facts: dict, begin: Callable[[], Begun], say: Callable[[str], None]) -> dict[str, Scores]:
    """The scores of each kind ("single", "joint"): read from `folder`/<digest of the facts>/<kind>.json, or trained and left there.

    Arguments:
      begin: the untrained network, as `experiment.begin` gives it; asked for once, and only if something is to be trained.
      say: is told what is trained and what could not be used.
    """
    begun, found = None, {}
    for kind in kinds:
        path = folder / _digest(facts)[:16] / f"{kind}.json"
        told = read(path, facts, say)
        if told is None:
            say(f"training the reference {kind}")
            begun = begun or begin()
            told = score(TRAINED[kind](begun, facts["learning_rate"]), begun.setting.stream, begun.setting.loss)
            write(path, facts, told, say)
        found[kind] = told
    return found


def read(path: Path, facts: dict, say: Callable[[str], None]) -> Scores | None:
    """The scores stored with these facts, or None."""
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
        whole = stored.pop("sha256") == _digest(stored)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        whole = False
    if not whole:
        say(f"reference {path} is damaged; making it again")
        return None
    if stored.get("facts") != facts:
        say(f"reference {path} is of another configuration; making it again")
        return None
    return {name: np.array(values, float) for name, values in stored["scores"].items()}  # null becomes NaN


def write(path: Path, facts: dict, scores: Scores, say: Callable[[str], None]) -> None:
    """Beside its place first and then moved there, so that of two processes the later one replaces a whole file by a whole file.

    Where that cannot be done it is said, and the run goes on: it has the scores.
    """
    plain = {name: [float(value) if np.isfinite(value) else None for value in values] for name, values in scores.items()}
    content = {"facts": facts, "scores": plain}
    stage = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", prefix=f".{path.stem}-", dir=path.parent, delete=False) as file:
            stage = Path(file.name)
            json.dump(content | {"sha256": _digest(content)}, file, indent=1, allow_nan=False)
        stage.chmod(0o644)
        os.replace(stage, path)
    except OSError as error:
        say(f"reference {path} cannot be written ({error.strerror}); the next run will train it again")
        with suppress(OSError):
            if stage is not None:
                stage.unlink()


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
