"""Mixtures of tasks: how similar two tasks are, as one number."""

from collections.abc import Callable

import numpy as np

from ntkcl.streams import draw
from ntkcl.types import Dataset, Source, Stream
from ntkcl.validation import SettingError, finite


def mixture(source: Source, *, of: Callable[[Source], Stream], share: float = 0.5) -> Stream:
    """Every task after the first is mixed with the first, image by image: x = share x_first + (1 -
    share) x_own, the target kept.

    share = 0 leaves the stream `of` as it is; at share = 1 every task is the first. The k-th image
    of a class is paired with the k-th of the class that has the same target. Raises ValueError
    where tasks differ in size, head or targets: a shared head is needed, such as that of
    stream.of.scenario=domain. Source: Lee et al. 2022 (Maslow's hammer), whose published code mixes
    two pairs of Fashion-MNIST classes so, labels aligned.
    """
    if finite("stream.share", share, least=0.0) > 1:
        raise SettingError(f"stream.share={share}: expected a number from 0 to 1")
    if not callable(of):
        raise SettingError(
            f"stream.of={of}: expected the settings of a stream, such as stream@stream.of=rotated"
        )
    first, *others = of(source)
    draw.check_pixels("mixture", first.train.x)

    def mixed(t, name):
        theirs, own = getattr(first, name), getattr(others[t - 1], name)
        if len(theirs.x) != len(own.x):
            raise SettingError(
                f"stream=mixture: task 0 has {len(theirs.x)} {name} images and task {t} "
                f"{len(own.x)}; expected as many"
            )
        if not np.array_equal(first.head, others[t - 1].head) or not np.array_equal(
            theirs.y, own.y
        ):
            raise SettingError(
                f"stream=mixture: task {t} has other targets than task 0; expected a shared head "
                "(stream.of.scenario=domain)"
            )
        return Dataset(share * theirs.x + (1 - share) * own.x, own.y)

    return (
        first,
        *(
            task._replace(train=mixed(t, "train"), test=mixed(t, "test"))
            for t, task in enumerate(others, 1)
        ),
    )
