"""From one source to a sequence of tasks: rotated, permuted, split.

Every task holds `train_per_class` and `test_per_class` images of each of its classes, drawn by `seed` alone; train and test images
come from the source's own two sets and never meet. With `same_images` every task transforms the same draw (the usual
benchmark); otherwise the tasks' draws are disjoint. Pixels are standardised last, so what a transformation leaves empty is black.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ntkcl import settings
from ntkcl.settings import finite, flag, one_of, whole
from ntkcl.types import Dataset, Source, Stream, Task


class Sizes(NamedTuple):
    """How many images of each class a task draws from the source's two sets."""

    train_per_class: int
    test_per_class: int
    seed: int
    same_images: bool = True


def rotated(
    source: Source,
    *,
    tasks: int = 5,
    step: float = 22.5,
    angles: Sequence[float] | None = None,
    train_per_class: int = 20,
    test_per_class: int = 20,
    same_images: bool = True,
    seed: int = 0,
) -> Stream:
    """Domain-incremental: task t sees its images rotated by `angles[t]` degrees, t * step unless given; shared outputs.

    Counter-clockwise, bilinear, the size kept, the corners filled with black. Raises ValueError for images that are not square,
    and where the number of angles is not the number of tasks.
    """
    whole("stream.tasks", tasks)
    settings.seed("stream.seed", seed)
    if angles is not None and (isinstance(angles, str) or not isinstance(angles, Sequence)):
        raise ValueError(f"stream.angles={angles}: expected a list of {tasks} angles in degrees, or null for multiples of stream.step")
    angles = [finite("stream.step", step) * t for t in range(tasks)] if angles is None else list(angles)
    if len(angles) != tasks:
        raise ValueError(f"stream.angles={angles}: expected {tasks} angles in degrees, one for each of stream.tasks={tasks}")
    angles = [finite("stream.angles", angle) for angle in angles]
    shape = source.train.x.shape[1:]
    if len(shape) < 2 or shape[0] != shape[1]:
        raise ValueError(f"stream=rotated: images of shape {shape} cannot be rotated; expected square ones")

    def transform(t):
        return lambda x: ndimage.rotate(x, angles[t], axes=(2, 1), order=1, reshape=False) if angles[t] % 360 else x

    sizes = Sizes(train_per_class, test_per_class, seed, flag("stream.same_images", same_images))
    return _domain_incremental(source, [transform(t) for t in range(tasks)], sizes)


def permuted(
    source: Source,
    *,
    tasks: int = 5,
    patch: int | None = None,
    first_identity: bool = True,
    train_per_class: int = 20,
    test_per_class: int = 20,
    same_images: bool = True,
    seed: int = 0,
) -> Stream:
    """Domain-incremental: each task shuffles the pixels of a central square of `patch` pixels a side, all of them by default.

    `first_identity` leaves task 0 unshuffled (OGD+ and others; in GEM it is shuffled too). Channels move together.
    """
    whole("stream.tasks", tasks)
    settings.seed("stream.seed", seed)
    shape = source.train.x.shape[1:]
    if len(shape) < 2:
        raise ValueError(f"stream=permuted: images of shape {shape} have no pixels to permute; expected [h, w] or [h, w, channels]")
    if patch is not None and not 2 <= whole("stream.patch", patch, least=2) <= min(shape[:2]):
        raise ValueError(f"stream.patch={patch}: expected 2 to {min(shape[:2])} for images of shape {shape}, or null for all pixels")
    inside = _central_pixels(shape[:2], patch)

    def transform(t):
        order = np.arange(shape[0] * shape[1])
        if t or not flag("stream.first_identity", first_identity):
            order[inside] = np.random.default_rng([seed, t]).permutation(inside)
        return lambda x: x.reshape(len(x), len(order), -1)[:, order].reshape(x.shape)

    sizes = Sizes(train_per_class, test_per_class, seed, flag("stream.same_images", same_images))
    return _domain_incremental(source, [transform(t) for t in range(tasks)], sizes)


