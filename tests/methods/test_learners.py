"""Laws that every method keeps, and each method without a closed form against a slow loop or
numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import mostly_slow, random_stream
from models import model

from ntkcl import forecast, losses, methods, networks, optimizers, resources
from ntkcl.methods import buffer
from ntkcl.methods.fisher import diagonal_fisher
from ntkcl.methods.gpm import _by_products
from ntkcl.training import loop
from ntkcl.types import Dataset, Loss, Network, Task

LOSS, SOFTMAX = losses.squared_error(), losses.cross_entropy()
STEPS, SIZES = 4, [6, 6]


def init(key, x):
    a, b = jax.random.split(key)
    return {
        "in": jax.random.normal(a, (4, len(x)), x.dtype),
        "out": jax.random.normal(b, (3, 4), x.dtype) / 2,
    }


# Written out, for a linen module takes longer to trace than this one to train.
NETWORK = Network(init, lambda theta, x: theta["out"] @ jnp.tanh(theta["in"] @ x))
LAYERED = networks.mlp(
    outputs=3, width=4, activation="tanh", b_std=0.3, centred=False
)  # for those that ask for layers
RATE = optax.sgd(0.1)
KEY = jax.random.key(0)

FIXED = {  # memory of fixed shapes: one compilation serves all tasks
    "SI": methods.si(0.5),
    "MAS": methods.mas(0.3),
    "ER": methods.er(12, 12),
    "ER, random": methods.er(4, 2, 0.7, passes="all"),
    "ER, balanced": methods.er(5, 2, buffer="balanced"),
    "DER": methods.der(0.3, 12, 12, passes="first"),
    "DER++": methods.der_plus_plus(0.2, 0.6, 12, 12, passes="first"),
    "A-GEM": methods.agem(4, 3),
    "SI and A-GEM": methods.together(
        {"penalty": methods.si(0.5), "projection": methods.agem(4, 3)}
    ),
    "GPM": methods.gpm([0.7, 0.9], 4, 0.05),
    "GPM, all": methods.gpm(1.0, 2),
}
GROWING = {
    "naive": methods.naive(),
    "joint": methods.joint(),
    "replay": methods.replay(3),
    "functional": methods.functional(),
    "L2": methods.l2(0.1),
    "EWC": methods.ewc(),
    "EWC diagonal": methods.ewc_diagonal(),
    "EWC diagonal, sampled": methods.ewc_diagonal(labels="sampled", online=False),
    "LwF": methods.lwf(),
    "OGD": methods.ogd(1),
    "OGD+": methods.ogd_plus(1),
    "OGD-AVE": methods.ogd(2, "average"),
    "OGD-GTL": methods.ogd(2, "true"),
    "PCA-OGD": methods.pca_ogd(2, per_task=2),
    "spectral": methods.spectral(modes=3),
}
ALL = FIXED | GROWING
PLAIN_AT_FIRST = [name for name in ALL if name not in ("L2", "ER", "ER, random", "DER", "DER++")]
OFF = {
    "SI": methods.si(0.0),
    "MAS": methods.mas(0.0),
    "GPM": methods.gpm(0.0, 4),
}  # with nothing of them left


@functools.cache
def stream(dtype=jnp.float64):
    return random_stream(jax.random.key(3), SIZES, d=4, c=3, dtype=dtype)


def network_of(name):
    return LAYERED if name.startswith("GPM") else NETWORK


@functools.cache
def theta0(dtype=jnp.float64, network=NETWORK):
    with jax.ensure_compile_time_eval():  # it may be asked for inside a jit
        return network.init(jax.random.key(1), stream(dtype)[0].train.x[0])


def trained(
    method,
    tasks=None,
    *,
    loss=LOSS,
    network=NETWORK,
    theta=None,
    batch_size=2,
    steps=STEPS,
    transform=RATE,
    key=KEY,
):
    """[(theta, memory before the task, memory after its last step, memory after it)] of each
    task."""
    tasks = stream() if tasks is None else tasks
    theta, memory, ended = theta0(network=network) if theta is None else theta, (), []
    for t, task in enumerate(tasks):
        begun = method.begin(memory, network, theta, task)
        fitted = loop.train(
            jax.random.fold_in(key, t),
            theta,
            task.train,
            task.head,
            memory=begun,
            apply=network.apply,
            loss=loss,
            transform=transform,
            steps=steps,
            batch_size=batch_size,
            method=method,
        )
        theta = fitted.theta
        memory = method.consolidate(fitted.state.memory, network, loss, theta, task)
        ended.append((theta, begun, fitted.state.memory, memory))
    return ended


PROGRAMS = {}  # how many steps of training were compiled for a method


def known(name, dtype=jnp.float64, network=None):
    return _known(name, dtype, network or network_of(name))


@functools.cache
def _known(name, dtype, network):
    before = loop.advance._cache_size()
    ended = trained(ALL[name], stream(dtype), network=network, theta=theta0(dtype, network))
    PROGRAMS[name, dtype] = loop.advance._cache_size() - before
    return ended


def leaves(theta):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(theta)]


def flat(theta):
    return np.concatenate([leaf.ravel() for leaf in leaves(theta)])


def away(a, b):
    return np.max(np.abs(flat(a) - flat(b)))


@pytest.mark.parametrize("name", PLAIN_AT_FIRST)
def test_the_first_task_is_plain_training(name):
    plain = known("naive", network=network_of(name))
    assert away(known(name)[0][0], plain[0][0]) < 1e-14
    if name != "naive":
        assert away(known(name)[-1][0], plain[-1][0]) > 1e-5  # and the last one is not


@pytest.mark.parametrize("name", OFF)
def test_a_method_of_strength_zero_is_plain_training(name):
    network = network_of(name)
    assert (
        away(trained(OFF[name], network=network)[-1][0], known("naive", network=network)[-1][0])
        < 1e-14
    )


@pytest.mark.parametrize("name", FIXED)
def test_the_same_seeds_give_the_same_bits_and_tasks_of_one_size_share_a_compilation(name):
    first, again = known(name), trained(ALL[name], network=network_of(name))
    assert PROGRAMS[name, jnp.float64] == 1
    np.testing.assert_array_equal(flat(again[-1][0]), flat(first[-1][0]))


@pytest.mark.parametrize("name", ALL)
def test_parameters_and_memory_keep_the_floating_type(name):
    ended = known(name, jnp.float32)
    floating = [
        leaf.dtype
        for path, leaf in jax.tree.leaves_with_path(ended[-1])
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        and not {".gram", ".inverse"} & set(map(str, path))  # of OGD, which are solved with
    ]
    assert {jnp.dtype(jnp.float32)} == set(floating)
    assert away(ended[-1][0], theta0(jnp.float32, network_of(name))) > 1e-3


def mean_loss(theta, batch, head, loss=LOSS):
    return jnp.mean(
        jax.vmap(lambda x, y: loss.value(NETWORK.apply(theta, x), y, head))(batch.x, batch.y)
    )


f_of = jax.jit(NETWORK.apply)
own_slope = jax.jit(jax.grad(mean_loss))


def test_si_is_the_path_integral_of_zenke():
    """Importances by a NumPy loop over every step of two tasks, the second one with the penalty of
    the first."""
    head, theta, importance, strength = jnp.ones(3), flat(theta0()), 0.0, 0.5
    back = jax.flatten_util.ravel_pytree(theta0())[1]
    for t, task in enumerate(stream()):
        before, path = theta, 0.0
        for index in loop.batches(jax.random.fold_in(KEY, t), 6, 2, STEPS):
            own = flat(
                own_slope(back(theta), Dataset(task.train.x[index], task.train.y[index]), head)
            )
            step = -0.1 * (own + 2 * strength * importance * (theta - before))
            path = path - own * step
            theta = theta + step
        importance = importance + path / ((theta - before) ** 2 + 0.1)
        ended, _, _, memory = known("SI")[t]
        np.testing.assert_allclose(flat(ended), theta, atol=1e-13)
        np.testing.assert_allclose(flat(memory.importance), importance, rtol=1e-9, atol=1e-13)


def test_the_path_integral_adds_up_to_the_fall_of_the_loss():
    task = stream()[0]
    theta, _, memory, _ = trained(
        methods.si(), [task], batch_size=None, steps=400, transform=optax.sgd(1e-3)
    )[0]
    fall = mean_loss(theta0(), task.train, task.head) - mean_loss(theta, task.train, task.head)
    np.testing.assert_allclose(flat(memory.path).sum(), fall, rtol=1e-3)


def test_mas_takes_absolute_values_sample_by_sample():
    expected = 0.0
    for task, (theta, *_, memory) in zip(stream(), known("MAS"), strict=True):
        for x in task.train.x:
            expected = expected + np.abs(flat(squared_norm_slope(theta, x))) / len(task.train.x)
        np.testing.assert_allclose(flat(memory.importance), expected, rtol=1e-12)
    last = known("MAS")[-1]
    value = ALL["MAS"].objective(last[1], NETWORK.apply, LOSS, last[0], None, None, 2.0)
    earlier = flat(known("MAS")[0][3].importance)
    np.testing.assert_allclose(
        value, 2 + 0.3 * np.sum(earlier * (flat(last[0]) - flat(last[1].before)) ** 2)
    )


squared_norm_slope = jax.jit(jax.grad(lambda theta, x: jnp.sum(NETWORK.apply(theta, x) ** 2)))


REPLAYED = {"ER": None, "DER": (0.3, 0.0), "DER++": (0.2, 0.6)}


@pytest.mark.parametrize("name", REPLAYED)
def test_replay_from_a_buffer_that_holds_everything_is_a_plain_loop(name):
    """Of two tasks all samples are kept, once, in the order of the first pass, and all are drawn,
    so that nothing is random."""
    theta, kept, head = theta0(), [], jnp.ones(3)

    @jax.jit
    def slope(theta, batch, x, y, z, n):
        def objective(theta):
            own, here = mean_loss(theta, batch, head), jnp.arange(12) < n
            old = jnp.where(
                here, jax.vmap(lambda x, y: LOSS.value(NETWORK.apply(theta, x), y, head))(x, y), 0
            ).sum()
            apart = jnp.where(
                here, ((jax.vmap(NETWORK.apply, (None, 0))(theta, x) - z) ** 2).sum(1), 0
            ).sum()
            if REPLAYED[name] is None:
                return (2 * own + old) / (2 + n)
            alpha, beta = REPLAYED[name]
            return own + (alpha * apart + beta * old) / jnp.maximum(n, 1)

        return jax.grad(objective)(theta)

    for t, task in enumerate(stream()):
        for s, index in enumerate(loop.batches(jax.random.fold_in(KEY, t), 6, 2, STEPS)):
            batch = Dataset(task.train.x[index], task.train.y[index])
            now = [(x, y, f_of(theta, x)) for x, y in zip(*batch, strict=True)]
            old = map(np.stack, zip(*kept, *[now[0]] * (12 - len(kept)), strict=True))
            theta = jax.tree.map(
                lambda a, g: a - 0.1 * g, theta, slope(theta, batch, *old, len(kept))
            )
            kept += now if s < 3 else []
    ended, _, _, memory = known(name)[-1]
    np.testing.assert_allclose(flat(ended), flat(theta), atol=1e-13)
    assert int(memory.count) == len(kept) == 12
    for part, rows in zip(
        zip(*kept, strict=True), (memory.rows.x, memory.rows.y, memory.rows.outputs), strict=True
    ):
        if len(jax.tree.leaves(rows)):
            np.testing.assert_allclose(rows, np.stack(part), atol=1e-13)


HEAD, BOTH = jnp.array([1.0, 0, 1]), (0, 2)
CLASSES = Dataset(stream()[0].train.x, jnp.eye(3)[jnp.array([0, 2, 2, 0, 2, 0])])
jacobian_of = jax.jit(jax.jacrev(NETWORK.apply))


def diagonal(loss, head=HEAD, theta=None, seed=0, **options):
    method = methods.ewc_diagonal(seed=seed, **options)
    memory = method.consolidate(
        (), NETWORK, loss, theta0() if theta is None else theta, Task(CLASSES, CLASSES, head)
    )
    return flat(memory.fisher)


def scores(loss, labels):
    """For each sample the pairs (probability, score) over the labels taken, the score a gradient of
    log p(y | x) by hand."""
    for x, y in zip(*CLASSES, strict=True):
        f = np.asarray(f_of(theta0(), x))[list(BOTH)]
        J = np.stack([flat(row) for row in rows_of(jacobian_of(theta0(), x))])[list(BOTH)]
        if loss is LOSS:
            yield (
                [(1.0, J[0]), (1.0, J[1])]
                if labels == "all"
                else [(1.0, (np.asarray(y)[list(BOTH)] - f) @ J)]
            )
            continue
        p = np.exp(f) / np.exp(f).sum()
        each = [(p[a], (np.eye(2)[a] - p) @ J) for a in range(2)]
        one = {"predicted": int(np.argmax(p)), "true": int(np.argmax(np.asarray(y)[list(BOTH)]))}
        yield each if labels == "all" else [(1.0, each[one[labels]][1])]


def rows_of(jacobian):
    return [jax.tree.map(lambda j, a=a: j[a], jacobian) for a in range(3)]


FISHERS = [
    (LOSS, "all"),
    (LOSS, "true"),
    (SOFTMAX, "all"),
    (SOFTMAX, "predicted"),
    (SOFTMAX, "true"),
]


@pytest.mark.parametrize(("loss", "labels"), FISHERS)
def test_the_diagonal_fisher_is_a_loop_over_samples_and_labels(loss, labels):
    expected = np.mean(
        [sum(p * g**2 for p, g in sample) for sample in scores(loss, labels)], axis=0
    )
    np.testing.assert_allclose(diagonal(loss, labels=labels), expected, rtol=1e-12)


@pytest.mark.parametrize("loss", [LOSS, SOFTMAX])
def test_the_squares_of_mean_gradients_are_another_number(loss):
    """Batches of 4 and of the 2 that remain, as avalanche takes them."""
    g = np.stack([sample[0][1] for sample in scores(loss, "true")])
    expected = (g[:4].mean(0) ** 2 + g[4:].mean(0) ** 2) / 2
    np.testing.assert_allclose(diagonal(loss, labels="true", batch=4), expected, rtol=1e-11)


@pytest.mark.parametrize("loss", [LOSS, SOFTMAX])
def test_sampled_labels_are_right_on_average(loss):
    reported = dict(softmax=loss is SOFTMAX, labels="sampled", batch=1)
    draw = jax.jit(
        jax.vmap(
            lambda key: diagonal_fisher(NETWORK.apply, theta0(), key, *CLASSES, HEAD, **reported)
        )
    )
    each = draw(jax.random.split(KEY, 1500))
    each = np.concatenate([np.asarray(leaf).reshape(1500, -1) for leaf in jax.tree.leaves(each)], 1)
    apart = np.abs(each.mean(0) - diagonal(loss))
    assert np.all(apart <= 5 * each.std(0) / np.sqrt(1500) + 1e-12) and each.std(0).max() > 0.01


def test_full_ewc_of_a_softmax_weighs_its_own_distribution():
    """(theta - theta_j)^T F (theta - theta_j) with F from the scores above."""
    method, theta = methods.ewc(2.0), jax.tree.map(lambda a: 1.1 * a + 0.05, theta0())
    memory = method.consolidate((), NETWORK, SOFTMAX, theta0(), Task(CLASSES, CLASSES, HEAD))
    move = flat(theta) - flat(theta0())
    for loss in (SOFTMAX, LOSS):
        expected = np.mean(
            [sum(p * (g @ move) ** 2 for p, g in sample) for sample in scores(loss, "all")]
        )
        np.testing.assert_allclose(
            method.objective(memory, NETWORK.apply, loss, theta, None, None, 1.0),
            1 + expected,
            rtol=1e-11,
        )


def test_a_penalty_for_each_old_task_pulls_as_all_of_them_do():
    method, memory, pulls = methods.ewc_diagonal(3.0, damping=0.01, online=False), (), []
    theta = jax.tree.map(lambda a: 0.7 * a, theta0())
    for scale in (1.0, 1.3, 0.4):
        there = jax.tree.map(lambda a, s=scale: s * a + 0.02, theta0())
        memory = method.consolidate(
            method.begin(memory, NETWORK, there, None),
            NETWORK,
            LOSS,
            there,
            Task(CLASSES, CLASSES, HEAD),
        )
        pulls.append(3.0 * (diagonal(LOSS, theta=there) + 0.01) * (flat(theta) - flat(there)))
    pull = jax.grad(
        lambda theta: method.objective(memory, NETWORK.apply, LOSS, theta, None, None, 0.0)
    )(theta)
    np.testing.assert_allclose(flat(pull), sum(pulls), atol=1e-12)


def test_a_fisher_that_is_not_known_is_refused():
    other = Loss(lambda f, y, head: jnp.sum(head * jnp.abs(f - y)), LOSS.rate, quadratic=False)
    with pytest.raises(ValueError, match="loss: the Fisher information of this loss is not known"):
        diagonal(other)
    with pytest.raises(
        ValueError,
        match=r"method.labels=predicted: the gradient at squared error's own prediction is zero",
    ):
        diagonal(LOSS, labels="predicted")
    with pytest.raises(
        ValueError, match=r"method.batch=7: expected at most 6, the samples of task 0"
    ):
        methods.ewc_diagonal(1.0, labels="true", batch=7).begin(
            (), NETWORK, theta0(), Task(CLASSES, CLASSES, HEAD)
        )


def empty(size, seed=0, inputs=1):
    rows = buffer.Rows(
        jnp.full((size, inputs), -1.0), jnp.zeros((size, 1)), jnp.ones((size, 1)), ()
    )
    return buffer.Buffer(
        rows, jnp.zeros(size, jnp.int32), *[jnp.int32(0)] * 5, jax.random.key(seed)
    )


def numbered(first, n):
    return buffer.Rows(
        first + jnp.arange(n, dtype=float)[:, None], jnp.zeros((n, 1)), jnp.ones((n, 1)), ()
    )


@jax.jit
def streamed(key):
    """What a reservoir of 4 holds of 12 samples that came in three batches."""
    memory = empty(4)
    for k in range(3):
        memory = buffer.offer(
            jax.random.fold_in(key, k),
            memory,
            numbered(4.0 * k, 4),
            jnp.array([True, True, k < 2, True]),
        )
    return memory.rows.x[:, 0], memory.count


def test_a_reservoir_holds_every_sample_with_the_same_probability_and_every_pair():
    trials = 4000
    held = np.asarray(
        jax.jit(jax.vmap(streamed))(jax.random.split(jax.random.key(0), trials))[0]
    ).astype(int)
    inside = np.zeros((trials, 12))
    inside[np.arange(trials)[:, None], held] = 1
    assert (
        np.all(inside.sum(1) == 4) and not inside[:, 10].any()
    )  # four different ones, and never the one that was not valid
    together = inside.T @ inside / trials
    for expected, found in (
        (4 / 11, np.diag(together)),
        (4 * 3 / (11 * 10), together[np.triu_indices(12, 1)]),
    ):
        found = found[found > 0]
        assert len(found) in (11, 55)
        assert np.max(np.abs(found - expected)) < 4 * np.sqrt(expected * (1 - expected) / trials)


def test_the_reservoir_is_algorithm_r_one_sample_after_the_other():
    key, memory = jax.random.key(5), empty(3)._replace(offered=jnp.int32(2), count=jnp.int32(2))
    random = jax.random.randint(key, (9,), 0, jnp.arange(2, 11) + 1, jnp.int32)  # the same draws
    slots = [-1.0, -1.0, -1.0]
    for i, j in zip(range(2, 11), np.asarray(random), strict=True):
        if i < 3 or j < 3:
            slots[i if i < 3 else j] = float(i)
    got = jax.jit(buffer.offer)(key, memory, numbered(2.0, 9), jnp.ones(9, bool))
    assert got.rows.x[:, 0].tolist() == slots and (int(got.count), int(got.offered)) == (3, 11)


def test_a_balanced_buffer_has_equal_shares_of_all_tasks():
    memory = empty(7)
    for t, n in enumerate((9, 2, 9)):  # the second has fewer samples than its share
        memory = buffer.balance(
            jax.random.fold_in(KEY, t), memory._replace(tasks=jnp.int32(t)), numbered(100.0 * t, n)
        )
    own = np.asarray(memory.rows.x[: int(memory.count), 0])
    assert len(set(own)) == len(own) and np.bincount((own // 100).astype(int)).tolist() == [3, 2, 2]
    np.testing.assert_array_equal(memory.task[: len(own)], own // 100)


def test_a_draw_is_of_distinct_rows_in_use_all_equally_often():
    memory = empty(6)._replace(rows=numbered(0.0, 6), count=jnp.int32(5))
    draw = jax.jit(jax.vmap(lambda key, memory: buffer.draw(key, memory, 2), (0, None)))
    rows, counts = draw(jax.random.split(KEY, 3000), memory)
    drawn = np.asarray(rows.x[..., 0]).astype(int)
    assert counts.all() and np.all(drawn[:, 0] != drawn[:, 1]) and drawn.max() == 4
    np.testing.assert_allclose(
        np.bincount(drawn.ravel()) / 3000, 2 / 5, atol=4 * np.sqrt(0.24 / 3000)
    )
    assert draw(jax.random.split(KEY, 3000), memory._replace(count=jnp.int32(1)))[1][
        0
    ].tolist() == [True, False]


def test_agem_takes_off_what_points_against_the_memory_and_nothing_else():
    theta, _, _, memory = known("A-GEM")[0]
    memory, project = (
        memory._replace(count=jnp.int32(3)),
        jax.jit(lambda memory, g: ALL["A-GEM"].project(memory, NETWORK.apply, LOSS, theta, g)),
    )
    kept = Dataset(memory.rows.x[:3], memory.rows.y[:3])  # a batch of 3: all of them
    r = flat(own_slope(theta, kept, jnp.ones(3)))
    back = jax.flatten_util.ravel_pytree(theta)[1]
    other = np.random.default_rng(0).normal(size=len(r))
    for g in (other - 2 * r * (other @ r) / (r @ r) - 0.1 * r, other * np.sign(other @ r)):
        got = flat(project(memory, back(g)))
        if g @ r < 0:
            np.testing.assert_allclose(got, g - (g @ r) / (r @ r) * r, atol=1e-12)
            assert abs(got @ r) < 1e-12
        else:
            np.testing.assert_array_equal(got, g)
        np.testing.assert_array_equal(
            flat(project(memory._replace(count=jnp.int32(0)), back(g))), g
        )  # nothing is remembered yet


PROJECTIONS = ("OGD", "OGD-AVE", "OGD-GTL", "OGD+", "PCA-OGD", "GPM", "GPM, all")


def noise(theta, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), theta)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_projection_done_twice_is_done_once_and_is_orthogonal(name, dtype):
    theta, *_, memory = known(name, dtype)[-1]
    one, other = noise(theta), noise(theta, 1)

    def off(g):
        return ALL[name].project(memory, network_of(name).apply, LOSS, theta, g)

    rounding = 100 * jnp.finfo(dtype).eps
    assert away(off(off(one)), off(one)) < rounding and away(off(one), one) > 0.1
    assert (
        abs(np.vdot(flat(off(one)), flat(other)) - np.vdot(flat(one), flat(off(other))))
        < 10 * rounding
    )


def held(name, task, head):
    """Combinations of outputs [k, 3] by hand: what each variant of OGD holds of a sample."""
    active = np.flatnonzero(head)
    if name == "OGD-AVE":
        return [[np.asarray(head) / len(active)] for _ in task.train.y]
    if name == "OGD-GTL":
        return [[np.eye(3)[active[np.argmax(np.asarray(y)[active])]]] for y in task.train.y]
    return [[np.eye(3)[a] for a in active] for _ in task.train.y]


def span(memory, theta):
    """The projector [p, p] that OGD keeps training out of, by what it leaves of unit vectors."""
    vector, back = jax.flatten_util.ravel_pytree(theta)
    project = methods.ogd().project

    def left(e):
        return jax.flatten_util.ravel_pytree(project(memory, NETWORK.apply, LOSS, theta, back(e)))[
            0
        ]

    identity = np.eye(len(vector), dtype=vector.dtype)
    return identity - np.asarray(jax.vmap(left)(identity))


@pytest.mark.parametrize("name", ["OGD", "OGD-AVE", "OGD-GTL"])
@pytest.mark.parametrize("head", [[1.0, 1, 1], [1.0, 0, 1]], ids=["all", "two"])
def test_what_ogd_holds_of_a_sample_is_what_no_step_moves(name, head):
    """The memory is the span of those gradients, by SVD, and of no others."""
    task = stream()[0]._replace(head=jnp.asarray(head))
    outputs = {"OGD": "all", "OGD-AVE": "average", "OGD-GTL": "true"}[name]
    memory = methods.ogd(None, outputs).consolidate((), NETWORK, LOSS, theta0(), task)
    J = [np.stack([flat(row) for row in rows_of(jacobian_of(theta0(), x))]) for x in task.train.x]
    rows = np.concatenate(
        [np.stack(some) @ j for some, j in zip(held(name, task, head), J, strict=True)]
    )
    _, s, v = np.linalg.svd(rows, full_matrices=False)
    v = v[s > 1e-5 * s[0]]
    np.testing.assert_allclose(span(memory, theta0()), v.T @ v, atol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_directions_that_are_known_take_no_second_place(dtype):
    """In float32 too, where a Gram matrix of such inputs is mostly rounding: squares of directions
    go down to 1e-9 of the largest."""
    x = noise(jnp.zeros((40, 4), dtype)) * jnp.asarray([[1, 0.1, 0.01, 1e-9]], dtype)
    task = Task(Dataset(x, jnp.zeros((40, 3), dtype)), None, jnp.ones(3, dtype))
    method, theta = methods.ogd_plus(None, "true"), noise(theta0(dtype), 2)
    once = method.consolidate((), NETWORK, LOSS, theta, task)
    again = method.consolidate(once, NETWORK, LOSS, theta, task)
    one, two = span(once, theta), span(again, theta)
    # The smallest of 15 directions is 3e-5 of the largest, by which rounding is divided.
    eps = max(20 * jnp.finfo(dtype).eps, 1e5 * np.finfo(float).eps)
    np.testing.assert_allclose(two, one, atol=eps)
    np.testing.assert_allclose(one @ one, one, atol=eps)
    assert np.linalg.matrix_rank(one, tol=0.5) == 15


@pytest.mark.parametrize("method", [methods.ogd(2), methods.pca_ogd(1, 2)])
def test_of_a_training_that_has_diverged_nothing_can_be_kept(method):
    task, lost = stream()[0], jax.tree.map(lambda leaf: leaf * jnp.nan, theta0())
    memory = method.consolidate((), NETWORK, LOSS, lost, task)
    assert np.isnan(memory.inverse).all() and np.isnan(span(memory, theta0())).all()


def test_rows_in_chunks_are_those_all_at_once(monkeypatch):
    """Whatever number of them is held, the last chunk filled up or not."""
    task, inverses = stream()[0], []
    for held in (2**24, 250, 1):  # 9 rows at once, 4, one
        monkeypatch.setattr(methods.jacobian_basis, "CHUNK", held)
        inverses.append(methods.ogd(3).consolidate((), NETWORK, LOSS, theta0(), task).inverse)
    np.testing.assert_allclose(inverses[1], inverses[0], rtol=1e-9)
    np.testing.assert_allclose(inverses[2], inverses[0], rtol=1e-9)


def fed(theta, x):
    """What the two layers of LAYERED multiply, [k, n] each, by hand."""
    ones = np.full((1, len(x)), 0.3)
    first = np.concatenate([np.asarray(x).T / 2, ones])
    weights = np.concatenate([theta["hidden_0"]["kernel"], theta["hidden_0"]["bias"][None]])
    return first, np.concatenate([np.tanh(weights.T @ first) / 2, ones])


def test_gpm_keeps_what_equations_5_and_9_of_saha_say():
    """Singular value decompositions of two tasks' inputs, one vector after the other; thresholds
    that grow by 0.05."""
    bases = [np.zeros((5, 0)), np.zeros((5, 0))]
    for t, (task, (theta, _, _, memory)) in enumerate(zip(stream(), known("GPM"), strict=True)):
        x = task.train.x[methods.memory.draw_memory(0, t, 6, 4)]
        for i, (layer, R) in enumerate(zip(("hidden_0", "readout"), fed(theta, x), strict=True)):
            M, wanted = bases[i], (0.7, 0.9)[i] + 0.05 * t
            rest = R - M @ M.T @ R
            u, s, _ = np.linalg.svd(rest)
            r, energy = 0, np.sum(R**2) - np.sum(rest**2)
            while energy < wanted * np.sum(R**2):
                energy, r = energy + s[r] ** 2, r + 1
            bases[i] = np.concatenate([M, u[:, :r]], 1)
            kept = memory.kept[layer].matrix()[0]
            np.testing.assert_allclose(kept, bases[i] @ bases[i].T, atol=1e-12)
    assert [b.shape[1] for b in bases] != [5, 5] and all(b.shape[1] > 1 for b in bases)
    gradient = noise(theta)
    got = ALL["GPM"].project(memory, LAYERED.apply, LOSS, theta, gradient)
    for layer, M in zip(("hidden_0", "readout"), bases, strict=True):
        G, left = (
            np.concatenate([g[layer]["kernel"], g[layer]["bias"][None]]) for g in (gradient, got)
        )
        np.testing.assert_allclose(left, G - M @ M.T @ G, atol=1e-12)


@pytest.mark.parametrize("ranks, columns", [((20, 3), 64), ((70, 60), 128), ((140, 149), 64)])
def test_what_gpm_keeps_out_is_held_by_the_smaller_of_two_bases(ranks, columns):
    """Of directions kept, or of the others, filled up to blocks of 64 columns."""
    rng = np.random.default_rng(0)
    axes = np.stack([np.linalg.qr(rng.normal(size=(150, 150)))[0] for _ in ranks])
    out = np.arange(150)[None] >= 150 - np.array(ranks)[:, None]
    kept, x = _by_products(out, axes), rng.normal(size=(150, 2, 7))
    assert kept.basis.shape == (2, 150, columns)
    for g, r in enumerate(ranks):
        M = axes[g][:, 150 - r :]
        np.testing.assert_allclose(kept.matrix()[g], M @ M.T, atol=1e-12)
        np.testing.assert_allclose(kept.off(x)[:, g], x[:, g] - M @ (M.T @ x[:, g]), atol=1e-12)


def test_with_all_energy_kept_no_later_training_moves_a_kept_sample():
    """Each layer's output is as it was, so the next one's input is too: through the whole network,
    nonlinear as it is."""
    first, last = known("GPM, all")[0][0], known("GPM, all")[-1][0]
    forward, x = jax.vmap(LAYERED.apply, (None, 0)), stream()[0].train.x
    moved = np.max(np.abs(forward(last, x) - forward(first, x)), 1)
    kept = methods.memory.draw_memory(0, 0, 6, 2)
    assert np.max(moved[kept]) < 1e-13 < 1e-3 < np.min(np.delete(moved, kept))


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        ["CNN", "residual", "dense general", "shared layer"], "dense general", "shared layer"
    ),
)
def test_what_gpm_leaves_of_a_layer_is_theory_6(name):
    """<off(g), g'> = sum over positions of phi (1 - M M^T) phi' times signals: groups, several
    calls and axes as they come."""
    network, theta, x = model(name)
    task, method = Task(Dataset(x, jnp.zeros((5, 2))), None, jnp.ones(2)), methods.gpm(0.6, 2)
    memory = method.consolidate(method.begin((), network, theta, task), network, LOSS, theta, task)
    layers = network.taps.survey(theta, x[0]).layers

    @jax.jit
    def seen(theta, x):
        """(gradient of the first output, phi and its signals by layer)."""
        _, phi, z = network.taps.read(layers, theta, {}, x)
        signals = jax.grad(lambda probes: network.taps.read(layers, theta, probes, x)[0][0])(
            jax.tree.map(jnp.zeros_like, z)
        )
        return jax.grad(lambda theta: network.apply(theta, x)[0])(theta), *(
            {layer: jnp.concatenate(calls) for layer, calls in parts.items()}
            for parts in (phi, signals)
        )

    (g, phi, signal), (other, phi2, signal2) = seen(theta, x[3]), seen(theta, x[4])
    off = method.project(memory, network.apply, LOSS, theta, g)

    def at(tree, path):
        return functools.reduce(lambda tree, name: tree[name], path, tree)

    for layer in layers:
        kept = at(memory.kept, layer).matrix()
        assert 0.5 < np.trace(kept[0]) < len(kept[0]) - 0.5
        inputs = jnp.einsum(
            "pgi,gij,qgj->pqg", phi[layer], jnp.eye(len(kept[0]))[None] - kept, phi2[layer]
        )
        expected = jnp.einsum("pqg,pgm,qgm->", inputs, signal[layer], signal2[layer])
        np.testing.assert_allclose(
            np.vdot(flat(at(off, layer)), flat(at(other, layer))), expected, rtol=1e-9, atol=1e-12
        )
    if name == "residual":
        assert (
            memory.kept["scale"] == 1 and off["scale"] == 0 and not flat(off["LayerNorm_0"]).any()
        )


def test_a_memory_that_will_not_fit_is_refused_before_anything_is_trained(monkeypatch):
    task, few = stream()[0], "method.per_task=7: expected at most 6, the samples of task 0"
    for method in (
        methods.ogd(7),
        methods.replay(7),
        methods.functional(1.0, 7),
        methods.gpm(per_task=7),
    ):
        with pytest.raises(ValueError, match=few):
            method.begin((), LAYERED, theta0(network=LAYERED), task)
    with pytest.raises(
        ValueError, match=r"method.directions=19: expected at most 18, the rows kept of a task"
    ):
        methods.pca_ogd(19, None).begin((), NETWORK, theta0(), task)
    with pytest.raises(ValueError, match=r"method=gpm: this network has no taps"):
        methods.gpm().begin((), NETWORK, theta0(), task)
    with pytest.raises(
        ValueError,
        match=(
            r"threshold=\[0.9, 0.9, 0.9\]: expected one number, or 2, one for each of hidden_0, "
            r"readout"
        ),
    ):
        methods.gpm([0.9] * 3, 4).begin((), LAYERED, theta0(network=LAYERED), task)
    # Room for 4 directions: 11 matrices of 4 x 4 in float64.
    monkeypatch.setattr(resources, "memory_gib", lambda: 11 * 4**2 * 8 / 2**30)
    kept = methods.ogd(1).begin((), NETWORK, theta0(), task)
    kept = methods.ogd(1).consolidate(kept, NETWORK, LOSS, theta0(), task)
    with pytest.raises(
        ValueError,
        match=r"method.per_task=1: the Gram matrix of 6 directions and its inverse take 0.0 GiB",
    ):
        methods.ogd(1).begin(kept, NETWORK, theta0(), task)
    assert (
        methods.ogd(1, "true").begin(
            kept, NETWORK, theta0(), task._replace(head=jnp.array([1.0, 0, 0]))
        )
        is kept
    )


@pytest.mark.parametrize("name", list(FIXED))
def test_a_method_without_a_kernel_space_equivalent_is_predicted_by_training_the_linearised_network(
    name,
):
    assert forecast.form_of("auto", LOSS, optimizers.sgd(), FIXED[name], True) == "linearised"
    with pytest.raises(
        ValueError,
        match=(
            r"forecast.form=closed: the method has no kernel-space equivalent; use linearised or "
            r"auto"
        ),
    ):
        forecast.form_of("closed", LOSS, optimizers.sgd(), FIXED[name], True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.er(0), "method.size=0: expected a whole number of at least 1"),
        (
            lambda: methods.er(4, 5),
            "method.batch_size=5: expected at most method.size=4, the rows of the buffer",
        ),
        (lambda: methods.er(4, 4, -0.1), "method.weight=-0.1"),
        (lambda: methods.er(buffer="ring"), "method.buffer=ring: expected reservoir or balanced"),
        (lambda: methods.agem(passes="two"), "method.passes=two: expected first or all"),
        (lambda: methods.agem(10), "method.batch_size=64: expected at most method.size=10"),
        (lambda: methods.der(-1.0), "method.alpha=-1.0"),
        (lambda: methods.der_plus_plus(1.0, -1.0), "method.beta=-1.0"),
        (lambda: methods.der(seed=-1), "method.seed=-1"),
        (lambda: methods.si(-1.0), "method.strength=-1.0: expected a finite number of at least 0"),
        (
            lambda: methods.si(1.0, damping=0.0),
            "method.damping=0.0: expected a finite number above 0",
        ),
        (
            lambda: methods.ewc_diagonal(labels="some"),
            "method.labels=some: expected all, sampled, predicted or true",
        ),
        (
            lambda: methods.ewc_diagonal(batch=8),
            "method.batch=8: expected 1 with method.labels=all",
        ),
        (lambda: methods.mas(float("nan")), "method.strength=nan"),
        (lambda: methods.gpm(1.5), "method.threshold=1.5: expected a number from 0 to 1"),
        (lambda: methods.gpm([0.9, -0.1]), "method.threshold=-0.1: expected a number from 0 to 1"),
        (lambda: methods.gpm(float("nan")), "method.threshold=nan"),
        (
            lambda: methods.gpm(per_task=0),
            "method.per_task=0: expected a whole number of at least 1",
        ),
        (lambda: methods.gpm(increment=2), "method.increment=2: expected a number from 0 to 1"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "name", ["joint", "replay", "functional", "EWC", "EWC diagonal, sampled", "LwF"]
)
def test_methods_that_know_the_loss_train_on_cross_entropy_too(name):
    tasks = tuple(
        task._replace(train=task.train._replace(y=jax.nn.one_hot(jnp.argmax(task.train.y, 1), 3)))
        for task in stream()
    )
    (first, *_), (second, *_) = trained(ALL[name], tasks, loss=SOFTMAX)
    assert np.isfinite(flat(second)).all() and not np.array_equal(flat(first), flat(second))


def test_methods_together_add_up_their_objectives_and_project_in_turn():
    half, pair = methods.l2(0.1), methods.together({"one": methods.l2(0.1), "two": methods.l2(0.1)})
    for (theta, *_), (doubled, *_), (once, *_) in zip(
        trained(pair), trained(methods.l2(0.2)), trained(half), strict=True
    ):
        np.testing.assert_allclose(flat(theta), flat(doubled), atol=1e-14)
        assert np.max(np.abs(flat(theta) - flat(once))) > 1e-4
    beside = methods.together({"nothing": methods.naive(), "all of it": ALL["OGD"]})
    for (theta, *_), (alone, *_) in zip(trained(beside), trained(ALL["OGD"]), strict=True):
        np.testing.assert_allclose(flat(theta), flat(alone), atol=1e-14)


def test_fewer_than_two_methods_are_not_put_together():
    with pytest.raises(ValueError, match="expected at least two methods"):
        methods.together({"one": methods.naive()})
