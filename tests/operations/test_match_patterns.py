"""match_patterns: planted explanations are told apart, from the store alone and from the tables; nothing is hidden."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.errors import BadInput, BadStore, UnknownName
from saeinterp_mcp.faces.answering import answer
from saeinterp_mcp.faces.arguments import entries
from saeinterp_mcp.labels.revisions import save_label
from saeinterp_mcp.operations.match_patterns import MatchPatterns, match_patterns
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.served import ServedStores
from saeinterp_mcp.validation.folder import folder_beside
from tests.operations import spoken
from tests.operations.spoken import AUTHOR, DEAD, ROOTS, SAID
from tests.operations.validated import frame
from tests.worlds import builds

ENTRIES = {entry.name: entry for entry in entries()}


@pytest.fixture(autouse=True)
def by_words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEINTERP_EMBEDDER", "none")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Without tables."""
    return spoken.make(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store, its labels and the tables of `validate`."""
    folder = tmp_path_factory.mktemp("validated")
    spoken.make(folder)
    spoken.validate(folder)
    return folder


@pytest.fixture(scope="module")
def validated(place: Path) -> Store:
    return open_store(place / "store")


def copied(place: Path, folder: Path) -> Store:
    """A store of the test's own, with its tables."""
    shutil.copytree(place, folder, dirs_exist_ok=True)
    return open_store(folder / "store")


@pytest.fixture(params=["store", "tables"])
def either(request: pytest.FixtureRequest, store: Store, validated: Store) -> Store:
    return {"store": store, "tables": validated}[request.param]


def cells(found: MatchPatterns, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[found.columns.index(column)] for column in columns) for row in found.rows]


def named(found: MatchPatterns, table: str, *columns: str) -> list[tuple[Any, ...]]:
    one = getattr(found, table)
    return [tuple(row[one.columns.index(column)] for column in columns) for row in one.rows]


def test_true_half_true_foreign_and_gibberish_explanations_are_told_apart(either: Store) -> None:
    true, half, foreign, gibberish = (match_patterns(either, f) for f in SAID)
    assert cells(true, "phrase", "explainer", "match", "term", "start", "end") == [
        ('the word "river"', AUTHOR, "lexical", '"river"', 0, 16),
        ("mentions of rivers", AUTHOR, "lexical", "rivers", 18, 36),
    ]
    assert (true.match_rate, half.match_rate, foreign.match_rate, gibberish.match_rate) == (1, 0.5, 0, 0)
    assert true.match_percentile is not None
    assert foreign.match_percentile is not None
    assert true.match_percentile > 95 > 60 > foreign.match_percentile
    assert true.match_rate_by_chance is not None
    assert true.match_rate_by_chance < 0.1
    assert cells(half, "phrase", "match") == [("castles", "lexical"), ("anything about ships", "none")]
    assert {row[0] for row in named(gibberish, "explainers", "n_matches")} == {0}


def test_the_view_holds_examples_and_common_ngrams_with_their_places(either: Store) -> None:
    found = match_patterns(either, 0)
    assert found.pattern_type == "lexical"
    assert found.lexical.n == 8
    assert found.lexical.percentile == 100
    assert found.lexical.baseline is not None
    ngrams = {
        row[0]: row for row in named(found, "ngrams", "ngram", "kind", "size", "n_examples", "positions")
    }
    assert ngrams["river"][1:4] == ("word", 1, 8)
    assert [row[0] for row in named(found, "examples", "quantile")] == [3, 2, 1, 0], "one of each quantile"
    for prompt, position, text in named(found, "examples", "prompt", "position", "text"):
        assert "<< river>>" in text
        assert f"{prompt}:{position}" in ngrams["river"][4]


