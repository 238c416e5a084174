"""The library's forecasts refuse what does not fit, where it has values, and take traced values as
ever."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl import dynamics, losses, metrics, optimizers
from ntkcl.dynamics import Removed, Step

NAN, F = float("nan"), jnp.zeros((5, 2))
K = jnp.eye(10).reshape(5, 2, 5, 2)
ROWS = np.array([0, 2, 3])
STEP = Step(ROWS, jnp.ones((3, 2)), np.ones((3, 2)))
# As they are without the types that tests check beside, which a user's process does not.
one_task, simulate, descent, ball, flow, largest, r2, read_out = map(
    unwrap,
    (
        *(dynamics.one_task, dynamics.simulate, dynamics.gradient_descent, dynamics.heavy_ball),
        *(dynamics.gradient_flow, dynamics.largest_eigenvalue, metrics.r2, dynamics.read_out),
    ),
)


def solved(columns=lambda inputs: K[:, :, inputs], **changes):
    return one_task(columns, F, STEP._replace(**changes), dynamics.gradient_descent(0.1, 3))


def simulated(**changes):
    given = dict(k_tt=K, f=F, y=F + 1, head=jnp.ones(2)) | changes
    order = given.pop("order", None)
    rules = dict(loss=losses.squared_error(), transform=optimizers.sgd().transform(0.1))
    return simulate(*given.values(), **rules, steps=2, order=order)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: descent(NAN, 3), r"rule\.rate=nan: expected finite rates of at least 0"),
        (lambda: descent(-0.1, 3), r"rule\.rate=-0\.1"),
        (lambda: ball(jnp.array([0.1, jnp.inf]), 2, 0.5), r"rule\.rate=inf"),
        (lambda: flow(NAN, 3.0), r"rule\.rate=nan"),
        (lambda: descent(0.1, 10**20), r"rule\.steps=1[0]+: expected at most 2147483647"),
        (
            lambda: solved(inputs=np.array([0, 2, 5])),
            r"Step\.inputs holds 5; expected whole numbers from 0 to 4",
        ),
        (lambda: solved(inputs=np.array([0, -1, 3])), r"Step\.inputs holds -1"),
        (lambda: solved(inputs=np.array([0.0, 1.0, 2.0])), r"Step\.inputs of type float64"),
        (
            lambda: solved(targets=jnp.ones((3, 1))),
            r"Step\.targets has shape \(3, 1\); expected \(3, 2\)",
        ),
        (lambda: solved(weights=np.ones((2, 2))), r"Step\.weights has shape \(2, 2\)"),
        (
            lambda: solved(weights=-np.ones((3, 2))),
            r"Step\.weights: expected finite numbers of at least 0",
        ),
        (lambda: solved(ridge=NAN), r"Step\.ridge: expected finite"),
        (
            lambda: solved(origin=jnp.zeros((3, 2))),
            r"Step\.origin has shape \(3, 2\); expected \(5, 2\)",
        ),
        (lambda: solved(removed=Removed(np.array([7]))), r"Step\.removed\.inputs holds 7"),
        (
            lambda: solved(columns=lambda inputs: K[:, :1, inputs]),
            r"K\(x, x\[inputs\]\) has shape \(5, 1, 3, 2\)",
        ),
        (lambda: simulated(y=jnp.ones((1, 2))), r"y has shape \(1, 2\); expected \(5, 2\)"),
        (lambda: simulated(k_tt=K[:3]), r"k_tt has shape \(3, 2, 5, 2\)"),
        (lambda: simulated(order=jnp.array([[0], [5]])), r"order holds 5"),
        (lambda: simulated(order=jnp.array([[0]])), r"order has shape \(1, 1\); expected \(2, 1\)"),
        (
            lambda: largest(K, np.ones((5, 1))),
            r"block has shape \(5, 2, 5, 2\); expected \(5, 1, 5, 1\)",
        ),
        (lambda: read_out(K, jnp.ones((1, 2))), r"alpha has shape \(1, 2\); expected \(5, 2\)"),
        (lambda: r2(np.ones(3), np.ones((3, 1))), r"predicted has shape \(3, 1\); expected \(3,\)"),
    ],
)
def test_what_does_not_fit_is_named(refused, message):
    with pytest.raises(ValueError, match=message) as reported:
        refused()
    assert "\n" not in str(reported.value)


def test_one_kernel_for_all_outputs_stands_for_its_block_of_every_output():
    own = jax.random.normal(jax.random.key(0), (5, 5))
    own, order = own @ own.T, jnp.array([[0, 3], [4, 1]])
    block = own[:, None, :, None] * jnp.eye(2)[None, :, None, :]
    shared, whole = (simulated(k_tt=k, order=order) for k in (own, block))
    np.testing.assert_allclose(shared, whole, rtol=1e-6)
    assert np.abs(shared).max() > 0.01
    with pytest.raises(ValueError, match=r"k_tt has shape \(3, 5\); expected \(5, 5\)"):
        simulated(k_tt=own[:3])


def test_what_fits_is_taken_and_so_are_traced_rates():
    assert solved().change.shape == (5, 2) and simulated().shape == (5, 2)
    gain = jax.jit(lambda rate: descent(rate, 3)(jnp.ones(1), None))(0.5)
    np.testing.assert_allclose(gain, 1 - 0.5**3)
