"""Parametrizations as laws, over widths; the networks: what they compute, and that the structured
kernel sees all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from ntkcl import experiment, kernels, losses, networks, optimizers
from ntkcl.training.settings import Training, rate
from ntkcl.types import Dataset, Task


def drawn(network, x, seed=0, batch=()):
    """Standard normal parameters, by NumPy: compiling a normal draw of every shape takes longer."""
    rng, shapes = np.random.default_rng(seed), jax.eval_shape(network.init, jax.random.key(0), x)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.standard_normal((*batch, *a.shape)), x.dtype), shapes
    )


def gradients(network, theta, x):
    """[c, p]"""
    return jax.vmap(lambda g: ravel_pytree(g)[0])(jax.jacrev(network.apply)(theta, x))


def test_parameters_are_standard_normal_and_biases_are_left_out_where_their_scale_is_zero():
    theta = networks.mlp(outputs=3, width=400, depth=2).init(jax.random.key(0), jnp.ones(50))
    assert {layer: set(leaves) for layer, leaves in theta.items()} == {
        k: {"kernel"} for k in ("hidden_0", "hidden_1", "readout")
    }
    assert theta["hidden_1"]["kernel"].shape == (400, 400)
    assert np.std(theta["hidden_1"]["kernel"]) == pytest.approx(1.0, abs=0.02)


def test_a_centred_network_starts_at_zero_and_keeps_its_tangent():
    network = networks.mlp(outputs=2, width=8)
    x = jax.random.normal(jax.random.key(1), (5,))
    theta = drawn(network, x)
    apply = networks.centred(network.apply, theta)
    assert np.all(apply(theta, x) == 0)
    moved = jax.tree.map(lambda a: a + 0.1, theta)
    np.testing.assert_allclose(apply(moved, x), network.apply(moved, x) - network.apply(theta, x))
    for a, b in zip(
        jax.tree.leaves(jax.jacrev(apply)(moved, x)),
        jax.tree.leaves(jax.jacrev(network.apply)(moved, x)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b)


def test_images_are_flattened_and_the_output_scaled():
    x = jax.random.normal(jax.random.key(1), (4, 4))
    one, half = (networks.mlp(outputs=2, width=8, output_scale=s) for s in (1.0, 0.5))
    theta = one.init(jax.random.key(0), x)
    np.testing.assert_allclose(half.apply(theta, x), 0.5 * one.apply(theta, x))
    np.testing.assert_allclose(one.apply(theta, x.ravel()), one.apply(theta, x))


BAD = [
    (networks.mlp, "width", 0),
    (networks.mlp, "depth", 0),
    (networks.mlp, "outputs", 0),
    (networks.mlp, "w_std", 0.0),
    (networks.mlp, "output_scale", -1.0),
    (networks.mlp, "b_std", float("nan")),
    (networks.mlp, "activation", "swoosh"),
    (networks.mlp, "parametrization", "mupp"),
    (networks.mlp, "init", "keras"),
    (networks.mlp, "gamma0", 0.0),
    (networks.cnn, "stride", 0),
    (networks.cnn, "stride_every", 0),
    (networks.cnn, "kernel_size", 0),
    (networks.cnn, "padding", "FULL"),
    (networks.cnn, "readout", "max"),
    (networks.cnn, "gamma0", -1.0),
    (networks.lenet, "width", 0),
    (networks.lenet, "padding", "EVEN"),
    (networks.resnet, "stages", 0),
    (networks.resnet, "blocks", 0),
    (networks.resnet, "norm", "batch"),
    (networks.vit, "heads", 5),
    (networks.vit, "patch", 0),
    (networks.vit, "expansion", 0),
    (networks.vit, "position_std", -0.1),
]


@pytest.mark.parametrize(("make", "setting", "value"), BAD)
def test_bad_settings_are_named(make, setting, value):
    with pytest.raises(ValueError, match=f"network.{setting}={value}: expected") as reported:
        make(**(dict(outputs=2) | {setting: value}))
    assert "\n" not in str(reported.value)


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        (
            dict(init="torch"),
            "network.init=torch: ntk starts from .* expected network.parametrization=standard",
        ),
        (dict(parametrization="mup", init="flax"), "network.init=flax: mup starts from"),
        (
            dict(parametrization="standard", init="torch", w_std=2.0),
            "sets the size .* expected network.w_std=1 .* came as 2 and 0",
        ),
        (
            dict(parametrization="standard", init="flax", b_std=0.1),
            "network.init=flax: it sets the size .* came as 1 and 0.1",
        ),
        (dict(gamma0=0.5), "network.gamma0=0.5: only mup has it"),
        (dict(parametrization="standard", gamma0=2.0), "network.gamma0=2: only mup has it"),
    ],
    ids=str,
)
def test_settings_that_would_have_no_effect_are_refused(settings, reported):
    for make in (networks.mlp, networks.cnn):
        with pytest.raises(ValueError, match=reported):
            make(outputs=2, **settings)


@pytest.mark.parametrize(
    ("network", "shape", "reported"),
    [
        (networks.cnn(outputs=2), (16,), r"shape \(16,\); expected one image"),
        (networks.vit(outputs=2), (0, 4), r"shape \(0, 4\); expected one image"),
        (
            networks.cnn(outputs=2, padding="VALID", kernel_size=5),
            (8, 8),
            "kernel_size=5: layer 2 sees 4 x 4; expected network.padding=SAME",
        ),
        (
            networks.lenet(outputs=2),
            (8, 8),
            "image of 8 x 8; expected 12 x 12 or larger, or network.padding=SAME",
        ),
        (networks.vit(outputs=2, patch=3), (8, 9), "network.patch=3: an image has 8 x 9 pixels"),
    ],
)
def test_images_that_do_not_fit_are_told(network, shape, reported):
    with pytest.raises(ValueError, match=reported):
        network.init(jax.random.key(0), jnp.ones(shape))


def test_groups_that_do_not_divide_the_width_are_told_where_they_are_used():
    with pytest.raises(
        ValueError, match=r"network\.groups=3: expected a divisor of network\.width=16"
    ):
        networks.resnet(outputs=2, norm="group", groups=3)
    assert networks.resnet(outputs=2, groups=3).init is not None


def test_standard_layers_of_torch_begin_uniform_within_one_over_root_fan_in_and_have_biases():
    theta = networks.mlp(
        outputs=3, width=400, depth=2, parametrization="standard", init="torch"
    ).init(jax.random.key(0), jnp.ones(50))
    for layer, n in {"hidden_0": 50, "hidden_1": 400, "readout": 400}.items():
        for leaf in ("kernel", "bias"):
            w = np.asarray(theta[layer][leaf]) * n**0.5
            assert abs(w).max() <= 1 + 1e-6  # rounding of float32
        w = np.asarray(theta[layer]["kernel"]) * n**0.5
        assert w.min() < -0.98 and w.max() > 0.98 and np.mean(w) == pytest.approx(0, abs=0.06)
        assert np.std(w) == pytest.approx(3**-0.5, rel=0.05)
    assert np.std(np.asarray(theta["hidden_0"]["bias"])) * 50**0.5 == pytest.approx(
        3**-0.5, rel=0.1
    )


def test_standard_layers_of_flax_begin_as_flax_begins_them():
    x = jnp.ones(50)
    theta = networks.mlp(outputs=3, width=400, parametrization="standard", init="flax").init(
        jax.random.key(0), x
    )
    theirs = nn.Dense(400, name="hidden_0").init(jax.random.key(7), x)["params"]
    assert not theta["hidden_0"]["bias"].any() and not theirs["bias"].any()
    ours, theirs = (np.sort(np.ravel(a)) for a in (theta["hidden_0"]["kernel"], theirs["kernel"]))
    np.testing.assert_allclose(
        ours[::100], theirs[::100], atol=0.02
    )  # the same quantiles, the largest included
    assert ours[-1] == pytest.approx(theirs[-1], rel=0.01)


def test_the_standard_layer_adds_up_as_torch_does():
    x = jax.random.normal(jax.random.key(1), (5,))
    for init in ("torch", "flax"):
        network = networks.mlp(outputs=2, width=8, parametrization="standard", init=init)
        theta = drawn(network, x)
        W0, b0, W1, b1 = (
            theta[layer][leaf] for layer in ("hidden_0", "readout") for leaf in ("kernel", "bias")
        )
        np.testing.assert_allclose(
            network.apply(theta, x), jax.nn.relu(x @ W0 + b0) @ W1 + b1, rtol=1e-12
        )


def gains(width, seeds=12, **settings):
    """Mean and standard error of f^2 and of |df/dtheta|^2 at one input, over initialisations of an
    MLP of two hidden layers."""
    network = networks.mlp(outputs=1, width=width, depth=2, w_std=2**0.5, **settings)
    theta = drawn(network, X, batch=(seeds,))
    if settings:  # as `init` draws it in standard, see below
        theta = jax.tree.map(lambda a: a * jnp.float32((2 / a.shape[-2]) ** 0.5), theta)

    def one(theta):
        f, g = jax.value_and_grad(lambda theta: network.apply(theta, X)[0])(theta)
        return f, sum(jnp.sum(a**2) for a in jax.tree.leaves(g))

    f, K = jax.jit(lambda theta: jax.lax.map(one, theta))(theta)
    return [
        (np.mean(v), np.std(v, ddof=1) / seeds**0.5) for v in (np.asarray(f) ** 2, np.asarray(K))
    ]


X = jnp.linspace(-2.0, 2.0, 5, dtype=jnp.float32)


def test_outputs_and_kernel_keep_their_size_over_widths_in_ntk_and_the_kernel_grows_in_standard():
    """ReLU with gain sqrt 2: E f^2 = Sigma^1 = 2 |x|^2 / n_0 at any width, and Theta^L = L Sigma^1
    (theory)."""
    expected, (narrow, wide) = 2 * float(X @ X) / 5, (gains(width) for width in (64, 1024))
    for f, K in (narrow, wide):
        assert abs(f[0] - expected) < 4 * f[1] and abs(K[0] - 3 * expected) < 4 * K[1]
    assert wide[1][1] < narrow[1][1] / 2  # the kernel concentrates
    (g, S), (G, T) = (gains(width, parametrization="standard") for width in (64, 1024))
    assert g[0] == pytest.approx(narrow[0][0], rel=1e-4) and G[0] == pytest.approx(
        wide[0][0], rel=1e-4
    )  # the same functions
    assert 12 < T[0] / S[0] < 18  # 16, but for the first layer, whose fan-in stays


def test_standard_layers_begin_at_the_size_that_ntk_has_in_front():
    theta = networks.mlp(
        outputs=3, width=400, w_std=1.5, b_std=0.3, parametrization="standard"
    ).init(jax.random.key(0), jnp.ones(50))
    assert np.std(theta["hidden_0"]["kernel"]) == pytest.approx(1.5 / 50**0.5, rel=0.03)
    assert np.std(theta["readout"]["kernel"]) == pytest.approx(1.5 / 400**0.5, rel=0.1)
    assert np.std(theta["hidden_0"]["bias"]) == pytest.approx(0.3, rel=0.15)


def test_ntk_at_one_rate_is_standard_at_a_rate_of_each_layers_own():
    """theory: W_std = w_std W / sqrt(n), b_std = beta b; rates eta w_std^2 / n and eta beta^2."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal(shape)) for shape in ((6, 4), (6, 2)))
    shape = dict(outputs=2, width=9, depth=2, activation="erf", w_std=1.5, b_std=0.3)
    ntk, standard = networks.mlp(**shape), networks.mlp(**shape, parametrization="standard")
    theta = drawn(ntk, x[0])
    sizes = jax.tree.map(lambda a: 1.5 / a.shape[0] ** 0.5 if a.ndim == 2 else 0.3, theta)

    def trained(network, theta, rates):
        def loss(theta):
            return 0.5 * jnp.mean((jax.vmap(network.apply, (None, 0))(theta, x) - y) ** 2)

        def step(_, theta):
            return jax.tree.map(
                lambda a, rate, g: a - rate * g, theta, rates, jax.grad(loss)(theta)
            )

        return jax.jit(
            lambda theta: jax.vmap(network.apply, (None, 0))(
                jax.lax.fori_loop(0, 20, step, theta), x
            )
        )(theta)

    ours = trained(ntk, theta, jax.tree.map(lambda a: 0.8, theta))
    theirs = trained(
        standard,
        jax.tree.map(jnp.multiply, theta, sizes),
        jax.tree.map(lambda a: 0.8 * a**2, sizes),
    )
    assert abs(ours - jax.vmap(ntk.apply, (None, 0))(theta, x)).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