def split(
    source: Source,
    *,
    tasks: int = 5,
    classes_per_task: int = 2,
    scenario: str = "domain",
    targets: str = "one_hot",
    shuffle_classes: bool = False,
    train_per_class: int = 100,
    test_per_class: int = 100,
    seed: int = 0,
) -> Stream:
    """The classes are dealt out to the tasks, `classes_per_task` each, in order of their labels or shuffled by `seed`.

    Arguments:
      scenario: `domain`, one head for all tasks, its outputs the position of a class within its task; `task`, one head a task,
        the others masked; `class`, one output a class and none masked.
      targets: `one_hot`, or `sign`: a single output a head, +1 for the task's first class and -1 for its second.
    Raises ValueError where the tasks need more classes than there are, and for sign targets with other than two classes a task.
    Source of the scenarios: van de Ven and Tolias 2019.
    """
    whole("stream.tasks", tasks)
    whole("stream.classes_per_task", classes_per_task)
    settings.seed("stream.seed", seed)
    classes = source.train.y.shape[1]
    if tasks * classes_per_task > classes:
        need = f"{tasks} tasks x {classes_per_task} classes need {tasks * classes_per_task}"
        raise ValueError(f"stream.classes_per_task={classes_per_task}: {need} classes, the source has {classes}")
    one_of("stream.scenario", scenario, ("domain", "task", "class"))
    one_of("stream.targets", targets, ("one_hot", "sign"))
    if targets == "sign" and (classes_per_task != 2 or scenario == "class"):
        raise ValueError("stream.targets=sign: expected stream.classes_per_task=2 and stream.scenario=domain or task; or one_hot")
    order = np.random.default_rng(seed).permutation(classes) if flag("stream.shuffle_classes", shuffle_classes) else np.arange(classes)
    code = np.array([[1.0], [-1.0]]) if targets == "sign" else np.eye(classes_per_task)
    heads = 1 if scenario == "domain" else tasks
    sizes = Sizes(train_per_class, test_per_class, seed)

    def task(t):
        members = order[t * classes_per_task : (t + 1) * classes_per_task]
        own = slice(t % heads * code.shape[1], (t % heads + 1) * code.shape[1])
        outputs = np.zeros((classes, heads * code.shape[1]))
        outputs[members, own] = code
        head = np.ones(outputs.shape[1])
        if scenario == "task":
            head = np.zeros_like(head)
            head[own] = 1
        parts = _draw(source, members, sizes, 0)
        return Task(*(Dataset(_standardised(part.x, source), part.y @ outputs) for part in parts), head)

    return tuple(task(t) for t in range(tasks))


def _domain_incremental(source, transforms: Sequence[Callable], sizes: Sizes) -> Stream:
    classes = np.arange(source.train.y.shape[1])
    head = np.ones(len(classes))

    def task(t, transform):
        parts = _draw(source, classes, sizes, 0 if sizes.same_images else t)
        return Task(*(Dataset(_standardised(transform(part.x), source), part.y) for part in parts), head)

    return tuple(task(t, transform) for t, transform in enumerate(transforms))


def _draw(source, classes, sizes: Sizes, number: int):
    """Draw `number` of each class from the train set and from the test set; different numbers never share an image."""
    return (
        _balanced(source.train, classes, sizes.train_per_class, number, (sizes.seed, 0), "train"),
        _balanced(source.test, classes, sizes.test_per_class, number, (sizes.seed, 1), "test"),
    )


def _balanced(dataset, classes, per_class, number, seed, name):
    whole(f"stream.{name}_per_class", per_class)
    order = np.random.default_rng(seed).permutation(len(dataset.x))
    labels = dataset.y.argmax(1)[order]
    chosen = [order[labels == k][number * per_class : (number + 1) * per_class] for k in classes]
    short = min(zip(map(len, chosen), classes, strict=True))
    if short[0] < per_class:
        have = int(np.sum(labels == short[1]))
        used = f", of which {number * per_class} went to the tasks before (stream.same_images=true reuses them)" if number else ""
        raise ValueError(f"stream.{name}_per_class={per_class}: class {short[1]} has {have} images in the {name} set{used}")
    index = np.concatenate(chosen)
    return Dataset(dataset.x[index].astype(np.float64), dataset.y[index].astype(np.float64))


def _standardised(x, source):
    return (x - source.mean) / source.sd


def _central_pixels(shape, patch):
    if patch is None:
        return np.arange(shape[0] * shape[1])
    top, left = (shape[0] - patch) // 2, (shape[1] - patch) // 2
    grid = np.arange(shape[0] * shape[1]).reshape(shape)
    return grid[top : top + patch, left : left + patch].ravel()
