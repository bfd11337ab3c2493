"""What a run writes: drafts with evidence that replays, beside what people wrote; and which features it is about."""

import json
from pathlib import Path

import pytest

from pipeline.autointerp.drafts import SEARCH_AUTHOR
from saeinterp_mcp.operations.evidence_replay import evidence_replay
from saeinterp_mcp.operations.label_delete import label_delete
from saeinterp_mcp.operations.label_save import label_save
from saeinterp_mcp.operations.queue_next import queue_next
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.served import ServedStores
from tests.autointerp import scripted_model
from tests.autointerp.running import (
    JUDGE,
    everything,
    explained,
    labels,
    pipeline,
    report,
    rows,
    scored,
)
from tests.providers.fake_server import fake_server


def test_drafts_have_author_source_explanation_category_and_evidence_that_replays(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        assert scored(server, store, "--features", "0,2", "--trials", "20").code == 0
    [clear], [unclear] = labels(store)[0], labels(store)[2]
    assert (clear["text"], clear["explanation"]) == ('the token "def"', 'Fires on the token "def".')
    assert (clear["status"], unclear["status"], unclear["text"]) == ("draft", "unclear", "unclear")
    assert (clear["author"], clear["author_kind"], clear["category"]) == ("openai:writer", "agent", "token")
    assert clear["source"].startswith("explain:")
    assert clear["source"] == unclear["source"]
    assert clear["confidence"] == 1.0
    tests = rows(store, "heldout_tests")
    assert [(test["feature"], test["text"]) for test in tests] == [
        (0, 'the token "def": Fires on the token "def".')
    ]
    assert tests[0]["baseline"] is not None
    stores = ServedStores([open_store(store)])
    cited = [*json.loads(clear["evidence"]), tests[0]["evidence"]]
    assert len(cited) == 2
    for evidence in cited:
        replayed = evidence_replay(stores, evidence)
        assert replayed.holds, replayed.summary


def test_a_persons_label_stays_as_it_is_and_is_scored_when_asked_for(store: Path) -> None:
    opened = open_store(store)
    told = 'the token "def"'
    label_save(opened, 0, text=told, author="ada", author_kind="human")
    before = labels(store)[0]
    with fake_server(scripted_model.knows) as server:
        assert explained(server, store, "--features", "0,5").code == 0
        assert labels(store)[0][:1] == before
        assert [label["author_kind"] for label in labels(store)[0]] == ["human", "agent"]
        told_score = ("score", store, "--judge", JUDGE, "--trials", "20")
        assert pipeline(server, *told_score, "--author", "human").code == 0
        assert [test["text"] for test in rows(store, "heldout_tests")] == [told]
        assert rows(store, "heldout_tests")[0]["score"] == 1.0
        n_asked = server.n_requests
        assert pipeline(server, *told_score, "--limit", "1", "--author", "agent").code == 0
        assert server.n_requests == n_asked + 2, "so many labels, whichever features are the most important"
        nobody = pipeline(server, *told_score, "--author", "grace")
    assert (nobody.code, nobody.out) == (2, "")
    assert (
        "none of these features has such a label; `saeinterp label list` shows those there are" in nobody.err
    )
    assert labels(store)[0][:1] == before


def test_a_retired_draft_is_not_written_again(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        assert explained(server, store, "--features", "0,5").code == 0
        label_delete(open_store(store), labels(store)[0][0]["label_id"], reason="too wide")
        before = everything(store)
        assert scored(server, store, "--features", "0,5", "--trials", "20").code == 0
    assert len(labels(store)[0]) == 1
    assert labels(store)[0][0]["retired"]
    assert everything(store)["label_revisions"] == before["label_revisions"]
    found = [json.loads(path.read_text()) for path in store.with_name("store.runs").glob("*/report.json")]
    [left_out] = [content["left_out"] for content in found if "score" in content["config"]]
    assert left_out == {"its draft was retired": 1}


def test_a_second_explainer_writes_a_competing_draft_and_the_search_label_asks_nobody(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        assert explained(server, store, "--features", "0").code == 0
        assert explained(server, store, "--features", "0", "--explainer", "contrastive").code == 0
        assert server.n_requests == 2
        assert pipeline(server, "explain", store, "--features", "0", "--explainer", "search").code == 0
        assert server.n_requests == 2
    found = labels(store)[0]
    assert len({label["source"] for label in found}) == len({label["label_id"] for label in found}) == 3
    assert [label["author"] for label in found] == ["openai:writer", "openai:writer", SEARCH_AUTHOR]
    assert "def" in found[2]["text"].split(", ")
    assert found[2]["cost"] == 0.0


def test_features_are_chosen_by_token_filter_list_file_and_number(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "chosen.json"
    file.write_text(json.dumps({"feature_indices": [6, 0], "scores": [0.5, 0.25]}), encoding="utf-8")
    chosen = {
        ("--query", " def", "--limit", "2"): None,
        ("--where", "firing_rate>0.2"): [2],
        ("--features", str(file)): [6, 0],
        ("--features", "5, 7"): [5, 7],
        ("--limit", "1"): None,
    }
    for told, features in chosen.items():
        with fake_server(scripted_model.knows) as server:
            done = explained(server, store, *told)
        assert done.code == 0, done.err
        [run] = [line.split()[0] for line in done.out.splitlines() if line.startswith("run-")]
        found = [row["feature"] for row in report(store, run)["rows"]]
        assert found == features if features is not None else len(found) == int(told[-1])
    assert 0 in labels(store)


def test_the_queue_is_claimed_and_a_run_that_stopped_goes_on_with_its_own_features(store: Path) -> None:
    told = ("--queue", "3", "--trials", "20")
    with fake_server(scripted_model.knows) as server:
        assert scored(server, store, *told, "--max-calls", "2", "--concurrency", "1").code == 2
        [run] = rows(store, "runs")
        mine = json.loads(run["settings"])["features"]
        claimed = {row["feature"] for row in rows(store, "queue")}
        assert set(mine) == claimed
        other = queue_next(open_store(store), worker="somebody else").feature
        assert other not in mine
        assert scored(server, store, *told).code == 0
        assert [row["run"] for row in rows(store, "runs")] == [run["run"]], "the same run"
        assert [row["feature"] for row in report(store)["rows"]] == mine
        assert scored(server, store, *told).code == 0
    assert len(rows(store, "runs")) == 2, "one that is done is not gone on with: these are the next three"
    assert sorted(labels(store)) == sorted(set(range(8)) - {3, other})


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (("--features", "0", "--queue", "1"), "choose features in one way, not by features and queue"),
        (("--features", "0,0"), "feature 0 is listed more than once"),
        (("--features", "8"), "feature 8 is not in store 'documents'"),
        (("--features", "nowhere.json"), "neither `all`, nor numbers with commas"),
        (("--by", "label"), "by says what the query is"),
        (("--where", "nonsense>1"), "nonsense"),
        (("--query", "no such token"), ""),
        ((), "say which features: --features all"),
        (("--features", "0", "--explainer", "search"), "explainer search asks no model; leave --model out"),
        (("--features", "0", "--explainer", "guess"), "explainer"),
        (("--features", "0", "--score", "detection"), "need a judge: name one with --judge"),
        (("--features", "0", "--score", "detection,detection", "--judge", JUDGE), "a method is named twice"),
        (("--features", "0", "--prices", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(store: Path, told: tuple[str, ...], message: str) -> None:
    with fake_server(scripted_model.knows) as server:
        done = explained(server, store, *told)
        assert (done.code, server.n_requests) == (2, 0)
    assert message in done.err
    assert "Traceback" not in done.err
    assert not store.with_name("store.labels.sqlite").exists()


def test_scores_of_another_length_than_the_features_are_an_error(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "chosen.json"
    file.write_text(json.dumps({"feature_indices": [6, 0], "scores": [0.5]}), encoding="utf-8")
    with fake_server(scripted_model.knows) as server:
        done = explained(server, store, "--features", file)
    assert (done.code, done.err.strip()) == (2, f"Error: {file}: 2 feature_indices, but 1 scores")


def test_a_judge_that_is_named_nowhere_is_refused_and_one_of_the_operators_is_taken(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEINTERP_JUDGES", "openai:writer,anthropic:judge")
    with fake_server(scripted_model.knows) as server:
        assert explained(server, store, "--features", "0", "--score", "detection", "--trials", "20").code == 0
        assert {body["model"] for body in server.bodies("/v1/messages")} == {"judge"}
    assert rows(store, "heldout_tests")[0]["judge"] == JUDGE, "not the one that explained"