def test_mup_at_gamma0_of_one_and_width_64_is_ntk_exactly_and_elsewhere_divides_by_gamma():
    x = jnp.linspace(-1.0, 1.0, 16).reshape(4, 4)
    for make in (networks.mlp, networks.cnn, networks.vit):
        ntk, mup = (make(outputs=2, width=64, parametrization=p) for p in ("ntk", "mup"))
        theta = drawn(ntk, x)
        assert (
            np.array_equal(jax.jit(ntk.apply)(theta, x), jax.jit(mup.apply)(theta, x))
            and ntk.rate_scale == mup.rate_scale == 1
        )
    wide = networks.mlp(outputs=2, width=256, parametrization="mup", gamma0=3.0)
    theta = drawn(wide, x)
    np.testing.assert_allclose(
        wide.apply(theta, x), networks.mlp(outputs=2, width=256).apply(theta, x) / 6
    )
    assert wide.rate_scale == 36


def kernel_motion(parametrization, width, **settings):
    """|K - K_0| / |K_0| and the loss after ten steps of gradient descent on 8 samples, means over 6
    initialisations."""
    rng = np.random.default_rng(0)
    x, y = (
        jnp.asarray(rng.standard_normal((8, 5))),
        jnp.asarray(np.sign(rng.standard_normal((8, 1)))),
    )
    network = networks.mlp(
        outputs=1,
        width=width,
        activation="tanh",
        w_std=1.5,
        parametrization=parametrization,
        **settings,
    )
    outputs = jax.vmap(network.apply, (None, 0))

    def kernel(theta):
        J = jax.vmap(lambda x: gradients(network, theta, x)[0])(x)
        return jnp.dot(J, J.T)

    def one(start):
        def loss(theta):
            return 0.5 * jnp.mean((outputs(theta, x) - outputs(start, x) - y) ** 2)

        def step(_, theta):
            return jax.tree.map(
                lambda a, g: a - 0.5 * network.rate_scale * g, theta, jax.grad(loss)(theta)
            )

        end = jax.lax.fori_loop(0, 10, step, start)
        return jnp.linalg.norm(kernel(end) - kernel(start)) / jnp.linalg.norm(kernel(start)), loss(
            end
        )

    motion, loss = jax.jit(jax.vmap(one))(drawn(network, x[0], batch=(6,)))
    return float(motion.mean()), float(loss.mean())


