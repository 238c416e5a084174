"""Data sets: scikit-learn's digits, any TFDS name, a folder of IDX files, arrays in an npz file,
texts in a table.

Every source returns images [n, h, w] or [n, h, w, channels] in [0, 1], float32, or texts as token
ids [n, length], int32, with one-hot targets, checked on load. Whoever transforms images
standardises them afterwards, so that an empty corner of a rotated image is black and not grey.
Token ids stay as they are.
"""

from ntkcl.sources.digits import digits
from ntkcl.sources.idx import idx, read_idx, tfds_or_idx
from ntkcl.sources.npz import npz
from ntkcl.sources.table import columns, table
from ntkcl.sources.tfds import from_tfds

__all__ = ["columns", "digits", "from_tfds", "idx", "npz", "read_idx", "table", "tfds_or_idx"]
