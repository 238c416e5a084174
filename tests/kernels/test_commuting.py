"""Which layers' signals commute is read off the program: found where they do, never claimed where
they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import mostly_slow
from flax import linen as nn
from models import model

from ntkcl import kernels, networks


def commuting(network, theta, x):
    terms = jax.eval_shape(kernels.structured(network).factors, theta, x).samples
    return {layer for layer, term in terms.items() if type(term).__name__ == "CommutingTerm"}


class Net(nn.Module):
    """Two layers and a readout, with something of the test's own between the last two or beside
    them."""

    between: str

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(6, name="first")(x))
        z = nn.Dense(6, name="second")(h)
        readout = nn.Dense(3, name="readout", use_bias=self.between != "no bias")
        mixed = {
            "softmax": lambda: nn.softmax(z),
            "norm": lambda: z / jnp.linalg.norm(z),
            "shift": lambda: jnp.roll(nn.relu(z), 1),
            "reversed product": lambda: z * z[::-1],
            "matrix": lambda: nn.relu(z) @ self.param("mix", nn.initializers.normal(), (6, 6)),
            "sum": lambda: nn.relu(z) + nn.relu(z).sum(),
            "order F": lambda: nn.tanh(z + z.reshape(2, 3).ravel(order="F")),
            "sorted": lambda: jnp.sort(z),
            "gate of all": lambda: nn.relu(z) * nn.sigmoid(z.mean()),
            "mixing derivative": lambda: _mixing(z),
        }
        if self.between in mixed:
            return readout(mixed[self.between]())
        if self.between == "skip":
            return readout(nn.relu(z)) + z[:3]
        if self.between == "two readouts":
            return readout(nn.relu(z)) * nn.Dense(3, name="gate")(nn.relu(z))
        if self.between == "nonlinear end":
            return jnp.tanh(readout(nn.relu(z)))
        entrywise = {
            "relu": nn.relu,
            "no bias": nn.gelu,
            "own gate": lambda z: nn.silu(z) * z,
            "residual": lambda z: nn.relu(z) + z,
            "gate by x": lambda z: nn.relu(z) * jnp.tile(x, 2)[:6],
            "scaled by x": lambda z: nn.relu(z) * x.sum(),
            "reshaped": lambda z: nn.relu(z.reshape(2, 3)).ravel(),
            "clipped": lambda z: jnp.clip(z, -1.0, 1.0) ** 3,
            "leaky": nn.leaky_relu,
            "where": lambda z: jnp.where(z > 0, z, jnp.exp(z) - 1),
        }
        return readout(entrywise[self.between](z))


@jax.custom_jvp
def _mixing(z):
    """Entry by entry in value, not in the derivative that is declared for it."""
    return jnp.tanh(z)


_mixing.defjvp(
    lambda primals, tangents: (jnp.tanh(primals[0]), primals[0] * tangents[0] + tangents[0].sum())
)

COMMUTE = [
    "relu",
    "no bias",
    "own gate",
    "residual",
    "gate by x",
    "scaled by x",
    "reshaped",
    "clipped",
    "leaky",
    "where",
]
DO_NOT = [
    "softmax",
    "norm",
    "shift",
    "reversed product",
    "matrix",
    "sum",
    "order F",
    "sorted",
    "gate of all",
    "mixing derivative",
    "skip",
    "two readouts",
    "nonlinear end",
]

# Of each kind one.
EVERY_KIND = ("relu", "gate by x", "residual", "softmax", "norm", "sum", "skip", "sorted")


@pytest.mark.parametrize("between", mostly_slow([*COMMUTE, *DO_NOT], *EVERY_KIND))
def test_commuting_signals_are_found_and_nothing_else_and_the_kernel_is_exact(between):
    network = networks.network(Net(between))
    x = jax.random.normal(jax.random.key(1), (4, 5))
    theta = jax.tree.map(jnp.float64, network.init(jax.random.key(0), x[0]))
    found = commuting(network, theta, x)
    assert ("second" in found) == (between in COMMUTE), found
    assert "first" not in found and "readout" not in found
    expected = kernels.contraction(network)(theta, x)
    np.testing.assert_allclose(
        kernels.structured(network)(theta, x), expected, atol=1e-12 * abs(expected).max()
    )


@pytest.mark.parametrize(
    "name",
    ["ours, erf and biases", "ours, one hidden layer", "plain linen MLP", "batch norm, running"],
)
def test_the_last_hidden_layer_of_a_plain_network_commutes(name):
    network, theta, x = model(name)
    assert len(commuting(network, theta, x)) == 1


@pytest.mark.parametrize("c", [1, 2, 5, 7, 12])
def test_half_the_gram_is_the_whole_for_any_number_of_outputs(c):
    network = networks.mlp(outputs=c, width=5, activation="tanh")
    x = jax.random.normal(jax.random.key(1), (3, 4))
    theta = network.init(jax.random.key(0), x[0])
    assert commuting(network, theta, x) == {"hidden_0"}
    expected = kernels.contraction(network)(theta, x, x[:2])
    np.testing.assert_allclose(
        kernels.structured(network)(theta, x, x[:2]), expected, atol=1e-12 * abs(expected).max()
    )
