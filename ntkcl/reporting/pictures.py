"""Inputs that are images, as pixels that can be shown."""

import numpy as np

from ntkcl.validation import are_tokens


def pictures(inputs: np.ndarray) -> np.ndarray | None:
    """Inputs [k, h, w] or [k, h, w, 1 or 3] as pixels in [0, 1], [k, h, w] or [k, h, w, 3]; None of
    any other shape, and of token ids."""
    if inputs.ndim == 4 and inputs.shape[3] == 1:
        inputs = inputs[..., 0]
    if not (inputs.ndim == 3 or (inputs.ndim == 4 and inputs.shape[3] == 3)) or are_tokens(inputs):
        return None
    low, high = float(inputs.min()), float(inputs.max())
    return np.clip((inputs - low) / ((high - low) or 1), 0, 1)