def test_in_mup_kernels_move_as_far_at_every_width_and_in_ntk_as_one_over_the_width():
    (mup_64, loss_64), (mup_1024, loss_1024) = (
        kernel_motion("mup", width, gamma0=8.0) for width in (64, 1024)
    )
    assert 0.3 < mup_64 < 1 and mup_1024 == pytest.approx(mup_64, rel=0.3)
    assert (
        loss_1024 == pytest.approx(loss_64, rel=0.1) and loss_64 < 0.25
    )  # of 0.5 at the start: one rate serves all widths
    (ntk_64, _), (ntk_1024, _) = (kernel_motion("ntk", width) for width in (64, 1024))
    assert 10 < ntk_64 / ntk_1024 < 25  # 16


def test_a_given_learning_rate_is_eta_0_of_mup_and_a_fraction_of_the_limit_needs_no_factor():
    rng = np.random.default_rng(0)
    data = Dataset(jnp.asarray(rng.standard_normal((4, 5))), jnp.asarray(np.eye(2)[[0, 1, 0, 1]]))
    stream = (Task(data, data, jnp.ones(2)),)

    def plan(network, **training):
        given = Training(steps=1, **training)
        return next(
            experiment.run(
                jax.random.key(0),
                stream,
                network,
                losses.squared_error(),
                optimizers.sgd(),
                given,
                anchors=(),
            )
        )

    ntk, mup = (
        networks.mlp(outputs=2, width=16),
        networks.mlp(outputs=2, width=16, parametrization="mup", gamma0=4.0),
    )
    fraction, given = plan(ntk), plan(mup, learning_rate=0.1)
    assert given.learning_rate == pytest.approx(0.4) and given.limit == pytest.approx(
        4 * fraction.limit
    )
    assert rate(Training(), given.limit, mup.rate_scale) == pytest.approx(
        4 * fraction.learning_rate
    )
    with pytest.raises(
        ValueError,
        match=(
            r"learning_rate=7: the learning rate 28 exceeds the stability limit 24 .* use at "
            r"most 6\.0"
        ),
    ):
        rate(Training(learning_rate=7.0), 24.0, mup.rate_scale)
    with pytest.raises(
        ValueError, match=r"network\.parametrization=mup: .* expected that, or ntk"
    ):  # Adam
        rate(Training(learning_rate=0.1), float("inf"), mup.rate_scale)


