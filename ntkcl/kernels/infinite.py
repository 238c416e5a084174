"""The limit of infinite width: covariance and tangent kernel of `networks.mlp`, layer by layer.

One hidden layer maps the covariance of a pair of inputs to E[sigma(u) sigma(v)] and E[sigma'(u)
sigma'(v)] of a Gaussian pair (u, v). For ReLU and erf these are closed forms. For any other
activation both are series in the cosine of the pair (Mehler's formula), whose coefficients belong
to one input each and come from Gauss-Hermite quadrature: symmetric and positive semi-definite
whatever the degree, with memory for a few arrays [n1, n2].
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl.compilation import once
from ntkcl.kernels.outputs import with_outputs
from ntkcl.validation import SettingError, finite, one_of, whole

SMOOTH = {"tanh": jnp.tanh, "gelu": jax.nn.gelu}

# Measured on inputs with |x|^2 = n_0, three hidden layers: the error of the tanh kernel is 4e-11 of
# its largest entry at w_std 1.5 and 9e-5 at w_std 3 (4e-3 for a ReLU, whose kink has no series),
# and 1000 x 1000 pairs take half a second on two cores.
DEGREE = 256

# Units of rounding that a product of some thousand terms and two square roots stay below: 16 have
# been seen for five thousand terms, by how a processor happens to sum.
ROUNDING = 32


class InfiniteWidth(NamedTuple):
    """Sigma^L and Theta^L as pure functions `(x1, x2=None) -> [n1, n2]`, x2 = None meaning x1."""

    nngp: Callable[..., Float[Array, "n1 n2"]]
    ntk: Callable[..., Float[Array, "n1 n2"]]


class Moments(NamedTuple):
    """E[sigma(u) sigma(v)] and E[sigma'(u) sigma'(v)]."""

    value: Float[Array, "*pairs"]
    slope: Float[Array, "*pairs"]


@once
def infinite(
    *,
    depth: int = 1,
    activation: str | Callable = "relu",
    w_std: float = 1.0,
    b_std: float = 0.0,
    output_scale: float = 1.0,
    degree: int = DEGREE,
) -> InfiniteWidth:
    """Covariance and tangent kernel of `networks.mlp` as its layers become infinitely wide.

        Sigma^1 = Theta^1 = w_std^2 x.x'/n_0 + b_std^2,

    and with (u, v) ~ N(0, Sigma^l), l = 1..depth,

        Sigma^{l+1} = w_std^2 E[sigma(u) sigma(v)] + b_std^2,
        Theta^{l+1} = Sigma^{l+1} + w_std^2 E[sigma'(u) sigma'(v)] Theta^l.

    As `networks.mlp` with the same settings gets wider, its outputs become independent Gaussian
    processes of covariance Sigma^L, L = depth + 1, and its tangent kernel tends to Theta^L (x) I_c
    (`with_outputs`). Both are multiplied by output_scale^2.

    Arguments:
      depth: number of hidden layers.
      activation: relu or erf (closed forms); tanh, gelu (the tanh approximation) or any function of
        one number, by quadrature.
      w_std, b_std, output_scale: as in `networks.mlp`.
      degree: of the quadrature and the series; closed forms do not use it.

    Returns: `InfiniteWidth(nngp, ntk)` for inputs [n, *shape] of one floating type, flattened.
      Operations are n1 n2 depth, times `degree` with quadrature. For inputs at a small angle, but
      not parallel, ReLU's kernels have errors of sqrt(8 eps): 3e-8 in float64, 7e-4 in float32.
    Raises ValueError for settings out of range, and for inputs that are empty, not of a floating
      type, or differ in shape or type.
    Source: Jacot, Gabriel, Hongler 2018, section 4; Cho and Saul 2009 (ReLU); Williams 1997 (erf).
    """
    depth = whole("network.depth", depth)
    w2 = finite("network.w_std", w_std, above=0.0) ** 2
    b2 = finite("network.b_std", b_std, least=0.0) ** 2
    scale2 = finite("network.output_scale", output_scale, above=0.0) ** 2
    moments = moments_of(activation, whole("degree", degree))

    @jax.jit
    @jax.default_matmul_precision("highest")
    def kernels(x1, x2=None):
        same = x2 is None
        q1, q2, k = (w2 * product + b2 for product in _products(x1, x2))
        theta = k
        for _ in range(depth):
            value, slope = moments(q1, q2, cosine_of(q1, q2, k, same))
            v1 = moments(q1, q1, jnp.ones_like(q1)).value
            v2 = v1.T if same else moments(q2, q2, jnp.ones_like(q2)).value
            q1, q2, k = (w2 * v + b2 for v in (v1, v2, value))
            theta = k + w2 * slope * theta
        return scale2 * k, scale2 * theta

    def checked(x1, x2=None):
        check_inputs(x1, x2)
        return kernels(x1, x2)

    return InfiniteWidth(
        lambda x1, x2=None: checked(x1, x2)[0], lambda x1, x2=None: checked(x1, x2)[1]
    )


def _products(x1, x2):
    """x.x/n_0 of each side, [n1, 1] and [1, n2], and x.x'/n_0 of the pairs; exactly symmetric for
    x2 = None."""
    x1 = x1.reshape(x1.shape[0], -1)
    n0 = x1.shape[1]
    q1 = jnp.sum(x1**2, 1, keepdims=True) / n0
    if x2 is None:
        k = jnp.dot(x1, x1.T) / n0
        return q1, q1.T, (k + k.T) / 2  # a matrix product promises no symmetry in the last digit
    x2 = x2.reshape(x2.shape[0], -1)
    return q1, jnp.sum(x2**2, 1, keepdims=True).T / n0, jnp.dot(x1, x2.T) / n0


def cosine_of(q1, q2, k, same):
    """k / sqrt(q1 q2) within [-1, 1]; 0 for an input of variance 0, whose cosine nothing depends
    on.

    As arccos(1 - e) ~ sqrt(2 e), rounding next to +-1 costs half the digits. So within rounding of
    +-1, and beyond, it is +-1: parallel inputs are exact, and inputs that nearly are err by no more
    than they did. `same`: on the diagonal an input meets itself.
    """
    norm = jnp.sqrt(q1) * jnp.sqrt(q2)
    cosine = k / jnp.where(norm > 0, norm, 1)
    cosine = jnp.where(
        1 - jnp.abs(cosine) < ROUNDING * jnp.finfo(k.dtype).eps, jnp.sign(cosine), cosine
    )
    return jnp.fill_diagonal(cosine, 1, inplace=False) if same else cosine


def _relu(q1, q2, cosine):
    angle = jnp.arccos(cosine)
    beyond = jnp.pi - angle
    return Moments(
        jnp.sqrt(q1) * jnp.sqrt(q2) * (jnp.sin(angle) + beyond * cosine) / (2 * jnp.pi),
        beyond / (2 * jnp.pi),
    )


def _erf(q1, q2, cosine):
    s1, s2 = jnp.sqrt(1 + 2 * q1), jnp.sqrt(1 + 2 * q2)
    sine = 2 * (jnp.sqrt(q1) / s1) * (jnp.sqrt(q2) / s2) * cosine
    # (1 + 2 q1)(1 + 2 q2) - 4 k^2, which cancels at large variances, as a sum of what is not
    # negative
    gap = jnp.sqrt(1 + 2 * (q1 + q2) + 4 * q1 * q2 * (1 - cosine) * (1 + cosine))
    return Moments(2 / jnp.pi * jnp.arcsin(sine), 4 / (jnp.pi * gap))


@cache
def _hermite(degree):
    """Nodes z [n] and weights [n, i] = sqrt(w_i) O[n, i], O[n, i] = sqrt(w_i) h_n(z_i) the
    eigenvectors of the Jacobi matrix."""
    off = np.sqrt(np.arange(1.0, degree))
    nodes, vectors = np.linalg.eigh(np.diag(off, 1) + np.diag(off, -1))
    return nodes, vectors * vectors[0]  # the sign of an eigenvector cancels


def _quadrature(activation, degree):
    """E[g(u) g(v)] = sum_n cosine^n a_n(q1) a_n(q2) with g(sqrt(q) z) = sum_n a_n(q) h_n(z), h_n
    the orthonormal Hermite polynomials.

    a_n = sum_i w_i h_n(z_i) g(sqrt(q) z_i) by Gauss-Hermite quadrature (Golub and Welsch 1969); at
    cosine +-1 the series is the quadrature of the product itself.
    """
    nodes, weights = _hermite(degree)

    def coefficients(q):
        z = jnp.outer(jnp.sqrt(q), nodes.astype(q.dtype))
        values = jax.vmap(jax.vmap(jax.value_and_grad(activation)))(z)
        return [jnp.dot(v, weights.T.astype(q.dtype)).T.reshape(-1, *q.shape) for v in values]

    def moments(q1, q2, cosine):
        def horner(sums, terms):
            products = (a * b for a, b in terms)
            return Moments(*(cosine * s + p for s, p in zip(sums, products, strict=True))), None

        terms = list(zip(coefficients(q1), coefficients(q2), strict=True))
        nothing = Moments(jnp.zeros_like(cosine), jnp.zeros_like(cosine))
        return jax.lax.scan(horner, nothing, terms, reverse=True)[0]

    return moments


def moments_of(activation, degree):
    """`(q1, q2, cosine) -> Moments` of u and v with variances q1, q2, arrays that broadcast to one
    another."""
    closed = {"relu": _relu, "erf": _erf}
    if not callable(activation):
        name = one_of("network.activation", activation, (*closed, *SMOOTH))
        return closed[name] if name in closed else _quadrature(SMOOTH[name], degree)
    one = jax.ShapeDtypeStruct((), jnp.result_type(float))
    if getattr(jax.eval_shape(activation, one), "shape", None) != ():
        raise SettingError(
            "network.activation: the function does not map one number to one number; expected "
            "sigma(z) for a scalar z"
        )
    return _quadrature(activation, degree)


def check_inputs(x1, x2):
    for name, x in {"x1": x1, "x2": x1 if x2 is None else x2}.items():
        dtype = getattr(x, "dtype", type(x).__name__)
        reals = hasattr(x, "dtype") and jnp.issubdtype(dtype, jnp.floating)
        if not reals or jnp.ndim(x) == 0 or jnp.size(x) == 0:
            kind = f"{name} has shape {np.shape(x)} and type {dtype}"
            raise SettingError(
                f"infinite: {kind}; expected reals [n, *shape of one input] with n of at least 1"
            )
        if not isinstance(x, jax.core.Tracer) and not np.all(np.isfinite(x)):
            raise SettingError(
                f"infinite: {name} holds NaN or infinite values; expected finite ones"
            )
    if x2 is not None and (x1.shape[1:], x1.dtype) != (x2.shape[1:], x2.dtype):
        kinds = (
            f"inputs of shape {x1.shape[1:]} {x1.dtype} in x1 and {x2.shape[1:]} {x2.dtype} in x2"
        )
        raise SettingError(f"infinite: {kinds}; expected the same in both")


def infinite_kernel_fn(infinite: Callable[..., Any], c: int) -> Callable[..., Any]:
    """`kernel_fn(theta, x1, x2=None) -> [n1, c, n2, c]` of a network's `infinite`, theta unused.

    In float64, as rounding makes near inputs look equal; the block is in the type of x1.
    """

    def kernel_fn(theta, x1, x2=None):
        k = infinite(*(None if x is None else jnp.asarray(x, jnp.float64) for x in (x1, x2)))
        return with_outputs(k.astype(x1.dtype), c)

    return kernel_fn
