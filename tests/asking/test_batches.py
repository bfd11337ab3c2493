"""Message batches: handed in once, waited for with patience, and counted when they come."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from saeinterp_mcp.asking.asker import Asker
from saeinterp_mcp.asking.batches import KEPT_SECONDS, BatchPace
from saeinterp_mcp.asking.budget import Budget, BudgetReached
from saeinterp_mcp.asking.giving_up import TooManyFailures
from saeinterp_mcp.asking.ledger import Ledger
from saeinterp_mcp.asking.runs import Run
from saeinterp_mcp.clients.base import BatchClient, BatchState, NotKnownYet, Reply, Request, Usage
from saeinterp_mcp.errors import BadInput, SaeInterpError, Unavailable
from tests.asking.provider import NAME, question, replied
from tests.asking.test_asker import Scripted, a_run, asked, failure

QUICK = BatchPace(poll_seconds=0.001, max_poll_seconds=0.001, found_after_seconds=0, max_errors=3)

LENGTH = len(question(1).model_dump_json())


class Batching(BatchClient):
    """A provider in memory. `submits` and `looks` are raised, one each time, before anything is done."""

    name = NAME

    def __init__(self, answer: Callable[[Request], Reply] | None = None, polls: int = 2) -> None:
        self._answer = answer or (lambda request: replied(request.user))
        self._polls = polls
        self.batches = dict[str, dict[str, Request]]()
        self.marks = dict[str, str]()
        self.submits = list[Exception | None]()
        self.looks = list[Exception | None]()
        self.took_anyway = False
        """Whether a batch is taken although handing it in raises."""
        self.n_finds = 0

    async def ask(self, request: Request) -> Reply:
        raise AssertionError("it was to be asked in batches")

    async def submit(self, requests: Mapping[str, Request], mark: str) -> str:
        error = self.submits.pop(0) if self.submits else None
        if error is not None and not self.took_anyway:
            raise error
        batch_id = f"batch-{len(self.batches)}"
        self.batches[batch_id] = dict(requests)
        self.marks[mark] = batch_id
        if error is not None:
            raise error
        return batch_id

    async def state(self, batch_id: str) -> BatchState:
        self._look()
        self._polls -= 1
        return BatchState(
            batch_id=batch_id, ended=self._polls < 0, n_done=0, n_total=len(self.batches[batch_id])
        )

    async def collect(self, batch_id: str) -> dict[str, Reply]:
        self._look()
        return {name: self._answer(request) for name, request in reversed(self.batches[batch_id].items())}

    async def find(self, mark: str, ids: frozenset[str], since: str) -> str | None:
        self.n_finds += 1
        self._look()
        found = self.marks.get(mark)
        assert found is None or ids == self.batches[found].keys()
        return found

    def _look(self) -> None:
        if self.looks and (error := self.looks.pop(0)) is not None:
            raise error


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "store.runs.sqlite")) as one:
        yield one


def batched(
    client: BatchClient, run: Run, *numbers: int, pace: BatchPace = QUICK, **settings: object
) -> list[Reply]:
    async def work() -> list[Reply]:
        async with Asker(client, run, pace=pace, **settings) as asker:  # type: ignore[arg-type]
            return await asker.ask_batch([(i, "test", question(i)) for i in numbers])

    return asyncio.run(work())


def said(*numbers: int) -> list[Reply]:
    return [replied(f"question {i}") for i in numbers]


def test_replies_come_in_the_order_of_the_questions_and_cost_half(ledger: Ledger) -> None:
    client, states = Batching(), list[BatchState]()
    with a_run(ledger) as run:
        assert batched(client, run, 3, 1, 2, 1, on_batch=states.append) == said(3, 1, 2, 1)
    (requests,) = client.batches.values()
    assert sorted(request.user for request in requests.values()) == ["question 1", "question 2", "question 3"]
    assert [state.ended for state in states] == [False, False, True]
    (status,) = ledger.runs_of("lineage")
    assert (status.n_calls, status.n_answered, status.state) == (3, 3, "done")
    assert status.usd == pytest.approx(3 * (10 * 1 + 3 * 5) / 1e6 / 2), "ten letters in, three tokens out"


def test_ids_fit_what_providers_want(ledger: Ledger) -> None:
    client = Batching()
    with a_run(ledger) as run:
        batched(client, run, *range(20))
    for requests in client.batches.values():
        assert all(
            name.replace("-", "").isalnum() and name.isascii() and len(name) <= 64 for name in requests
        )


def test_what_is_on_record_is_not_handed_in(ledger: Ledger) -> None:
    client = Batching()
    with a_run(ledger) as run:
        asked(Scripted(), run, 1, 2)
        assert batched(client, run, 1, 2) == said(1, 2)
        assert batched(client, run, 1, 5, 2) == said(1, 5, 2)
        assert batched(client, run) == []
    assert [len(requests) for requests in client.batches.values()] == [1]


@pytest.mark.parametrize(
    ("pace", "sizes"),
    [({"max_requests": 3}, [3, 3, 1]), ({"max_bytes": 1}, [1] * 7), ({"max_bytes": 3 * LENGTH}, [3, 3, 1])],
)
def test_many_questions_go_in_several_batches(ledger: Ledger, pace: dict[str, int], sizes: list[int]) -> None:
    client = Batching(polls=0)
    with a_run(ledger) as run:
        assert batched(client, run, *range(7), pace=QUICK.model_copy(update=pace)) == said(*range(7))
    assert [len(requests) for requests in client.batches.values()] == sizes


def test_the_provider_may_stumble_while_it_is_looked_at(ledger: Ledger) -> None:
    client = Batching()
    client.looks = [
        Unavailable("busy"),
        Unavailable("busy"),
        None,
        None,
        Unavailable("busy"),
        None,
        Unavailable("busy"),
    ]
    with a_run(ledger) as run:
        assert batched(client, run, 1, 2) == said(1, 2)
    assert len(client.batches) == 1


def test_a_provider_that_does_not_tell_ends_the_run_and_the_next_one_collects(ledger: Ledger) -> None:
    client = Batching()
    client.looks = [Unavailable("busy")] * 3
    with pytest.raises(Unavailable, match="busy"), a_run(ledger) as run:
        batched(client, run, 1, 2)
    assert ledger.runs_of("lineage")[0].n_under_way == 2
    with a_run(ledger, "another run of another name") as run:
        assert batched(client, run, 2) == said(2)
    with a_run(ledger) as run:
        assert asked(Scripted(), run, 1, 2) == said(1, 2)
    assert len(client.batches) == 1
    one = next(status for status in ledger.runs_of("lineage") if status.config["name"] == "one")
    assert (one.n_calls, one.n_answered, one.n_under_way) == (2, 2, 0)


def test_a_question_that_is_in_a_batch_is_not_asked_alone(ledger: Ledger) -> None:
    client = Batching()
    client.looks = [Unavailable("busy")] * 3
    with pytest.raises(Unavailable), a_run(ledger) as run:
        batched(client, run, 1)

    async def alone(run: Run) -> Reply:
        async with Asker(client, run, pace=QUICK) as asker:
            return await asker.ask(1, "test", question(1))

    with a_run(ledger) as run:
        assert asyncio.run(alone(run)) == replied("question 1")


@pytest.mark.parametrize("took_anyway", [True, False])
def test_a_batch_that_may_have_been_taken_is_looked_for_before_it_is_handed_in_again(
    ledger: Ledger, took_anyway: bool
) -> None:
    client = Batching()
    client.took_anyway = took_anyway
    client.submits = [NotKnownYet("the connection broke")]
    client.looks = [NotKnownYet("one that may be it has not ended")] * 5
    with a_run(ledger) as run:
        replies = batched(client, run, 1, 2)
    assert client.n_finds == 6
    assert len(client.batches) == int(took_anyway)
    if took_anyway:
        assert replies == said(1, 2)
        return
    assert [(reply.outcome, reply.reason) for reply in replies] == [("failed", "batch_lost")] * 2
    assert ledger.runs_of("lineage")[0].n_uncertain == 2
    with a_run(ledger) as run:
        assert batched(client, run, 1, 2) == said(1, 2)
        assert ledger.runs_of("lineage")[0].n_asked_again == 2


def test_a_provider_is_given_time_to_know_a_batch(ledger: Ledger) -> None:
    client = Batching()
    client.submits = [NotKnownYet("the connection broke")]
    with a_run(ledger) as run:
        batched(client, run, 1, pace=QUICK.model_copy(update={"found_after_seconds": 1.0}))
    assert client.n_finds > 10


@pytest.mark.parametrize(
    ("error", "kind"), [(Unavailable("no batches today"), Unavailable), (BadInput("too many"), BadInput)]
)
def test_a_batch_that_is_not_taken_has_failed_and_can_be_handed_in_again(
    ledger: Ledger, error: SaeInterpError, kind: type[SaeInterpError]
) -> None:
    client = Batching()
    client.submits = [error]
    with pytest.raises(kind), a_run(ledger) as run:
        batched(client, run, 1, 2)
    (status,) = ledger.runs_of("lineage")
    assert (status.n_failed, status.n_under_way, status.n_uncertain) == ({"not_taken": 2}, 0, 0)
    with a_run(ledger) as run:
        assert batched(client, run, 1, 2, never_repeat=True) == said(1, 2)


def test_entries_that_failed_are_failed_and_handed_in_again_by_the_next_run(ledger: Ledger) -> None:
    client = Batching(
        lambda r: failure("expired") if r.user in ("question 1", "question 4") else replied(r.user)
    )
    with a_run(ledger) as run:
        assert batched(client, run, 1, 2, 3, 4, 5) == [
            failure("expired"), *said(2, 3), failure("expired"), *said(5)
        ]  # fmt: skip
    assert ledger.runs_of("lineage")[0].n_failed == {"expired": 2}
    healthy = Batching()
    with a_run(ledger) as run:
        assert batched(healthy, run, 1, 2, 3, 4, 5) == said(1, 2, 3, 4, 5)
    assert [len(requests) for requests in healthy.batches.values()] == [2]


def test_an_entry_without_a_result_has_failed(ledger: Ledger) -> None:
    class Forgetful(Batching):
        async def collect(self, batch_id: str) -> dict[str, Reply]:
            replies = await super().collect(batch_id)
            replies.popitem()
            return {**replies, "nobody-asked-this": replied("x")}

    with a_run(ledger) as run:
        replies = batched(Forgetful(), run, 1, 2, 3)
    assert [reply.reason for reply in replies] == ["missing", None, None]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("server_error", "20 of the 30 requests of a batch failed"),
        ("authentication", "the provider says authentication"),
    ],
)
def test_a_batch_that_mostly_failed_stops_the_run_once_it_is_on_record(
    ledger: Ledger, reason: str, words: str
) -> None:
    client = Batching(lambda r: replied(r.user) if r.user.endswith(("0", "3", "7", "8")) else failure(reason))
    numbers = [i for i in range(50) if i % 10 in (0, 3, 1, 2, 4, 5)]
    with a_run(ledger) as run, pytest.raises(TooManyFailures, match=words):
        batched(client, run, *numbers)
    (status,) = ledger.runs_of("lineage")
    assert (status.n_answered, status.n_failed) == (10, {reason: 20})


def test_what_a_ceiling_leaves_no_room_for_is_left_out_and_said(ledger: Ledger) -> None:
    client = Batching()
    with a_run(ledger) as run:
        replies = batched(client, run, *range(6), budget=Budget(max_calls=4))
        assert replies[:4] == said(0, 1, 2, 3)
        assert [reply.reason for reply in replies[4:]] == ["budget", "budget"]
        assert "the ceiling of 4 calls for this run is reached" in str(replies[5].detail)
        (replies_again,) = [batched(client, run, *range(6), budget=Budget(max_calls=5))]
        assert [reply.reason for reply in replies_again] == [None] * 5 + ["budget"]
    assert ledger.runs_of("lineage")[0].n_calls == 5


def test_what_a_batch_really_took_is_what_counts(ledger: Ledger) -> None:
    client = Batching(lambda _: Reply(outcome="answered", usage=Usage(input_tokens=5, output_tokens=1)))
    with a_run(ledger) as run:
        asker = Asker(client, run, Budget(max_tokens=700), pace=QUICK)

        async def work() -> list[Reply]:
            async with asker:
                first = await asker.ask_batch([(i, "test", question(i)) for i in range(6)])
                return first + await asker.ask_batch([(i, "test", question(i)) for i in range(6)])

        replies = asyncio.run(work())
        assert [reply.outcome for reply in replies] == ["answered"] * 4 + ["failed"] * 2 + ["answered"] * 6
        spent = asker.account.spent
        assert (spent.calls, spent.tokens, round(spent.usd * 1e6)) == (6, 36, 30)


def test_a_batch_that_was_left_is_counted_once_when_it_comes(ledger: Ledger) -> None:
    client = Batching()
    client.looks = [Unavailable("busy")] * 3
    with pytest.raises(Unavailable), a_run(ledger) as run:
        batched(client, run, 1, 2)
    with a_run(ledger) as run:
        asker = Asker(client, run, Budget(max_tokens=460), pace=QUICK)
        assert asker.account.spent.tokens == 2 * 152

        async def work() -> list[Reply]:
            async with asker:
                return await asker.ask_batch([(i, "test", question(i)) for i in (1, 2, 3)])

        assert asyncio.run(work()) == said(1, 2, 3)
        assert asker.account.spent.tokens == 3 * 13
        with pytest.raises(BudgetReached):
            asker.account.reserve_now(0, asker.account.spent._replace(tokens=422))


def test_results_that_the_provider_has_thrown_away_are_lost_in_the_end(ledger: Ledger) -> None:
    client = Batching()
    client.looks = [Unavailable("gone")] * 6
    with pytest.raises(Unavailable), a_run(ledger) as run:
        batched(client, run, 1)
    ledger.write(lambda c: c.execute("UPDATE batches SET made_at = '2026-01-01T00:00:00Z'") and None)
    assert KEPT_SECONDS == 29 * 24 * 3600
    with a_run(ledger) as run:
        assert batched(client, run, 1) == said(1)
    assert len(client.batches) == 2
    (status,) = ledger.runs_of("lineage")
    assert (status.n_uncertain, status.n_asked_again, status.n_answered) == (1, 1, 1)


def test_cancelled_while_it_waits_it_leaves_the_batch_to_the_next_run(ledger: Ledger) -> None:
    client = Batching(polls=10**9)

    async def work(run: Run) -> None:
        async with Asker(client, run, pace=QUICK) as asker:
            task = asyncio.create_task(asker.ask_batch([(1, "test", question(1))]))
            while not client.batches:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            task.cancel()

    with a_run(ledger) as run:
        asyncio.run(work(run))
        run.finish("stopped", "interrupted by the user")
    assert ledger.runs_of("lineage")[0].n_under_way == 1
    client._polls = 0
    with a_run(ledger) as run:
        assert batched(client, run, 1) == said(1)
    assert len(client.batches) == 1