SEEN = {
    "cnn": (
        networks.cnn(outputs=2, width=3, stride=2, stride_every=2, b_std=0.3, readout="mean"),
        (5, 4, 2),
    ),
    "lenet": (
        networks.lenet(
            outputs=2, width=1, padding="SAME", parametrization="standard", init="torch"
        ),
        (4, 4),
    ),
    "resnet": (networks.resnet(outputs=2, width=2, stages=2), (4, 4)),
    "vit": (
        networks.vit(
            outputs=2,
            width=4,
            depth=1,
            patch=2,
            heads=2,
            parametrization="mup",
            gamma0=0.5,
            b_std=0.1,
        ),
        (2, 4),
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_the_structured_kernel_is_that_of_the_jacobian_and_sees_every_layer(name):
    network, shape = SEEN[name]
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, *shape)))
    theta = drawn(network, x[0])
    J = jax.jit(jax.vmap(lambda x: gradients(network, theta, x)))(x)
    K = np.einsum("icp,jdp->icjd", J, J)
    np.testing.assert_allclose(kernels.structured(network)(theta, x), K, atol=1e-10 * abs(K).max())
    assert [jax.tree.leaves(theta)[i].shape for i in network.taps.survey(theta, x[0]).rest] == (
        [(2, 4)] if name == "vit" else []
    )


