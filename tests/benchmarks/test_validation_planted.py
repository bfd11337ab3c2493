"""The proof of pattern matching on a small world, by words only; all of it is in benchmarks/validation_planted."""

from pathlib import Path

import pytest

from benchmarks.validation_planted.__main__ import RESULTS
from benchmarks.validation_planted.by_hand import agreement
from benchmarks.validation_planted.explanations import (
    DOUBTFUL,
    KINDS,
    SEEN,
    SETS,
    Told,
    demo_explanations,
    half_of,
)
from benchmarks.validation_planted.measure import Part, Results, part_of
from benchmarks.validation_planted.running import Outcome, outcomes, validated, write_config
from benchmarks.validation_planted.table import render
from benchmarks.validation_planted.words import FILLERS, NOUNS, TOPICS
from benchmarks.validation_planted.world import Size, World, make_world, world_explanations, write_world
from pipeline.validation.config import NO_EMBEDDER
from saeinterp_mcp.patterns.words import stems
from saeinterp_mcp.validation.folder import Validation
from tests.worlds import Quiet

SMALL = Size(n_words=40, n_topics=2, n_each=6, n_prompts=160)
SEED = 0


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SMALL, SEED)


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planted")
    write_world(path, world)
    return path


@pytest.fixture(scope="module")
def made(folder: Path) -> Validation:
    given = {"activations_input_path": "activations.jsonl", "prompts_input_path": "prompts.json"}
    config = write_config(
        folder,
        "planted",
        world_explanations(SMALL),
        activation_examples=given,
        embedder={"model": NO_EMBEDDER},
    )
    return validated(config, Quiet())


@pytest.fixture(scope="module")
def found(made: Validation, folder: Path) -> list[Outcome]:
    return outcomes(made, world_explanations(SMALL), folder / "work", NO_EMBEDDER)


def test_no_topic_is_named_by_a_word_of_a_prompt() -> None:
    shown = set().union(*(stems(word) for topic in TOPICS for word in topic.words), *map(stems, NOUNS))
    assert [phrase for topic in TOPICS for phrase in topic.phrases if stems(phrase) & shown] == []


def test_planted_words_are_all_different() -> None:
    words = [*NOUNS, *(word for topic in TOPICS for word in topic.words)]
    assert len(NOUNS) == 150
    assert len(TOPICS) == 30
    assert len({*words, *FILLERS}) == len(words) + len(FILLERS)
    assert len(set().union(*map(stems, NOUNS))) == 150


def test_features_fire_on_what_is_planted_in_nine_six_or_three_of_twelve_prompts(world: World) -> None:
    for feature in range(SMALL.n_words):
        tokens = [world.prompts[prompt][position] for prompt, position, _ in world.pairs[feature]]
        assert len(tokens) == 12
        assert tokens.count(f"▁{NOUNS[feature]}") == (9, 6, 3)[feature % 3]


def test_half_an_explanation_is_true() -> None:
    assert half_of("one, two, three", "four, five") == "one, two, four"
    assert half_of("one, two", "four, five") == "one, four"
    assert half_of("one", "four, five") == "one, four"


def test_every_feature_of_the_list_has_one_explanation_of_each_kind() -> None:
    told = demo_explanations()
    assert {name: len(texts) for name, texts in SETS.items()} == {"seen": 10, "unseen": 9, "labels": 8}
    assert len({one.feature for one in told}) == 27
    assert [one.kind for one in told] == list(KINDS) * 27
    other = {one.feature: one.text for one in told if one.kind == "other"}
    assert other[952] == SEEN[1728]
    assert all(one.text != other[one.feature] for one in told if one.kind == "true")
    assert set(DOUBTFUL) < set(other)


def test_true_explanations_of_words_are_told_from_all_others(found: list[Outcome]) -> None:
    lines = {line.kind: line for line in _words_in(found, "a word in 9").lines}
    assert lines["true"].share_matched == 1
    assert lines["true"].top == 1
    assert lines["half"].share_matched == 0.5
    for kind in ("other", "generic", "gibberish"):
        assert (lines[kind].share_matched, lines[kind].auroc_rate, lines[kind].auroc_percentile) == (0, 1, 1)


def test_topics_are_not_told_apart_by_words(found: list[Outcome]) -> None:
    part = part_of("topics", [one for one in found if one.set.startswith("a topic")], SEED)
    assert {line.kind: (line.share_matched, line.percentile) for line in part.lines} == dict.fromkeys(
        KINDS, (0, 50)
    )


def _words_in(found: list[Outcome], name: str) -> Part:
    return part_of(name, [one for one in found if one.set == name], SEED)


def test_rows_worked_out_another_way_agree(made: Validation) -> None:
    agreed = agreement(made, [3, 4, 41], NO_EMBEDDER)
    # of each feature two phrases of the true, half and other ones, three of the generic one and of gibberish
    assert (agreed.n_features, agreed.n_phrases) == (3, 36)
    # of each phrase a percentile (and no similarity); of each row three numbers, of its five explainers two each
    assert agreed.n_numbers == 36 + 3 * (3 + 5 * 2)
    assert agreed.largest_difference < 1e-6
    (row,) = made.of_feature("ex_act_pattern_matching", 3).iter_rows(named=True)
    # both of the true one match, and the first of the half
    assert row["match_rate"] == pytest.approx(3 / 12)


def test_lines_count_phrases_and_areas_count_pairs() -> None:
    def one(kind: str, feature: int, n: int, rate: float | None, percentile: float | None) -> Outcome:
        matched = 0 if rate is None else round(rate * n)
        told = Told(feature, kind, "", "a", f"true of {feature}")  # type: ignore[arg-type]
        return Outcome(feature, told.kind, "a", told.true, n, matched, 0, matched, rate, 0.1, percentile)

    part = part_of(
        "a",
        [
            one("true", 1, 2, 1.0, 99.0),
            one("true", 2, 4, 0.5, 95.0),
            one("other", 1, 2, 0.0, 40.0),
            one("other", 2, 2, 0.5, 96.0),
            one("other", 3, 0, None, None),
        ],
        SEED,
    )
    true, other = part.lines
    assert (true.n_phrases, true.share_matched, true.rate, true.top) == (6, 0.6667, 0.75, 1)
    assert (true.auroc_rate, true.quartiles) == (None, (96, 97, 98))
    assert (other.n_explanations, other.n_untested, other.n_phrases, other.share_matched) == (3, 1, 4, 0.25)
    # of four pairs two rates are larger and one is equal in each comparison: 1 > 0, 1 > .5, .5 > 0, .5 = .5
    assert other.auroc_rate == 0.875
    # 99 > 40, 99 > 96, 95 > 40, 95 < 96
    assert other.auroc_percentile == 0.75
    assert other.by_chance == 0.1


def test_the_kept_results_say_what_the_page_says() -> None:
    results = Results.model_validate_json(RESULTS.read_text(encoding="utf-8"))
    assert render(results).count("| true |") == len(
        [part for part in results.parts if ", in " not in part.name]
    )
    for part in results.parts:
        for line in part.lines[2:]:
            if part.name in ("demo, all", "planted, a word", "planted, a topic"):
                assert line.auroc_rate_interval is not None
                assert line.auroc_rate_interval[0] > 0.5, f"{part.name}: true ones are told from {line.kind}"
    assert results.by_hand.n_features == 27
