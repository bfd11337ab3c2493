"""The search label: planted words are found, nothing is found in nothing, whatever language the corpus is in."""

from pathlib import Path

import numpy as np
import pytest

from saeinterp_mcp.analysis.splits import in_explain, unit_hash
from saeinterp_mcp.errors import BadInput, NotInStore, UnknownName
from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.excerpts.pool import excerpt_log_odds
from saeinterp_mcp.excerpts.records import SILENT_KINDS, Excerpt
from saeinterp_mcp.excerpts.search_label import predicts, search_label
from saeinterp_mcp.excerpts.words import Vocabulary, read_vocabulary, words_of_text
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import MemoryBackend, World, WorldSample, memory_store

FILLER = (" lo", " rem", " ips", " um", " sit", " ut", " no", " 42", ",", ".", "\n", "(", ")")


def planted(
    words: dict[str, list[str]], n: int = 240, length: int = 12, order: list[int] | None = None, seed: int = 0
) -> Store:
    """A feature for each list of words, firing at the last token of one; `order` is that of the samples.

    A word is tokens with `|` between; every fourth sample holds one.
    """
    generator = np.random.default_rng(seed)
    features = list(words)
    spoken = [(f, w.split("|")) for f, many in enumerate(words.values()) for w in many]
    samples, fires = [], {}
    for s in range(n):
        tokens = generator.choice(FILLER, length).tolist()
        if s % 4 == 0:
            feature, word = spoken[s // 4 % len(spoken)]
            place = int(generator.integers(0, length - len(word)))
            tokens[place : place + len(word)] = word
            fires[feature, s, place + len(word) - 1] = float(generator.lognormal())
        samples.append(WorldSample(tuple(tokens), f"u{s}"))
    order = order or list(range(n))
    at = {s: i for i, s in enumerate(order)}
    return memory_store(
        World(
            "sequence",
            len(features),
            tuple(samples[s] for s in order),
            {(f, at[s], p): v for (f, s, p), v in fires.items()},
        )
    )


def test_planted_words_are_found_put_together_from_tokens_and_in_any_script() -> None:
    words = {
        "import": [" imp|ort", " from"],
        "Greek": [" Λό|γος"],
        "bytes": ["<0xE2>|<0x82>|<0xAC>"],
        "sign": [" :=", " ->"],
        "quote": ['"'],
        "half": ["<0xF0>|<0x9F>"],
    }
    store = planted(words, 600)
    labels = [search_label(store, f) for f in range(6)]
    assert sorted(str(labels[0].text).split(", ")) == ["from", "import"]
    assert labels[1].text == "λόγος"
    assert labels[2].text == '"€"'
    assert sorted(str(labels[3].text).split(", ")) == ['"->"', '":="']
    assert [label.text for label in labels[4:]] == ['"\\""', '"<0xF0><0x9F>"']
    for label in labels:
        assert label.reason is None
        for word in label.words:
            assert 2 <= word.n_firing_excerpts <= label.n_firing_excerpts
            assert word.log_odds > 0
            assert word.n <= label.n_background


def test_one_seed_one_label_whatever_order_the_samples_came_in() -> None:
    words = {"a": [" imp|ort", " from"], "b": [" :="]}
    first = planted(words)
    again = planted(words, order=np.random.default_rng(1).permutation(240).tolist())
    for feature in (0, 1):
        label = search_label(first, feature)
        assert label.text is not None
        assert search_label(first, feature) == label == search_label(again, feature)


def test_shuffled_activations_have_no_label() -> None:
    """At most 5 % are promised; of 100 shuffles that would be 14 or more once in 2000 runs."""
    generator = np.random.default_rng(3)
    samples = tuple(
        WorldSample(tuple(generator.choice(FILLER, 12).tolist()), f"u{s // 2}") for s in range(300)
    )
    fires = {
        (feature, int(s), int(p)): 1.0
        for feature in range(100)
        for s, p in zip(
            generator.choice(300, 10 + feature % 40, replace=False),
            generator.integers(0, 12, 50),
            strict=False,
        )
    }
    store = memory_store(World("sequence", 100, samples, fires), summed_from=10**9)
    labelled = [f for f in range(100) if search_label(store, f).text is not None]
    assert len(labelled) < 14


def test_a_corpus_of_one_word_and_a_dead_feature_say_why_there_is_no_label() -> None:
    samples = tuple(WorldSample(("word",), f"u{s}") for s in range(60))
    fires = {(0, s, 0): 1.0 for s in range(60)} | {(2, 0, 0): 1.0, (3, 1, 0): 1.0}
    store = memory_store(World("sequence", 4, samples, fires))
    # texts that are alike are one excerpt
    assert search_label(store, 0).reason == "it fires in one unit only, where any word might be its own"
    assert search_label(store, 1).reason == "it never fires in the explain split"
    label = search_label(planted({"a": [","]}), 0, n_words=1)
    assert label.text is None or label.text == '","'
    with pytest.raises(UnknownName):
        search_label(store, 4)


def test_what_explainers_see_does_not_depend_on_the_heldout_split() -> None:
    """Two worlds that differ in every heldout sample: other tokens, other activations."""
    generator = np.random.default_rng(0)
    both = []
    for other in (False, True):
        draw = np.random.default_rng(1)
        samples = []
        fires: dict[tuple[int, int, int], float] = {}
        for s in range(200):
            tokens = draw.choice(FILLER, 12).tolist()
            at = int(draw.integers(0, 12))
            tokens[at] = " from"
            fires |= {(0, s, at): 1.0 + draw.random(), (1, s, at): 2.0} if s % 3 == 0 else {(1, s, at): 1.0}
            if other and not in_explain(unit_hash(f"u{s}", 0)):
                tokens = [" from" if generator.random() < 0.5 else " evil" for _ in tokens]
                fires |= {(f, s, p): 9.0 for f in (0, 1) for p in range(12) if generator.random() < 0.5}
            samples.append(WorldSample(tuple(tokens), f"u{s}"))
        both.append(memory_store(World("sequence", 2, tuple(samples), fires)))
    for feature in (0, 1):
        label, same = (search_label(store, feature) for store in both)
        assert label == same
        assert label.text is not None
        for kind in SILENT_KINDS:
            drawn = [Excerpts(store).silent(feature, "explain", kind, 9, 0) for store in both]
            assert drawn[0] == drawn[1]
        drawn = [Excerpts(store).firing(feature, "explain", 9, 0) for store in both]
        assert drawn[0] == drawn[1]
    assert len(Excerpts(both[0]).silent(0, "explain", "similar", 9, 0)) == 9
    odds = [excerpt_log_odds(store, 0, 24, 7, 0) for store in both]
    by_token = [
        {t: o for t, o in zip(store.tokens, weights, strict=True) if t != " evil"}
        for store, weights in zip(both, odds, strict=True)
        if weights is not None
    ]
    assert len(by_token) == 2
    assert by_token[0] == by_token[1]


def test_where_every_excerpt_holds_the_word_it_is_looked_for_at_the_tokens_that_fire() -> None:
    generator = np.random.default_rng(0)
    samples, fires = [], {}
    for s in range(200):
        tokens = generator.choice(["lo", " ips", " sit", "."], 12).tolist()
        tokens[5] = "\n    "
        fires[0, s, 5] = 1.0
        samples.append(WorldSample(tuple(tokens), f"u{s}"))
    label = search_label(memory_store(World("sequence", 1, tuple(samples), fires)), 0)
    assert (label.text, label.scope) == ('"⏎"', "token")


def test_a_set_is_named_by_its_tokens_levels_and_group() -> None:
    swim = FamilyInfo(name="swim", encoding="cumulative", levels=(3, 6), tokens={"s3": 3, "s6": 6})
    generator = np.random.default_rng(0)
    samples = []
    fires: dict[tuple[int, int, int], float] = {}
    for s in range(400):
        tokens = {f"t{i}" for i in generator.integers(0, 9, 4)}
        tokens |= [set(), {"s3"}, {"s3", "s6"}][s % 3]
        weapon = ["roller", "brush", "charger", "blaster"][s // 3 % 4]
        samples.append(WorldSample(tuple(sorted(tokens)), f"u{s}", {"weapon": weapon}))
        fires |= {(0, s, 0): 1.0} if "s6" in tokens else {}
        fires |= {(1, s, 0): 1.0} if weapon == "brush" else {}
        fires |= {(2, s, 0): 1.0} if "t4" in tokens else {}
    store = memory_store(
        World(
            "set", 3, tuple(samples), fires, (swim,), primary="weapon",
            attributes={"weapon": {w: {"kind": w[0]} for w in ("roller", "brush", "charger", "blaster")}},
        )
    )  # fmt: skip
    assert [search_label(store, f).text for f in range(3)] == ["swim>=6", "weapon=brush", "t4"]


def test_a_label_predicts_where_its_words_stand() -> None:
    store = planted({"a": [" imp|ort", " from"]})
    label = search_label(store, 0)
    firing = Excerpts(store).firing(0, "heldout", 10, 0)
    silent = Excerpts(store).silent(0, "heldout", "random", 10, 0)
    assert {predicts(store, label, e) > 0.5 for e in firing} == {True}
    assert {predicts(store, label, e) for e in silent} == {0.0}
    nothing = label.model_copy(update={"words": (), "text": None})
    assert predicts(store, nothing, firing[0]) == 0.0


def test_only_words_of_a_vocabulary_are_named_and_plurals_count(tmp_path: Path) -> None:
    store = planted({"money": [" stocks", " Company|s", " companies", " import"]}, 480)
    assert "import" in str(search_label(store, 0).text)
    label = search_label(store, 0, "finance")
    assert sorted(str(label.text).split(", ")) == ["company", "stock"]
    companies = next(e for e in Excerpts(store).firing(0, "heldout", 40, 0) if " companies" in e.tokens)
    assert predicts(store, label, companies) > 0.5
    file = tmp_path / "words.txt"
    file.write_text("# ours\nIMPORT  # a comment\n\n", encoding="utf-8")
    assert search_label(store, 0, file).text == "import"
    file.write_text("nothing\n", encoding="utf-8")
    none = search_label(store, 0, file)
    assert (none.text, none.reason) == (
        None,
        "no word of the vocabulary goes with it more than chance would have it",
    )


def test_the_finance_vocabulary_is_the_seeds() -> None:
    words = read_vocabulary("finance").words
    assert len(words) == 44
    assert (words[0], words[-1]) == ("stock", "trillion")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"stock\ninterest rate\n",
            "line 2: expected one word of two letters or more, found 'interest rate'",
        ),
        (b"# nothing\n", "no words; write one a line"),
        (b"\xff\xfe\x00", "expected UTF-8 text"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(BadInput) as refused:
        read_vocabulary(file)
    assert message in str(refused.value)


def test_an_unknown_vocabulary_names_those_there_are() -> None:
    with pytest.raises(BadInput) as refused:
        read_vocabulary("medicine")
    assert str(refused.value) == (
        "no vocabulary file 'medicine'; give a file with one word a line, or one of: finance"
    )


def test_plurals_are_forms_of_the_word_and_nothing_else_is() -> None:
    words = Vocabulary(("loss", "company", "share"))
    held = frozenset(["losses", "companies", "shares", "lossy", "shared", "company"])
    assert words.of(held) == {"loss", "company", "share"}
    assert words.of(frozenset(["lossy", "shared", "compan"])) == set()


def test_words_are_put_together_and_one_that_is_cut_off_is_left_out() -> None:
    excerpt = Excerpt(0, 0, 0, 3, ("ring", " get", "attr", "(", "x", "_", "Na", "me"), (0.0,) * 8, at=2)
    held, here = words_of_text(excerpt)
    assert held == {"getattr", "name", '"("', '"_"'}
    assert here == {"getattr"}
    assert "ring" in words_of_text(excerpt._replace(start=0)).held
    assert words_of_text(excerpt._replace(at=3)).here == {'"("'}
    # a letter by itself is no word and no sign
    assert words_of_text(excerpt._replace(at=4)).here == frozenset()


def test_a_sampled_store_has_no_background() -> None:
    store = planted({"a": [" from"]})
    assert isinstance(store.backend, MemoryBackend)
    manifest = store.manifest.model_copy(update={"coverage": "sampled"})
    with pytest.raises(NotInStore, match="a search label needs every activation"):
        search_label(Store(MemoryBackend(manifest, store.backend._arrays, store.backend._tables)), 0)