@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), (2, "SAME")])
def test_a_convolution_is_flax_own_with_kernel_and_bias_of_their_scales(stride, padding):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((5, 6, 2)))
    for how, factor, shift in (
        (networks.Layers(1.5, 0.3), 1.5 / 18**0.5, 0.3),
        (networks.Layers(parametrization="standard", init="torch"), 1.0, 1.0),
    ):
        ours, theirs = (
            networks.Conv(4, 3, stride, padding, how),
            nn.Conv(4, (3, 3), stride, padding),
        )
        theta = {
            "kernel": jnp.asarray(rng.standard_normal((3, 3, 2, 4))),
            "bias": jnp.asarray(rng.standard_normal(4)),
        }
        scaled = {"kernel": factor * theta["kernel"], "bias": shift * theta["bias"]}
        np.testing.assert_allclose(
            ours.apply({"params": theta}, x),
            theirs.apply({"params": scaled}, x),
            rtol=0,
            atol=1e-12,
        )


def test_a_convolution_of_torch_begins_within_one_over_the_root_of_its_window():
    module = networks.Conv(300, 3, layers=networks.Layers(parametrization="standard", init="torch"))
    theta = module.init(jax.random.key(0), jnp.ones((4, 4, 8), jnp.float32))["params"]
    for leaf in ("kernel", "bias"):
        w = np.asarray(theta[leaf]) * 72**0.5
        assert (
            abs(w).max() <= 1 + 1e-6
            and np.std(w) == pytest.approx(3**-0.5, rel=0.06)
            and w.min() < -0.95 < 0.95 < w.max()
        )


def parameters(network, *shape):
    return jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def count(theta):
    return sum(a.size for a in jax.tree.leaves(theta))


