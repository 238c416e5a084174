"""Training: the loop over steps, the problem that is to be trained, its settings, and `fit` for
arrays of one's own."""

from ntkcl.training.arrays import fit

__all__ = ["fit"]
