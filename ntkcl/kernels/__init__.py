"""Neural tangent kernels K(x, x') = J(x) J(x')^T as blocks [n1, c, n2, c].

Constructors take a model and return `kernel_fn(theta, x1, x2=None)`, x2 = None meaning x1. Rows are
where the function is read, columns what is trained on, and `.reshape(n1 * c, n2 * c)` is the Gram
matrix. Arrays in, arrays out: nothing here knows a task.
"""

from ntkcl.kernels import geometry, krylov
from ntkcl.kernels.contraction import contraction
from ntkcl.kernels.empirical import Plan, empirical, matmul_rate, pass_seconds, plan
from ntkcl.kernels.held import held
from ntkcl.kernels.infinite import InfiniteWidth, infinite
from ntkcl.kernels.infinite_conv import infinite_conv
from ntkcl.kernels.kernel import Kernel, one_by_one
from ntkcl.kernels.numerics import Numerics, numerics
from ntkcl.kernels.operator import Operator, operator
from ntkcl.kernels.outputs import diagonal, traced, with_outputs
from ntkcl.kernels.remembered import remembered
from ntkcl.kernels.structured import layers, structured
from ntkcl.kernels.tangent import tangent
from ntkcl.kernels.tiles import tiled
from ntkcl.kernels.vector_products import vector_products

__all__ = [
    "InfiniteWidth",
    "Kernel",
    "Numerics",
    "Operator",
    "Plan",
    "contraction",
    "diagonal",
    "empirical",
    "geometry",
    "held",
    "infinite",
    "infinite_conv",
    "krylov",
    "layers",
    "matmul_rate",
    "numerics",
    "one_by_one",
    "operator",
    "pass_seconds",
    "plan",
    "remembered",
    "structured",
    "tangent",
    "tiled",
    "traced",
    "vector_products",
    "with_outputs",
]
