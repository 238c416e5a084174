"""Scores of reference networks on disk, found by what they were made of."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np

from ntkcl.experiment.references import TRAINED, Scores, score
from ntkcl.experiment.start import Initialised
from ntkcl.runs.settings import NOT_OF_REFERENCES, SETTINGS
from ntkcl.types import Stream


def facts_of(settings: Mapping, learning_rate: float, stream: Stream) -> dict:
    """What references are made of: those settings of a run that concern them
    (`ntkcl.runs.settings`), its learning rate, and its data.

    The data as a SHA-256 sum, so that other images under the same configuration are other facts.
    """
    kept = {key: value for key, value in settings.items() if _concerns_references(key)}
    kept["training"] = {
        key: value for key, value in kept["training"].items() if key not in NOT_OF_REFERENCES
    }
    data = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(stream)):
        data.update(f"{leaf.shape} {leaf.dtype};".encode())
        data.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    # Through JSON and back, as what is read will be.
    return json.loads(json.dumps(kept | {"learning_rate": learning_rate, "data": data.hexdigest()}))


def _concerns_references(key: str) -> bool:
    return key not in SETTINGS or SETTINGS[key].of_references


def load_or_train(
    kinds: Sequence[str],
    folder: Path,
    facts: dict,
    initialise: Callable[[], Initialised],
    say: Callable[[str], None],
) -> dict[str, Scores]:
    """The scores of each kind ("single", "joint"): read from `folder`/<digest of the
    facts>/<kind>.json, or trained and left there.

    Arguments:
      initialise: the untrained network, as `experiment.initialise` gives it; asked for once, and
        only if something is to be trained.
      say: prints what is trained and what could not be used.
    """
    initialised, found = None, {}
    for kind in kinds:
        path = folder / _digest(facts)[:16] / f"{kind}.json"
        scores = read(path, facts, say)
        if scores is None:
            say(f"training the reference {kind}")
            initialised = initialised or initialise()
            scores = score(
                TRAINED[kind](initialised, facts["learning_rate"]),
                initialised.problem.stream,
                initialised.problem.loss,
            )
            write(path, facts, scores, say)
        found[kind] = scores
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
    return {
        name: np.array(values, float) for name, values in stored["scores"].items()
    }  # null becomes NaN


def write(path: Path, facts: dict, scores: Scores, say: Callable[[str], None]) -> None:
    """Beside its place first and then moved there, so that of two processes the later one replaces
    a whole file by a whole file.

    Where that cannot be done it is said, and the run goes on: it has the scores.
    """
    plain = {
        name: [float(value) if np.isfinite(value) else None for value in values]
        for name, values in scores.items()
    }
    content = {"facts": facts, "scores": plain}
    stage = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", prefix=f".{path.stem}-", dir=path.parent, delete=False
        ) as file:
            stage = Path(file.name)
            json.dump(content | {"sha256": _digest(content)}, file, indent=1, allow_nan=False)
        stage.chmod(0o644)
        os.replace(stage, path)
    except OSError as error:
        say(
            f"reference {path} cannot be written ({error.strerror}); the next run will train it "
            "again"
        )
        with suppress(OSError):
            if stage is not None:
                stage.unlink()


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
