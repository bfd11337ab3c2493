"""Message batches of both providers: handed in once, polled, collected, found again."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from saeinterp_mcp.clients import anthropic as anthropic_client
from saeinterp_mcp.clients import openai as openai_client
from saeinterp_mcp.clients.base import BatchState, NotKnownYet, Reply, Request
from saeinterp_mcp.errors import BadInput, Unavailable
from tests.clients.asking import REQUEST, with_client
from tests.providers.behaviour import Answer
from tests.providers.fake_server import (
    Expired,
    Failure,
    FakeServer,
    Refused,
    Truncated,
    fake_server,
)

both = pytest.mark.parametrize("provider", ["anthropic", "openai"])
CREATE = {"anthropic": "/v1/messages/batches", "openai": "/v1/batches"}
SINCE = "2026-01-01T00:00:00+00:00"


def asked(*names: str) -> dict[str, Request]:
    """A request for each name, which is what it asks."""
    return {name: REQUEST.model_copy(update={"user": name}) for name in names}


async def finished(client: Any, requests: dict[str, Request], mark: str = "mark") -> dict[str, Reply]:
    batch = await client.submit(requests, mark)
    while not (await client.state(batch)).ended:
        await asyncio.sleep(0)
    found: dict[str, Reply] = await client.collect(batch)
    return found


def n_created(provider: str, server: FakeServer) -> int:
    return server.counts().get(f"POST {CREATE[provider]}", 0)


@both
def test_every_reply_finds_its_own_question_though_they_come_back_in_another_order(provider: str) -> None:
    with fake_server(lambda system, user, schema: {"said": user}) as server:
        replies = with_client(provider, server, lambda client: finished(client, asked("a-1", "b_2", "C3")))
        assert (n_created(provider, server), server.n_requests, server.n_batched) == (1, 0, 3)
    assert {name: reply.value for name, reply in replies.items()} == {
        name: {"said": name} for name in ("a-1", "b_2", "C3")
    }
    assert list(replies) == ["C3", "b_2", "a-1"]
    # "You judge." is 2 tokens, the name none or one; the answer {"said": "a-1"} has 15 letters
    assert replies["a-1"].usage is not None
    assert (replies["a-1"].usage.input_tokens, replies["a-1"].usage.output_tokens) == (2, 3)


@both
def test_every_end_of_an_entry_is_an_outcome(provider: str) -> None:
    answers: dict[str, Answer] = {
        "good": {"fires": True},
        "expired": Expired(),
        "broken": Failure(500, "oh"),
        "wrong": Failure(400, "prompt is too long"),
        "busy": Failure(529, "busy"),
        "cut": Truncated('{"fi'),
        "no": Refused("no"),
        "talk": "I think so",
    }
    with fake_server(lambda system, user, schema: answers[user]) as server:
        replies = with_client(provider, server, lambda client: finished(client, asked(*answers)))
    assert {name: (reply.outcome, reply.reason) for name, reply in replies.items()} == {
        "good": ("answered", None),
        "expired": ("failed", "expired"),
        "broken": ("failed", "server_error"),
        "wrong": ("failed", "bad_request"),
        "busy": ("failed", "overloaded"),
        "cut": ("truncated", "max_tokens"),
        "no": ("refused", "refusal"),
        "talk": ("invalid", "no JSON"),
    }


@both
def test_the_entries_of_a_batch_are_what_is_asked_directly(provider: str) -> None:
    async def both_ways(client: Any) -> None:
        await client.ask(REQUEST)
        await client.submit({"q": REQUEST}, "mark")

    with fake_server() as server:
        with_client(provider, server, both_ways)
        direct = server.bodies()[0]
        batched = [batch.asked["q"] for batch in server.batches().values()]
        assert batched == [direct]


@both
def test_a_batch_is_not_ended_before_it_is_and_cannot_be_collected(provider: str) -> None:
    async def poll(client: Any) -> list[BatchState]:
        batch = await client.submit(asked("a", "b"), "mark")
        with pytest.raises(Unavailable, match=r"has not ended \(in_progress\); ask again later"):
            await client.collect(batch)
        return [await client.state(batch) for _ in range(3)]

    with fake_server(polls=2) as server:
        states = with_client(provider, server, poll)
    assert [(state.ended, state.n_total) for state in states] == [(False, 2), (True, 2), (True, 2)]
    assert [state.n_done for state in states] == [0, 2, 2]


@both
def test_an_unknown_batch_is_unavailable(provider: str) -> None:
    with fake_server() as server, pytest.raises(Unavailable, match=r"does not tell about batch_9: .*404"):
        with_client(provider, server, lambda client: client.state("batch_9"))


@both
@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (Failure(400, "bad batch"), Unavailable, r"did not take the batch: .*bad batch"),
        (Failure(401, "bad key"), Unavailable, r"did not take the batch: .*bad key"),
        (Failure(429, "slow down"), Unavailable, r"did not take the batch: .*slow down"),
        (
            Failure(500, "oh"),
            NotKnownYet,
            r"whether the provider took it is not known \(.*oh.*\); `find` tells",
        ),
        (Failure(529, "busy"), NotKnownYet, r"not known"),
    ],
)
def test_a_batch_is_never_handed_in_twice_by_itself(
    provider: str, failure: Failure, kind: type[Exception], said: str
) -> None:
    """The SDK would try again after a 500; the first try may have been taken."""
    with fake_server() as server:
        server.fail(failure, path=CREATE[provider])
        with pytest.raises(kind, match=said) as error:
            with_client(provider, server, lambda client: client.submit(asked("a"), "mark"))
        assert type(error.value) is kind
        assert n_created(provider, server) == 1


@both
def test_a_batch_whose_id_was_lost_on_the_way_is_found_again(provider: str) -> None:
    async def lose_and_find(client: Any) -> str | None:
        with pytest.raises(NotKnownYet):
            await client.submit(asked("a"), "mark")
        await client.state("batch_1" if provider == "anthropic" else "batch_2")
        found: str | None = await client.find("mark", frozenset("a"), SINCE)
        return found

    with fake_server(polls=0, loses_batches=True) as server:
        found = with_client(provider, server, lose_and_find)
        assert [found] == list(server.batches())
        assert n_created(provider, server) == 1


def test_a_file_of_requests_that_was_not_taken_is_no_batch() -> None:
    with fake_server() as server:
        server.fail(Failure(400, "bad file"), path="/v1/files")
        with pytest.raises(Unavailable, match=r"took no file of requests: .*bad file"):
            with_client("openai", server, lambda client: client.submit(asked("a"), "mark"))
        assert n_created("openai", server) == 0


@both
def test_a_batch_of_ours_is_found_by_its_ids_or_its_mark(provider: str) -> None:
    async def lose_and_find(client: Any) -> tuple[str, str | None]:
        ours = ""
        for names in (("x", "y", "z"), ("a", "b"), ("c", "d"), ("e", "f")):
            batch = await client.submit(asked(*names), f"mark-{''.join(names)}")
            await client.state(batch)
            ours = batch if names == ("a", "b") else ours
        return ours, await client.find("mark-ab", frozenset("ab"), SINCE)

    with fake_server(polls=0) as server:
        ours, found = with_client(provider, server, lose_and_find)
    assert found == ours


@both
def test_a_batch_that_was_never_taken_is_not_found(provider: str) -> None:
    async def look(client: Any) -> str | None:
        for names in (("x", "y"), ("a", "b", "c"), ("a", "c")):
            await client.state(await client.submit(asked(*names), "other"))
        found: str | None = await client.find("mark", frozenset("ab"), SINCE)
        return found

    with fake_server(polls=0) as server:
        assert with_client(provider, server, look) is None


@both
def test_only_batches_handed_in_since_are_looked_at(provider: str) -> None:
    async def look(client: Any) -> list[str | None]:
        batch = await client.submit(asked("a", "b"), "mark")
        await client.state(batch)
        now = datetime.now(UTC)
        times = [now - timedelta(seconds=30), now + timedelta(hours=1)]
        return [await client.find("mark", frozenset("ab"), one.isoformat()) for one in times]

    with fake_server(polls=0) as server:
        before, after = with_client(provider, server, look)
    assert (before is not None, after) == (True, None)


@both
def test_a_batch_is_found_behind_a_hundred_others(provider: str) -> None:
    numbers = count()

    async def look(client: Any) -> tuple[str, str | None]:
        ours = await client.submit(asked("a"), "mark")
        await client.state(ours)
        for _ in range(105):
            server.provider.submit({f"other{next(numbers)}": {}, "x": {}}, {})
        return ours, await client.find("mark", frozenset("a"), SINCE)

    with fake_server(polls=0) as server:
        ours, found = with_client(provider, server, look)
        assert server.counts()[f"GET {CREATE[provider]}"] == 2
    assert found == ours


def test_while_a_batch_that_may_be_ours_is_worked_on_it_is_not_known() -> None:
    async def look(client: Any) -> list[Any]:
        running = await client.submit(asked("a", "b"), "mark")
        with pytest.raises(NotKnownYet, match=rf"{running} of 2 requests may be it, .* ask again later"):
            await client.find("mark", frozenset("ab"), SINCE)
        assert await client.find("mark", frozenset("abc"), SINCE) is None
        while not (await client.state(running)).ended:
            pass
        return [running, await client.find("mark", frozenset("ab"), SINCE)]

    with fake_server(polls=2) as server:
        running, found = with_client("anthropic", server, look)
    assert found == running


def test_openai_knows_a_batch_by_its_mark_before_it_has_ended() -> None:
    async def look(client: Any) -> bool:
        batch = await client.submit(asked("a", "b"), "mark")
        return bool(await client.find("mark", frozenset("ab"), SINCE) == batch)

    with fake_server(polls=9) as server:
        assert with_client("openai", server, look)
        assert server.bodies("/v1/batches")[0]["metadata"] == {"saeinterp": "mark"}


@pytest.mark.parametrize(
    ("status", "reason"), [("failed", "bad_request"), ("expired", "expired"), ("cancelled", "cancelled")]
)
def test_a_batch_of_openai_that_ends_otherwise_has_a_reply_to_every_question(
    status: str, reason: str
) -> None:
    with fake_server(batch_status=status) as server:
        replies = with_client("openai", server, lambda client: lost_outputs(client, server))
    assert {name: (reply.outcome, reply.reason) for name, reply in replies.items()} == {
        "a": ("failed", reason),
        "b": ("failed", reason),
    }


async def lost_outputs(client: Any, server: FakeServer) -> dict[str, Reply]:
    """The batch ends before any of it was worked on."""
    batch = await client.submit(asked("a", "b"), "mark")
    while not (await client.state(batch)).ended:
        pass
    for name in [name for name in server.provider.files if name.startswith(("output-", "error-"))]:
        del server.provider.files[name]
    found: dict[str, Reply] = await client.collect(batch)
    return found


@both
@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ({}, "a batch holds at least one request; this one is empty"),
        (
            {"l8/3": REQUEST},
            "the id 'l8/3' does not fit [A-Za-z0-9_-]{1,64}, which providers want; rename it",
        ),
        ({"x" * 65: REQUEST}, "does not fit"),
        ({"a\n": REQUEST}, "does not fit"),
    ],
)
def test_what_the_provider_would_refuse_is_refused_before_it_is_sent(
    provider: str, requests: dict[str, Request], said: str
) -> None:
    with fake_server() as server:
        with pytest.raises(BadInput) as error:
            with_client(provider, server, lambda client: client.submit(requests, "mark"))
        assert said in str(error.value)
        assert server.log() == []


@both
def test_a_batch_that_is_too_large_says_how_much_fits(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = anthropic_client if provider == "anthropic" else openai_client
    assert {
        "anthropic": (100_000, 256_000_000),
        "openai": (50_000, 200_000_000),
    }[provider] == (module.MOST_IN_BATCH, module.MOST_BYTES_IN_BATCH)
    monkeypatch.setattr(module, "MOST_IN_BATCH", 3)
    monkeypatch.setattr(module, "MOST_BYTES_IN_BATCH", 1_500_000)
    long = REQUEST.model_copy(update={"user": "x" * 1_000_000})
    with fake_server() as server:
        with pytest.raises(BadInput, match="4 requests are too many for one batch \\(3\\); hand in several"):
            with_client(provider, server, lambda client: client.submit(asked(*"abcd"), "mark"))
        with pytest.raises(BadInput, match=r"is 2 MB, the provider takes 2 MB; .* at most about 1 requests"):
            with_client(provider, server, lambda client: client.submit({"a": long, "b": long}, "mark"))
        assert server.log() == []


def test_a_moment_that_is_none_is_refused() -> None:
    with fake_server() as server, pytest.raises(BadInput, match="'yesterday' is no time"):
        with_client("openai", server, lambda client: client.find("mark", frozenset("a"), "yesterday"))
