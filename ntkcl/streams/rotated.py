"""Rotated images: the same classes, each task at another angle."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image
from scipy import ndimage

from ntkcl.streams import draw
from ntkcl.streams.draw import PerClass
from ntkcl.types import Source, Stream
from ntkcl.validation import SettingError, finite, one_of, whole


def rotated(
    source: Source,
    *,
    tasks: int = 5,
    step: float | int = 22.5,
    angles: Sequence[float] | None = None,
    interpolation: str = "bilinear",
    **images: PerClass | bool,
) -> Stream:
    """Domain-incremental: task t sees its images rotated by `angles[t]` degrees, t * step unless
    given; shared outputs. `images` (train_per_class, test_per_class, same_images, seed) as of
    `draw.sizes`.

    Counter-clockwise about the centre, the size kept, what comes from outside black.
    `interpolation`: `bilinear`, of scipy.ndimage; or `nearest`, pixel for pixel that of PIL's
    Image.rotate, which torchvision calls for PIL images. Raises ValueError for images that are not
    square, and where the number of angles is not the number of tasks.
    """
    draw.check_pixels("rotated", source.train.x)
    sizes = draw.sizes(whole("stream.tasks", tasks), **images)  # type: ignore[arg-type]
    if angles is not None and (isinstance(angles, str) or not isinstance(angles, Sequence)):
        raise SettingError(
            f"stream.angles={angles}: expected a list of {tasks} angles in degrees, or null for "
            "multiples of stream.step"
        )
    if angles is None:
        angles = [finite("stream.step", step) * t for t in range(tasks)]
    angles = list(angles)
    if len(angles) != tasks:
        raise SettingError(
            f"stream.angles={angles}: expected {tasks} angles in degrees, one for each of "
            f"stream.tasks={tasks}"
        )
    angles = [finite("stream.angles", angle) for angle in angles]
    shape = source.train.x.shape[1:]
    if len(shape) < 2 or shape[0] != shape[1]:
        raise SettingError(
            f"stream=rotated: images of shape {shape} cannot be rotated; expected square ones"
        )

    turn = {"bilinear": _bilinear, "nearest": _nearest}[
        one_of("stream.interpolation", interpolation, ("bilinear", "nearest"))
    ]
    return draw.domain_incremental(source, [partial(turn, angle % 360) for angle in angles], sizes)


def _bilinear(angle, x):
    return ndimage.rotate(x, angle, axes=(2, 1), order=1, reshape=False) if angle else x


def _nearest(angle, x):
    """PIL rotates the pixels' numbers, so that its own rounding decides which pixel is nearest;
    number 0 is what lies outside."""
    numbers = np.arange(1, 1 + math.prod(x.shape[1:3]), dtype=np.int32).reshape(x.shape[1:3])
    turned = Image.fromarray(numbers).rotate(angle, Image.Resampling.NEAREST, fillcolor=0)
    pixels = x.reshape(len(x), numbers.size, -1)
    numbered = np.concatenate([np.zeros_like(pixels[:, :1]), pixels], axis=1)
    return numbered[:, np.asarray(turned).ravel()].reshape(x.shape)
