"""Which images a task holds: so many of each class, the same for every task or never the same
twice."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ntkcl import validation
from ntkcl.types import Dataset, Source, Stream, Task
from ntkcl.validation import SettingError, are_tokens, flag, whole

# For all tasks, or one number a task; None is all images that there are.
PerClass = int | Sequence[int | None] | None


class Sizes(NamedTuple):
    """How many images of each class each task draws from the source's two sets, None being all."""

    train: tuple[int | None, ...]
    test: tuple[int | None, ...]
    seed: int
    same_images: bool


def sizes(
    tasks: int,
    *,
    train_per_class: PerClass = 20,
    test_per_class: PerClass = 20,
    same_images: bool = True,
    seed: int = 0,
) -> Sizes:
    """Checked; a ValueError names the setting.

    Arguments:
      train_per_class, test_per_class: images of each class, one number or one for each task; None
        takes all that there are.
      same_images: whether every task holds the same images, or each its own.
      seed: of the draw.
    """
    return Sizes(
        train=of_tasks("stream.train_per_class", train_per_class, tasks),
        test=of_tasks("stream.test_per_class", test_per_class, tasks),
        seed=validation.seed("stream.seed", seed),
        same_images=flag("stream.same_images", same_images),
    )


def of_tasks(name: str, value: PerClass, tasks: int, every: bool = True) -> tuple[int | None, ...]:
    """One number for each task; `every`: whether null, all that there are, is a number too."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    values = list(value) if listed else [value] * tasks  # type: ignore[arg-type]
    if len(values) != tasks:
        raise SettingError(
            f"{name}={values}: expected {tasks} numbers, one for each of stream.tasks={tasks}, or "
            "one number for all"
        )
    return tuple(None if every and n is None else whole(name, n) for n in values)


def domain_incremental(source: Source, transforms: Sequence[Callable], sizes: Sizes) -> Stream:
    """All classes in every task, transformed by `transforms[t]`."""
    classes = np.arange(source.train.y.shape[1])
    head = np.ones(len(classes))

    def task(t, transform):
        parts = drawn(source, classes, sizes, t)
        return Task(
            *(Dataset(standardised(transform(part.x), source), part.y) for part in parts), head
        )

    return tuple(task(t, transform) for t, transform in enumerate(transforms))


def drawn(source: Source, classes, sizes: Sizes, t: int) -> tuple[Dataset, Dataset]:
    """Task t's images of each class, from the train set and from the test set: the first ones of an
    order that the seed tells, or the first that no task before has taken. So a larger task holds
    the images of a smaller one that draws the same."""

    def part(dataset, wanted, kind, name):
        before = () if sizes.same_images else wanted[:t]
        return _balanced(dataset, classes, wanted[t], before, (sizes.seed, kind), name)

    return part(source.train, sizes.train, 0, "train"), part(source.test, sizes.test, 1, "test")


def _balanced(dataset, classes, per_class, before, seed, name):
    order = np.random.default_rng(seed).permutation(len(dataset.x))
    labels = dataset.y.argmax(1)[order]
    every = None in before
    start = 0 if every else sum(before)
    chosen = []
    for k in classes:
        own = order[labels == k]
        left = own[:0] if every else own[start:]
        if len(left) < (per_class or 1):
            taken = "all" if every else start
            used = f", of which {taken} went to the tasks before" if before else ""
            used += " (stream.same_images=true reuses them)" if before else ""
            asked = "null" if per_class is None else per_class
            used += f"; use at most {len(left)}" if len(left) else ""
            what = "texts" if are_tokens(dataset.x) else "images"
            raise SettingError(
                f"stream.{name}_per_class={asked}: class {k} has {len(own)} {what} in the {name} "
                f"set{used}"
            )
        chosen.append(left if per_class is None else left[:per_class])
    index = np.concatenate(chosen)
    x, y = (part[index] for part in dataset)
    return Dataset(x if are_tokens(x) else x.astype(np.float64), y.astype(np.float64))


def standardised(x, source: Source):
    """(x - mean) / sd; token ids as they are."""
    return x if are_tokens(x) else (x - source.mean) / source.sd


def check_pixels(stream: str, x) -> None:
    """SettingError for inputs that a stream cannot transform."""
    if are_tokens(x):
        raise SettingError(
            f"stream={stream}: inputs are token ids, no pixels to transform; expected stream=split"
        )
