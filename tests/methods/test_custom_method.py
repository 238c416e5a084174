"""Methods of one's own: what `custom` leaves out changes nothing, and no step in kernel space
outlives the hooks it was written for."""

import inspect
from io import StringIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_stream
from rich.console import Console

from ntkcl import experiment, forecast, kernels, losses, methods, networks, optimizers
from ntkcl.experiment import record
from ntkcl.experiment.events import Baselines
from ntkcl.reporting import console
from ntkcl.training.settings import Training
from ntkcl.types import Method

STREAM = random_stream(jax.random.key(3), [5, 5, 5], d=4, c=3)
NETWORK = networks.mlp(outputs=3, width=9, activation="tanh", b_std=0.4)
RULES = losses.squared_error(), optimizers.sgd()


def events(method, network=NETWORK, **settings):
    return experiment.run(
        jax.random.key(0),
        STREAM,
        network,
        *RULES,
        Training(steps=20),
        method=method,
        kernel=kernels.contraction,
        **settings,
    )


def played(method, **settings):
    return record.gather(events(method, **settings), STREAM)


def shrinking(memory, apply, loss, theta, batch, head, task_loss):
    return task_loss + 0.1 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(theta))


def test_a_custom_method_of_no_parts_trains_as_naive_does_and_is_forecast_by_training():
    method, naive = methods.custom(), methods.naive()
    assert (method.step, method.observe, method.converged) == (None, None, False) and hash(
        method
    ) == hash(methods.custom())
    assert methods.is_naive(naive) and not methods.is_naive(method)
    own, plain = played(method), played(naive)
    np.testing.assert_array_equal(own.measured, plain.measured)
    np.testing.assert_allclose(own.changes["init"], plain.changes["init"], atol=1e-10)


def test_an_objective_of_ones_own_is_in_the_forecast():
    network = networks.linearised(NETWORK, NETWORK.init(jax.random.key(1), STREAM[0].train.x[0]))
    run = played(methods.custom(objective=shrinking), network=network)
    np.testing.assert_allclose(run.outputs("init"), run.measured, atol=1e-10)
    assert np.abs(run.measured - played(methods.naive(), network=network).measured).max() > 1e-3


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            methods.naive()._replace(objective=shrinking),
            r"its objective was replaced.* use methods\.custom\(objective=",
        ),
        (
            methods.replay(2)._replace(project=lambda *given: given[-1]),
            "its project was replaced, and its step is of another",
        ),
        (
            methods.l2(0.1)._replace(begin=print, observe=print),
            "its begin and observe were replaced, and its step is of others",
        ),
        (
            Method(*[print] * 4, step=print),
            r"does not say for which hooks its step was written; use methods\.custom",
        ),
    ],
)
def test_a_step_that_was_written_for_other_hooks_is_refused(method, message):
    for refused in (
        lambda: events(method),
        lambda: events(method, anchors=()),
        lambda: forecast.form_of("auto", *RULES, method, True),
    ):
        with pytest.raises(ValueError, match=f"^method.*{message}") as reported:
            refused()
        assert "\n" not in str(reported.value)


def test_without_the_old_step_a_replaced_hook_is_as_one_given_to_custom():
    replaced = methods.naive()._replace(objective=shrinking, step=None)
    assert (
        methods.checked(replaced) is replaced
        and forecast.form_of("auto", *RULES, replaced, True) == "linearised"
    )
    for form in ("simulated", "integrated", "matrix_free"):
        with pytest.raises(ValueError, match="a method other than naive"):
            forecast.form_of(form, *RULES, replaced, True)


@pytest.mark.parametrize("name", ["naive", "replay", "ewc", "ogd", "l2", "joint", "si", "agem"])
def test_the_methods_that_there_are_have_steps_of_their_own_hooks(name):
    method = getattr(methods, name)()
    assert methods.checked(method) is method and methods.is_naive(method) == (name == "naive")


def test_what_is_no_method_or_no_function_is_named():
    with pytest.raises(ValueError, match=r"method=naive: expected an ntkcl\.types\.Method"):
        methods.checked("naive")
    custom = inspect.unwrap(methods.custom)  # without the types that tests check beside
    with pytest.raises(ValueError, match=r"method\.objective=3: expected a function"):
        custom(objective=3)
    with pytest.raises(ValueError, match=r"method\.step=closed: expected a function"):
        custom(step="closed")


def test_a_method_that_looks_at_layers_by_name_has_no_input_cosine_and_it_is_said_why():
    def project(memory, apply, loss, theta, gradient):
        return gradient | {"readout": jax.tree.map(jnp.zeros_like, gradient["readout"])}

    reported = list(events(methods.custom(project=project), anchors=["init"]))
    run = record.gather(reported, STREAM)
    assert run.status == "completed" and np.isfinite(run.changes["init"]).all()
    (baselines,) = (event for event in reported if isinstance(event, Baselines))
    assert (
        np.isnan(baselines.input_cosine).all()
        and baselines.input_cosine.shape == run.changes["init"].shape
    )
    written = StringIO()
    list(console.remarks([baselines], Console(file=written, width=60)))
    (line,) = written.getvalue().splitlines()
    assert line == baselines.remark and line.startswith(
        "input_cosine: the method does not train a linear model (TypeError: "
    )
    (plain,) = (
        event for event in events(methods.naive(), anchors=["init"]) if isinstance(event, Baselines)
    )
    assert plain.remark == "" and list(console.remarks([plain], Console(file=written))) == [plain]
    assert written.getvalue() == line + "\n"
