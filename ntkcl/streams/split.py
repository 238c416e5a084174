"""Split images: to each task its own classes, in the three scenarios of continual learning."""

import numpy as np

from ntkcl.streams import draw
from ntkcl.streams.draw import PerClass
from ntkcl.types import Dataset, Source, Stream, Task
from ntkcl.validation import SettingError, flag, one_of, whole

# Two classes a task are fewer images than ten.
SIZES: dict[str, PerClass] = {"train_per_class": 100, "test_per_class": 100}


def split(
    source: Source,
    *,
    tasks: int = 5,
    classes_per_task: int = 2,
    scenario: str = "domain",
    targets: str = "one_hot",
    shuffle_classes: bool = False,
    **images: PerClass,
) -> Stream:
    """The classes are dealt out to the tasks, `classes_per_task` each, in order of their labels or
    shuffled by `seed`.

    Arguments:
      scenario: `domain`, one head for all tasks, its outputs the position of a class within its
        task; `task`, one head a task, the others masked; `class`, one output a class and none
        masked.
      targets: `one_hot`, or `sign`: a single output a head, +1 for the task's first class and -1
        for its second.
      images: train_per_class, test_per_class (100) and seed, as of `draw.sizes`.
    Raises ValueError where the tasks need more classes than there are, and for sign targets with
      other than two classes a task.
    Source of the scenarios: van de Ven and Tolias 2019.
    """
    sizes = draw.sizes(whole("stream.tasks", tasks), **SIZES | images)  # type: ignore[arg-type]
    whole("stream.classes_per_task", classes_per_task)
    classes = source.train.y.shape[1]
    if tasks * classes_per_task > classes:
        need = f"{tasks} tasks x {classes_per_task} classes need {tasks * classes_per_task}"
        raise SettingError(
            f"stream.classes_per_task={classes_per_task}: {need} classes, the source has {classes}"
        )
    one_of("stream.scenario", scenario, ("domain", "task", "class"))
    one_of("stream.targets", targets, ("one_hot", "sign"))
    if targets == "sign" and (classes_per_task != 2 or scenario == "class"):
        raise SettingError(
            "stream.targets=sign: expected stream.classes_per_task=2 and stream.scenario=domain "
            "or task; or one_hot"
        )
    order = np.arange(classes)
    if flag("stream.shuffle_classes", shuffle_classes):
        order = np.random.default_rng(sizes.seed).permutation(classes)
    code = np.array([[1.0], [-1.0]]) if targets == "sign" else np.eye(classes_per_task)
    heads = 1 if scenario == "domain" else tasks

    def task(t):
        members = order[t * classes_per_task : (t + 1) * classes_per_task]
        own = slice(t % heads * code.shape[1], (t % heads + 1) * code.shape[1])
        outputs = np.zeros((classes, heads * code.shape[1]))
        outputs[members, own] = code
        head = np.ones(outputs.shape[1])
        if scenario == "task":
            head = np.zeros_like(head)
            head[own] = 1
        parts = draw.drawn(source, members, sizes, t)
        return Task(
            *(Dataset(draw.standardised(part.x, source), part.y @ outputs) for part in parts), head
        )

    return tuple(task(t) for t in range(tasks))
