"""Empirical neural tangent kernels K(x, x') = J(x) J(x')^T as blocks [n1, c, n2, c].

Constructors take a model and return `kernel_fn(theta, x1, x2=None)`, x2 = None meaning x1. Rows are where the function is read,
columns what is trained on, and `.reshape(n1 * c, n2 * c)` is the Gram matrix. Arrays in, arrays out: nothing here knows a task.
"""

from ntkcl.kernels.contraction import contraction
from ntkcl.kernels.structured import structured

__all__ = ["contraction", "structured"]