def test_nothing_of_meaning_is_given_without_a_text_model_and_the_reason_is(either: Store) -> None:
    found = match_patterns(either, 0)
    assert (found.semantic.value, found.semantic.percentile, found.embedder) == (None, None, None)
    assert {row[0] for row in cells(found, "semantic")} == {None}
    (warning,) = found.warnings
    assert warning.startswith("semantic is null, phrases are matched by their words only: ")
    assert "nobody judged" in found.summary
    assert found.basis == "observed"


def test_a_feature_without_explanation_has_no_rate_and_is_told_how_to_get_one(either: Store) -> None:
    found = match_patterns(either, 7)
    assert (found.match_rate, found.n_tested, found.rows, found.explainers.rows) == (None, 0, [], [])
    assert len(found.examples.rows) == 4
    assert any("explanation takes a text to test" in one for one in found.warnings)


def test_a_text_that_is_given_is_tested_instead_of_the_stored_ones(either: Store) -> None:
    found = match_patterns(either, 7, f"{ROOTS[7]}s, and the weather")
    assert cells(found, "phrase", "explainer", "match") == [
        ("markets", "given", "lexical"),
        ("the weather", "given", "none"),
    ]
    assert (found.n_tested, found.n_matches, found.match_rate) == (2, 1, 0.5)
    with pytest.raises(BadInput, match="explanation is blank"):
        match_patterns(either, 7, "  \n")
    with pytest.raises(UnknownName):
        match_patterns(either, 99)


def test_a_feature_that_never_fires_has_nothing_to_be_tested_on(either: Store) -> None:
    found = match_patterns(either, DEAD, "the word river")
    assert (found.match_rate, found.n_tested, found.pattern_type) == (None, 0, None)
    assert found.examples.rows == []
    assert "has no examples" in found.summary


def test_a_text_counts_once_and_refuted_labels_do_not(tmp_path: Path) -> None:
    store = spoken.make(tmp_path)
    labels, lineage = store.need_labels, store.lineage
    save_label(labels, lineage, 0, {"text": SAID[0], "author": "another"})
    save_label(labels, lineage, 0, {"text": "the word falcon", "author": "wrong", "status": "refuted"})
    save_label(labels, lineage, 0, {"text": "rivers", "explanation": "big water", "author": "third"})
    found = match_patterns(store, 0)
    assert sorted(row[0] for row in named(found, "explainers", "explanation")) == [
        "rivers: big water",
        SAID[0],
    ]
    assert found.n_tested == sum(row[0] for row in named(found, "explainers", "n_tested"))
    assert found.match_rate is not None
    assert found.match_percentile is not None, "of all phrases together"


def test_arguments_that_change_nothing_are_told(validated: Store) -> None:
    plain = match_patterns(validated, 0)
    assert not any("not used" in warning for warning in plain.warnings)
    asked = match_patterns(validated, 0, where="x=y", split="all", seed=7)
    assert [warning.split(":")[0] for warning in asked.warnings if "not used" in warning] == [
        "where and split are not used",
        "seed 7 is not used",
    ]
    assert (asked.where, asked.split, asked.seed) == (None, None, plain.seed)
    assert asked.rows == plain.rows
    assert asked.evidence != plain.evidence


def test_an_imported_explanation_and_its_one_line_draft_are_one(place: Path, tmp_path: Path) -> None:
    store = copied(place, tmp_path)
    before = match_patterns(store, 0)
    (text,) = (str(row[0]) for row in named(before, "explainers", "explanation"))
    save_label(store.need_labels, store.lineage, 0, {"text": text.replace(" ", "  "), "author": "import"})
    after = match_patterns(store, 0)
    assert after.n_tested == before.n_tested
    assert after.match_percentile == before.match_percentile


