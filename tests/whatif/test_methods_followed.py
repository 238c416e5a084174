"""Candidates with a method that spares old samples: followed as they are trained."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import mostly_slow
from test_whatif import (
    BASE,
    CLASSES,
    asked,
    asked_and_alive,
    drawn,
    linear_model,
    mlp,
    outputs_kept,
    trained_outputs,
)

from ntkcl import methods, optimizers, whatif
from ntkcl.validation import SettingError
from ntkcl.whatif.answers import losses_of, taken_of
from ntkcl.whatif.follow import _pulling, at, follow
from ntkcl.whatif.question import remembered

MOMENTUM = BASE._replace(optimizer=optimizers.sgd(0.9), epochs=3)
METHODS = {
    "l2": methods.l2(0.3),
    "functional": methods.functional(2.0, 5),
    "lwf": methods.lwf(2.0),
    "ewc": methods.ewc(5.0),
    "ewc_diagonal": methods.ewc_diagonal(5.0),
    "mas": methods.mas(2.0),
    "replay": methods.replay(4),
    "joint": methods.joint(),
    "ogd": methods.ogd(2),
    "pca_ogd": methods.pca_ogd(3, 4),
    "spectral": methods.spectral(2.0, 3),
    "together": methods.together({"first": methods.lwf(1.0), "second": methods.ogd(1)}),
}


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", mostly_slow(METHODS, "functional", "ewc", "ogd"))
@pytest.mark.parametrize("keep", ["gradients", "passes"])
def test_of_a_linear_model_answers_are_what_training_does(name, keep):
    question, plain = asked(), MOMENTUM._replace(share=0.0)
    cache = whatif.prepare(question, MOMENTUM, anchors=2, keep=keep, with_methods=True)
    candidate = plain._replace(order=3, method=METHODS[name])
    answer, true = whatif.ask(cache, candidate).outputs[0], trained_outputs(question, candidate)
    np.testing.assert_allclose(answer, true, atol=1e-9)
    assert np.abs(true - trained_outputs(question, plain._replace(order=3))).max() > 1e-3


@pytest.mark.parametrize("keep", ["gradients", "passes"])
def test_products_in_a_wider_type_than_that_of_the_parameters(keep):
    """As a command has them: of ogd in float64, whatever the network is in."""
    wide = asked()
    parts = {key: getattr(wide, key) for key in ("theta", "head", "old", "new", "pool")}
    question = wide._replace(**jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), parts))
    base = MOMENTUM
    cache = whatif.prepare(question, base, anchors=2, keep=keep, with_methods=True)
    candidate = base._replace(order=3, method=METHODS["ogd"])
    answer, true = whatif.ask(cache, candidate).outputs[0], trained_outputs(question, candidate)
    assert true.dtype == np.float32
    np.testing.assert_allclose(answer, true, atol=1e-5)


@pytest.mark.parametrize("name", mostly_slow(METHODS, "functional", "ogd"))
def test_of_a_base_with_a_method_the_answer_is_its_own_outcome(name):
    question, base = asked(*mlp()), MOMENTUM._replace(method=METHODS[name])
    cache = whatif.prepare(question, base, anchors=3)
    assert cache.keep == "passes"
    np.testing.assert_allclose(
        whatif.ask(cache, base).outputs[0], trained_outputs(question, base), atol=1e-9
    )


@pytest.mark.parametrize("name", ["functional", "lwf"])
def test_what_a_softmax_does_not_see_a_method_may_hold(name):
    """In kept gradients, too: of all outputs of the linearisation, as passes give them."""
    question, base = asked(*mlp()), MOMENTUM._replace(method=METHODS[name])
    candidate = base._replace(order=5)
    kept, passed = outputs_kept(question, base, candidate, "gradients", "passes", anchors=3)
    np.testing.assert_allclose(kept, passed, atol=1e-9)


def test_kept_gradients_answer_for_methods_without_the_network():
    question, alive = asked_and_alive()
    cache = whatif.prepare(question, BASE, anchors=2, keep="gradients", with_methods=True)
    alive[0] = False
    for name in ("functional", "ewc", "ogd"):
        candidate = BASE._replace(batch_size=3, method=METHODS[name])
        assert np.isfinite(whatif.ask(cache, candidate).outputs).all()


def test_along_the_base_of_another_method_an_answer_is_poor():
    question = asked(*mlp())
    cache = whatif.prepare(question, MOMENTUM, anchors=2, with_methods=True)
    other = whatif.ask(cache, MOMENTUM._replace(order=1, method=methods.l2(1e-9)))
    assert whatif.ask(cache, MOMENTUM._replace(order=1)).verdict == ("good", ())
    assert other.verdict == ("poor", ("its method is not the base's: take a base with it",))


@pytest.mark.parametrize("keep", ["gradients", "passes"])
def test_what_a_method_asks_of_where_training_begins_is_exact(keep):
    """Here a factor of the loss: an output, and its derivative along a direction, at theta_0."""

    def objective(memory, apply, loss, theta, batch, head, task_loss):
        f, along = jax.jvp(lambda p: apply(p, batch.x[0]), (memory,), (memory,))
        return task_loss * (f[0] + along[1])

    network, theta = mlp()
    question, base = asked(network, theta), MOMENTUM._replace(learning_rate=1.0)
    method = methods.custom(begin=lambda memory, network, theta, task: theta, objective=objective)
    cache = whatif.prepare(question, base, anchors=3, keep=keep, with_methods=True)
    start, rows = at(cache.base.reached, 0), jnp.array([4, 5])
    given = cache.base.anchors, start, theta, question.samples, question.loss
    later = at(cache.base.reached, 2)
    found, plain = (_pulling(*given, one)(later, rows, 2) for one in (method, None))
    x = question.new.x[4]
    f, along = jax.jvp(lambda p: network.apply(p, x), (theta,), (theta,))
    factor = f[0] + along[1]
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, factor * other, atol=1e-9)


def test_influence_is_the_derivative_with_a_method_too():
    question, recipe = asked(*mlp()), MOMENTUM._replace(method=METHODS["functional"])
    cache = whatif.prepare(question, recipe, anchors=2)
    recipe = recipe._replace(order=3)  # the base's own is where its share of the way is cut off
    influences = whatif.influence(cache, recipe, orders=1)
    assert np.abs(influences).max() > 1e-4
    taken = jax.tree.map(lambda leaf: leaf[0], taken_of(cache, recipe, 1))

    def loss(weights):
        samples = question.samples._replace(weights=jnp.asarray(weights))
        given = cache.base, cache.rule(recipe), samples, taken
        theta = follow(*given, loss=question.loss, method=recipe.method)
        return losses_of(question, np.asarray(cache.old.outputs(0, theta, 6))).mean()

    for place in (0, 5, 13):
        step = 1e-5 * np.eye(20)[place]
        slope = (loss(1 + step) - loss(1 - step)) / 2e-5
        np.testing.assert_allclose(influences[place], slope, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["l2", "lwf"])
def test_a_method_that_keeps_no_old_samples_needs_none(name):
    network, theta = linear_model()
    question = whatif.question(network, theta, drawn(0, 6), drawn(2, 12))
    base = MOMENTUM._replace(share=0.0, method=METHODS[name])
    answer = whatif.ask(whatif.prepare(question, base, anchors=1), base._replace(order=3))
    true = trained_outputs(question, base._replace(order=3))
    np.testing.assert_allclose(answer.outputs[0], true, atol=1e-9)


@pytest.mark.parametrize("name", ["lwf", "ewc", "ewc_diagonal", "ogd"])
def test_in_segments_as_many_as_steps_are_training(name):
    question = asked(*mlp())
    recipe = BASE._replace(method=METHODS[name])
    _, theta = whatif.in_segments(question, recipe, recipe.steps(12))
    outputs = [question.network.apply(theta, x) for x in question.old.x]
    np.testing.assert_allclose(outputs, trained_outputs(question, recipe), atol=1e-9)


def test_kept_samples_are_the_pool_and_never_the_old_ones():
    question = asked()
    poisoned = question._replace(old=question.old._replace(x=question.old.x * jnp.nan))
    recipe = MOMENTUM._replace(method=METHODS["functional"])
    same = [whatif.train(one, recipe)[-1] for one in (question, poisoned)]
    jax.tree.map(np.testing.assert_array_equal, *same)


BAD = {
    "whatif.method: it watches every step from the first task on": lambda q: whatif.train(
        q, BASE._replace(method=methods.si())
    ),
    "method=l2: expected an ntkcl.types.Method": lambda q: whatif.train(
        q, BASE._replace(method="l2")
    ),
    "whatif.keep=gram: methods weigh and project parameters": lambda q: whatif.prepare(
        q, BASE, keep="gram", with_methods=True
    ),
    "whatif.keep=sketch: methods weigh and project parameters": lambda q: whatif.prepare(
        q, BASE._replace(method=methods.l2()), keep="sketch"
    ),
    "whatif.outputs=1: methods may hold all outputs": lambda q: whatif.prepare(
        q, BASE, keep="gradients", outputs=1, with_methods=True
    ),
    "whatif.method: what is kept, gradients, is for candidates without one": lambda q: whatif.ask(
        whatif.prepare(q, BASE, keep="gradients"), BASE._replace(method=methods.l2())
    ),
    "method.per_task=9: expected at most 8, the samples of task 0": lambda q: whatif.prepare(
        q, BASE._replace(method=methods.functional(per_task=9))
    ),
    "method=gpm: this network has no taps": lambda q: whatif.train(
        q, BASE._replace(method=methods.gpm())
    ),
    "whatif.method: it reads the inputs of layers": lambda q: whatif.price(
        asked(*mlp()), BASE._replace(method=methods.gpm(per_task=5))
    ),
    "whatif.method: it reads the inputs of layers, which": lambda q: whatif.ask(
        whatif.prepare(asked(*mlp()), BASE, with_methods=True),
        BASE._replace(method=methods.gpm(per_task=5)),
    ),
}
KEEP_SAMPLES = ("functional", "ewc", "ewc_diagonal", "mas", "replay", "joint", "ogd", "spectral")


@pytest.mark.parametrize("message", BAD)
def test_bad_settings_are_one_line(message):
    with pytest.raises(SettingError) as error:
        BAD[message](asked())
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", KEEP_SAMPLES)
def test_a_method_that_keeps_old_samples_is_refused_where_there_are_none(name):
    network, theta = linear_model()
    question = whatif.question(network, theta, drawn(0, 6), drawn(2, 12))
    with pytest.raises(SettingError, match="keeps old samples, and there are none"):
        whatif.train(question, BASE._replace(share=0.0, method=METHODS[name]))


@pytest.mark.parametrize(("name", "held"), [("l2", 0), ("functional", 5), ("ogd", 2), ("ewc", 8)])
def test_the_price_counts_the_samples_that_a_method_looks_at(name, held, monkeypatch):
    price = sys.modules["ntkcl.whatif.price"]
    question, recipe = asked(), BASE._replace(method=METHODS[name])
    memory = remembered(recipe.method, question.network, question)
    assert price._held(memory, question) == held
    monkeypatch.setattr(price, "BYTES_PER_SECOND", 1.0)
    # 6 steps of 4 samples and what is held, 6 old ones, in 3 directions of 18 numbers of 8 bytes
    rows = (6 * (4 + held) + 6) * 3
    assert whatif.price(question, recipe, keep="gradients").answer == 2 * rows * 18 * 8


def test_auto_keeps_for_methods_what_they_can_be_followed_by(monkeypatch):
    module = sys.modules["ntkcl.whatif.plan"]
    monkeypatch.setattr(module, "reads_faster", lambda *_: True)
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.0)
    given = dict(anchors=2, keep="auto", outputs=None, numbers=5)
    kept = module.plan(asked(), BASE, budget_mib=1.0, with_methods=True, **given)
    assert kept.keep == "gradients" and kept.trained.shape == (CLASSES, CLASSES)
    assert module.plan(asked(), BASE, budget_mib=0.01, with_methods=True, **given).keep == "passes"
    assert module.plan(asked(), BASE, budget_mib=0.01, **given).keep == "sketch"
