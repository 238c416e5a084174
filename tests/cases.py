"""The lists that laws run over, and where the repository is."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ntkcl import networks
from ntkcl.types import Dataset, Network, Source, Task

ROOT = Path(__file__).parents[1]
MLPS = {
    "one hidden layer": dict(width=7, depth=1),
    "deep with biases": dict(width=5, depth=3, b_std=0.3, activation="tanh"),
    "erf, gains": dict(width=6, depth=2, w_std=1.5, b_std=0.05, activation="erf"),
    "gelu, scaled": dict(width=4, depth=2, activation="gelu", output_scale=0.3),
    "one output": dict(width=9, depth=2, outputs=1),
    "width one": dict(width=1, depth=1, outputs=2),
}


def mostly_slow(cases, *fast):
    """The cases of a parametrized test, slow but for those named: one test, of which the fast suite
    sees a part."""
    assert set(fast) < set(cases), fast

    def slow(case):
        return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)

    return [case if case in fast else slow(case) for case in cases]


def mlp(name):
    return networks.mlp(**(dict(outputs=3) | MLPS[name]))


def linear(features, p):
    """f(x; theta) = theta^T features(x): linear in its parameters, as every forecast assumes."""
    return Network(
        init=lambda key, x: jax.random.normal(key, (features(x).shape[0], p), x.dtype),
        apply=lambda theta, x: features(x) @ theta,
    )


def quadratic_features(x):
    return jnp.concatenate([x, x**2, jnp.ones(1, x.dtype)])


def random_stream(key, sizes, d=5, c=2, heads=None, dtype=jnp.float64):
    """Gaussian inputs and targets, tasks of the given train sizes, test sets of 3."""
    tasks = []
    for t, n in enumerate(sizes):
        k = jax.random.split(jax.random.fold_in(key, t), 4)
        train = Dataset(
            jax.random.normal(k[0], (n, d), dtype), jax.random.normal(k[1], (n, c), dtype)
        )
        test = Dataset(
            jax.random.normal(k[2], (3, d), dtype), jax.random.normal(k[3], (3, c), dtype)
        )
        tasks.append(
            Task(train, test, jnp.ones(c, dtype) if heads is None else jnp.asarray(heads[t], dtype))
        )
    return tuple(tasks)


def tiny_source(classes=4, n=12, side=6, seed=0):
    """Random images with every class equally often."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def dataset(n):
        labels = np.arange(n * classes) % classes
        return Dataset(
            rng.random((n * classes, side, side), np.float32),
            np.eye(classes, dtype=np.float32)[labels],
        )

    return Source(dataset(n), dataset(n // 2), 0.5, 0.25)


def word_tokenizer(path, words):
    """A tokenizer.json of words, BERT's way: [PAD] is 0, [UNK] 1, [CLS] 2, [SEP] 3, words from
    4."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*marks, *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.add_special_tokens(marks)
    made.save(str(path))
    return str(path)


def load_script(name):
    """scripts/`name`.py as a module, such as "figures/trust".

    The script finds its siblings as when it is run. Both folders have a `publish`: siblings are
    imported anew for each script, and forgotten after.
    """
    import importlib.util
    import sys

    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    siblings = {sibling.stem for sibling in path.parent.glob("*.py")}
    aside = {stem: sys.modules.pop(stem) for stem in siblings & sys.modules.keys()}
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
        for stem in siblings & sys.modules.keys():
            del sys.modules[stem]
        sys.modules.update(aside)
    return module