def test_stored_verdicts_are_the_very_rows_of_the_table(validated: Store) -> None:
    tables = validated.need_validation
    (row,) = tables.of_feature("ex_act_pattern_matching", 1).to_dicts()
    found = match_patterns(validated, 1)
    assert (found.match_rate, found.n_tested, found.n_matches) == (
        row["match_rate"],
        row["num_tested"],
        row["num_matches"],
    )
    assert found.match_percentile == pytest.approx(row["match_percentile"], rel=1e-5)
    shown = cells(found, "phrase", "match", "lexical", "lexical_percentile", "start", "end")
    names = ("phrase_text", "match_type", "lexical_similarity", "lexical_percentile", "start", "end")
    assert shown == [
        tuple(pytest.approx(p[n], rel=1e-5) if "lex" in n else p[n] for n in names) for p in row["phrases"]
    ]


def test_the_same_text_compared_now_comes_to_the_stored_verdict(validated: Store) -> None:
    """With the baselines that the tables were made with."""
    for feature, text in SAID.items():
        stored, now = match_patterns(validated, feature), match_patterns(validated, feature, text)
        columns = ("phrase", "match", "term", "lexical", "start", "end")
        assert cells(stored, *columns) == cells(now, *columns)
        assert stored.match_rate == now.match_rate
        assert now.match_percentile == pytest.approx(stored.match_percentile)


def test_a_label_that_is_newer_than_the_tables_is_tested_too(place: Path, tmp_path: Path) -> None:
    store = copied(place, tmp_path)
    save_label(store.need_labels, store.lineage, 0, {"text": "the word castle", "author": "late"})
    found = match_patterns(store, 0)
    assert named(found, "explainers", "explainer", "n_matches") == [(AUTHOR, 2), ("late", 0)]
    assert found.n_tested == 3
    assert found.match_rate == pytest.approx(2 / 3)


def test_failed_explanations_are_shown_with_their_state_and_tested_by_nobody(
    place: Path, tmp_path: Path
) -> None:
    store = copied(place, tmp_path)
    from pipeline.validation.publish import publish_tables

    rows = [
        {
            "feature_id": 0,
            "sae_id": "planted--words",
            "llm_explainer": "x",
            "data_source": "x",
            "status": "unparsed",
        }
        | {"explanation_text": "Explanation could not be parsed."}
    ]
    folder = folder_beside(tmp_path / "store")
    for file in folder.glob("master/explanation_embeddings*"):
        file.unlink()
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    content["files"] = {k: v for k, v in content["files"].items() if "explanation_embeddings" not in k}
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    table = frame("explanation_embeddings", rows)
    publish_tables(
        folder, "words", "planted--words", DEAD + 1, store.lineage, {"explanation_embeddings": table}
    )
    found = match_patterns(store, 0)
    assert named(found, "explainers", "explainer", "status", "n_tested", "match_rate")[0] == (
        "x",
        "unparsed",
        0,
        None,
    )
    assert any("1 explanations failed" in one for one in found.warnings)
    assert {row[0] for row in cells(found, "explainer")} == {AUTHOR}, "the label still is"


def test_sets_are_compared_by_their_members(tmp_path: Path) -> None:
    samples = tuple(
        WorldSample((f"gear_{i % 25}", f"other_{i % 7}", "common"), unit=f"u{i}") for i in range(200)
    )
    fires = {(f, i, 0): 1.0 + i / 100 for i in range(200) for f in (i % 25,)}
    store = memory_store(World(kind="set", n_features=25, samples=samples, activations=fires))
    found = match_patterns(store, 3, "gear 3 is in it, and it is common")
    assert found.examples.rows[0][-1] == "common, gear_3, other_" + str(found.examples.rows[0][0] % 7)  # type: ignore[operator]
    assert found.match_rate is not None
    assert any(row[0] for row in named(found, "ngrams", "ngram"))


def test_too_few_random_features_leave_everything_untested() -> None:
    found = match_patterns(memory_store(builds()), 0, "swim speed")
    assert (found.match_rate, found.pattern_type) == (None, None)
    assert cells(found, "match") == [(None,)]
    assert found.lexical.value is not None
    assert any("random features" in one for one in found.warnings)


