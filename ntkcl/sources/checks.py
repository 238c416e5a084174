"""What every source promises, checked on load."""

import numpy as np

from ntkcl.types import Dataset, Source
from ntkcl.validation import SettingError, are_tokens, finite

CLASSES = 65_536  # beyond it labels are names of things, not numbers of outputs


def source(train: Dataset, test: Dataset, mean: float, sd: float) -> Source:
    return Source(train, test, finite("source.mean", mean), finite("source.sd", sd, least=1e-6))


def dataset(x, labels, classes, origin) -> Dataset:
    """Checked images, or token ids, and labels as a Dataset with one-hot targets; a single channel
    is dropped."""
    if not are_tokens(x):
        with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused below
            x = np.asarray(x, np.float32)
    x = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
    if len(x) != len(labels) or len(x) == 0:
        raise SettingError(f"{origin}: {len(x)} images but {len(labels)} labels")
    if not np.isfinite(x).all():
        raise SettingError(
            f"{origin}: {np.sum(~np.isfinite(x))} pixels are NaN or infinite in float32; expected "
            "finite numbers"
        )
    if classes > CLASSES:
        raise SettingError(
            f"{origin}: {classes} classes, each of which is an output; expected at most {CLASSES}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise SettingError(
            f"{origin}: labels run from {labels.min()} to {labels.max()}; expected 0 to "
            f"{classes - 1}"
        )
    y = np.zeros((len(labels), classes), np.float32)
    y[np.arange(len(labels)), labels] = 1.0
    return Dataset(x, y)


def held_out(origin: str, labels, share: float, seed: int, what: str = "image") -> np.ndarray:
    """Which samples [n] are the test set's: of each class that there is, a share drawn by the seed,
    rounded, but one sample at least on either side."""
    test = np.zeros(len(labels), bool)
    rng = np.random.default_rng(seed)
    for k in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == k))
        if len(own) == 1:
            raise SettingError(
                f"{origin}: class {k} has one {what}; a split into train and test set needs two of "
                "each class"
            )
        test[own[: int(np.clip(round(share * len(own)), 1, len(own) - 1))]] = True
    return test