def test_sizes_are_those_of_the_literature():
    torch = dict(outputs=10, parametrization="standard", init="torch")
    assert (
        count(parameters(networks.lenet(**torch), 28, 28)) == 61_706
    )  # LeNet-5 as every PyTorch tutorial has it
    convolutions = {
        k: v["kernel"].shape
        for k, v in parameters(networks.resnet(outputs=10, blocks=3), 32, 32, 3).items()
        if k != "readout"
    }
    threes = [shape for shape in convolutions.values() if shape[0] == 3]
    assert (
        len(threes) == 19 and sum(np.prod(shape) for shape in threes) == 267_696
    )  # ResNet-20, whose shortcuts have no parameters
    assert sorted(shape for shape in convolutions.values() if shape[0] == 1) == [
        (1, 1, 16, 32),
        (1, 1, 32, 64),
    ]
    strided = parameters(networks.cnn(outputs=3, width=5, depth=4, stride=2, stride_every=2), 8, 8)
    assert strided["readout"]["kernel"].shape == (2 * 2 * 5, 3)  # halved by layers 2 and 4


def test_group_norm_takes_the_size_of_the_layer_before_it_away():
    x = jnp.asarray(np.random.default_rng(1).standard_normal((4, 4)))
    for norm, same in (("group", True), ("none", False)):
        network = networks.resnet(outputs=2, width=4, stages=1, norm=norm, groups=2)
        theta = drawn(network, x)
        doubled = theta | {"block_0_0_first": {"kernel": 1000 * theta["block_0_0_first"]["kernel"]}}
        f, g = jax.jit(network.apply)(theta, x), jax.jit(network.apply)(doubled, x)
        assert np.allclose(f, g, rtol=1e-3) == same


def test_a_transformer_tells_patches_apart_by_position_alone():
    x = np.random.default_rng(1).standard_normal((4, 6, 2))
    swapped = x.copy()
    swapped[:2, :2], swapped[2:, 4:] = x[2:, 4:], x[:2, :2]
    for position_std, same in ((0.0, True), (0.5, False)):
        network = networks.vit(
            outputs=2, width=8, depth=1, patch=2, heads=2, position_std=position_std
        )
        theta, apply = drawn(network, jnp.asarray(x)), jax.jit(network.apply)
        assert (
            np.allclose(apply(theta, jnp.asarray(x)), apply(theta, jnp.asarray(swapped)), rtol=1e-9)
            == same
        )


@pytest.mark.parametrize(
    "settings",
    [
        dict(depth=3, kernel_size=2, padding="VALID", b_std=0.2),
        dict(stride=2, readout="mean", w_std=1.4, activation="erf", output_scale=0.5),
    ],
    ids=["valid", "mean"],
)
def test_the_infinite_kernel_of_a_cnn_is_the_one_of_its_settings(settings):
    x1 = jax.random.normal(jax.random.key(0), (3, 6, 6))
    x2 = jax.random.normal(jax.random.key(1), (2, 6, 6))
    ntk = kernels.infinite_conv(**(dict(depth=2) | settings)).ntk
    network = networks.cnn(outputs=3, width=4, **settings)
    np.testing.assert_array_equal(network.infinite(x1), ntk(x1[..., None]))
    np.testing.assert_array_equal(network.infinite(x1, x2), ntk(x1[..., None], x2[..., None]))
    colours = jnp.stack([x1, x1 + 1], -1)
    np.testing.assert_array_equal(network.infinite(colours), ntk(colours))


@pytest.mark.parametrize("make", [networks.mlp, networks.cnn], ids=["mlp", "cnn"])
@pytest.mark.parametrize("parametrization", ["standard", "mup"])
def test_no_infinite_kernel_is_known_in_another_parametrization(make, parametrization):
    assert make(outputs=2).infinite is not None
    assert make(outputs=2, parametrization=parametrization).infinite is None


def test_no_infinite_kernel_is_known_where_strides_differ_from_layer_to_layer():
    assert networks.cnn(outputs=2, stride=2, stride_every=2).infinite is None


def test_the_infinite_kernel_of_an_mlp_is_the_one_of_its_settings():
    x = jax.random.normal(jax.random.key(0), (3, 5))
    settings = dict(depth=2, activation="erf", w_std=1.3, b_std=0.1, output_scale=0.5)
    ntk = kernels.infinite(**settings).ntk
    np.testing.assert_array_equal(networks.mlp(outputs=3, **settings).infinite(x), ntk(x))