def test_what_cannot_matter_is_taken_and_echoed_as_null_and_the_seed_draws_others(store: Store) -> None:
    plain, asked = match_patterns(store, 0), match_patterns(store, 0, where="kind=x", split="all")
    assert (asked.where, asked.split) == (None, None)
    assert (asked.rows, asked.examples, asked.match_rate) == (plain.rows, plain.examples, plain.match_rate)
    other = match_patterns(store, 0, seed=5)
    assert (plain.seed, other.seed) == (0, 5)
    assert other.examples != plain.examples
    assert other.evidence != plain.evidence


def test_with_tables_the_seed_is_theirs(validated: Store) -> None:
    asked, plain = match_patterns(validated, 0, seed=5), match_patterns(validated, 0)
    assert (asked.rows, asked.examples, asked.seed) == (plain.rows, plain.examples, plain.seed)


def test_a_call_with_arguments_that_change_nothing_can_be_replayed(place: Path, tmp_path: Path) -> None:
    served = ServedStores([copied(place, tmp_path)])
    for given in ({"where": "x=y"}, {"split": "all"}, {"seed": 5}):
        body = answer(ENTRIES["match_patterns"], served, {"feature": 0, **given}).body
        assert any("not used" in warning for warning in body["warnings"]), given
        assert (
            answer(ENTRIES["evidence_replay"], served, {"evidence": body["evidence"]}).body["holds"] is True
        )


def test_replayed_evidence_holds_until_a_label_changes(tmp_path: Path) -> None:
    store = spoken.make(tmp_path)
    served = ServedStores([store])
    body = answer(ENTRIES["match_patterns"], served, {"feature": 0}).body
    replayed = answer(ENTRIES["evidence_replay"], served, {"evidence": body["evidence"]}).body
    assert replayed["holds"] is True
    save_label(store.need_labels, store.lineage, 0, {"text": "boats", "author": "late"})
    assert answer(ENTRIES["evidence_replay"], served, {"evidence": body["evidence"]}).body["holds"] is False


def test_answers_are_small_and_a_cut_is_counted(either: Store) -> None:
    sizes = [len(match_patterns(either, f).model_dump_json().encode()) / 3.5 for f in range(12)]
    assert max(sizes) < 1_500
    long = match_patterns(either, 0, ", ".join(f"the word {root}" for root in ROOTS))
    assert (len(long.rows), long.more) == (12, 28)
    assert long.n_tested == 40
    assert len(long.model_dump_json().encode()) / 3.5 < 1_500
    assert match_patterns(either, 0, ", ".join(ROOTS), limit=200).more is None


def test_damaged_tables_are_refused_and_not_passed_over(place: Path, tmp_path: Path) -> None:
    store = copied(place, tmp_path)
    path = folder_beside(tmp_path / "store") / "master" / "ex_act_pattern_matching.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadStore, match="ex_act_pattern_matching"):
        match_patterns(store, 0)


def test_meaning_is_compared_by_the_text_model_where_there_is_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAEINTERP_EMBEDDER")
    found = match_patterns(store, 0, "mentions of rivers, Roman emperors")
    assert found.embedder == "all-MiniLM-L6-v2:0cfc83afb449f81d"
    assert found.semantic.percentile is not None
    river, emperors = cells(found, "match", "semantic", "semantic_percentile")
    assert river[0] == "both"
    assert emperors[0] == "none"
    assert river[1] > emperors[1]
    assert found.warnings == []
    assert found == match_patterns(store, 0, "mentions of rivers, Roman emperors")


def test_hidden_characters_of_an_explanation_are_shown(store: Store) -> None:
    found = match_patterns(store, 0, "river\u202e evil\x1b[31m")
    assert cells(found, "phrase") == [("river\\u{202e} evil\\u{1b}[31m",)]


def test_a_phrase_table_joins_to_its_explanation_by_characters(either: Store) -> None:
    text = 'the word "river", mentions of rivers'
    for phrase, start, end in cells(match_patterns(either, 0, text), "phrase", "start", "end"):
        assert text[start:end] == phrase
