"""Texts from end to end: a table, tasks, a network that embeds tokens, its forecast, a report."""

import re
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from cases import ROOT, mostly_slow, word_tokenizer
from flax import linen as nn

from ntkcl import (
    experiment,
    forecast,
    kernels,
    losses,
    methods,
    networks,
    optimizers,
    sources,
    streams,
    whatif,
)
from ntkcl.cli.parts import _in
from ntkcl.experiment import record
from ntkcl.training.settings import Training
from ntkcl.types import Dataset, Rows, Task

DEBIAN = ROOT / "tests" / "data" / "debian_texts.csv"
LOSS = losses.squared_error()
SIZES = dict(tasks=2, train_per_class=4, test_per_class=3)


class Bag(nn.Module):
    """The mean over a text's words of what each says: linear in its parameters."""

    outputs: int
    dtype: str

    @nn.compact
    def __call__(self, x):
        said = nn.Embed(400, self.outputs, param_dtype=self.dtype, name="head")(x)
        return jnp.sum(jnp.where((x != 0)[:, None], said, 0), 0) / jnp.sum(x != 0)


def bag(*, outputs: int, dtype: str = "float32"):
    """What a configuration names by `_target_`. Token ids tell no floating type, so it is said."""
    return networks.network(Bag(outputs, dtype))


@cache
def words():
    table = pd.read_csv(DEBIAN)
    return table.text.str.lower().str.findall(r"\w+").explode().value_counts().index[:300].tolist()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    tokenizer = word_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer.json", words())
    return sources.table(str(DEBIAN), tokenizer=tokenizer, length=32)


def run(source, scenario="domain", form="auto", method=None, **training):
    stream = streams.split(source, scenario=scenario, **SIZES)
    stream = tuple(_in("float64", task) for task in stream)
    assert {part.x.dtype for task in stream for part in task[:2]} == {np.dtype(np.int32)}
    network = bag(outputs=stream[0].train.y.shape[1], dtype="float64")
    given = jax.random.key(0), stream, network, LOSS
    settings = Training(**dict(steps=20) | training)
    method = methods.naive() if method is None else method
    events = experiment.run(*given, optimizers.sgd(), settings, form=form, method=method)
    return record.gather(events, stream), stream


CASES = {
    "domain": {},
    "task": dict(scenario="task"),
    "class": dict(scenario="class"),
    "batches": dict(batch_size=4),
    **{form: dict(form=form) for form in ("simulated", "linearised", "matrix_free", "integrated")},
}


@pytest.mark.parametrize("case", mostly_slow(CASES, "domain"))
def test_a_model_of_texts_that_is_linear_is_forecast_exactly(case, source):
    made, stream = run(source, **CASES[case])
    for anchor in ("init", "boundary"):
        np.testing.assert_allclose(made.changes[anchor], np.diff(made.measured, axis=0), atol=1e-8)
    if case == "domain":
        expected = trained_by_cosines(made, stream)
        np.testing.assert_allclose(made.baselines.input_cosine, expected, atol=1e-10)
        assert np.abs(expected).max() > 0.1


def trained_by_cosines(made, stream):
    """Gradient descent with a kernel that counts the words that two texts share."""
    rows = Rows.of(stream)
    inputs = [x for part in ("train", "test") for task in stream for x in getattr(task, part).x]
    texts = [Counter(x[x != 0].tolist()) for x in map(np.asarray, inputs)]
    shared = np.array([[sum(a[w] * b[w] for w in a) for b in texts] for a in texts], float)
    K = shared / np.sqrt(np.outer(np.diag(shared), np.diag(shared)))
    f, changes = made.measured[0].copy(), []
    for task, own in zip(stream, rows.train, strict=True):
        before, y = f, np.asarray(task.train.y)
        for _ in range(20):
            f = f + made.plan.learning_rate / y.size * K[:, own] @ (y - f[own])
        changes.append(f - before)
    return changes


def test_an_id_beyond_the_vocabulary_is_named_wherever_it_is():
    x, y = np.full((4, 5), 7, np.int32), np.eye(4, 2)
    x[2, 3] = 400
    network = bag(outputs=2)
    theta = network.init(jax.random.key(0), x[0])
    message = "an input holds the token id 400, for which .*; expected ids of the network's"
    right, bad = (np.full_like(x, 7), y), (x, y)
    tasks = (Task(Dataset(*right), Dataset(*bad), np.ones(2)),)
    parts = LOSS, optimizers.sgd(), Training(), methods.naive(), forecast.Effort()
    with pytest.raises(ValueError, match=f"stream: {message}"):
        experiment.initialise(jax.random.key(0), tasks, network, *parts, kernels.contraction)
    with pytest.raises(ValueError, match=f"old: {message}"):
        whatif.question(network, theta, bad, right, loss=LOSS)


METHODS = {
    "er": lambda: methods.er(),
    "ewc_diagonal": lambda: methods.ewc_diagonal(),
    "gpm": lambda: methods.gpm(per_task=4),
    "lwf": lambda: methods.lwf(),
    "ogd": lambda: methods.ogd(per_task=4),
    "replay": lambda: methods.replay(per_task=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_methods_keep_texts_and_are_forecast_exactly(name, source):
    made, _ = run(source, method=METHODS[name]())
    np.testing.assert_allclose(made.changes["init"], np.diff(made.measured, axis=0), atol=1e-8)


@pytest.mark.slow
def test_the_command_trains_on_texts_and_the_report_shows_them(ntkcl, tmp_path, monkeypatch):
    """With a `_target_` network of one's own; where the tokenizer is gone, token ids are shown."""
    tokenizer = tmp_path / "tokenizer.json"
    word_tokenizer(tokenizer, words())
    (tmp_path / "own" / "network").mkdir(parents=True)
    node = f"_target_: {__name__}.bag\n_partial_: true\n"
    (tmp_path / "own" / "network" / "bag.yaml").write_text(node)
    texts = (f"source.path={DEBIAN}", f"source.tokenizer={tokenizer}", "source.length=6")
    stream = ("stream=split", "stream.tasks=2", "stream.train_per_class=4", "training.steps=20")
    run = ("--config-dir=own", "source=table", *texts, *stream, "tracking=disabled")
    with pytest.warns(UserWarning, match=r"source.length=6: \d+ of 600 texts are longer") as told:
        code, _, err = ntkcl(*run, "stream.test_per_class=4", "network=mlp")
        assert code == 2 and err.startswith("ntkcl: network: inputs are token ids (int32), and")
        code, out, err = ntkcl(*run, "network=bag", "stream.test_per_class=4")
        assert (code, err) == (0, "") and "data      table, 2 tasks (split), 32 inputs" in out
    assert sum("source.length" in str(one.message) for one in told) == 1  # of one stream for both
    (folder,) = (tmp_path / "results" / "runs" / "main").iterdir()
    assert ntkcl("report", f"run={folder}", "out=one.html")[0] == 0
    shown = re.findall("<blockquote>(.*)</blockquote>", (tmp_path / "one.html").read_text())
    assert 0 < len(shown) <= 16 and all(set(text.split()) <= set(words()) for text in shown)
    tokenizer.unlink()
    assert ntkcl("report", f"run={folder}", "out=two.html")[0] == 0
    ids = re.findall("<blockquote>(.*)</blockquote>", (tmp_path / "two.html").read_text())
    assert len(ids) == len(shown) and all(re.fullmatch(r"2( \d+)+ 3", text) for text in ids)
