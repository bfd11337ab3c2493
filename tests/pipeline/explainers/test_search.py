"""The search label as an explanation."""

from dataclasses import replace

import pytest

from pipeline.explainers import EXPLAINERS
from pipeline.explainers.search import Search
from saeinterp_mcp.operations.known_names import checked_rule
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from tests.pipeline.explainers.world import CAT, EVERYWHERE, ROLLER, SWIM, outfits, store_of


def test_the_word_that_goes_with_it_is_the_label() -> None:
    said = Search().explain(store_of("pets"), CAT, 0)
    assert (said.label, said.granularity, said.polarity, said.rule) == ("cat", "token", "present", None)
    assert said.explanation.startswith(
        "Fires where the firing token is cat (100 % of tokens where it fires, "
    )


def test_in_sets_it_is_a_rule_too() -> None:
    """By hand: 56 of 98 sets have swim_6, all fire; 32 have a roller, all fire; each set is a unit of its own."""
    store = store_of("outfits")
    said = Search().explain(store, SWIM, 0)
    assert said.label == "swim"
    assert said.rule == "family:swim"
    assert said.confidence == round(1 - 56 / 98, 4)
    said = Search().explain(store, ROLLER, 0)
    assert said.label == "weapon=roller"
    assert said.rule == "weapon=roller"
    assert said.confidence == round(1 - 32 / 98, 4)
    assert "weapon=roller (100 % of excerpts where it fires, 32.7 % of all)" in said.explanation


def test_where_nothing_goes_with_it_the_answer_is_unclear() -> None:
    said = Search().explain(store_of("pets"), EVERYWHERE, 0)
    assert said.is_unclear
    assert (said.label, said.confidence, said.rule) == ("unclear", 0.0, None)
    assert said.explanation.startswith("Counting words tells nothing: no word or token goes with it")


def test_it_is_the_same_whenever_it_is_asked() -> None:
    assert Search().explain(store_of("pets"), CAT, 0) == Search().explain(store_of("pets"), CAT, 0)


def test_it_asks_no_model_and_the_others_do() -> None:
    assert {name: explainer.needs_model for name, explainer in EXPLAINERS.items()} == {
        "max_activating": True,
        "contrastive": True,
        "output_side": True,
        "search": False,
    }
    with pytest.raises(NotImplementedError, match="search asks no model"):
        Search().request(store_of("pets"), CAT, 0)
    with pytest.raises(NotImplementedError, match="contrastive asks a model"):
        EXPLAINERS["contrastive"]().explain(store_of("pets"), CAT, 0)


def test_only_words_of_a_vocabulary_are_used() -> None:
    said = Search(vocabulary="finance").explain(store_of("pets"), CAT, 0)
    assert said.is_unclear
    assert "no word of the vocabulary" in said.explanation


def names(name: str) -> World:
    """The sets of `outfits` with another name for its tokens, which are in no family."""
    world = outfits()
    other = {"swim_6": name, "swim_12": f"{name} twice"}
    return replace(
        world,
        families=(),
        samples=tuple(
            WorldSample(tuple(other.get(t, t) for t in s.tokens), s.unit, s.groups) for s in world.samples
        ),
    )


def test_a_label_of_long_names_stays_under_ten_words() -> None:
    said = Search().explain(memory_store(names("a b c d e f g h")), SWIM, 0)
    assert said.label == "a b c d e f g h"
    assert said.rule == 'token:"a b c d e f g h"'


@pytest.mark.parametrize("name", ["x" * 100, "line\nbreak", "a=b"])
def test_a_rule_is_there_only_where_the_name_is_that_of_the_token(name: str) -> None:
    store = memory_store(names(name))
    said = Search().explain(store, SWIM, 0)
    assert (said.rule is not None) == (name == "a=b")
    if said.rule is not None:
        assert checked_rule(said.rule, store).canonical() == said.rule == 'token:"a=b"'


def test_a_second_name_that_would_make_it_ten_words_is_left_out() -> None:
    tokens = [("a a a a a a", "b b b b b b", "c", "d")[i % 4] for i in range(200)]
    samples = tuple(WorldSample((token, f"t{i}"), f"u{i}") for i, token in enumerate(tokens))
    fires = {(0, i, 0): 1.0 for i, token in enumerate(tokens) if " " in token}
    said = Search().explain(memory_store(World("set", 1, samples, fires)), 0, 0)
    assert said.label in ("a a a a a a", "b b b b b b")
    assert said.rule == f'token:"{said.label}"'


def test_a_rule_says_all_of_the_label_or_is_not_there() -> None:
    """The feature fires on two tokens; one is too long to be named whole."""
    for second, rule in (("b", "token:b or token:a"), ("b" * 100, None)):
        tokens = [("a", second, "c", "d")[i % 4] for i in range(200)]
        samples = tuple(WorldSample((token, f"t{i}"), f"u{i}") for i, token in enumerate(tokens))
        fires = {(0, i, 0): 1.0 for i, token in enumerate(tokens) if token in ("a", second)}
        store = memory_store(World(kind="set", n_features=1, samples=samples, activations=fires))
        said = Search().explain(store, 0, 0)
        assert len(said.label.split(", ")) == 2
        assert said.rule == rule


def test_levels_of_an_exclusive_family_are_named_exactly() -> None:
    world = outfits()
    tokens = {"swim_6": 6, "ink": 2}
    family = FamilyInfo(name="kit", encoding="exclusive", levels=(2, 6), tokens=tokens)
    samples = tuple(
        replace(
            s,
            tokens=(
                *(t for t in s.tokens if t == "swim_6"),
                *(() if "swim_6" in s.tokens else ("ink",)),
                f"t{i}",
            ),
        )
        for i, s in enumerate(world.samples)
    )
    said = Search(n_words=1).explain(
        memory_store(replace(world, families=(family,), samples=samples)), SWIM, 0
    )
    assert said.rule == "family:kit=6"
