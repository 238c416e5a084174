"""Permuted images: the same classes, the pixels of each task in another order."""

import numpy as np

from ntkcl.streams import draw
from ntkcl.streams.draw import PerClass
from ntkcl.types import Source, Stream
from ntkcl.validation import SettingError, flag, whole


def permuted(
    source: Source,
    *,
    tasks: int = 5,
    patch: int | None = None,
    first_identity: bool = True,
    **images: PerClass | bool,
) -> Stream:
    """Domain-incremental: each task shuffles the pixels of a central square of `patch` pixels a
    side, all of them by default. `images` (train_per_class, test_per_class, same_images, seed) as
    of `draw.sizes`.

    `first_identity` leaves task 0 unshuffled (OGD+ and others; in GEM it is shuffled too). Channels
    move together. Of vectors [d] the entries are shuffled, all of them.
    """
    draw.check_pixels("permuted", source.train.x)
    sizes = draw.sizes(whole("stream.tasks", tasks), **images)  # type: ignore[arg-type]
    shape = source.train.x.shape[1:]
    if len(shape) == 1 and patch is not None:
        raise SettingError(
            f"stream.patch={patch}: vectors of shape {shape} have no centre; expected null, for "
            "all entries"
        )
    side = (1, *shape) if len(shape) == 1 else shape[:2]
    if patch is not None and not 2 <= whole("stream.patch", patch, least=2) <= min(shape[:2]):
        raise SettingError(
            f"stream.patch={patch}: expected 2 to {min(shape[:2])} for images of shape {shape}, or "
            "null for all pixels"
        )
    inside = _central_pixels(side, patch)

    def transform(t):
        order = np.arange(side[0] * side[1])
        if t or not flag("stream.first_identity", first_identity):
            order[inside] = np.random.default_rng([sizes.seed, t]).permutation(inside)
        return lambda x: x.reshape(len(x), len(order), -1)[:, order].reshape(x.shape)

    return draw.domain_incremental(source, [transform(t) for t in range(tasks)], sizes)


def _central_pixels(shape, patch):
    if patch is None:
        return np.arange(shape[0] * shape[1])
    top, left = (shape[0] - patch) // 2, (shape[1] - patch) // 2
    grid = np.arange(shape[0] * shape[1]).reshape(shape)
    return grid[top : top + patch, left : left + patch].ravel()
