"""The error of a forecast in parts.

measured - predicted is a sum of differences between forecasts, each of which omits one thing more
than the one before.
"""

from collections.abc import Mapping

import numpy as np

from ntkcl.metrics.agreement import r2


def budget(ladder: Mapping[str, np.ndarray]) -> list[dict]:
    """The terms between one forecast and the next, from the measurement down.

    Arguments:
      ladder: drifts [k] of the same entries, by name: measured first, then forecasts, each
        omitting one thing more than that before.
    Returns: a row for each forecast: its `name`; `rms` of the term that separates it from the one
      before; `share`, of that term's squares in those of the measured drift about its mean;
      `along`, the term's part of the whole error, term . error / error . error, which add up to 1;
      `r2` of this forecast with the measurement.
    The terms themselves add up to measured - last, exactly; their squares do not, for they are not
    orthogonal.
    """
    names, values = list(ladder), [np.asarray(drift, float) for drift in ladder.values()]
    measured, error = values[0], values[0] - values[-1]
    spread, whole = float(np.sum((measured - measured.mean()) ** 2)), float(error @ error)
    rows = []
    for name, before, after in zip(names[1:], values, values[1:], strict=False):
        term = before - after
        rows.append(
            {
                "name": name,
                "rms": float(np.sqrt(np.mean(term**2))),
                "share": float(term @ term) / spread if spread > 0 else float("nan"),
                "along": float(term @ error) / whole if whole > 0 else float("nan"),
                "r2": r2(measured, after),
            }
        )
    return rows
