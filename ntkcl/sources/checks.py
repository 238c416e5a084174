"""What every source promises, checked on load."""

import numpy as np

from ntkcl.settings import finite
from ntkcl.types import Dataset, Source


def source(train: Dataset, test: Dataset, mean: float, sd: float) -> Source:
    return Source(train, test, finite("source.mean", mean), finite("source.sd", sd, least=1e-6))


def dataset(x, labels, classes, origin) -> Dataset:
    """Checked images and labels as a Dataset with one-hot targets; a single channel is dropped."""
    x = np.asarray(x, np.float32)
    x = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
    if len(x) != len(labels) or len(x) == 0:
        raise ValueError(f"{origin}: {len(x)} images but {len(labels)} labels")
    if not np.isfinite(x).all():
        raise ValueError(f"{origin}: {np.sum(~np.isfinite(x))} pixels are NaN or infinite; expected finite numbers")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{origin}: labels run from {labels.min()} to {labels.max()}; expected 0 to {classes - 1}")
    return Dataset(x, np.eye(classes, dtype=np.float32)[labels])
