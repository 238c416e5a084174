"""Teachers and a student: targets that are linear functions of random inputs, the setting in which
theory has numbers."""

import numpy as np

from ntkcl import validation
from ntkcl.streams.draw import PerClass, of_tasks
from ntkcl.types import Dataset, Source, Stream, Task
from ntkcl.validation import SettingError, finite, one_of, whole


def teacher_student(
    source: Source,
    *,
    tasks: int = 2,
    dimension: int = 100,
    correlation: float = 0.9,
    overlap: float = 1.0,
    inputs: str = "gaussian",
    decay: float = 1.3,
    train_size: PerClass = 100,
    test_size: PerClass = 500,
    seed: int = 0,
) -> Stream:
    """Regression on one output, without noise and without images: `source` is not read.

    Inputs x = sqrt(D) kron(q_t, sqrt(e) z), z ~ N(0, I), e_i ~ i^-decay summing to 1; targets y =
    u_t . x / sqrt(D), u_t ~ N(0, I). So E|x|^2 = D, the variance of y over teachers is 1, and the
    kernel x . x' / D has eigenvalues e_i and teachers w ~ N(0, e_i).

    Arguments:
      correlation: of the teachers of consecutive tasks, u_t = correlation u_{t-1} + sqrt(1 -
        correlation^2) v_t; of tasks s and t correlation^|s - t|.
      overlap: cosine of every principal angle between the inputs of consecutive tasks; of tasks s
        and t overlap^|s - t|. At 1, all tasks have the same distribution of inputs and D =
        dimension; below, each has `dimension` directions of its own, q_t of tasks of them, and D =
        tasks x dimension.
      inputs: `gaussian`, or `sphere`: the same, divided by its norm, |x|^2 = D.
      train_size, test_size: samples a task, or a list of one number a task. More samples keep the
        first ones.
    The accuracy of a single output is how often its sign is that of the target. Sources: Karakida
    and Akaho 2022 for two tasks that differ in the teacher alone; Lee et al. 2021 for the dial of
    teachers; `overlap` is C_in of Li and Hiratani 2025.
    """
    whole("stream.tasks", tasks)
    whole("stream.dimension", dimension)
    validation.seed("stream.seed", seed)
    one_of("stream.inputs", inputs, ("gaussian", "sphere"))
    for name, value, least in (("correlation", correlation, -1.0), ("overlap", overlap, 0.0)):
        if not least <= finite(f"stream.{name}", value) <= 1:
            raise SettingError(f"stream.{name}={value}: expected a number from {least:g} to 1")
    counts = {
        name: of_tasks(f"stream.{name}_size", n, tasks, every=False)
        for name, n in (("train", train_size), ("test", test_size))
    }
    spectrum = np.arange(1, dimension + 1) ** -finite("stream.decay", decay, least=0.0)
    spectrum /= spectrum.sum()
    blocks = 1 if overlap == 1 else tasks
    sides = _chain(overlap, np.eye(tasks))[:, :blocks]
    teachers = _chain(
        correlation, np.stack([_normal(seed, 0, t, (blocks, dimension)) for t in range(tasks)])
    )
    width = blocks * dimension

    def part(t, kind, n):
        z = np.sqrt(spectrum) * _normal(seed, kind, t, (n, dimension))
        z = z / np.linalg.norm(z, axis=1, keepdims=True) if inputs == "sphere" else z
        x = np.einsum("b,ni->nbi", sides[t], z).reshape(n, width)
        return Dataset(np.sqrt(width) * x, x @ teachers[t].reshape(width, 1))

    return tuple(
        Task(part(t, 1, counts["train"][t]), part(t, 2, counts["test"][t]), np.ones(1))
        for t in range(tasks)
    )


def _normal(seed, kind, t, shape):
    return np.random.default_rng([seed, kind, t]).standard_normal(shape)


def _chain(cosine, fresh):
    """c_0 = fresh_0, c_t = cosine c_{t-1} + sqrt(1 - cosine^2) fresh_t."""
    chained = [fresh[0]]
    for own in fresh[1:]:
        chained.append(cosine * chained[-1] + np.sqrt(1 - cosine**2) * own)
    return np.stack(chained)
