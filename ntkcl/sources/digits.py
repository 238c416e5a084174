"""The digits that scikit-learn brings along."""

from ntkcl import validation
from ntkcl.sources.checks import dataset, source
from ntkcl.types import Source
from ntkcl.validation import SettingError, finite


def digits(*, mean: float, sd: float, test_fraction: float = 0.2, seed: int = 0) -> Source:
    """The 1,797 digits of 8 x 8 pixels in scikit-learn's wheel (UCI optdigits), split by class.

    Arguments: `mean`, `sd` of a pixel in [0, 1]; `test_fraction` of each class, drawn by `seed`, is
      the test set.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if not 0.01 <= finite("source.test_fraction", test_fraction) <= 0.99:
        raise SettingError(f"source.test_fraction={test_fraction}: expected 0.01 to 0.99")
    validation.seed("source.seed", seed)
    bunch = load_digits()
    parts = train_test_split(
        bunch.images / 16.0,
        bunch.target,
        test_size=test_fraction,
        stratify=bunch.target,
        random_state=seed,
    )
    x_train, x_test, y_train, y_test = parts
    return source(
        dataset(x_train, y_train, 10, "digits"), dataset(x_test, y_test, 10, "digits"), mean, sd
    )
