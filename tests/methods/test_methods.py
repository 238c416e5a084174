"""Each method's kernel-space equivalent against numbers worked out on paper and against training,
with whatever the method does to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import linear, mostly_slow, quadratic_features, random_stream

from ntkcl import dynamics, experiment, kernels, losses, methods, networks, optimizers
from ntkcl.experiment import record
from ntkcl.training.settings import Training
from ntkcl.types import Network, TaskRows

A, B = np.array([[1.0, 0, 1], [0, 1, 0]]), np.array([[1.0, 1, 0], [0, 1, 1]])
X = jnp.asarray(np.concatenate([A, B]))
THETA_A = jnp.array([0.5, -1.0, 0.5])
GD = dynamics.gradient_descent(0.1, 7)
PAPER = {
    "converged": (methods.naive(), dynamics.converged(), [1, 1]),
    "flow": (methods.naive(), dynamics.gradient_flow(0.1, 7), [0.8775435717] * 2),
    "flow, mean": (methods.naive(), dynamics.gradient_flow(0.05, 7), [0.6500622509] * 2),
    "GD": (methods.naive(), GD, [0.9176457] * 2),
    "GD, mean": (methods.naive(), dynamics.gradient_descent(0.05, 7), [0.6794229117] * 2),
    "heavy ball": (methods.naive(), dynamics.heavy_ball(0.1, 7, 0.9), [1.3663128] * 2),
    "Nesterov": (methods.naive(), dynamics.nesterov(0.1, 7, 0.9), [1.0388321411] * 2),
    "ridge": (methods.l2(0.5), dynamics.converged(), [0.8571428571] * 2),
    "L2 to previous": (methods.l2(0.5), GD, [0.8151237609] * 2),
    "decay": (methods.l2(0.2, "zero"), GD, [0.7180720682, 0.9818210017]),
    "PCA-OGD": (methods.pca_ogd(1, per_task=None), dynamics.converged(), [0, 1.5]),
    "OGD": (methods.ogd(per_task=None), dynamics.converged(), [0, 0]),
    "EWC": (
        methods.ewc(2.0),
        dynamics.converged(),
        [0.4285714286, 0.8571428571],
    ),  # theory's lambda is of a sum over 2 samples
    "EWC, finite": (methods.ewc(2.0), GD, [0.5316471, 0.7645731]),
    "EWC, online": (
        methods.ewc(2.0, online=True),
        GD,
        [0.5316471, 0.7645731],
    ),  # one old task: the centres agree
    "EWC, diagonal": (methods.ewc_diagonal(1.0), dynamics.converged(), [0.8568980291] * 2),
    "functional": (methods.functional(2.0), GD, [0.5316471, 0.7645731]),
    "LwF": (methods.lwf(0.5), GD, [0.6565170984] * 2),
}


def rows(targets=((1.0, -1.0), (0.0, 2.0))):
    places = np.array([0, 1]), np.array([2, 3])
    return [
        TaskRows(i, jnp.asarray(y)[:, None], np.ones(1), 1.0)
        for i, y in zip(places, targets, strict=True)
    ]


def on_paper(method, rule):
    """The drift on A, and the residual on B, of task B from the converged network of task A."""
    network = Network(None, lambda theta, x: theta[None] @ x)
    f = (X @ THETA_A)[:, None]
    tangent = kernels.tangent(network, THETA_A, X, f, kernels.contraction(network))
    step = method.step(tangent, rows(), 1, [jnp.zeros((4, 1)), f])
    done = dynamics.one_task(tangent.kernel, f, step, rule)
    return done.change[:2, 0], jnp.array([0.0, 2.0]) - (f + done.change)[2:, 0]


@pytest.mark.parametrize("name", PAPER)
def test_two_tasks_match_theory_12_2(name):
    method, rule, drift = PAPER[name]
    np.testing.assert_allclose(on_paper(method, rule)[0], drift, atol=1e-9)


def test_what_lies_in_the_memory_of_ogd_cannot_be_learned():
    np.testing.assert_allclose(
        on_paper(methods.ogd(per_task=None), dynamics.converged())[1], [1.5, 1.5], atol=1e-9
    )


def test_replay_of_one_sample_matches_theory_12_2():
    kept = next(seed for seed in range(20) if methods.memory.draw_memory(seed, 0, 2, 1)[0] == 0)
    np.testing.assert_allclose(
        on_paper(methods.replay(1, seed=kept), dynamics.converged())[0], [0, 1.5], atol=1e-9
    )


CONTRACTION = functools.cache(kernels.contraction)  # one of each network, compiled once
SIZES, HEADS = [5, 5, 5], {"shared": None, "overlapping": [[1, 1, 0], [0, 1, 1], [1, 0, 1]]}
TRAINED = {
    "naive": methods.naive(),
    "joint": methods.joint(),
    "replay": methods.replay(3, 0.7, seed=4),
    "functional": methods.functional(2.0, per_task=2),
    "L2 to previous": methods.l2(0.05),
    "L2 to the start": methods.l2(0.05, "start"),
    "weight decay": methods.l2(0.05, "zero"),
    "EWC": methods.ewc(0.1),
    "EWC online": methods.ewc(0.1, online=True),
    "LwF": methods.lwf(0.8),
    "OGD": methods.ogd(2),
    "OGD-GTL": methods.ogd(None, "true"),
    "OGD+": methods.ogd_plus(2),
    "OGD-AVE": methods.ogd(None, "average"),
    "OGD+, average": methods.ogd_plus(3, "average"),
    "PCA-OGD": methods.pca_ogd(4, per_task=None),
    "PCA-OGD, average": methods.pca_ogd(2, 4, "average"),
    "spectral": methods.spectral(0.1, 4, 3),
    "SI": methods.si(0.01),  # these have none, and the linearised network is trained
    "ER": methods.er(4, 3),
    "GPM": methods.gpm(0.8, 3),
}
RULES = {"gradient descent": (0.0, False), "heavy ball": (0.8, False), "Nesterov": (0.8, True)}


@functools.cache
def linearised_mlp():
    """One network, so that what one test has compiled serves the next."""
    x = random_stream(jax.random.key(3), SIZES, d=4, c=3)[0].train.x[0]
    network = networks.mlp(outputs=3, width=9, activation="tanh", b_std=0.4)
    return networks.linearised(network, network.init(jax.random.key(1), x))


def recorded(method, heads, rule=(0.0, False), form="auto", anchors=experiment.DEFAULT, **settings):
    stream = random_stream(jax.random.key(3), SIZES, d=4, c=3, heads=HEADS[heads])
    training = Training(**(dict(steps=30) | settings))
    optimizer = optimizers.sgd(*rule)
    kernel, network = CONTRACTION, linearised_mlp()
    events = experiment.run(
        jax.random.key(0),
        stream,
        network,
        losses.squared_error(),
        optimizer,
        training,
        method=method,
        form=form,
        anchors=anchors,
        kernel=kernel,
    )
    return record.gather(events, stream), stream


OWN_HEADS = (
    "joint",
    "replay",
    "EWC",
    "LwF",
    "OGD-GTL",
    "OGD-AVE",
    "PCA-OGD",
    "spectral",
)  # where masks do something

OF_EACH_KIND = (
    *("naive", "joint", "replay", "functional", "LwF", "OGD", "OGD-AVE", "PCA-OGD", "SI", "ER"),
    "spectral",
    *("weight decay", "L2 to previous", "L2 to the start", "EWC", "EWC online"),
)


@functools.cache
def plainly(heads):
    return recorded(methods.naive(), heads, anchors=[])[0]


@pytest.mark.parametrize(
    ("name", "heads"),
    mostly_slow(
        [(name, "shared") for name in TRAINED] + [(name, "overlapping") for name in OWN_HEADS],
        *((name, "shared") for name in OF_EACH_KIND),
        *((name, "overlapping") for name in ("joint", "EWC", "OGD-GTL", "spectral")),
    ),
)
def test_the_kernel_space_step_of_a_method_is_its_training_of_the_linearised_model(name, heads):
    run, _ = recorded(TRAINED[name], heads)
    assert run.status == "completed"
    np.testing.assert_allclose(run.outputs("init"), run.measured, atol=1e-10)
    np.testing.assert_allclose(run.changes["boundary"], np.diff(run.measured, axis=0), atol=1e-10)
    # A step begins with the task's own rows; without a step no kernel is held.
    assert np.isfinite(run.baselines.cross_energy).all() == (TRAINED[name].step is not None)
    if name != "naive":
        plain = plainly(heads)
        assert np.max(np.abs(plain.measured[-1] - run.measured[-1])) > 1e-3  # it does something


@pytest.mark.parametrize(
    ("name", "rule"),
    [("weight decay", "heavy ball"), ("replay", "Nesterov"), ("PCA-OGD", "Nesterov")],
)
def test_momentum_and_methods_go_together(name, rule):
    run, _ = recorded(TRAINED[name], "shared", RULES[rule])
    np.testing.assert_allclose(run.outputs("init"), run.measured, atol=1e-10)


LIMITS = [("naive", rule) for rule in RULES] + [
    ("replay", "gradient descent"),
    ("weight decay", "gradient descent"),
    ("spectral", "gradient descent"),
]


@pytest.mark.parametrize(("name", "rule"), LIMITS)
@pytest.mark.parametrize("side", [0.98, 1.03])
def test_the_limit_of_a_method_is_where_its_training_turns(name, rule, side):
    run, _ = recorded(
        TRAINED[name],
        "shared",
        RULES[rule],
        learning_rate_fraction=side,
        allow_unstable=True,
        steps=3000,
        anchors=[],
    )
    assert (run.status == "diverged") == (side > 1)


def test_joint_training_in_batches_gets_a_limit_that_no_batch_exceeds():
    """The last task's inputs are large: a batch of it may be its worst sample, beside all rows of
    the tasks before."""
    *first, last = random_stream(jax.random.key(5), [6, 3, 8])
    stream = (*first, last._replace(train=last.train._replace(x=2 * last.train.x)))
    plain = losses.squared_error(), optimizers.sgd(), Training(batch_size=1)
    network = linear(quadratic_features, 2)
    plan = next(
        experiment.run(
            jax.random.key(0), stream, network, *plain, method=methods.joint(), anchors=[]
        )
    )
    features = [np.asarray(jax.vmap(quadratic_features)(task.train.x)) for task in stream]
    old, new = np.concatenate(features[:2]), features[2]
    top = (8 * np.max(np.sum(new**2, 1)) + np.linalg.eigvalsh(old @ old.T)[-1]) / (17 * 2)
    assert plan.limit == pytest.approx(2 / top)


def test_diagonal_ewc_is_the_minimum_of_its_objective():
    """Three tasks, each solved as a linear system in the parameters of the linearised model."""
    stream = random_stream(jax.random.key(3), SIZES, d=4, c=3)
    network = linearised_mlp()
    theta0 = network.init(None, None)
    x = jnp.concatenate([task.train.x for task in stream])
    flat, back = jax.flatten_util.ravel_pytree(theta0)
    flat = np.asarray(flat)
    J = jax.jit(jax.vmap(jax.jacrev(lambda v, x: network.apply(back(v), x)), (None, 0)))(
        flat, x
    )  # [N, c, p]
    f = jax.jit(jax.vmap(network.apply, (None, 0)))(theta0, x)
    ends = np.cumsum([0, *SIZES])
    tasks = [
        TaskRows(np.arange(a, b), task.train.y, np.ones(3), 3.0 * (b - a))
        for a, b, task in zip(ends[:-1], ends[1:], stream, strict=True)
    ]
    method, memory, theta = methods.ewc_diagonal(0.3, damping=0.02), (), theta0
    tangent = kernels.tangent(network, theta0, x, f, kernels.contraction(network))
    fs, apply, loss = [f], network.apply, losses.squared_error()
    for t, task in enumerate(stream):
        done = dynamics.one_task(
            tangent.kernel,
            fs[-1],
            method.step(tangent, tasks, t, fs),
            dynamics.converged(cut=1e-9),
        )
        memory = method.begin(memory, network, theta, task)

        v, own = np.asarray(jax.flatten_util.ravel_pytree(theta)[0]), tasks[t].inputs
        rows = np.asarray(J)[own].reshape(-1, len(v))
        residual = (np.asarray(task.train.y) - np.asarray(f)[own]).ravel() - rows @ (v - flat)
        stiff = (
            0.3 * np.diag(np.asarray(jax.flatten_util.ravel_pytree(memory[1])[0]) + 0.02)
            if memory
            else np.zeros((len(v), len(v)))
        )
        v = v + np.linalg.pinv(
            rows.T @ rows / len(rows) + stiff, rcond=1e-11, hermitian=True
        ) @ rows.T @ residual / len(rows)

        def objective(v, memory=memory, task=task):
            theta = back(v)
            outputs = jax.vmap(apply, (None, 0))(theta, task.train.x)
            task_loss = jnp.mean(
                jax.vmap(loss.value, (0, 0, None))(outputs, task.train.y, task.head)
            )
            return method.objective(memory, apply, loss, theta, task.train, task.head, task_loss)

        assert jnp.max(jnp.abs(jax.jit(jax.grad(objective))(v))) < 1e-9
        theta = back(v)
        memory = method.consolidate(memory, network, loss, theta, task)
        fs.append(fs[-1] + done.change)
        np.testing.assert_allclose(fs[-1], f + np.einsum("ncp,p->nc", J, v - flat), atol=1e-7)


def test_a_twin_without_a_finite_form_is_refused_where_steps_are_finite():
    with pytest.raises(
        ValueError,
        match="kernel-space equivalent for training to the end alone; use linearised or auto",
    ):
        recorded(methods.ewc_diagonal(1.0), "shared", form="closed")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.replay(0), "method.per_task=0"),
        (lambda: methods.replay(5, -1.0), "method.weight=-1.0: expected a finite number above 0"),
        (lambda: methods.l2(0.0), "method.penalty=0.0"),
        (
            lambda: methods.l2(1.0, "middle"),
            "method.centre=middle: expected previous, start or zero",
        ),
        (lambda: methods.ewc(float("nan")), "method.penalty=nan"),
        (lambda: methods.ewc_diagonal(1.0, damping=-1.0), "method.damping=-1.0"),
        (lambda: methods.lwf(0), "method.weight=0"),
        (lambda: methods.spectral(0.0), "method.strength=0.0: expected a finite number above 0"),
        (lambda: methods.spectral(modes=0), "method.modes=0"),
        (
            lambda: recorded(methods.spectral(modes=15), "shared"),
            "method.modes=15: expected fewer than the 15 rows kept of task 0",
        ),
        (lambda: methods.ogd(outputs="none"), "method.outputs=none: expected all, average or true"),
        (lambda: methods.pca_ogd(0), "method.directions=0"),
        (
            lambda: recorded(methods.replay(6), "shared"),
            "method.per_task=6: expected at most 5, the samples of task 0",
        ),
        (
            lambda: recorded(methods.pca_ogd(16, per_task=None), "shared"),
            "method.directions=16: expected at most 15",
        ),
        (lambda: optimizers.sgd(1.0), "optimizer.momentum=1.0"),
        (lambda: optimizers.sgd(0.0, True), "optimizer.nesterov=true with optimizer.momentum=0"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_fisher_of_zeros_is_named():
    network = Network(None, lambda theta, x: theta[None] @ x)
    x = X.at[:2].set(0.0)
    tangent = kernels.tangent(network, THETA_A, x, jnp.zeros((4, 1)), kernels.contraction(network))
    with pytest.raises(ValueError, match="the Fisher information has zeros on its diagonal"):
        methods.ewc_diagonal(1.0, damping=0.0).step(tangent, rows(), 1, [jnp.zeros((4, 1))] * 2)
