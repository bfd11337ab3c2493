"""Real SDKs and a provider on this machine: judges that know, that say no, that fail; nothing is paid for twice."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from saeinterp_mcp.config import JUDGES_VARIABLE, PRICES_VARIABLE, Settings
from saeinterp_mcp.errors import BadInput, SaeInterpError
from saeinterp_mcp.faces.mcp import build
from saeinterp_mcp.labels.revisions import save_label
from saeinterp_mcp.operations.progress import told_to
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.served import ServedStores
from tests.operations.judged import CLAIM, ask, by_word, fresh, judged_by, make
from tests.providers.behaviour import Failure, every_nth

SAYS_NO = by_word("def", yes=0, no=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("judges"))


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return fresh(made, tmp_path)


def test_a_judge_that_knows_the_rule_gets_the_score_it_must_and_supports_the_label(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = ask(store, "label_save", feature=0, text=CLAIM)
    with judged_by(by_word("def"), monkeypatch) as server:
        scored = ask(store, feature=0, label_id=label["label_id"])
        assert (scored["score"], scored["auroc"], scored["n"], scored["n_failed"]) == (1.0, 1.0, 40, 0)
        assert scored["judge"] == f"openai:judge@{server.openai_url}"
        assert server.n_requests == 4, "ten trials in one request"
        for body in server.bodies():
            system, user = (message["content"] for message in body["messages"])
            assert CLAIM not in system
            assert user.startswith(f"<claim>\n{CLAIM}\n</claim>\n\n<excerpts>\n")
    assert scored["warnings"] == []
    saved = ask(store, "label_save", feature=0, label_id=label["label_id"], status="supported")
    assert saved["scores"][0]["judge"] == scored["judge"]
    assert ask(store, "evidence_replay", evidence=scored["evidence"])["holds"], "with no provider there"


def test_a_judge_that_says_no_always_gets_the_floor(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with judged_by(SAYS_NO, monkeypatch):
        scored = ask(store, feature=0, text=CLAIM)
    assert (scored["score"], scored["floor"], scored["auroc"]) == (0.5, 0.5, 0.5)
    assert scored["beats_floor"] is False
    assert scored["by_kind"]["firing"] == {"n": 20, "right": 0.0}


def test_what_fails_is_unscored_counted_by_reason_and_the_totals_are_right(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave = every_nth(3, Failure(400, "every third fails"), by_word("def"))
    with judged_by(behave, monkeypatch):
        scored = ask(store, feature=0, text=CLAIM, n=60)
    assert (scored["n"], scored["n_failed"], scored["failures"]) == (40, 20, {"bad_request": 20})
    assert scored["score"] == 1.0
    assert scored["warnings"] == ["trials without an answer stay unscored: bad_request 20"]
    assert ask(store, "evidence_replay", evidence=scored["evidence"])["holds"]


def test_rubbish_and_half_answers_are_no_answers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(system: str, user: str, schema: dict[str, Any]) -> dict[str, Any]:
        found = by_word("def")(system, user, schema)
        assert isinstance(found, dict)
        return {"answers": found["answers"][::2]}

    with judged_by(half, monkeypatch) as server:
        scored = ask(store, feature=0, text=CLAIM)
        assert (scored["n"], scored["failures"]) == (20, {"left out of the reply": 20})
        server.behave(lambda system, user, schema: {"answers": [{"id": "t1", "probability": 900}] * 3})
        assert ask(store, feature=0, text="rubbish")["n"] == 0


def test_the_same_question_is_not_paid_for_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with judged_by(by_word("def"), monkeypatch) as server:
        first = ask(store, feature=0, text=CLAIM)
        second = ask(store, feature=0, text=CLAIM)
        assert server.n_requests == 4
    assert first == second
    assert second["n_tests_on_heldout"] == 1


def test_money_is_counted_and_its_ceiling_holds(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with judged_by(by_word("def"), monkeypatch, budget="0.02") as server:
        prices = tmp_path / "prices.yaml"
        name = f"openai:judge@{server.openai_url}"
        prices.write_text(
            f'as_of: "2026-08"\nmodels:\n  "{name}": {{input: 1.0, output: 5.0}}\n', encoding="utf-8"
        )
        monkeypatch.setenv(PRICES_VARIABLE, str(prices))
        spent, refused = 0.0, None
        for seed in range(20):
            try:
                scored = ask(store, feature=0, text=CLAIM, seed=seed)
            except SaeInterpError as error:
                refused = str(error)
                break
            assert 0 < scored["cost"] < 0.01
            spent += scored["cost"]
        assert refused is not None
        assert "SAEINTERP_JUDGE_BUDGET" in refused
        assert "judge self costs nothing" in refused
        (run,) = ask(store, "store_status")["stores"][0]["runs"]
        assert run["usd"] <= 0.02
        assert run["usd"] >= spent * 0.999
        assert run["calls"] == server.n_requests


def test_only_configured_judges_are_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JUDGES_VARIABLE, raising=False)
    with pytest.raises(BadInput, match=r"SAEINTERP_JUDGES.*judge self"):
        ask(store, feature=0, text=CLAIM)
    with judged_by(SAYS_NO, monkeypatch) as server:
        for other in (
            f"openai:other@{server.openai_url}",
            "anthropic:claude-haiku-4-5",
            "local:/etc",
            "judge",
        ):
            with pytest.raises(BadInput, match=r"no judge that may be asked here; there are: openai:judge@"):
                ask(store, feature=0, text=CLAIM, judge=other)
        assert server.n_requests == 0
        spec = Settings.from_environment().judges[0]
        assert ask(store, feature=0, text=CLAIM, judge=spec)["judge"] == spec


def test_methods_that_nobody_judges_say_what_they_need(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with judged_by(SAYS_NO, monkeypatch) as server:
        with pytest.raises(BadInput, match=r"a model of this machine.*SAEINTERP_JUDGES, as in local:DIR"):
            ask(store, feature=0, text=CLAIM, method="surprisal")
        with pytest.raises(BadInput, match="method embedding asks nobody"):
            ask(store, feature=0, text=CLAIM, method="embedding", judge=f"openai:judge@{server.openai_url}")
        assert server.n_requests == 0


def test_a_judge_of_its_own_words_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with judged_by(by_word("def"), monkeypatch, model="gpt-9"):
        save_label(store.need_labels, store.lineage, 0, {"text": CLAIM, "author": "gpt-9"})
        assert ask(store, feature=0, text=CLAIM)["warnings"] == [
            "the judge wrote this claim itself: another judge is a better test"
        ]


def test_a_claim_written_after_a_look_is_said_to_be_but_one_from_before_is_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_label(store.need_labels, store.lineage, 0, {"text": "from before"})
    store.need_labels.write(
        lambda c: c.execute("UPDATE label_revisions SET made_at = '2026-01-01T00:00:00Z'") and None
    )
    ask(store, feature=0, text="the one that was looked at", judge="self")
    with judged_by(by_word("def"), monkeypatch):
        assert ask(store, feature=0, text="from before")["n_seen"] == 0
        assert ask(store, feature=0, text="the one that was looked at")["n_seen"] == 0
        assert ask(store, feature=0, text="written after a look")["n_seen"] == 40


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JUDGES_VARIABLE, " anthropic:a , ,openai:b@http://127.0.0.1:1/v1,")
    assert Settings.from_environment().judges == ("anthropic:a", "openai:b@http://127.0.0.1:1/v1")
    for wrong in ("a lot", "-1"):
        monkeypatch.setenv("SAEINTERP_JUDGE_BUDGET", wrong)
        with pytest.raises(BadInput, match="environment variable SAEINTERP_JUDGE_BUDGET: judge_budget"):
            Settings.from_environment()


def test_progress_is_told_to_whoever_listens(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    with (
        judged_by(by_word("def"), monkeypatch),
        told_to(lambda n_done, n_total: told.append((n_done, n_total))),
    ):
        ask(store, feature=0, text=CLAIM)
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_client_is_told_over_mcp(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, float | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total))

    async def call() -> Any:
        async with Client(build(ServedStores([store]))) as client:
            return await client.call_tool(
                "label_score", {"feature": 0, "text": CLAIM}, progress_callback=hear
            )

    with judged_by(by_word("def"), monkeypatch):
        result = asyncio.run(call())
    assert not result.is_error
    assert result.structured_content["score"] == 1.0
    assert told[-1] == (4.0, 4.0)


def test_status_reads_runs_and_makes_no_file(store: Store, tmp_path: Path) -> None:
    assert ask(store, "store_status")["stores"][0]["runs"] == []
    assert not list(tmp_path.glob("*.runs.sqlite*"))
